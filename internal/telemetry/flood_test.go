package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
	"github.com/belay-project/belay/internal/verdict"
)

// TestFloodLeavesRoomForDenials: a flood of what was allowed does not push denials out of the queues.
func TestFloodLeavesRoomForDenials(t *testing.T) {
	tel, err := Open(t.Context(), Options{
		Endpoint: "http://127.0.0.1:1", Queue: 16, Health: health.New(nil), Log: slog.New(slog.DiscardHandler), Observe: func() Observed { return Observed{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Close()
	allowed := &journal.Record{Kind: journal.KindExec, Decision: verdict.Allowed}
	denied := &journal.Record{Kind: journal.KindExec, Decision: verdict.Denied}
	for range 100 {
		tel.Take(allowed)
	}
	before := len(tel.in)
	tel.Take(denied)
	if len(tel.in) != before+1 {
		t.Errorf("a denial after %d waiting records was dropped", before)
	}
	for range 100 {
		tel.handle(allowed)
	}
	waiting := tel.logOf.Waiting()
	tel.handle(denied)
	if tel.logOf.Waiting() != waiting+1 {
		t.Errorf("a denial after %d waiting logs was dropped", waiting)
	}
	call := &journal.Record{Kind: journal.KindAPI, Decision: verdict.Allowed, API: &journal.API{Action: "container.list"}}
	for range 100 {
		tel.tracer.take(call)
	}
	waiting = tel.spans.Waiting()
	refused := *call
	refused.Decision = verdict.Denied
	tel.tracer.take(&refused)
	if tel.spans.Waiting() != waiting+1 {
		t.Errorf("a refusal after %d waiting spans was dropped", waiting)
	}
	tel.tracer.take(lifeRecord(journal.EventCreated, 1))
	tel.tracer.take(denial(1))
	tel.tracer.take(lifeRecord(journal.EventGone, 1))
	if tel.spans.Waiting() != waiting+2 {
		t.Errorf("the life of a container with a denial was dropped, or its stage was not, with %d spans waiting", tel.spans.Waiting())
	}
	// Of 101 that were taken those count that did not get into the first queue; 101 were handled.
	if c := tel.Logs(); c.Offered != uint64(101-len(tel.in))+101 || c.Dropped["queue_full"] != uint64(101-len(tel.in))+uint64(101-tel.logOf.Waiting()) {
		t.Errorf("drops are not counted: %+v", c)
	}
}

// lifeRecord tells of the container of [denial], or of another one for another n.
func lifeRecord(event string, n int) *journal.Record {
	id := containerID
	if n != 1 {
		id = ident.ContainerID(fmt.Sprintf("%064x", n))
	}
	return &journal.Record{Kind: journal.KindContainer, Event: event, Time: at, Container: &journal.Container{ID: id}}
}

// TestHealthOfSignals: health is degraded while a signal is in trouble, and for its reason, whatever another one has to tell at that moment.
func TestHealthOfSignals(t *testing.T) {
	reg := health.New(nil)
	tel := &Telemetry{o: Options{Health: reg}, log: slog.New(slog.DiscardHandler), troubles: map[signal]string{}}
	for i := range 20_000 {
		tel.told(logs, errors.New("away"))
		tel.told(traces, nil)
		var wg sync.WaitGroup
		wg.Go(func() { tel.told(traces, errors.New("away too")) })
		wg.Go(func() { tel.told(logs, nil) })
		wg.Wait()
		if c := reg.Snapshot().Components[0]; c.State != health.Degraded || c.Reason != "export traces: away too" {
			t.Fatalf("round %d: health is %v (%s) while spans are not sent", i, c.State, c.Reason)
		}
	}
	tel.told(logs, errors.New("away"))
	tel.told(logs, nil)
	if c := reg.Snapshot().Components[0]; c.Reason != "export traces: away too" {
		t.Errorf("health says %q while spans alone are not sent", c.Reason)
	}
}

// TestLivesWithoutRoom: a container whose life is not followed for want of room is counted once, where other drops are.
func TestLivesWithoutRoom(t *testing.T) {
	tel := &Telemetry{o: Options{Health: health.New(nil)}}
	tel.tracer.Tracer, tel.tracer.lives = sdktrace.NewTracerProvider().Tracer(scope), map[ident.ContainerID]*life{}
	for i := range maxLives + 3 {
		for _, event := range []string{journal.EventCreated, journal.EventFirstExec} {
			tel.tracer.take(&journal.Record{Kind: journal.KindContainer, Event: event, Container: &journal.Container{ID: ident.ContainerID(fmt.Sprint(i))}})
		}
	}
	reader := sdkmetric.NewManualReader()
	if err := tel.register(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter(scope)); err != nil {
		t.Fatal(err)
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := 0.0
	for _, m := range all.ScopeMetrics[0].Metrics {
		if sum, ok := m.Data.(metricdata.Sum[float64]); ok && m.Name == "belay.telemetry.dropped" {
			for _, p := range sum.DataPoints {
				if cause, _ := p.Attributes.Value("belay.cause"); cause.AsString() == "lives_full" {
					got = p.Value
				}
			}
		}
	}
	if got != 3 {
		t.Errorf("%v lives counted as dropped, want 3", got)
	}
	tel.spans = pump.New(pump.Options{}, func(context.Context, []sdktrace.ReadOnlySpan) error { return nil }, func(error) {})
	if c := tel.Spans(); c.Offered != 3 || c.Dropped[causeLivesFull] != 3 {
		t.Errorf("the spans' counts do not have them: %+v", c)
	}
}
