package move

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
)

// TestLookedAtTooEarly: between the look and the lease another mover moves the container away. The
// second one would copy stale volumes and start a second writer.
func TestLookedAtTooEarly(t *testing.T) {
	w := newWorld(t, true)
	c := newFake(t, "cccccc")
	done := false
	w.from.before = func(method, path string) {
		if method != "POST" || path != "/volumes/create" || done {
			return
		}
		done = true // this is the second mover's lease: the first one is done before that
		s := w.s
		if _, err := New(Options{Dir: private(t), RunHook: w.mover().o.RunHook}).Move(t.Context(), "web", engine.Address{URL: w.from.url}, engine.Address{URL: c.url}, s); err != nil {
			t.Error(err)
		}
	}
	_, err := w.move()
	if back := new(BackError); !errors.As(err, &back) || !errors.Is(err, errChanged) {
		t.Errorf("got %v", err)
	}
	w.want(false, 0)
	if copies := (&world{t: t, to: c}).copies(); len(copies) != 1 || !copies[0].running {
		t.Error("the first move's copy does not run")
	}
}

// TestRestartPolicyOfAnother: a look while another move has taken the restart policy away is not
// what is given back.
func TestRestartPolicyOfAnother(t *testing.T) {
	w := newWorld(t, false)
	w.source.host["RestartPolicy"] = map[string]any{"Name": "no"}
	w.from.before = func(method, path string) {
		if method == "POST" && path == "/volumes/create" {
			w.from.set(func() { w.source.host["RestartPolicy"] = map[string]any{"Name": "always"} })
		}
	}
	j, err := w.move()
	if err != nil || j.Restart.Name != "always" {
		t.Errorf("got %v, %v", j.Restart, err)
	}
}

// TestChangedSince: what would have been a reason against the move when it was planned is one until
// the volumes are copied.
func TestChangedSince(t *testing.T) {
	other := func(w *world) {
		w.from.set(func() {
			host := map[string]any{"NetworkMode": "none", "Mounts": []any{map[string]any{"Type": "volume", "Source": "records", "Target": "/x"}}}
			w.from.start(w.from.add("cron", map[string]any{"Image": "web:1"}, host, nil))
		})
	}
	wrote := func(w *world) {
		w.from.set(func() { w.from.changes = []map[string]any{{"Path": "/state", "Kind": 1}} })
	}
	for _, c := range []struct {
		name, at  string
		stateful  bool
		do        func(*world)
		lose      bool
		unstopped bool
	}{
		{name: "volume before the stop", at: "create/end", stateful: true, do: other, unstopped: true},
		{name: "volume at the stop", at: "stop-source/policy", stateful: true, do: other},
		{name: "volume during the copy", at: "copy/volume", stateful: true, do: other},
		{name: "layer before the stop", at: "create/end", stateful: true, do: wrote, unstopped: true},
		{name: "layer at the stop", at: "stop-source/policy", stateful: true, do: wrote},
		{name: "layer without volumes", at: "stop-source/policy", do: wrote},
		{name: "layer that may be lost", at: "stop-source/policy", stateful: true, do: wrote, lose: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.stateful)
			w.s.LoseLayer = c.lose
			w.at = once(c.at, func() { c.do(w) })
			stopped := w.source.finished
			_, err := w.move()
			if c.lose {
				if err != nil {
					t.Error(err)
				}
				w.want(false, 1)
				return
			}
			if back := new(BackError); !errors.As(err, &back) || !errors.Is(err, errChanged) {
				t.Errorf("got %v", err)
			}
			w.want(true, 0)
			if c.unstopped && w.source.finished != stopped {
				t.Error("the source was stopped for nothing")
			}
		})
	}
}

// TestMovedOn: a copy that another mover is moving on, or that was moved on, is not what the first move
// goes back from: both would run.
func TestMovedOn(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		w := newWorld(t, stateful)
		j, err := w.move()
		if err != nil {
			t.Fatal(err)
		}
		// From b to c, with the first move aborted at each step.
		c := newFake(t, "cccccc")
		on := New(Options{Dir: private(t), RunHook: w.mover().o.RunHook, At: func(point string) {
			if !strings.HasSuffix(point, "/end") || point == string(StepCommit)+"/end" {
				return // the lease is not yet taken, or no longer
			}
			if _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true}); !errors.Is(err, ErrLeased) {
				t.Errorf("abort at %s: %v", point, err)
			}
		}})
		if _, err := on.Move(t.Context(), "web", engine.Address{URL: w.to.url}, engine.Address{URL: c.url}, w.s); err != nil {
			t.Fatal(err)
		}
		if _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true}); err == nil || !strings.Contains(err.Error(), "it was moved on") {
			t.Errorf("got %v", err)
		}
		w.want(false, 0)
		for _, e := range []*fake{w.from, w.to, c} {
			if left := e.leases(); left != "" {
				t.Errorf("left: %s", left)
			}
		}
	}
}

// TestMovedOnInTheMiddle: before a move is done nobody moves its copy on.
func TestMovedOnInTheMiddle(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		w := newWorld(t, stateful)
		c := newFake(t, "cccccc")
		tried := 0
		w.at = func(point string) {
			if len(w.copies()) == 0 || !w.copies()[0].running || !strings.HasSuffix(point, "/begin") {
				return
			}
			tried++
			_, err := New(Options{Dir: private(t), RunHook: w.mover().o.RunHook}).Move(t.Context(), "web", engine.Address{URL: w.to.url}, engine.Address{URL: c.url}, w.s)
			if !errors.Is(err, ErrLeased) {
				t.Errorf("moved on at %s: %v", point, err)
			}
		}
		if _, err := w.move(); err != nil || tried == 0 {
			t.Errorf("%d tries, %v", tried, err)
		}
		w.want(false, 1)
	}
}

// TestCommitAfterMovedOn: a move that died after it gave the leases back starts no copy that was
// moved on since.
func TestCommitAfterMovedOn(t *testing.T) {
	w := newWorld(t, true)
	id := w.kill("commit/end")
	c := newFake(t, "cccccc")
	if _, err := New(Options{Dir: private(t), RunHook: w.mover().o.RunHook}).Move(t.Context(), "web", engine.Address{URL: w.to.url}, engine.Address{URL: c.url}, w.s); err != nil {
		t.Fatal(err)
	}
	if j, err := w.mover().Resume(t.Context(), id); err != nil || j.Phase != Kept {
		t.Errorf("got %v, %v", j.Phase, err)
	}
	w.want(false, 0)
}

func (f *fake) remove(c *fakeContainer) {
	f.set(func() { delete(f.containers, c.id) })
}

// TestSourceRemoved: whoever prunes containers while the source is stopped has made the copy the last of
// it. A move that goes back, or is aborted, leaves it and ends.
func TestSourceRemoved(t *testing.T) {
	for _, c := range []struct {
		name, at         string // where the source is removed
		stateful, unwell bool   // the copy ends by itself then
		phase            Phase
		copies           int
		running          bool
	}{
		{name: "the copy runs", at: "healthy/begin", stateful: true, phase: Finished, copies: 1, running: true},
		{name: "the copy has ended", at: "start/end", stateful: true, unwell: true, phase: Back, copies: 1},
		{name: "the copy has never run", at: "copy/end", stateful: true, phase: Back, copies: 1},
		{name: "the copy has taken over", at: "keep/begin", stateful: true, phase: Forward, copies: 1, running: true},
		{name: "before it stopped", at: "create/end", stateful: true, phase: RolledBack},
		{name: "without volumes", at: "drain/end", phase: Finished, copies: 1, running: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.stateful)
			w.at = once(c.at, func() {
				w.from.remove(w.source)
				if c.unwell {
					w.to.set(func() {
						for _, x := range w.to.containers {
							w.to.stop(x)
						}
					})
				}
			})
			_, err := w.move()
			w.source.running = false
			copies := w.copies()
			if len(copies) != c.copies || c.copies == 1 && copies[0].running != c.running || w.journal().Phase != c.phase {
				t.Fatalf("got %v; phase %s, copies %+v", err, w.journal().Phase, copies)
			}
			if c.phase == RolledBack {
				return
			}
			if c.stateful && w.to.volumes["records"].data != "first" {
				t.Error("the copy's data is gone")
			}
			switch c.phase {
			case Back: // nobody has decided: the same again, and by somebody's start it ends
				if _, err := w.mover().Abort(t.Context(), w.journal().ID, Allow{LoseWrites: true}); !errors.As(err, new(*StuckError)) || len(w.copies()) != 1 {
					t.Errorf("a second taking back: %v", err)
				}
				w.to.set(func() { w.to.start(copies[0]) })
				fallthrough
			case Forward:
				if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*GoneError)) {
					t.Errorf("got %v", err)
				}
			}
			if j := w.journal(); j.Phase != Finished || w.to.leases()+w.from.leases() != "" {
				t.Errorf("phase %s, left %s%s", j.Phase, w.to.leases(), w.from.leases())
			}
			if p, _ := w.copies()[0].host["RestartPolicy"].(map[string]any); p["Name"] != "always" {
				t.Errorf("restart policy %v", p)
			}
			if w.hooks[len(w.hooks)-1] != "hand-over" {
				t.Errorf("hooks %v", w.hooks)
			}
		})
	}
}

// TestSourceReplaced: whoever makes the source again meanwhile, or another with its volume, has put one in its place:
// the copy does not take over beside that, until one of the two is removed.
func TestSourceReplaced(t *testing.T) {
	for _, c := range []struct {
		at, name           string
		stateful, copyGoes bool // it is the copy that is removed in the end
	}{
		{at: "healthy/begin", name: "web", stateful: true},
		{at: "healthy/begin", name: "web", stateful: true, copyGoes: true},
		{at: "healthy/begin", name: "web-next", stateful: true},
		{at: "drain/end", name: "web"},
	} {
		t.Run(fmt.Sprint(c.at, c.name, c.copyGoes), func(t *testing.T) {
			w := newWorld(t, c.stateful)
			var next *fakeContainer
			w.at = once(c.at, func() {
				w.from.set(func() {
					delete(w.from.containers, w.source.id)
					next = w.from.add(c.name, map[string]any{"Image": "web:1"}, w.source.host, nil)
					w.from.start(next)
				})
			})
			_, err := w.move()
			if !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), c.name) || w.journal().Phase != Back || len(w.copies()) != 1 {
				t.Fatalf("got %v; phase %s", err, w.journal().Phase)
			}
			if p, _ := w.copies()[0].host["RestartPolicy"].(map[string]any); p["Name"] == "always" || c.stateful && len(w.hooks) > 0 {
				t.Errorf("restart policy %v, hooks %v", p, w.hooks)
			}
			phase := Finished
			if c.copyGoes {
				phase = RolledBack
				w.to.remove(w.copies()[0])
			} else {
				w.from.remove(next)
			}
			if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*GoneError)) || w.journal().Phase != phase {
				t.Errorf("got %v; phase %s", err, w.journal().Phase)
			}
		})
	}
}

// TestSourceRemovedAfterTheMove: the abort of a move has nothing to go back to.
func TestSourceRemovedAfterTheMove(t *testing.T) {
	w := newWorld(t, true)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	w.from.remove(w.source)
	if _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true}); !errors.As(err, new(*GoneError)) {
		t.Errorf("got %v", err)
	}
	w.want(false, 1)
}

// TestLastCopy: a kept source is not removed by itself if the copy does not run.
func TestLastCopy(t *testing.T) {
	for _, removed := range []bool{true, false} {
		w := newWorld(t, true)
		j, err := w.move()
		if err != nil {
			t.Fatal(err)
		}
		c := w.copies()[0]
		w.to.set(func() {
			w.to.stop(c)
			if removed {
				delete(w.to.containers, c.id)
			}
		})
		w.now = w.now.Add(2 * time.Hour)
		if _, err := w.mover().Resume(t.Context(), j.ID); err == nil || len(w.from.containers) != 1 {
			t.Errorf("the source was removed: %v", err)
		}
		if _, err := w.mover().Finish(t.Context(), j.ID); err != nil || len(w.from.containers) != 0 {
			t.Errorf("by hand: %v", err)
		}
	}
}

// TestCutAfterHandOver: a target that is lost once it has the traffic of a container without volumes is left: the
// source goes on, or runs again, and has its traffic, also before the target is back.
func TestCutAfterHandOver(t *testing.T) {
	for _, at := range []string{"drain/begin", "drain/end", "stop-source/policy", "stop-source/end", "commit/begin"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t, false)
			w.at = once(at, func() { w.to.set(func() { w.to.down = true }) })
			starts := w.source.starts
			_, err := w.move()
			if !errors.As(err, new(*StuckError)) {
				t.Fatalf("got %v", err)
			}
			w.want(true, 1) // the copy may run twice until the target is back
			if strings.Join(w.hooks, " ") != "hand-over hand-back" {
				t.Errorf("hooks %v", w.hooks)
			}
			if strings.HasPrefix(at, "drain") && w.source.starts != starts {
				t.Error("the source was stopped for a target that was lost")
			}
			// Nothing is stopped again by further tries.
			starts = w.source.starts
			if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*StuckError)) || w.source.starts != starts {
				t.Errorf("got %v, starts %d, before %d", err, w.source.starts, starts)
			}
			w.to.set(func() { w.to.down = false })
			if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*BackError)) {
				t.Errorf("got %v", err)
			}
			w.want(true, 0)
		})
	}
}

// TestHandBackFails: a source that runs without its traffic is not said to serve.
func TestHandBackFails(t *testing.T) {
	w := newWorld(t, false)
	w.at = once("drain/begin", func() {
		w.to.set(func() { w.to.down = true })
		w.hookErr = errors.New("no answer")
	})
	_, err := w.move()
	if stuck := new(StuckError); !errors.As(err, &stuck) || stuck.Serves {
		t.Errorf("got %v", err)
	}
	w.hookErr = nil
	_, err = w.mover().Resume(t.Context(), w.journal().ID)
	if stuck := new(StuckError); !errors.As(err, &stuck) || !stuck.Serves {
		t.Errorf("got %v", err)
	}
}

// TestResumeWithoutTarget: a move whose mover died is taken back without the target, unless a copy with data may
// run there.
func TestResumeWithoutTarget(t *testing.T) {
	for _, c := range []struct {
		stateful bool
		at       string
		source   bool
	}{
		{true, "stop-source/policy", true}, {true, "stop-source/end", true}, {true, "copy/volume", true}, {true, "start/begin", true}, {true, "start/end", false},
		{false, "start/end", true}, {false, "stop-source/policy", true}, {false, "keep/end", true},
	} {
		t.Run(fmt.Sprint(c.stateful, c.at), func(t *testing.T) {
			w := newWorld(t, c.stateful)
			id := w.kill(c.at)
			copies := 0
			for _, x := range w.copies() {
				if x.running {
					copies++
				}
			}
			w.to.set(func() { w.to.down = true })
			if _, err := w.mover().Resume(t.Context(), id); !errors.As(err, new(*StuckError)) {
				t.Errorf("got %v", err)
			}
			w.want(c.source, copies)
			w.to.set(func() { w.to.down = false })
			if _, err := w.mover().Resume(t.Context(), id); c.source && !errors.As(err, new(*BackError)) || !c.source && err != nil {
				t.Errorf("got %v", err)
			}
			if c.source {
				w.want(true, 0)
			} else {
				w.want(false, 1)
			}
		})
	}
}

// TestFinishWithoutTarget: the kept source of a move can be removed by hand though its target is gone.
func TestFinishWithoutTarget(t *testing.T) {
	w := newWorld(t, true)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	w.to.set(func() { w.to.down = true })
	if _, err := w.mover().Finish(t.Context(), j.ID); err != nil || len(w.from.containers) != 0 {
		t.Errorf("got %v", err)
	}
}

// TestHistory: a journal stays readable however often a move is tried again.
func TestHistory(t *testing.T) {
	w := newWorld(t, false)
	w.kill("start/end")
	j := w.journal()
	for range 10000 {
		j.note(w.now, strings.Repeat("ü", 4096))
	}
	if err := j.write(w.dir); err != nil {
		t.Fatal(err)
	}
	w.at = nil
	if _, err := w.mover().Resume(t.Context(), j.ID); err != nil {
		t.Error(err)
	}
	if h := w.journal().History; len(h) != firstEntries+lastEntries || !strings.HasPrefix(h[0].Text, "note: ") || h[len(h)-1].Text != "moved" {
		t.Errorf("%d entries, the first %q, the last %q", len(h), h[0].Text, h[len(h)-1].Text)
	}
}

// TestFullDisk: a journal that cannot be written leaves no service down whose copy has not started, and the move
// ends once there is room.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		stateful, cut bool // the target is lost with it
		at            string
		source        bool
	}{
		{stateful: true, at: "create/end", source: true},
		{stateful: true, at: "stop-source/policy", source: true},
		{stateful: true, at: "stop-source/end", source: true},
		{stateful: true, at: "copy/end", source: true},
		{stateful: true, at: "start/begin", source: true},
		{stateful: true, at: "start/end"},
		{at: "stop-source/end"},
		{at: "commit/begin", cut: true, source: true},
	} {
		t.Run(fmt.Sprint(c.stateful, c.cut, c.at), func(t *testing.T) {
			w := newWorld(t, c.stateful)
			w.at = once(c.at, func() {
				if err := os.Rename(w.dir, w.dir+"-full"); err != nil {
					t.Error(err)
				}
				w.to.set(func() { w.to.down = c.cut })
			})
			_, err := w.move()
			if !errors.As(err, new(*StuckError)) || !errors.Is(err, errJournal) {
				t.Fatalf("got %v", err)
			}
			w.from.mu.Lock()
			running := w.source.running // under whichever name
			w.from.mu.Unlock()
			if running != c.source {
				t.Errorf("the source runs: %v", running)
			}
			if err := os.Rename(w.dir+"-full", w.dir); err != nil {
				t.Fatal(err)
			}
			w.to.set(func() { w.to.down = false })
			if _, err := w.mover().Resume(t.Context(), w.journal().ID); err != nil && !errors.As(err, new(*BackError)) {
				t.Fatal(err)
			}
			switch w.journal().Phase {
			case Kept:
				w.want(false, 1)
			case RolledBack:
				w.want(true, 0)
			default:
				t.Errorf("phase %s", w.journal().Phase)
			}
		})
	}
}

// TestHelperRefused: a gate that refuses what reads a volume is found while the source serves.
func TestHelperRefused(t *testing.T) {
	for _, side := range []string{"source", "target"} {
		w := newWorld(t, true)
		e := map[string]*fake{"source": w.from, "target": w.to}[side]
		e.answer = func(rw http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/containers/create") || !strings.HasPrefix(r.URL.Query().Get("name"), "belay-move-") {
				return false
			}
			http.Error(rw, "denied", http.StatusForbidden)
			return true
		}
		before := w.source.finished
		if _, err := w.move(); !errors.As(err, new(*BackError)) || !strings.Contains(err.Error(), "denied") {
			t.Errorf("%s: got %v", side, err)
		}
		w.want(true, 0)
		if w.source.finished != before {
			t.Errorf("%s: the source was stopped for nothing", side)
		}
	}
}

// TestKeptAfterMovedOn: a kept source goes once its time is over, though the copy was moved on to a third host.
func TestKeptAfterMovedOn(t *testing.T) {
	w := newWorld(t, true)
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	c := newFake(t, "cccccc")
	if _, err := New(Options{Dir: private(t), RunHook: w.mover().o.RunHook}).Move(t.Context(), "web", engine.Address{URL: w.to.url}, engine.Address{URL: c.url}, w.s); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(2 * time.Hour)
	if _, err := w.mover().Resume(t.Context(), j.ID); err != nil || len(w.from.containers) != 0 || w.journal().Phase != Finished {
		t.Errorf("got %v; phase %s", err, w.journal().Phase)
	}
}

// TestAbortOnFullDisk: an abort whose journal cannot be written changes nothing: no second instance runs, and no lease
// of the copy stays.
func TestAbortOnFullDisk(t *testing.T) {
	for _, at := range []string{"", "lease"} { // the disk is full from the start, or in the middle
		w := newWorld(t, false)
		j, err := w.move()
		if err != nil {
			t.Fatal(err)
		}
		entry := filepath.Join(w.dir, j.ID+".json")
		was, err := os.ReadFile(entry)
		if err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		full := func() { // its directory takes no new file
			once.Do(func() {
				if err := errors.Join(os.Remove(entry), os.Mkdir(entry, 0o700), os.Mkdir(filepath.Join(entry, "x"), 0o700)); err != nil {
					t.Error(err)
				}
			})
		}
		w.to.set(func() {
			w.to.before = func(_, path string) {
				if path == map[string]string{"": "/info", "lease": "/volumes/create"}[at] {
					full()
				}
			}
		})
		if _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true}); !errors.Is(err, errJournal) {
			t.Fatalf("got %v", err)
		}
		w.want(false, 1)
		if left := w.to.leases(); (left != "") != (at != "") {
			t.Errorf("left: %q", left)
		}
		if err := errors.Join(os.RemoveAll(entry), os.WriteFile(entry, was, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.mover().Finish(t.Context(), j.ID); err != nil || w.to.leases() != "" {
			t.Errorf("got %v; left %q", err, w.to.leases())
		}
	}
}

// TestByTargetVolume: a source that does not answer while it is the target that is looked at is no reason of the target's.
func TestByTargetVolume(t *testing.T) {
	for _, target := range []bool{false, true} {
		w := newWorld(t, true)
		f := map[bool]*fake{false: w.from, true: w.to}[target]
		f.answer = func(rw http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/volumes/records") {
				rw.WriteHeader(http.StatusInternalServerError)
				return true
			}
			return false
		}
		if _, err := w.move(); err == nil || ByTarget(err) != target || strings.Contains(err.Error(), "target: ") != target {
			t.Errorf("by the target: %v: %v", ByTarget(err), err)
		}
	}
}

// TestNotes: a move says what its plan notes, and its journal keeps it.
func TestNotes(t *testing.T) {
	w := newWorld(t, true)
	var said []string
	m := w.mover()
	m.o.Progress = func(e Event) { said = append(said, e.Text) }
	j, err := m.Move(t.Context(), "web", engine.Address{URL: w.from.url}, engine.Address{URL: w.to.url}, w.s)
	if err != nil {
		t.Fatal(err)
	}
	const want = "note: its hostname is its ID, and will be the new one"
	if !slices.Contains(said, want) || !slices.ContainsFunc(j.History, func(e Entry) bool { return e.Text == want }) {
		t.Errorf("said %q, history %+v", said, j.History)
	}
}

// TestByTarget: a move that is not begun says whether that is for a reason of the target's.
func TestByTarget(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     func(w *world)
		target bool
	}{
		{"the target is down", func(w *world) { w.to.down = true }, true},
		{"its name is taken there", func(w *world) { w.to.add("web", map[string]any{"Image": "web:1"}, nil, nil) }, true},
		{"the source is down", func(w *world) { w.from.down = true }, false},
		{"the container is not there", func(w *world) { w.source.name = "target: " }, false},
		{"it has written to its own layer", func(w *world) { w.from.changes = []map[string]any{{"Path": "/the target: x", "Kind": 1}} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, false)
			c.do(w)
			if j, err := w.move(); j != nil || err == nil || ByTarget(err) != c.target {
				t.Errorf("by the target: %v: %v", ByTarget(err), err)
			}
		})
	}
}

// TestHelpersStay: nothing is removed while nothing serves.
func TestHelpersStay(t *testing.T) {
	w := newWorld(t, true)
	helpers := func() int { return len(w.from.containers) + len(w.to.containers) - len(w.group) - len(w.copies()) }
	served := false
	w.at = func(point string) {
		if point == "healthy/end" {
			served = true
			if n := helpers(); n != 2 {
				t.Errorf("%d helpers when the copy serves; want 2", n)
			}
		}
	}
	if _, err := w.move(); err != nil || !served {
		t.Fatalf("served: %v, %v", served, err)
	}
	if n := helpers(); n != 0 {
		t.Errorf("%d helpers in the end", n)
	}
}

// TestHelperLeft: a helper on the target that cannot be removed keeps no copy from its restart policy, and the move is ended once it can.
func TestHelperLeft(t *testing.T) {
	w := newWorld(t, true)
	w.to.answer = func(rw http.ResponseWriter, r *http.Request) bool {
		denied := r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/containers/")
		if denied {
			rw.WriteHeader(http.StatusForbidden)
		}
		return denied
	}
	j, err := w.move()
	if !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), "target: ") {
		t.Fatalf("got %v", err)
	}
	if p, _ := w.copies()[0].host["RestartPolicy"].(map[string]any); p["Name"] != "always" {
		t.Errorf("the copy has the restart policy %v", p)
	}
	w.to.set(func() { w.to.answer = nil })
	if _, err := w.mover().Resume(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	if n := len(w.to.containers); n != 1 || w.journal().Phase != Kept {
		t.Errorf("%d containers on the target, phase %s", n, w.journal().Phase)
	}
}

// TestHelperOfAnother: a helper that another move left is in the way, unless that move goes on.
func TestHelperOfAnother(t *testing.T) {
	const other = "0123456789abcdef"
	for _, of := range []string{"", other, "fedcba9876543210"} {
		w := newWorld(t, true)
		h := w.from.add("belay-move-01234567-aa", map[string]any{"Labels": map[string]any{recreate.LabelMove: other, recreate.LabelHelper: "records"}}, map[string]any{
			"Mounts": []any{map[string]any{"Type": "volume", "Source": "records", "Target": "/v"}},
		}, nil)
		if of != "" {
			w.from.volumes[leaseName(w.source.id)] = &fakeVolume{labels: map[string]string{recreate.LabelMove: of}}
		}
		_, err := w.look()
		if of == other {
			if err != nil {
				t.Errorf("of a move that has its lease: %v", err)
			}
			continue
		}
		refused := new(RefusedError)
		if !errors.As(err, &refused) || len(refused.Refusals) != 1 || refused.Refusals[0].Fix != "docker rm "+h.name+": a move left it" {
			t.Errorf("with a lease of %q: %v", of, err)
		}
	}
}
