package control

import (
	"context"
	"sync"
)

// slots bounds how many of something others than root do at a time: one of each share, and so
// many of all.
type slots struct {
	all chan struct{} // a token for each that is taken

	// mu guards byShare.
	mu      sync.Mutex
	byShare map[string]*shareSlot
}

// shareSlot is held by one of those that want it.
type shareSlot struct {
	held chan struct{}
	want int
}

func newSlots(n int) *slots {
	return &slots{all: make(chan struct{}, n), byShare: map[string]*shareSlot{}}
}

// take waits for a slot of a share, which leave gives back. Root does not wait. Who waits for
// his own share takes no slot from others.
//
// Errors: ctx's.
func (s *slots) take(ctx context.Context, share string) (leave func(), err error) {
	if share == rootShare {
		return func() {}, nil
	}
	own := s.join(share)
	select {
	case own.held <- struct{}{}:
	case <-ctx.Done():
		s.part(share)
		return nil, ctx.Err()
	}
	select {
	case s.all <- struct{}{}:
	case <-ctx.Done():
		<-own.held
		s.part(share)
		return nil, ctx.Err()
	}
	return func() {
		<-s.all
		<-own.held
		s.part(share)
	}, nil
}

func (s *slots) join(share string) *shareSlot {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.byShare[share]
	if o == nil {
		o = &shareSlot{held: make(chan struct{}, 1)}
		s.byShare[share] = o
	}
	o.want++
	return o
}

func (s *slots) part(share string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.byShare[share]; o != nil {
		if o.want--; o.want == 0 {
			delete(s.byShare, share)
		}
	}
}
