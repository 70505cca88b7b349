package leave

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/internal/load/place"
)

const id = "0123456789abcdef"

// placer answers Leave with what is next in its list, and then with nothing.
type placer struct {
	units  []place.Unit
	err    error
	says   []error
	asked  []string
	afresh []bool
	wait   bool // until its time is over
	closed int
}

func (p *placer) Units(context.Context) ([]place.Unit, error) { return p.units, p.err }
func (p *placer) Cordon(context.Context, bool) error          { return errors.New("not asked for") }

func (p *placer) Leave(ctx context.Context, u place.Unit, ask bool) error {
	p.asked, p.afresh = append(p.asked, u.ID), append(p.afresh, ask)
	if p.wait {
		<-ctx.Done()
		return ctx.Err()
	}
	if len(p.says) == 0 {
		return nil
	}
	err := p.says[0]
	p.says = p.says[1:]
	return err
}

func (p *placer) options(dir string) Options {
	return Options{Dir: dir, Open: func(_ context.Context, at Where) (place.Placer, func(), error) {
		if at.Kind != "swarm" {
			return nil, nil, fmt.Errorf("opened %q", at.Kind)
		}
		return p, func() { p.closed++ }, nil
	}}
}

var (
	at    = Where{Kind: "swarm", Engine: engine.Address{URL: "unix:///s"}}
	units = []place.Unit{
		{ID: "s1", Name: "web", Containers: []string{strings.Repeat("a", 64)}},
		{ID: "s2", Name: "dns", Containers: []string{strings.Repeat("b", 64)}, Stays: "it is a global service"},
	}
)

func TestBegin(t *testing.T) {
	for _, tt := range []struct {
		name   string
		says   []error
		wait   bool
		within time.Duration
		phase  Phase
		want   string // of the error
		asked  int
		again  bool // it may be tried again
	}{
		{"at once", nil, false, time.Minute, Finished, "", 1, false},
		{"later", []error{&place.Later{Reason: "a rollout"}}, false, time.Minute, Finished, "", 2, false},
		{"fails", []error{errors.New("rolled back")}, false, time.Minute, TakenBack, "rolled back", 1, false},
		{"too late", nil, true, 50 * time.Millisecond, TakenBack, "deadline", 1, false},
		{"waits for too long", []error{&place.Later{Reason: "a rollout", After: time.Hour}}, false, 50 * time.Millisecond, TakenBack, "for longer than it may: a rollout", 1, true},
		{"its time is over meanwhile", []error{&place.Later{Reason: "a rollout"}}, false, 50 * time.Millisecond, TakenBack, "for longer than it may: a rollout", 1, true},
		{"waits for longer than who decided meant", []error{&place.Later{Reason: "a rollout", After: waitMost}}, false, time.Hour, TakenBack, "for longer than it may: a rollout", 1, true},
		{"not asked", []error{place.ErrNotAsked}, false, time.Minute, TakenBack, "not asked", 1, true},
		{"halfway", []error{fmt.Errorf("manager away: %w", place.ErrHalfway)}, false, time.Minute, Moving, "manager away", 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := filepath.Join(t.TempDir(), "moves"), &placer{units: units, says: tt.says, wait: tt.wait}
			j, err := Begin(t.Context(), p.options(dir), id, strings.Repeat("a", 12), at, tt.within)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			kept, rerr := Read(dir, id)
			if rerr != nil {
				t.Fatal(rerr)
			}
			if j.Phase != tt.phase || kept.Phase != tt.phase || kept.Unit.ID != "s1" || kept.Where != at || kept.Ended.IsZero() != (tt.phase == Moving) || kept.NoFault != tt.again {
				t.Errorf("got %+v", kept)
			}
			if len(p.asked) != tt.asked || slices.Contains(p.afresh, false) || p.closed != 1 {
				t.Errorf("asked %q, closed %d times", p.asked, p.closed)
			}
			if st, err := os.Stat(filepath.Join(dir, id+suffix)); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("the journal has mode %v, %v", st.Mode(), err)
			}
		})
	}
}

func TestBeginRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, ref string
		err       error
		want      string
	}{
		{"stays", "dns", nil, "dns stays: it is a global service"},
		{"nobody", "db", nil, "0 units on this node"},
		{"short", "aaa", nil, "0 units on this node"},
		{"no answer", "web", errors.New("no leader"), "no leader"},
	} {
		dir, p := t.TempDir(), &placer{units: units, err: tt.err}
		if _, err := Begin(t.Context(), p.options(dir), id, tt.ref, at, time.Minute); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || len(p.asked) > 0 {
			t.Errorf("%s: left %v, asked %q", tt.name, left, p.asked)
		}
	}
	if _, err := Find([]place.Unit{{ID: "1", Name: "web"}, {ID: "2", Name: "web"}}, "web"); err == nil {
		t.Error("one of two was taken")
	}
}

func TestResume(t *testing.T) {
	dir, p := t.TempDir(), &placer{units: units, says: []error{place.ErrHalfway}}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Begin(t.Context(), p.options(dir), id, "web", at, time.Minute); !errors.Is(err, place.ErrHalfway) {
		t.Fatal(err)
	}
	unlock, err := movesdir.Lock(dir, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Resume(t.Context(), p.options(dir), id, Where{}); !errors.Is(err, movesdir.ErrBusy) {
		t.Errorf("while another is at it: %v", err)
	}
	unlock()
	p.units = nil // it is gone here by now
	j, err := Resume(t.Context(), p.options(dir), id, Where{})
	if err != nil || j.Phase != Finished || len(p.asked) != 2 || p.asked[1] != "s1" || p.afresh[1] {
		t.Errorf("got %+v, %v, asked %q", j, err, p.asked)
	}
	if _, err := Resume(t.Context(), p.options(dir), id, Where{}); err != nil || len(p.asked) != 2 {
		t.Errorf("once more: %v, asked %q", err, p.asked)
	}
	if _, err := Resume(t.Context(), p.options(dir), "0000000000000000", Where{}); err == nil {
		t.Error("one that is not there was resumed")
	}
	// What ended long ago goes with the next.
	o := p.options(dir)
	o.Now = func() time.Time { return time.Now().Add(keepEnded + time.Hour) }
	if _, err := Begin(t.Context(), o, "00000000000000aa", "web", at, time.Minute); err == nil {
		t.Error("there is no unit")
	}
	p.units = units
	if _, err := Begin(t.Context(), o, "00000000000000aa", "web", at, 2*(keepEnded+time.Hour)); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, id+"*")); err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}

// TestResumeElsewhere: how the orchestrator is reached may have changed, and what has left it has nobody to ask.
func TestResumeElsewhere(t *testing.T) {
	m2 := engine.Address{URL: "unix:///m2"}
	other := Where{Kind: "swarm", Engine: engine.Address{URL: "unix:///t"}}
	for _, tt := range []struct {
		name      string
		now, want Where
		opens     error
		phase     Phase
		says      string
	}{
		{"as before", Where{}, at, nil, Finished, ""},
		{"another manager", Where{Engine: other.Engine, Manager: m2}, Where{Kind: "swarm", Engine: at.Engine, Manager: m2}, nil, Finished, ""},
		{"all of it", other, other, nil, Finished, ""},
		{"another kind", Where{Kind: "kubernetes"}, Where{}, nil, Moving, "one of swarm, and not of kubernetes"},
		{"no answer", Where{}, at, errors.New("no answer"), Moving, "no answer"},
		{"it has left", Where{}, at, fmt.Errorf("in no swarm: %w", place.ErrGone), TakenBack, "nobody is known who could take it back"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := filepath.Join(t.TempDir(), "moves"), &placer{units: units, says: []error{place.ErrHalfway}}
			o := p.options(dir)
			if _, err := Begin(t.Context(), o, id, "web", at, time.Minute); !errors.Is(err, place.ErrHalfway) {
				t.Fatal(err)
			}
			var opened Where
			o.Open = func(_ context.Context, at Where) (place.Placer, func(), error) {
				opened = at
				return p, func() {}, tt.opens
			}
			_, err := Resume(t.Context(), o, id, tt.now)
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %s", err, tt.says)
			}
			if kept, err := Read(dir, id); err != nil || kept.Phase != tt.phase || opened != tt.want {
				t.Errorf("got %+v, %v; opened %+v", kept, err, opened)
			}
		})
	}
}

// TestInterrupted: what was taken back because its process was ended has not failed.
func TestInterrupted(t *testing.T) {
	dir, p := filepath.Join(t.TempDir(), "moves"), &placer{units: units, wait: true}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if j, err := Begin(ctx, p.options(dir), id, "web", at, time.Minute); err == nil || j.Phase != TakenBack || !j.NoFault {
		t.Errorf("got %+v, %v", j, err)
	}
}
