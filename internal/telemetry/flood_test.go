package telemetry

import (
	"log/slog"
	"testing"

	"github.com/belay-project/belay/internal/health"
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
	// Of 101 that were taken those count that did not get into the first queue; 101 were handled.
	if c := tel.Logs(); c.Offered != uint64(101-len(tel.in))+101 || c.Dropped["queue_full"] != uint64(101-len(tel.in))+uint64(101-tel.logOf.Waiting()) {
		t.Errorf("drops are not counted: %+v", c)
	}
}
