package telemetry

import (
	"log/slog"
	"testing"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

// TestReplayWithoutResource: records that cannot be sent for what the environment says of who sends are counted.
func TestReplayWithoutResource(t *testing.T) {
	clearEnv(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "no pair")
	r, err := OpenReplay(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Deliver(t.Context(), []*journal.Record{denial(1), denial(2)})
	if r.Drops()[pump.CauseRefused] != 2 || r.Trouble() == "" {
		t.Errorf("dropped %v (%s), want both as refused", r.Drops(), r.Trouble())
	}
}
