package main

import (
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/control"
)

// An operator sees that rules do not hold yet, and until when at the latest.
func TestPhaseIsSaid(t *testing.T) {
	c := control.Container{Name: "web", Phase: "start", PhaseEnds: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	term := &terminal{}
	if got, want := term.phase(c), "at the latest at 2026-03-01T12:00:00Z"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
	if notes := strings.Join(containerNotes(c), "\n"); !strings.Contains(notes, "belay explain web") {
		t.Errorf("no note on the start: %q", notes)
	}
	c.Phase = "after"
	if got := term.phase(c); got != "after: all of its rules hold" {
		t.Errorf("got %q", got)
	}
	if notes := containerNotes(c); len(notes) > 0 {
		t.Errorf("a note on a container that has started: %q", notes)
	}
}
