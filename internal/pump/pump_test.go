package pump

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func sum(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

// TestPump: whatever the collector does, nobody waits, and what was offered is what was
// sent and what was dropped.
func TestPump(t *testing.T) {
	gone := errors.New("nobody there")
	for _, tt := range []struct {
		name  string
		send  func(ctx context.Context, n int) error // n: of the export
		cause string                                 // that everything is dropped for, or "": all that fits is sent
		after time.Duration
	}{
		{name: "takes", send: func(context.Context, int) error { return nil }, after: time.Minute},
		{name: "takes after a while", after: 5 * time.Minute, send: func(_ context.Context, n int) error {
			if n < 5 {
				return gone
			}
			return nil
		}},
		{name: "partly", send: func(context.Context, int) error { return &Partly{Err: errors.New("partial success")} }, after: time.Minute},
		{name: "dead", send: func(context.Context, int) error { return gone }, cause: CauseGivenUp, after: time.Hour},
		{name: "final", send: func(context.Context, int) error { return fmt.Errorf("it says no: %w", ErrRefused) }, cause: CauseRefused, after: time.Hour},
		{name: "hangs", send: func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }, cause: CauseStopped, after: time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				p := New(Options{Queue: 64, Batch: 8}, func(ctx context.Context, _ []int) error { calls++; return tt.send(ctx, calls) }, func(error) {})
				ctx, cancel := context.WithCancel(t.Context())
				last, end := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { p.Run(ctx, last) })
				for range 200 { // faster than anybody takes
					p.Offer(1)
				}
				time.Sleep(tt.after)
				cancel()
				time.AfterFunc(5*time.Second, end)
				wg.Wait()
				end()
				d := p.Drops()
				if got := p.Sent() + sum(d); got != 200 || p.Offered() != 200 {
					t.Errorf("sent %d, dropped %v: %d of 200", p.Sent(), d, got)
				}
				if d[CauseQueueFull] == 0 {
					t.Errorf("a queue of 64 took 200: %v", d)
				}
				if tt.cause != "" && (p.Sent() != 0 || d[tt.cause] != 200-d[CauseQueueFull]) {
					t.Errorf("got %v sent, dropped %v, want all but the overflow for %s", p.Sent(), d, tt.cause)
				}
				if tt.cause == "" && p.Sent() != 200-d[CauseQueueFull] {
					t.Errorf("sent %d, dropped %v", p.Sent(), d)
				}
			})
		})
	}
}

// TestPumpWaitsLonger: a collector that is away is not asked in a hurry.
func TestPumpWaitsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		p := New(Options{Queue: 64, Batch: 8}, func(context.Context, []int) error { at = append(at, time.Now()); return errors.New("away") }, func(error) {})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx, ctx) })
		p.Offer(1)
		time.Sleep(90 * time.Second)
		cancel()
		wg.Wait()
		if len(at) < 6 || len(at) > 20 {
			t.Fatalf("%d tries in 90 s", len(at))
		}
		if first, late := at[1].Sub(at[0]), at[len(at)-1].Sub(at[len(at)-2]); first > time.Second || late < 7*time.Second {
			t.Errorf("waits of %v at first and %v later, want them to grow to 7.5 s and more", first, late)
		}
	})
}

// TestPartly: what of a batch can never be sent is dropped alone.
func TestPartly(t *testing.T) {
	p := New(Options{}, func(context.Context, []int) error { return &Partly{Refused: 2, Err: errors.New("two are too long")} }, func(error) {})
	p.Deliver(t.Context(), []int{1, 2, 3, 4, 5})
	if p.Offered() != 5 || p.Sent() != 3 || p.Drops()[CauseRefused] != 2 {
		t.Errorf("offered %d, sent %d, dropped %v", p.Offered(), p.Sent(), p.Drops())
	}
}

// TestLeft: what was sent of a batch, or refused, is not sent again with the rest, and counts for what it is.
func TestLeft(t *testing.T) {
	away, no := errors.New("away"), fmt.Errorf("no: %w", ErrRefused)
	for _, tt := range []struct {
		name    string
		answers []error // the last one to all that come later
		sent    uint64
		cause   string // of what is left
		batches string
	}{
		{name: "sent at last", answers: []error{&Partly{Refused: 1, Left: 2, Err: away}, away, nil}, sent: 4, batches: "[1 2 3 4 5] [4 5] [4 5] "},
		{name: "refused at last", answers: []error{&Partly{Left: 2, Err: away}, &Partly{Left: 1, Err: no}}, sent: 4, batches: "[1 2 3 4 5] [4 5] "},
		{name: "given up", answers: []error{&Partly{Refused: 1, Left: 3, Err: away}, &Partly{Left: 3, Err: away}}, sent: 1, cause: CauseGivenUp},
		{name: "wrong numbers", answers: []error{&Partly{Refused: 9, Left: 2, Err: away}, &Partly{Refused: -1, Left: -1, Err: away}}, sent: 2, batches: "[1 2 3 4 5] [4 5] "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, batches := 0, ""
				p := New(Options{}, func(_ context.Context, batch []int) error {
					batches += fmt.Sprint(batch, " ")
					n++
					return tt.answers[min(n, len(tt.answers))-1]
				}, func(error) {})
				p.Deliver(t.Context(), []int{1, 2, 3, 4, 5})
				d := p.Drops()
				if p.Sent() != tt.sent || p.Sent()+sum(d) != 5 || tt.cause != "" && d[tt.cause] != 3 {
					t.Errorf("sent %d, dropped %v", p.Sent(), d)
				}
				if tt.batches != "" && batches != tt.batches {
					t.Errorf("got %s", batches)
				}
			})
		})
	}
}

// TestOrdinary: ordinary items leave a quarter of the queue to the others, and offering
// allocates nothing.
func TestOrdinary(t *testing.T) {
	p := New(Options{Queue: 8}, func(context.Context, []int) error { return nil }, func(error) {})
	for range 10 {
		p.OfferOrdinary(1)
	}
	if p.Waiting() != 6 || p.Drops()[CauseQueueFull] != 4 {
		t.Errorf("%d wait, dropped %v, want 6 and 4", p.Waiting(), p.Drops())
	}
	p.Offer(2)
	p.Offer(2)
	if p.Waiting() != 8 {
		t.Errorf("%d wait, want the last quarter taken too", p.Waiting())
	}
	if n := testing.AllocsPerRun(100, func() { p.Offer(1); p.OfferOrdinary(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
