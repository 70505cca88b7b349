package move

import (
	"errors"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/load/move"
)

// Whoever starts the source while its copy runs there has made a second writer: the move ends, the
// copy with it, and the source goes on. Where the target has taken over, it stops and says so.
func TestSourceStartedMeanwhile(t *testing.T) {
	w := need(t)
	for _, c := range []struct {
		at    string
		stuck bool
	}{{"healthy/begin", false}, {"keep/begin", true}} {
		t.Run(c.at, func(t *testing.T) {
			name := w.run(t, "crash", "--restart", "always", "-v", "records:/data", image)
			dir := t.TempDir()
			m := move.New(move.Options{Dir: dir, At: func(point string) {
				if point == c.at {
					ok(t, w.from, "start", name)
				}
			}})
			from, to := addresses(w)
			_, err := m.Move(t.Context(), name, from, to, with(quick, volumes))
			j := only(t, dir)
			stuck, back := new(move.StuckError), new(move.BackError)
			if c.stuck {
				if !errors.As(err, &stuck) || !strings.Contains(err.Error(), "started it again") {
					t.Fatalf("got %v", err)
				}
				if _, err := m.Abort(t.Context(), j.ID, move.Allow{LoseWrites: true}); err != nil {
					t.Fatal(err)
				}
			} else if !errors.As(err, &back) {
				t.Fatalf("got %v", err)
			}
			if !w.running(w.from, name) || w.restart(t, w.from, name) != "always" || w.there(w.to, name) {
				t.Error("the source is not what it was, or a copy is there")
			}
		})
	}
}

// Whoever starts the copy before its data is there has written to what the source does not know: its
// volumes stay.
func TestCopyStartedMeanwhile(t *testing.T) {
	w := need(t)
	name := w.run(t, "crash", "--restart", "always", "-v", "records:/data", image)
	dir := t.TempDir()
	m := move.New(move.Options{Dir: dir, At: func(point string) {
		if point == "stop-source/end" {
			ok(t, w.to, "start", name)
		}
	}})
	from, to := addresses(w)
	_, err := m.Move(t.Context(), name, from, to, with(quick, volumes))
	if back := new(move.BackError); !errors.As(err, &back) || !strings.Contains(err.Error(), "started the copy") {
		t.Fatalf("got %v", err)
	}
	if j := only(t, dir); len(j.LeftBehind) == 0 {
		t.Error("the volume that the copy wrote to is gone")
	}
	if !w.running(w.from, name) || w.restart(t, w.from, name) != "always" || w.there(w.to, name) {
		t.Error("the source is not what it was, or a copy is there")
	}
}

// Another move that has taken the source since keeps it: a taking back that was stuck does not start it.
func TestTakenSince(t *testing.T) {
	w := need(t)
	name := w.run(t, "crash", "--restart", "always", "-v", "records:/data", image)
	dir, elsewhere := t.TempDir(), name+"-moved-elsewhere"
	m := move.New(move.Options{Dir: dir, At: func(point string) {
		switch {
		case point == "healthy/begin":
			ok(t, w.to, "kill", name)
		case point == "back/begin" && !w.there(w.from, elsewhere):
			ok(t, w.from, "rename", name, elsewhere)
		}
	}})
	from, to := addresses(w)
	_, err := m.Move(t.Context(), name, from, to, with(quick, volumes))
	if stuck := new(move.StuckError); !errors.As(err, &stuck) || !strings.Contains(err.Error(), "may run elsewhere") {
		t.Fatalf("got %v", err)
	}
	if w.running(w.from, elsewhere) {
		t.Error("the source was started, and may run elsewhere")
	}
	if _, err := m.Abort(t.Context(), only(t, dir).ID, move.Allow{LoseWrites: true}); !errors.As(err, new(*move.StuckError)) {
		t.Errorf("a second taking back: %v", err)
	}
	ok(t, w.from, "rename", elsewhere, name)
	if _, err := move.New(move.Options{Dir: dir}).Abort(t.Context(), only(t, dir).ID, move.Allow{LoseWrites: true}); err != nil {
		t.Fatal(err)
	}
}
