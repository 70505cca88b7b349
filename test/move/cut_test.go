package move

import (
	"errors"
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

// TestCut cuts the network between the mover and its target at points of a move, and heals it. While it is cut, a
// source without data serves, and so does one whose copy has not started. Never are there two writers, and a minute
// after the network is there again one of the two runs and nothing is left over.
func TestCut(t *testing.T) {
	w := need(t)
	for _, stateful := range []bool{true, false} {
		kind, s, args := "stateless", quick, []string{image}
		cuts := []string{"start/end", "drain/end", "stop-source/end"}
		if stateful {
			kind, s, args = "stateful", with(quick, volumes), []string{"-v", "records:/data", image}
			cuts = []string{"stop-source/policy", "copy/begin", "start/end", "hand-over/end"}
		}
		if os.Getenv("BELAY_MATRIX") == "full" {
			cuts = points(stateful, true)
		}
		s.Settle = 100 * time.Millisecond
		for _, point := range cuts {
			t.Run(kind+"/"+point, func(t *testing.T) {
				name := w.run(t, "crash", append([]string{"--restart", "always"}, args...)...)
				if stateful {
					ok(t, w.from, "exec", name, "sh", "-c", "echo first >/data/log")
				}
				r, to := newRelay(t, w.to)
				stop := func() int64 { return 0 }
				if stateful {
					stop = twoWriters(t, w, name)
				}
				dir, cut := t.TempDir(), false
				o := move.Options{Dir: dir, At: func(p string) {
					if p == point && !cut {
						cut = true
						r.set(true)
					}
				}}
				from, _ := addresses(w)
				_, err := move.New(o).Move(t.Context(), name, from, to, s)
				j := only(t, dir)
				t.Logf("%s at %s: %v", j.Phase, j.Step, err)
				if j.Phase != move.Kept && !(stateful && j.TargetStarted) && (!w.running(w.from, name) || w.restart(t, w.from, name) != "always") {
					t.Error("the source does not serve while the network is cut")
				}
				r.set(false)
				healed := time.Now()
				back := new(move.BackError)
				if _, err := move.New(o).Resume(t.Context(), j.ID); err != nil && !errors.As(err, &back) && j.Phase != move.Kept {
					t.Error(err)
				}
				if d := time.Since(healed); d > time.Minute {
					t.Errorf("it took %s", d)
				}
				if n := stop(); n != 0 {
					t.Errorf("two writers were seen %d times", n)
				}
				switch j := only(t, dir); j.Phase {
				case move.Kept:
					if w.running(w.from, name) || !w.running(w.to, name) || stateful && ok(t, w.to, "exec", name, "cat", "/data/log") != "first" {
						t.Error("want the copy running, with its data, and nothing here")
					}
				case move.RolledBack:
					if !w.running(w.from, name) || w.restart(t, w.from, name) != "always" || w.there(w.to, name) {
						t.Error("the source is not what it was, or a copy is there")
					}
					name = ""
				default:
					t.Errorf("phase %s: %s", j.Phase, j.Error)
				}
				if left := w.orphans(t, name); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}
