package move

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/tools/lab"
)

// relay is the network between a mover and an engine: it can be cut, and connections through it end then.
type relay struct {
	to string // the engine's socket

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newRelay(t *testing.T, e *lab.Engine) (*relay, engine.Address) {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{to: strings.TrimPrefix(e.Host(), "unix://"), conns: map[net.Conn]bool{}}
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.set(true)
		r.wg.Wait()
		os.RemoveAll(dir)
	})
	return r, engine.Address{URL: "unix://" + path}
}

// take notes a connection, unless the network is cut.
func (r *relay) take(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		c.Close()
		return false
	}
	r.conns[c] = true
	return true
}

func (r *relay) serve(a net.Conn) {
	if !r.take(a) {
		return
	}
	b, err := net.Dial("unix", r.to)
	if err != nil {
		a.Close()
		return
	}
	if !r.take(b) {
		a.Close()
		return
	}
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(a, b); a.Close() }()
	_, _ = io.Copy(b, a)
	b.Close()
	<-done
	r.mu.Lock()
	delete(r.conns, a)
	delete(r.conns, b)
	r.mu.Unlock()
}

func (r *relay) set(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	for c := range r.conns {
		if cut {
			c.Close()
		}
	}
}

// fault is something that goes down at a point of a move, and comes back.
type fault struct {
	name     string
	source   bool // the source's engine is lost, and not the target
	to       func(t *testing.T) engine.Address
	down, up func(ctx context.Context) error
	// few are the points that are played without BELAY_MATRIX=full, without and with data.
	few [2][]string
}

// faults returns what is tried at each point. A mover that is killed is TestKilled's.
func (w *world) faults(t *testing.T) []fault {
	_, direct := addresses(w)
	r, relayed := newRelay(t, w.to)
	cut := func(is bool) func(context.Context) error {
		return func(context.Context) error { r.set(is); return nil }
	}
	to := func(a engine.Address) func(*testing.T) engine.Address {
		return func(*testing.T) engine.Address { return a }
	}
	kill := func(e *lab.Engine) func(context.Context) error {
		return func(context.Context) error { return e.Kill() }
	}
	var agent *node // over the target
	gate := func(*testing.T) engine.Address {
		if agent == nil {
			agent = w.newNode(t, w.to, w.labs[1], 400*mib)
			agent.start(t, fmt.Sprintf(nodePolicy, 80, "alert"))
		}
		return engine.Address{URL: "unix://" + agent.gate}
	}
	return []fault{
		{"network", false, to(relayed), cut(true), cut(false), [2][]string{{"drain/end"}, {"stop-source/policy", "start/end"}}},
		{"source-engine", true, to(direct), kill(w.from), w.from.Revive, [2][]string{{"stop-source/end"}, {"copy/begin"}}},
		{"target-engine", false, to(direct), kill(w.to), w.to.Revive, [2][]string{{"start/end"}, {"hand-over/end"}}},
		{
			"target-agent", false, gate, func(context.Context) error { return agent.Kill() },
			func(ctx context.Context) error { return agent.Start(ctx) }, [2][]string{nil, {"copy/begin"}},
		},
	}
}

// writer appends to its volume for as long as it runs.
const writer = "while :; do echo $((i=i+1)) >>/data/log; sleep 0.1; done"

// TestFaults loses the network to the target, an engine by kill -9, or the target's agent, at points of a move; what is
// lost comes back when the mover has given up. While only the target is lost, a source without data serves, and
// so does one whose copy has not started. Never are there two writers, and a minute after the fault one of the two
// runs with all that was written, and nothing is left over.
func TestFaults(t *testing.T) {
	w := need(t)
	for _, f := range w.faults(t) {
		for i, kind := range []string{"stateless", "stateful"} {
			cells := f.few[i]
			if os.Getenv("BELAY_MATRIX") == "full" {
				cells = points(i == 1, true)
			}
			for _, point := range cells {
				t.Run(f.name+"/"+kind+"/"+point, func(t *testing.T) { w.tryFault(t, &f, i == 1, point) })
			}
		}
	}
}

// TestAgentKilled ends the mover and the agent of the source with kill -9 at points of a move, as when the agent's own
// mover ends with it. The next agent carries the move on, or takes it back, by itself within a minute of its start.
func TestAgentKilled(t *testing.T) {
	w := need(t)
	a := w.newNode(t, w.from, w.labs[0], 400*mib)
	a.start(t, fmt.Sprintf(nodePolicy, 90, "alert"))
	for i, kind := range []string{"stateless", "stateful"} {
		cells := [][]string{{"start/end"}, {"copy/volume"}}[i]
		if os.Getenv("BELAY_MATRIX") == "full" {
			cells = points(i == 1, true)
		}
		for _, point := range cells {
			t.Run(kind+"/"+point, func(t *testing.T) {
				s, args, stop := w.kindOf(t, i == 1)
				name := w.run(t, "crash", args...)
				if out, killed := mover(t, job{Dir: a.moves(), Container: name, From: w.from.Host(), To: w.to.Host(), KillAt: point, Settings: s}); !killed {
					t.Fatalf("the mover was not ended: %s", out)
				}
				if err := a.Kill(); err != nil {
					t.Fatal(err)
				}
				written := w.log(w.from)
				if err := a.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				last := func() *move.Journal {
					list, err := move.List(a.moves())
					if err != nil || len(list) == 0 {
						t.Fatal(err)
					}
					return list[0]
				}
				w.awaitSettled(t, name, last)
				if n := stop(); n != 0 {
					t.Errorf("two writers were seen %d times", n)
				}
				w.keptData(t, last(), written)
			})
		}
	}
}

// kindOf returns settings and arguments of a container with data or without, and what stops the watch for two writers.
func (w *world) kindOf(t *testing.T, stateful bool) (s move.Settings, args []string, stop func() int64) {
	s, args, stop = quick, []string{"--restart", "always", image}, func() int64 { return 0 }
	if stateful {
		s, args, stop = with(quick, volumes), []string{"--restart", "always", "-v", "records:/data", image, "sh", "-c", writer}, twoWriters(t, w)
	}
	s.Settle = 100 * time.Millisecond
	return s, args, stop
}

// awaitSettled waits for the end of a move that is as it should be, for a minute.
func (w *world) awaitSettled(t *testing.T, name string, journal func() *move.Journal) {
	t.Helper()
	began, wrong := time.Now(), ""
	if !lab.Await(t.Context(), time.Minute, func() bool { wrong = w.unsettled(t, journal(), name); return wrong == "" }) {
		t.Errorf("a minute after the fault: %s: %s", wrong, journal().Error)
	}
	if late := time.Since(began); late > 2*time.Minute { // a look of its own can take one
		t.Errorf("it took %s", late)
	}
	t.Logf("%s, %s after the fault", journal().Phase, time.Since(began).Round(time.Second))
}

// keptData fails if the volume of what runs lacks what was written before the fault, or what the source has.
func (w *world) keptData(t *testing.T, j *move.Journal, written string) {
	t.Helper()
	if !j.Stateful {
		return
	}
	source, kept := w.log(w.from), w.log(w.from)
	if j.Phase == move.Kept {
		kept = w.log(w.to)
	}
	if !strings.HasPrefix(kept, source) || !strings.HasPrefix(source, written) || source == "" {
		t.Errorf("data is lost: at the fault %q, source %q, what runs %q", written, source, kept)
	}
}

func (w *world) tryFault(t *testing.T, f *fault, stateful bool, point string) {
	to := f.to(t)
	s, args, stop := w.kindOf(t, stateful)
	name := w.run(t, "crash", args...)
	var written string // when the fault came
	dir, came, is := t.TempDir(), false, false
	up := func(ctx context.Context) {
		if is {
			is = false
			if err := f.up(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { up(context.Background()) })
	m := move.New(move.Options{Dir: dir, At: func(p string) {
		if p != point || came {
			return
		}
		came, is, written = true, true, w.log(w.from)
		if err := f.down(t.Context()); err != nil {
			t.Error(err)
		}
	}})
	from, _ := addresses(w)
	_, err := m.Move(t.Context(), name, from, to, s)
	j := only(t, dir)
	t.Logf("%s at %s: %v", j.Phase, j.Step, err)
	if !came {
		t.Fatal("the point was not passed")
	}
	if !f.source && j.Phase != move.Kept && !(stateful && j.TargetStarted) && (!w.running(w.from, name) || w.restart(t, w.from, name) != "always") {
		t.Error("the source does not serve while the target is lost")
	}
	_, _ = m.Resume(t.Context(), j.ID) // as the agent does, before it is mended
	up(t.Context())
	w.awaitSettled(t, name, func() *move.Journal {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _ = m.Resume(ctx, j.ID)
		return only(t, dir)
	})
	if n := stop(); n != 0 {
		t.Errorf("two writers were seen %d times", n)
	}
	w.keptData(t, only(t, dir), written)
}

// log is what the writer has written to its volume on an engine, as the disk has it.
func (w *world) log(e *lab.Engine) string {
	b, _ := os.ReadFile(filepath.Join(filepath.Dir(e.Socket), "data", "volumes", "records", "_data", "log"))
	return string(b)
}

// unsettled says what of a move that has ended is not as it should be; empty: all is.
func (w *world) unsettled(t *testing.T, j *move.Journal, name string) string {
	t.Helper()
	switch j.Phase {
	case move.Kept:
		if w.live(w.from) || !w.running(w.to, name) {
			return "moved, and not the copy alone runs"
		}
	case move.RolledBack:
		if !w.running(w.from, name) || w.restart(t, w.from, name) != "always" || w.there(w.to, name) {
			return "taken back, and the source is not what it was, or a copy is there"
		}
		name = ""
	default:
		return "phase " + string(j.Phase) + " at " + string(j.Step)
	}
	return strings.Join(w.orphans(t, name), ", ")
}
