package buildkit

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// maxHeld bounds the messages of one connection, both ways, that were taken in and are not written
// out yet, in bytes: those that are judged, that wait for a build, or whose receiver does not read.
const maxHeld = 2 * MaxMessage

// held counts bytes of messages. The zero value has none. Safe for concurrent use.
type held struct {
	// mu guards n.
	mu sync.Mutex
	n  int
}

// take counts n bytes more, which leave gives back. It is false if that were more than [maxHeld];
// a message always passes where no other is held.
func (h *held) take(n int) (leave func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n > 0 && h.n+n > maxHeld {
		return nil, false
	}
	h.n += n
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.n -= n
	}), true
}

// hold counts a message until leave is called.
//
// Errors: ResourceExhausted.
func (b *bridge) hold(method string, f frame) (leave func(), err error) {
	leave, ok := b.held.take(len(f))
	if !ok {
		b.side.overfull(method)
		return nil, status.Error(codes.ResourceExhausted, "belay: "+overfullText+"; fix: send fewer at a time, and read the answers")
	}
	return leave, nil
}

var overfullText = fmt.Sprintf("the messages of this connection that wait have more than %d MiB", maxHeld>>20)

func overfull(j Judge, method string) { j.Refused(method, CauseTooMuch, overfullText) }

func (p *controlSide) overfull(method string) { overfull(p.judge, method) }

func (p *sessionSide) overfull(method string) { overfull(p.judge, method) }

// heldFrame is a message to pass on that is held until gRPC has written it out.
type heldFrame struct {
	b     frame
	leave func()
}

func (f *heldFrame) buffer() mem.BufferSlice {
	b := []byte(f.b)
	if mem.IsBelowBufferPoolingThreshold(cap(b)) { // gRPC does not say when it is done with these
		f.leave()
		return mem.BufferSlice{mem.SliceBuffer(b)}
	}
	return mem.BufferSlice{mem.NewBuffer(&b, written(f.leave))}
}

// written is called when a buffer has been written out.
type written func()

// Get implements [mem.BufferPool].
func (written) Get(n int) *[]byte { return new(make([]byte, n)) }

// Put implements [mem.BufferPool].
func (f written) Put(*[]byte) { f() }
