package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/belay-project/belay/internal/health"
)

func testOptions() *Options {
	o := &Options{Health: health.New(nil), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Queue: 64, Batch: 8}
	if err := o.setDefaults(); err != nil {
		panic(err)
	}
	return o
}

func sum(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

// TestPump: whatever the collector does, nobody waits, and what was offered is what was
// sent and what was dropped.
func TestPump(t *testing.T) {
	gone := status.Error(codes.Unavailable, "nobody there")
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
		{name: "partly", send: func(context.Context, int) error { return errors.New("OTLP partial success: x (1 spans rejected)") }, after: time.Minute},
		{name: "dead", send: func(context.Context, int) error { return gone }, cause: causeGivenUp, after: time.Hour},
		{name: "final", send: func(context.Context, int) error { return status.Error(codes.InvalidArgument, "no") }, cause: causeRefused, after: time.Hour},
		{name: "hangs", send: func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }, cause: causeStopped, after: time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				p := newPump(testOptions(), 8, func(ctx context.Context, _ []int) error { calls++; return tt.send(ctx, calls) }, func(error) {})
				ctx, cancel := context.WithCancel(t.Context())
				last, end := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { p.run(ctx, last) })
				for range 200 { // faster than anybody takes
					p.offer(1)
				}
				time.Sleep(tt.after)
				cancel()
				time.AfterFunc(5*time.Second, end)
				wg.Wait()
				end()
				d := p.drops()
				if got := p.sent.Load() + sum(d); got != 200 || p.offered.Load() != 200 {
					t.Errorf("sent %d, dropped %v: %d of 200", p.sent.Load(), d, got)
				}
				if d[causeQueueFull] == 0 {
					t.Errorf("a queue of 64 took 200: %v", d)
				}
				if tt.cause != "" && (p.sent.Load() != 0 || d[tt.cause] != 200-d[causeQueueFull]) {
					t.Errorf("got %v sent, dropped %v, want all but the overflow for %s", p.sent.Load(), d, tt.cause)
				}
				if tt.cause == "" && p.sent.Load() != 200-d[causeQueueFull] {
					t.Errorf("sent %d, dropped %v", p.sent.Load(), d)
				}
			})
		})
	}
}

// TestPumpWaitsLonger: a collector that is away is not asked in a hurry.
func TestPumpWaitsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		p := newPump(testOptions(), 8, func(context.Context, []int) error { at = append(at, time.Now()); return errors.New("away") }, func(error) {})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.run(ctx, ctx) })
		p.offer(1)
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
