package move

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
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
					tryMatrix(t, newWorld(t, stateful), f, func(do func()) func(string) { return once(point, do) })
				})
			}
		}
	}
}

// tryMatrix moves what is in a world, with a fault at the point at which at calls what it is given.
func tryMatrix(t *testing.T, w *world, f lose, at func(do func()) func(string)) {
	stateful := w.s.CopyVolumes
	w.from.stops = func(c *fakeContainer) { // it writes as it ends
		if v := w.from.volumes[w.from.mounted(c)]; v != nil {
			v.data += ", the last of " + c.name
		}
	}
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
	var came bool
	w.at = at(func() {
		came = true
		down(true)
		if f.dies {
			panic(killed{})
		}
	})
	mayBeKilled(func() { _, _ = w.move() })
	if w.at = nil; !came {
		t.Fatal("the fault did not come")
	}
	_, _ = w.mover().Resume(t.Context(), w.journal().ID) // as the agent does, before it is mended
	if j := w.journal(); f.to && !f.from && (j.Phase == Forward || j.Phase == Back) && !(stateful && j.copyStarted()) {
		w.from.mu.Lock()
		for name, c := range w.group {
			if !c.running || c.name != name {
				t.Errorf("the source %s does not serve while the target is lost: %s", name, j.Error)
			}
		}
		w.from.mu.Unlock()
	}
	down(false)
	_, err := w.mover().Resume(t.Context(), w.journal().ID)
	switch j := w.journal(); j.Phase {
	case Kept:
		w.want(false, 1)
		if stateful && w.to.volumes["records"].data != w.from.volumes["records"].data {
			t.Error("the data is not there")
		}
		for _, c := range w.copies() {
			if p, _ := c.host["RestartPolicy"].(map[string]any); p["Name"] != "always" {
				t.Errorf("restart policy of %s: %v", c.name, p)
			}
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
	if n := len(w.from.containers); n != len(w.group) {
		t.Errorf("%d containers on the source", n)
	}
	if n := len(w.to.containers); n != len(w.copies()) {
		t.Errorf("%d helpers on the target", n-len(w.copies()))
	}
}

// TestMatrixKept takes a move back that is done, and loses the target before that or at each point of it, and the mover
// with it or not; tries it again while the fault lasts, and once more when it is over. Without volumes the source serves
// at once. With volumes it does only once the copy is known not to run, or by the operator's word that the target is
// gone. There are never two writers while that is true.
func TestMatrixKept(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		for _, gone := range []bool{false, true} {
			for _, dies := range []bool{false, true} {
				for _, point := range []string{"", "back/begin", "back/step", "back/end"} {
					if dies && point == "" {
						continue
					}
					t.Run(fmt.Sprintf("stateful %v/gone %v/dies %v/%s", stateful, gone, dies, point), func(t *testing.T) {
						t.Parallel()
						tryKept(t, stateful, gone, dies, point)
					})
				}
			}
		}
	}
}

func tryKept(t *testing.T, stateful, gone, dies bool, point string) {
	w := newWorld(t, stateful)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	abort := func(may Allow) (err error) {
		mayBeKilled(func() { _, err = w.mover().Abort(t.Context(), j.ID, may) })
		return err
	}
	lost := func() {
		w.to.set(func() { w.to.down = true })
		if dies {
			panic(killed{})
		}
	}
	if point == "" {
		lost()
	} else {
		w.at = once(point, lost)
	}
	err = abort(Allow{LoseWrites: true})
	w.at = nil
	if !w.to.down {
		t.Fatal("the fault did not come")
	}
	if point == "" && stateful {
		if !errors.Is(err, ErrTargetLost) || w.journal().Phase != Kept {
			t.Errorf("got %v, phase %s", err, w.journal().Phase)
		}
		w.want(false, 1)
	}
	if gone {
		err = abort(Allow{LoseWrites: true, TargetGone: true})
	} else {
		_, err = w.mover().Resume(t.Context(), j.ID) // as the agent does, before it is mended
	}
	serves := !stateful || gone || point == "back/end" || point == "back/step" && !dies // the copy was removed first
	w.from.mu.Lock()
	if w.source.running != serves {
		t.Errorf("the source runs: %v: %v", w.source.running, err)
	}
	w.from.mu.Unlock()
	if gone {
		if got := w.journal(); got.Phase != RolledBack || point != "back/end" && len(got.LeftBehind) == 0 {
			t.Errorf("phase %s, left %q: %v", got.Phase, got.LeftBehind, err)
		}
		if left := w.from.leases(); left != "" {
			t.Errorf("left: %s", left)
		}
		return
	}
	w.to.set(func() { w.to.down = false })
	if point == "" && stateful {
		err = abort(Allow{LoseWrites: true})
	} else {
		_, err = w.mover().Resume(t.Context(), j.ID)
	}
	if got := w.journal(); got.Phase != RolledBack || len(w.copies()) != 0 {
		t.Errorf("phase %s, %d copies: %v", got.Phase, len(w.copies()), err)
	}
	w.want(true, 0)
	if left := w.from.leases() + w.to.leases(); left != "" {
		t.Errorf("left: %s", left)
	}
}

// TestTargetNotGone: the operator's word that the target is gone is not taken while it answers.
func TestTargetNotGone(t *testing.T) {
	w := newWorld(t, true)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true, TargetGone: true}); err == nil || !strings.Contains(err.Error(), "answers") {
		t.Errorf("got %v", err)
	}
	if _, err := w.mover().Abort(t.Context(), j.ID, Allow{TargetGone: true}); !errors.Is(err, ErrNoReturn) {
		t.Errorf("got %v", err)
	}
	w.want(false, 1)
}

// TestTargetRefuses: a target that answers, and be it with a refusal, is not gone, and its copy may write.
func TestTargetRefuses(t *testing.T) {
	w := newWorld(t, true)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	w.to.set(func() {
		w.to.answer = func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(http.StatusForbidden); return true }
	})
	for _, gone := range []bool{false, true} {
		_, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true, TargetGone: gone})
		if err == nil || !strings.Contains(err.Error(), "403") || errors.Is(err, ErrTargetLost) || w.journal().Phase != Kept {
			t.Errorf("got %v, phase %s", err, w.journal().Phase)
		}
	}
	w.want(false, 1)
	w.to.set(func() { w.to.answer = nil })
	w.killIn("back/begin", func() error { _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true}); return err })
	w.to.set(func() {
		w.to.answer = func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(http.StatusForbidden); return true }
	})
	if _, err := w.mover().Resume(t.Context(), j.ID); err == nil || strings.Contains(err.Error(), "--target-gone") {
		t.Errorf("got %v", err)
	}
	w.want(false, 1)
}

// TestBothGone: a move whose source was removed and whose target is gone ends by the operator's word.
func TestBothGone(t *testing.T) {
	w := newWorld(t, true)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	w.from.remove(w.source)
	w.to.set(func() { w.to.down = true })
	if _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true, TargetGone: true}); !errors.As(err, new(*GoneError)) || !strings.Contains(err.Error(), "the target is gone too") {
		t.Errorf("got %v", err)
	}
	got := w.journal()
	if got.Phase != RolledBack || w.from.leases() != "" {
		t.Errorf("phase %s, %s", got.Phase, w.from.leases())
	}
	if want := "target: containers with the label " + recreate.LabelMove + "=" + j.ID; !strings.Contains(strings.Join(got.LeftBehind, "\n"), want) {
		t.Errorf("left %q, without %q", got.LeftBehind, want)
	}
}

// TestTargetGoneComesBack: a target that answers after all, and has no copy any more, keeps a move that was vouched for no
// longer.
func TestTargetGoneComesBack(t *testing.T) {
	w := newWorld(t, true)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	w.to.set(func() { w.to.down = true })
	w.killIn("back/begin", func() error {
		_, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true, TargetGone: true})
		return err
	})
	w.to.set(func() { w.to.down = false; clear(w.to.containers) })
	if _, err := w.mover().Resume(t.Context(), j.ID); !errors.As(err, new(*BackError)) {
		t.Errorf("got %v", err)
	}
	w.want(true, 0)
	if left := w.from.leases() + w.to.leases(); left != "" {
		t.Errorf("left: %s", left)
	}
}

// TestTargetRebuilt: another engine at the target's address is no answer of the target, so that it may be gone; one that has
// the copy is the target with another ID.
func TestTargetRebuilt(t *testing.T) {
	w := newWorld(t, true)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	all := Allow{LoseWrites: true, TargetGone: true}
	w.to.set(func() { w.to.id = "cccccc" })
	if _, err := w.mover().Abort(t.Context(), j.ID, all); err == nil || !strings.Contains(err.Error(), "another engine") {
		t.Errorf("got %v", err)
	}
	w.want(false, 1)
	w.to.set(func() { clear(w.to.containers); clear(w.to.volumes) })
	if _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true}); !errors.Is(err, ErrTargetLost) || !errors.Is(err, errRebuilt) {
		t.Errorf("got %v", err)
	}
	w.want(false, 0)
	w.from.set(func() { w.from.id = "dddddd" })
	if _, err := w.mover().Abort(t.Context(), j.ID, all); err == nil || !strings.Contains(err.Error(), "another engine") {
		t.Errorf("got %v", err)
	}
	w.from.set(func() { w.from.id = "aaaaaa" })
	if _, err := w.mover().Abort(t.Context(), j.ID, all); err != nil {
		t.Error(err)
	}
	w.want(true, 0)
	if got := w.journal(); got.Phase != RolledBack || len(w.to.volumes) != 0 {
		t.Errorf("phase %s, volumes there %v", got.Phase, w.to.volumes)
	}
}

// TestTargetRebuiltUnderWay: a move whose target was made anew while nothing carried it on goes back by itself, as one
// whose target does not answer.
func TestTargetRebuiltUnderWay(t *testing.T) {
	w := newWorld(t, true)
	id := w.kill("copy/end")
	w.want(false, 0)
	w.to.set(func() { w.to.id = "cccccc"; clear(w.to.containers); clear(w.to.volumes) })
	_, err := w.mover().Resume(t.Context(), id)
	if errors.As(err, new(*StuckError)) == errors.As(err, new(*BackError)) {
		t.Errorf("got %v", err)
	}
	w.want(true, 0)
}

// TestTargetGoneBeforeHandOver: a target that is gone while a copy with data starts there keeps the source stopped, until
// the operator says so.
func TestTargetGoneBeforeHandOver(t *testing.T) {
	w := newWorld(t, true)
	w.at = once("start/end", func() { w.to.set(func() { w.to.down = true }) })
	if _, err := w.move(); !errors.As(err, new(*StuckError)) {
		t.Fatalf("got %v", err)
	}
	w.want(false, 1)
	id := w.journal().ID
	if _, err := w.mover().Abort(t.Context(), id, Allow{}); !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), "--target-gone "+id) {
		t.Errorf("got %v", err)
	}
	w.want(false, 1)
	if _, err := w.mover().Abort(t.Context(), id, Allow{TargetGone: true}); err != nil {
		t.Error(err)
	}
	w.want(true, 1) // the fake still runs it: the operator was wrong
}

// TestKeptMovedOnUnasked: a copy that was moved on while its target does not answer to an abort stays what the second move
// made of it.
func TestKeptMovedOnUnasked(t *testing.T) {
	w := newWorld(t, false)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	c := newFake(t, "cccccc")
	if _, err := New(Options{Dir: private(t), RunHook: w.mover().o.RunHook}).Move(t.Context(), "web", engine.Address{URL: w.to.url}, engine.Address{URL: c.url}, w.s); err != nil {
		t.Fatal(err)
	}
	w.to.set(func() { w.to.down = true })
	if _, err := w.mover().Abort(t.Context(), j.ID, Allow{}); !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), "the source serves") {
		t.Errorf("got %v", err)
	}
	w.to.set(func() { w.to.down = false })
	if _, err := w.mover().Resume(t.Context(), j.ID); !errors.As(err, new(*BackError)) {
		t.Errorf("got %v", err)
	}
	w.want(true, 0)
	if len(w.copies()) != 1 || w.to.leases() != "" {
		t.Errorf("%d containers on the target, leases %q", len(w.copies()), w.to.leases())
	}
	if left := strings.Join(w.journal().LeftBehind, "\n"); !strings.Contains(left, "an instance may run elsewhere") {
		t.Errorf("left %q", left)
	}
}
