package telemetry

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Causes of a drop, as the attribute belay.cause of belay.telemetry.dropped.
const (
	causeQueueFull = "queue_full" // they came faster than they were sent
	causeRefused   = "refused"    // the collector refused them for good
	causeGivenUp   = "given_up"   // they could not be sent in Options.GiveUp
	causeStopped   = "stopped"    // they waited when the agent stopped
)

// pump sends what it is offered in batches, and never keeps an offerer waiting.
type pump[T any] struct {
	o    *Options
	most int // of one batch
	in   chan T
	send func(ctx context.Context, batch []T) error
	told func(err error) // of how each export went; nil: well

	offered, sent                     atomic.Uint64
	full, refused, givenUp, abandoned atomic.Uint64
}

func newPump[T any](o *Options, most int, send func(context.Context, []T) error, told func(error)) *pump[T] {
	return &pump[T]{o: o, most: most, in: make(chan T, o.Queue), send: send, told: told}
}

// offer takes x unless the queue is full. It never waits.
func (p *pump[T]) offer(x T) {
	p.offered.Add(1)
	select {
	case p.in <- x:
	default:
		p.full.Add(1)
	}
}

// drops returns the counts of what was lost, by cause.
func (p *pump[T]) drops() map[string]uint64 {
	return map[string]uint64{
		causeQueueFull: p.full.Load(), causeRefused: p.refused.Load(), causeGivenUp: p.givenUp.Load(), causeStopped: p.abandoned.Load(),
	}
}

// run sends until ctx ends, and then what waits, as long as last lives.
func (p *pump[T]) run(ctx, last context.Context) {
	batch := make([]T, 0, p.most)
	for ctx.Err() == nil {
		if batch = p.gather(ctx, batch[:0]); len(batch) > 0 {
			p.deliver(ctx, last, batch)
		}
	}
	for last.Err() == nil {
		if batch = p.take(batch[:0]); len(batch) == 0 {
			return
		}
		p.deliver(ctx, last, batch)
	}
	for batch = p.take(batch[:0]); len(batch) > 0; batch = p.take(batch[:0]) {
		p.abandoned.Add(uint64(len(batch)))
	}
}

// gather waits for one, and then a moment for more.
func (p *pump[T]) gather(ctx context.Context, batch []T) []T {
	select {
	case <-ctx.Done():
		return batch
	case x := <-p.in:
		batch = append(batch, x)
	}
	t := time.NewTimer(p.o.Linger)
	defer t.Stop()
	for len(batch) < p.most {
		select {
		case <-ctx.Done():
			return batch
		case <-t.C:
			return batch
		case x := <-p.in:
			batch = append(batch, x)
		}
	}
	return batch
}

// take returns what waits, up to a batch.
func (p *pump[T]) take(batch []T) []T {
	for len(batch) < p.most {
		select {
		case x := <-p.in:
			batch = append(batch, x)
		default:
			return batch
		}
	}
	return batch
}

// deliver sends a batch, again and again with growing waits, until it is sent, refused for
// good, or given up. After ctx has ended it tries as long as last lives.
func (p *pump[T]) deliver(ctx, last context.Context, batch []T) {
	n := uint64(len(batch))
	began, wait := time.Now(), p.o.RetryFirst
	for {
		err := p.send(last, batch)
		p.told(err)
		switch {
		case err == nil:
			p.sent.Add(n)
			return
		case isPartial(err):
			p.sent.Add(n) // what the collector has rejected of it, told has counted
			return
		case isFinal(err):
			p.refused.Add(n)
			return
		case last.Err() != nil:
			p.abandoned.Add(n)
			return
		case time.Since(began) >= p.o.GiveUp:
			p.givenUp.Add(n)
			return
		}
		// Half of it is chance, so that the agents of a fleet do not come all at once.
		if !sleep(ctx, last, wait/2+rand.N(wait/2+1)) {
			p.abandoned.Add(n)
			return
		}
		wait = min(2*wait, p.o.RetryMost)
	}
}

// sleep waits for d, or less if ctx ends meanwhile. It returns false if last has ended.
func sleep(ctx, last context.Context, d time.Duration) bool {
	if ctx.Err() != nil { // hurry: there is not much time left
		d = min(d, 100*time.Millisecond)
		ctx = last
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-last.Done():
	}
	return last.Err() == nil
}

// errRefused marks an export that is not to be tried again.
var errRefused = errors.New("refused by the collector")
