// Package pump sends items in batches to somebody who may be slow, away or refusing,
// without ever keeping waiting who offers them.
//
// A [Pump] owns a bounded queue and the counts of what became of each item: sent, or
// dropped for a cause. It tries again with growing waits, and never orders, stores or
// looks into what it sends. Row: vocabulary; standard library only.
package pump

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Causes of a drop.
const (
	CauseQueueFull = "queue_full" // they came faster than they were sent
	CauseRefused   = "refused"    // the receiver refused them for good, or they can never be sent
	CauseGivenUp   = "given_up"   // they could not be sent in Options.GiveUp
	CauseStopped   = "stopped"    // they waited at the end
)

// ErrRefused marks, wrapped, what is not to be sent again.
var ErrRefused = errors.New("refused")

// Options bounds a pump. Zero fields have the defaults that they name.
type Options struct {
	Queue      int           // items that wait at most; 4096
	Batch      int           // items of one batch, at most; 512
	Linger     time.Duration // longest wait for a batch to fill; 1 s
	RetryFirst time.Duration // first wait after a failure, doubled up to RetryMost; 500 ms
	RetryMost  time.Duration // 15 s
	GiveUp     time.Duration // how long one batch is tried; 2 min

	// Final tells whether an error means that the batch must not be tried again; nil: those
	// that wrap [ErrRefused].
	Final func(error) bool
	// Partial tells whether an error that is no [Partly] means that a batch is done with, but for so many
	// items of it that were refused; nil: none does.
	Partial func(error) (refused int, ok bool)
}

// Partly says that of a batch all was sent but Refused items, which never can be, and the last Left
// ones, which Err is about then: they are tried again alone.
type Partly struct {
	Refused, Left int
	Err           error
}

// Error implements error.
func (p *Partly) Error() string { return p.Err.Error() }

// Unwrap returns the reason.
func (p *Partly) Unwrap() error { return p.Err }

func (o Options) withDefaults() Options {
	if o.Queue <= 0 {
		o.Queue = 4096
	}
	if o.Batch <= 0 {
		o.Batch = 512
	}
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{
		{&o.Linger, time.Second}, {&o.RetryFirst, 500 * time.Millisecond}, {&o.RetryMost, 15 * time.Second}, {&o.GiveUp, 2 * time.Minute},
	} {
		if *d.to <= 0 {
			*d.to = d.def
		}
	}
	if o.Final == nil {
		o.Final = func(err error) bool { return errors.Is(err, ErrRefused) }
	}
	if o.Partial == nil {
		o.Partial = func(error) (int, bool) { return 0, false }
	}
	return o
}

// Pump sends what it is offered. Make one with [New]; one goroutine calls [Pump.Run] or
// [Pump.Deliver]. The other methods are safe for concurrent use.
type Pump[T any] struct {
	o    Options
	in   chan T
	send func(ctx context.Context, batch []T) error
	told func(err error)

	offered, sent                     atomic.Uint64
	full, refused, givenUp, abandoned atomic.Uint64
}

// New returns a pump. Send sends one batch, which it must not keep; an error that is no [Partly] says
// that all of it is left. Told hears how each try went, nil being well.
func New[T any](o Options, send func(context.Context, []T) error, told func(error)) *Pump[T] {
	o = o.withDefaults()
	return &Pump[T]{o: o, in: make(chan T, o.Queue), send: send, told: told}
}

// Offer takes x unless the queue is full. It never waits, and allocates nothing.
func (p *Pump[T]) Offer(x T) {
	p.offered.Add(1)
	select {
	case p.in <- x:
	default:
		p.full.Add(1)
	}
}

// OfferOrdinary is [Pump.Offer] for what may not fill the last quarter of the queue, which is
// kept for what matters more.
func (p *Pump[T]) OfferOrdinary(x T) {
	if len(p.in) < cap(p.in)-cap(p.in)/4 {
		p.Offer(x)
		return
	}
	p.offered.Add(1)
	p.full.Add(1)
}

// Offered returns how many items were offered, or given to Deliver.
func (p *Pump[T]) Offered() uint64 { return p.offered.Load() }

// Sent returns how many items were sent.
func (p *Pump[T]) Sent() uint64 { return p.sent.Load() }

// Waiting returns how many items are in the queue. Those of a batch under way are not.
func (p *Pump[T]) Waiting() int { return len(p.in) }

// Drops returns the counts of what was lost, by cause; every cause is in it.
func (p *Pump[T]) Drops() map[string]uint64 {
	return map[string]uint64{
		CauseQueueFull: p.full.Load(), CauseRefused: p.refused.Load(), CauseGivenUp: p.givenUp.Load(), CauseStopped: p.abandoned.Load(),
	}
}

// Run sends until ctx ends, and then what waits, as long as last lives.
func (p *Pump[T]) Run(ctx, last context.Context) {
	batch := make([]T, 0, p.o.Batch)
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

// Deliver sends one batch past the queue, for who can wait, and returns when it was sent or
// dropped: the counts tell.
func (p *Pump[T]) Deliver(ctx context.Context, batch []T) {
	p.offered.Add(uint64(len(batch)))
	p.deliver(ctx, ctx, batch)
}

// gather waits for one, and then a moment for more.
func (p *Pump[T]) gather(ctx context.Context, batch []T) []T {
	select {
	case <-ctx.Done():
		return batch
	case x := <-p.in:
		batch = append(batch, x)
	}
	t := time.NewTimer(p.o.Linger)
	defer t.Stop()
	for len(batch) < p.o.Batch {
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
func (p *Pump[T]) take(batch []T) []T {
	for len(batch) < p.o.Batch {
		select {
		case x := <-p.in:
			batch = append(batch, x)
		default:
			return batch
		}
	}
	return batch
}

// deliver sends a batch, again and again with growing waits, until all of it is sent, refused for
// good, or given up. After ctx has ended it tries as long as last lives.
func (p *Pump[T]) deliver(ctx, last context.Context, batch []T) {
	began, wait := time.Now(), p.o.RetryFirst
	for {
		err := p.send(last, batch)
		p.told(err)
		refused, left := p.outcome(err, len(batch))
		p.sent.Add(uint64(len(batch) - refused - left)) //nolint:gosec // not negative
		p.refused.Add(uint64(refused))                  //nolint:gosec // not negative
		if left == 0 {
			return
		}
		batch = batch[len(batch)-left:]
		n := uint64(left)
		switch {
		case p.o.Final(err):
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

// outcome is how many of n items were refused, and how many are left, by what send returned.
func (p *Pump[T]) outcome(err error, n int) (refused, left int) {
	if err == nil {
		return 0, 0
	}
	if e, ok := errors.AsType[*Partly](err); ok {
		refused, left = e.Refused, e.Left
	} else if refused, ok = p.o.Partial(err); !ok {
		return 0, n
	}
	left = min(max(left, 0), n)
	return min(max(refused, 0), n-left), left
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
