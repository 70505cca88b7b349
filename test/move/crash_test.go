package move

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/load/recreate"
	"github.com/belay-project/belay/tools/lab"
)

// points are where the mover is ended: after the journal has a step, within it, and after it is
// done. The reduced set has those behind which something is different on an engine.
func points(stateful, full bool) []string {
	if !full && stateful {
		return []string{"volumes/end", "create/made", "stop-source/policy", "stop-source/end", "copy/volume", "start/end", "commit/end"}
	}
	if !full {
		return []string{"lease/end", "create/made", "start/end", "stop-source/policy", "kept"}
	}
	var out []string
	for _, s := range move.Steps(stateful) {
		out = append(out, string(s)+"/begin")
		switch s {
		case move.StepCreate:
			out = append(out, "create/made")
		case move.StepStopSource:
			out = append(out, "stop-source/policy")
		case move.StepCopy:
			out = append(out, "copy/volume")
		}
		out = append(out, string(s)+"/end")
	}
	return append(out, "kept")
}

// twoWriters watches the processes of containers on both engines, until it is stopped.
func twoWriters(t *testing.T, w *world) (stop func() int64) {
	ctx, cancel := context.WithCancel(t.Context())
	var seen atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if w.live(w.to) && w.live(w.from) && w.live(w.to) {
				seen.Add(1)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return func() int64 { cancel(); <-done; return seen.Load() }
}

// live reports whether any container of an engine has a process. The kernel is asked: an engine that was killed
// knows nothing of what goes on. The canary of an agent that starts is none.
func (w *world) live(e *lab.Engine) bool {
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		files, _ := filepath.Glob(filepath.Join(root, e.Scope, "*", "cgroup.procs"))
		for _, f := range files {
			b, _ := os.ReadFile(f) // of a cgroup that is gone there is none
			for _, pid := range strings.Fields(string(b)) {
				if exe, err := os.Readlink("/proc/" + pid + "/exe"); err == nil && filepath.Base(exe) != "belay-agent" {
					return true
				}
			}
		}
	}
	return false
}

// TestKilled ends the mover with kill -9 at every step, and carries the move on. At every moment
// there is at most one writer; in the end one copy runs, has all that was written, and
// nothing is left over.
func TestKilled(t *testing.T) {
	w := need(t)
	full := os.Getenv("BELAY_MATRIX") == "full"
	for _, stateful := range []bool{true, false} {
		kind, s, args := "stateless", quick, []string{image}
		if stateful {
			kind, s, args = "stateful", with(quick, volumes), []string{"-v", "records:/data", image}
		}
		s.Settle, s.Keep = 100*time.Millisecond, 0
		for _, point := range points(stateful, full) {
			t.Run(kind+"/"+point, func(t *testing.T) {
				name := w.run(t, "crash", append([]string{"--restart", "always"}, args...)...)
				if stateful {
					ok(t, w.from, "exec", name, "sh", "-c", "echo first >/data/log")
				}
				j := job{Dir: t.TempDir(), Container: name, From: w.from.Host(), To: w.to.Host(), KillAt: point, Settings: s}
				stop := func() int64 { return 0 }
				if stateful {
					stop = twoWriters(t, w)
				}
				if out, killed := mover(t, j); !killed {
					t.Fatalf("the mover was not ended: %s", out)
				}
				id := only(t, j.Dir).ID
				_, err := move.New(move.Options{Dir: j.Dir}).Resume(t.Context(), id)
				if n := stop(); n != 0 {
					t.Errorf("two writers were seen %d times", n)
				}
				if err != nil {
					t.Fatal(err)
				}
				checkMoved(t, w, only(t, j.Dir), name, stateful)
			})
		}
	}
}

func checkMoved(t *testing.T, w *world, j *move.Journal, name string, stateful bool) {
	t.Helper()
	if !w.live(w.to) {
		t.Error("no process of the copy is seen: nor would one of the source be")
	}
	if w.live(w.from) || !w.running(w.to, name) {
		t.Error("want the copy running, and nothing here")
	}
	if got := w.restart(t, w.to, name); got != "always" {
		t.Errorf("restart policy %q", got)
	}
	if stateful {
		if got := ok(t, w.to, "exec", name, "cat", "/data/log"); got != "first" {
			t.Errorf("the volume has %q", got)
		}
	}
	if left := w.orphans(t, name); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestKilledAndAborted ends the mover at some steps, and takes the move back. A taking back that is
// ended in turn is carried on. The source is as it was.
func TestKilledAndAborted(t *testing.T) {
	w := need(t)
	tests := []struct {
		stateful     bool
		point, again string
	}{
		{true, "copy/volume", "back/begin"}, {true, "start/end", "back/step"}, {false, "create/made", ""}, {false, "keep/end", "back/step"},
	}
	if os.Getenv("BELAY_MATRIX") == "full" {
		for _, stateful := range []bool{true, false} {
			for _, p := range points(stateful, true) {
				step, _, _ := strings.Cut(p, "/")
				if late := step == "hand-over" || step == "keep" || step == "commit"; p != "kept" && !(stateful && late) {
					tests = append(tests, struct {
						stateful     bool
						point, again string
					}{stateful, p, ""})
				}
			}
		}
	}
	for _, tt := range tests {
		s, args := quick, []string{image}
		if tt.stateful {
			s, args = with(quick, volumes), []string{"-v", "records:/data", image}
		}
		s.Settle = 100 * time.Millisecond
		t.Run(fmt.Sprintf("stateful=%v/%s/%s", tt.stateful, tt.point, tt.again), func(t *testing.T) {
			name := w.run(t, "crash", append([]string{"--restart", "always"}, args...)...)
			j := job{Dir: t.TempDir(), Container: name, From: w.from.Host(), To: w.to.Host(), KillAt: tt.point, Settings: s}
			stop := func() int64 { return 0 }
			if tt.stateful {
				stop = twoWriters(t, w)
			}
			if out, killed := mover(t, j); !killed {
				t.Fatalf("the mover was not ended: %s", out)
			}
			id := only(t, j.Dir).ID
			if tt.again != "" {
				j.Resume, j.KillAt = id, tt.again
				if out, killed := mover(t, j); !killed {
					t.Fatalf("the taking back was not ended: %s", out)
				}
			}
			_, err := move.New(move.Options{Dir: j.Dir}).Abort(t.Context(), id, move.Allow{})
			if n := stop(); n != 0 {
				t.Errorf("two writers were seen %d times", n)
			}
			if err != nil {
				t.Fatal(err)
			}
			if !w.running(w.from, name) || w.there(w.to, name) {
				t.Error("want the source running, and no copy")
			}
			if got := w.restart(t, w.from, name); got != "always" {
				t.Errorf("restart policy %q", got)
			}
			if left := w.orphans(t, ""); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestInterrupted: Ctrl-C takes the move back, also while the source is being stopped.
func TestInterrupted(t *testing.T) {
	w := need(t)
	name := w.run(t, "crash", "--restart", "always", "-v", "records:/data", image)
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	m := move.New(move.Options{Dir: dir, At: func(point string) {
		if point == "stop-source/policy" {
			time.AfterFunc(10*time.Millisecond, cancel) // the stop is under way then
		}
	}})
	from, to := addresses(w)
	_, err := m.Move(ctx, name, from, to, with(quick, volumes))
	if back := new(move.BackError); !errors.As(err, &back) {
		t.Fatalf("got %v", err)
	}
	time.Sleep(1500 * time.Millisecond) // longer than the stop could have gone on
	if !w.running(w.from, name) || w.restart(t, w.from, name) != "always" || w.there(w.to, name) {
		t.Error("the source is not what it was, or a copy is there")
	}
	if left := w.orphans(t, ""); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestFenced: a container that another machine is moving is left alone.
func TestFenced(t *testing.T) {
	w := need(t)
	name := w.run(t, "crash", "--restart", "always", image)
	c, err := w.fromAPI.Container(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	lease := "belay-move-lease-" + c.ID[:12]
	ok(t, w.from, "volume", "create", "--label", recreate.LabelMove+"=ffffffffffffffff", lease)
	defer func() { _ = w.fromAPI.RemoveVolume(context.Background(), lease) }()
	from, to := addresses(w)
	if _, err := move.New(move.Options{Dir: t.TempDir()}).Move(t.Context(), name, from, to, quick); !errors.Is(err, move.ErrLeased) {
		t.Errorf("got %v", err)
	}
	if v, err := w.fromAPI.Volume(t.Context(), lease); err != nil || v.Labels[recreate.LabelMove] != "ffffffffffffffff" {
		t.Errorf("the other's lease is %+v, %v", v, err)
	}
	if !w.running(w.from, name) || w.there(w.to, name) {
		t.Error("the source is not what it was, or a copy is there")
	}
}
