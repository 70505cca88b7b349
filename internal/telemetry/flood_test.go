package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
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

// TestLivesNotFollowedAreCounted: what there is no room for is in the counts of spans, once a container.
func TestLivesNotFollowedAreCounted(t *testing.T) {
	tel, err := Open(t.Context(), Options{
		Endpoint: "http://127.0.0.1:1", Prometheus: "127.0.0.1:0", Health: health.New(nil), Log: slog.New(slog.DiscardHandler), Observe: func() Observed { return Observed{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Close()
	go tel.prom.serve(t.Context(), time.Minute, func(error) {})
	for n := range maxLives + 3 {
		tel.tracer.take(lifeRecord(journal.EventCreated, n+2))
		tel.tracer.take(lifeRecord(journal.EventFirstExec, n+2))
	}
	c := tel.Spans()
	if got := c.Dropped["lives_full"]; got != 3 || c.Offered != maxLives+3 { // a stage each, and the lives
		t.Errorf("%d lives of 3 counted as not followed: %+v", got, c)
	}
	resp, err := http.Get("http://" + tel.PrometheusAddr().String() + "/metrics") //nolint:noctx // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`belay_telemetry_dropped_total\{belay_cause="lives_full",belay_signal="traces",[^}]*\} 3\n`).Match(body) {
		t.Errorf("the metric does not tell:\n%.4000s", body)
	}
}
