package move

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// pointsOf are where the mover tells where it is, forward: all with BELAY_MATRIX=full, else those behind which
// something is different on an engine.
func pointsOf(stateful bool) []string {
	if os.Getenv("BELAY_MATRIX") != "full" {
		out := []string{"lease/end", "create/made", "stop-source/policy", "stop-source/end", "start/begin", "start/end", "hand-over/end", "commit/end"}
		if stateful {
			return append(out, "copy/volume")
		}
		return append(out, "drain/end", "keep/end")
	}
	var out []string
	for _, s := range Steps(stateful) {
		out = append(out, string(s)+"/begin")
		switch s {
		case StepCreate:
			out = append(out, "create/made")
		case StepStopSource:
			out = append(out, "stop-source/policy")
		case StepCopy:
			out = append(out, "copy/volume")
		}
		out = append(out, string(s)+"/end")
	}
	return append(out, "kept")
}

// lose is a fault at a point: which engine is lost, and whether the mover dies too.
type lose struct {
	name           string
	from, to, dies bool
}

// TestMatrix loses an engine, both, or the mover with them, at each point of a move, tries it again while the fault
// lasts, and once more when it is over. There are never two writers, one copy or the source runs in the end,
// with all that was written, and nothing is left over. Without volumes, or before the copy with data has
// started, the source serves already while only the target is lost.
func TestMatrix(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		for _, f := range []lose{
			{name: "target", to: true}, {name: "source", from: true}, {name: "both", from: true, to: true}, {name: "mover", dies: true},
			{name: "mover and target", to: true, dies: true}, {name: "mover and source", from: true, dies: true},
		} {
			for _, point := range pointsOf(stateful) {
				t.Run(fmt.Sprintf("stateful %v/%s/%s", stateful, f.name, point), func(t *testing.T) {
					t.Parallel()
					tryMatrix(t, stateful, f, point)
				})
			}
		}
	}
}

func tryMatrix(t *testing.T, stateful bool, f lose, point string) {
	w := newWorld(t, stateful)
	writers := func(other *fake) func() {
		return func() {
			if !stateful {
				return
			}
			other.mu.Lock()
			defer other.mu.Unlock()
			for _, c := range other.containers {
				if c.running {
					t.Error("two writers")
				}
			}
		}
	}
	w.from.starts, w.to.starts = writers(w.to), writers(w.from)
	down := func(is bool) {
		w.from.set(func() { w.from.down = is && f.from })
		w.to.set(func() { w.to.down = is && f.to })
	}
	w.at = once(point, func() {
		down(true)
		if f.dies {
			panic(killed{})
		}
	})
	func() {
		defer func() {
			if p := recover(); p != nil && p != any(killed{}) {
				panic(p)
			}
		}()
		_, _ = w.move()
	}()
	w.at = nil
	_, _ = w.mover().Resume(t.Context(), w.journal().ID) // as the agent does, before it is mended
	if j := w.journal(); f.to && !f.from && (j.Phase == Forward || j.Phase == Back) && !(stateful && j.TargetStarted) {
		w.from.mu.Lock()
		if !w.source.running || w.source.name != "web" {
			t.Errorf("the source does not serve while the target is lost: %s", j.Error)
		}
		w.from.mu.Unlock()
	}
	down(false)
	_, err := w.mover().Resume(t.Context(), w.journal().ID)
	switch j := w.journal(); j.Phase {
	case Kept:
		w.want(false, 1)
		if stateful && w.to.volumes["records"].data != "first" {
			t.Error("the data is not there")
		}
		if p, _ := w.copies()[0].host["RestartPolicy"].(map[string]any); p["Name"] != "always" {
			t.Errorf("restart policy %v", p)
		}
	case RolledBack:
		w.want(true, 0)
		if len(w.copies()) != 0 {
			t.Error("the copy is still there")
		}
	default:
		t.Fatalf("phase %s at %s: %v", j.Phase, j.Step, err)
	}
	if err != nil && !errors.As(err, new(*BackError)) && !strings.Contains(err.Error(), "has ended") && !strings.Contains(err.Error(), "is done") {
		t.Error(err)
	}
	if left := w.from.leases() + w.to.leases(); left != "" {
		t.Errorf("left: %s", left)
	}
	if n := len(w.from.containers); n != 1 {
		t.Errorf("%d containers on the source", n)
	}
}
