package main

import (
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/control"
)

// TestLoadMovesGroup: all that moves as one is shown with its move.
func TestLoadMovesGroup(t *testing.T) {
	var out strings.Builder
	tm := &terminal{out: &out, now: func() time.Time { return testNow }}
	tm.writeLoadMoves(&control.LoadMoves{Moves: []control.LoadMove{
		{ID: "0b51f1d3a2c4e687", Name: "db", With: []string{"agent", "bad\x1b"}, To: "other", Outcome: "moved", Began: testNow},
		{ID: "1b51f1d3a2c4e687", Name: "web", To: "other", Outcome: "failed", Began: testNow},
	}})
	for _, want := range []string{`0b51f1d3a2c4e687  db + agent + bad\x1b  other`, "1b51f1d3a2c4e687  web"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s, want %s", out.String(), want)
		}
	}
}
