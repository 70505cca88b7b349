package carry

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/plan"
)

// groupWorld is one of which web2 is in the network namespace of web1.
func groupWorld(t *testing.T, spec string) *world {
	t.Helper()
	w := newWorld(t, spec)
	w.schema = groupSchema
	w.state.Nodes[0].Containers[1].Net.Mode = "container:" + w.state.Nodes[0].Containers[0].ID
	return w
}

// ids are those of the group.
func (w *world) ids() []string {
	cs := w.state.Nodes[0].Containers
	return []string{cs[0].ID, cs[1].ID}
}

// told returns of whom the notes of an event are.
func (w *world) told(event string) (of []string) {
	for _, n := range w.notes {
		if n.Event == event {
			of = append(of, n.Container)
		}
	}
	return of
}

// TestGroup: what must move together has one mover, one ID and one journal. Each container is told of and remembered, and
// one look later removes all sources.
func TestGroup(t *testing.T) {
	w := groupWorld(t, migrating)
	w.steps(1)
	w.over = false
	w.steps(2)
	w.want("approved move-started move-started moved moved")
	if len(w.args) != 1 || strings.Join(w.args[0][:4], " ") != "move "+strings.Join(w.ids(), " ")+" --id" {
		t.Fatalf("movers %q", w.args)
	}
	for _, event := range []string{EventMoveStarted, EventMoved} {
		if got := w.told(event); !slices.Equal(got, w.ids()) {
			t.Errorf("%s is told of %q", event, got)
		}
	}
	for i, n := range w.notes { // of two, one is an alert
		if want := n.Container == w.ids()[1]; n.Also != want {
			t.Errorf("note %d: got %+v", i, n)
		}
	}
	if got := w.notes[1]; got.Name != "web1" || got.Text != "moving web1 + web2 to b" || w.notes[4].Move != w.notes[1].Move {
		t.Errorf("got %+v", w.notes)
	}
	m := w.c.Status().Moves[0]
	if m.Outcome != Moved || m.Name != "web1" || len(m.With) != 1 || m.With[0].Name != "web2" {
		t.Errorf("got %+v", m)
	}
	h := w.c.History("a")
	if len(h) != 2 || h[0].Name != "web1" || h[1].Name != "web2" || h[0].Use.MemoryBytes != 300*mib || h[1].Use.MemoryBytes != 200*mib || h[0].Move != m.ID || h[1].Move != m.ID {
		t.Errorf("history %+v", h)
	}
	w.mover = func(w *world, args []string) error {
		w.journal(idOf(args), phaseFinished, "commit", "")
		return nil
	}
	w.now = w.now.Add(2 * time.Hour)
	w.steps(2)
	if s := w.c.Status(); s.Moves[0].Outcome != Finished || len(w.args) != 2 || strings.Join(w.args[1][:3], " ") != "move resume "+m.ID {
		t.Errorf("got %+v, movers %q", s.Moves, w.args)
	}
}

// TestGroupLedger: an agent that knows of no groups reads the move as one of the first container.
func TestGroupLedger(t *testing.T) {
	w := groupWorld(t, migrating)
	w.step()
	b, err := os.ReadFile(filepath.Join(w.dir, "ledger.json"))
	if err != nil {
		t.Fatal(err)
	}
	var old struct {
		Schema string
		Moves  []struct {
			ID, Container, Name, To, Outcome string
			Use                              plan.Amounts
			KeepUntil                        time.Time
		}
	}
	if err := json.Unmarshal(b, &old); err != nil {
		t.Fatal(err)
	}
	if old.Schema != "belay.dev/load-ledger/v1" || len(old.Moves) != 1 {
		t.Fatalf("got %+v", old)
	}
	if m := old.Moves[0]; m.ID == "" || m.Container != w.ids()[0] || m.Name != "web1" || m.To != "b" || m.Outcome != Moved || m.Use.MemoryBytes != 300*mib || m.KeepUntil.IsZero() {
		t.Errorf("got %+v", m)
	}
}

// TestGroupFailed: a group that its mover has taken back, or that a target does not take for one of its containers, has failed
// whole: no container of it is tried there again.
func TestGroupFailed(t *testing.T) {
	for name, tt := range map[string]struct {
		mover func(w *world, args []string) error
		says  string
	}{
		"taken back": {func(w *world, args []string) error {
			w.journal(idOf(args), phaseTaken, "start", "web2: it has ended")
			return errors.New("exit status 1")
		}, "the move of web1 + web2 to b failed at start and was taken back: web2: it has ended"},
		"one is refused": {func(*world, []string) error {
			return &MoverError{Status: statusTarget, Text: `web1, web2 is not moved: "web2": the target: it has no runtime "x"`}
		}, "web1 + web2 was not moved to b: "},
	} {
		t.Run(name, func(t *testing.T) {
			w := groupWorld(t, migrating)
			w.mover = tt.mover
			w.steps(4)
			w.want("approved move-started move-started move-failed move-failed no-plan")
			if got := w.notes[4]; !strings.Contains(got.Text, tt.says) || !slices.Equal(w.told(EventMoveFailed), w.ids()) {
				t.Errorf("got %+v", w.notes)
			}
			w.state.Nodes[0].Containers[1].Net.Mode = "" // nor alone
			w.now = w.now.Add(2 * time.Hour)
			w.steps(2)
			if h := w.c.History("a"); len(w.args) != 1 || len(h) != 2 || !h[0].Failed || !h[1].Failed {
				t.Errorf("movers %q, history %+v", w.args, h)
			}
		})
	}
}

// TestGroupTakenBack: a group that somebody has taken back is here again, all of it.
func TestGroupTakenBack(t *testing.T) {
	w := groupWorld(t, migrating)
	w.step()
	w.over = false
	w.journal(w.c.Status().Moves[0].ID, phaseTaken, "commit", "the operator has taken it back")
	w.now = w.now.Add(2 * lookEvery)
	w.step()
	if s := w.c.Status(); s.Moves[0].Outcome != TakenBack || len(w.c.History("a")) > 0 {
		t.Errorf("got %+v, history %+v", s.Moves, w.c.History("a"))
	}
}

// TestGroupCarriedOn: a group whose mover died halfway, with the agent or without it, is carried on by its one ID.
func TestGroupCarriedOn(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w := groupWorld(t, migrating)
		w.mover = func(w *world, args []string) error {
			w.journal(idOf(args), phaseMoving, "copy", "")
			return errors.New("signal: killed")
		}
		w.step()
		w.c.report()
		if h, _ := w.health.Component(component); !strings.Contains(h.Reason, "of web1 + web2 has stopped at copy") {
			t.Errorf("health %+v", h)
		}
		if restart {
			w.open()
		}
		id := w.c.Status().Moves[0].ID
		w.mover = func(w *world, args []string) error { w.journal(idOf(args), phaseKept, "commit", ""); return nil }
		w.over = false
		w.steps(2)
		w.want("approved move-started move-started move-stopped move-stopped moved moved")
		if len(w.args) != 2 || strings.Join(w.args[1][:3], " ") != "move resume "+id {
			t.Errorf("movers %q", w.args)
		}
		if m := w.c.Status().Moves[0]; m.Outcome != Moved || len(m.With) != 1 || len(w.c.History("a")) != 2 {
			t.Errorf("got %+v, history %+v", m, w.c.History("a"))
		}
	}
}

// TestGroupLimits: a group is one move at one time, and as many in an hour as it has containers.
func TestGroupLimits(t *testing.T) {
	w := groupWorld(t, strings.Replace(migrating, "perHour: 4", "perHour: 1", 1))
	w.steps(2)
	w.want("no-plan")
	if got := w.notes[0].Text; !strings.Contains(got, "2 containers move together (web1, web2), and limits.perHour is 1") {
		t.Errorf("got %s", got)
	}
	for limits, want := range map[string]string{
		"atOnce: 2, perHour: 3": "", "atOnce: 2, perHour: 2": "2 left the node within an hour, and limits.perHour is 2", "atOnce: 1, perHour: 3": "limits.atOnce is 1",
	} {
		w := groupWorld(t, strings.Replace(migrating, "atOnce: 1, perHour: 4", limits, 1))
		w.state.Nodes[0].Use.MemoryBytes = 990 * mib // all have to leave
		w.state.Nodes[0].Containers[0].Use.MemoryBytes, w.state.Nodes[0].Containers[1].Use.MemoryBytes = 100*mib, 80*mib
		w.state.Nodes[0].Containers = append(w.state.Nodes[0].Containers, w.container("web3", 70*mib))
		w.state.Nodes[1].Use.MemoryBytes = 0
		w.mover = func(w *world, args []string) error { // it is under way until somebody looks after it
			w.journal(idOf(args), phaseMoving, "copy", "")
			return errors.New("signal: killed")
		}
		w.step()
		q := w.c.Status().Proposals[0]
		i := slices.IndexFunc(q.Moves, func(m Planned) bool { return len(m.Names) == 1 })
		if i < 0 || len(q.Moves) != 2 || !strings.Contains(q.Moves[i].Held, want) || (want == "") != (q.Moves[i].Move != "") {
			t.Errorf("%s: got %+v", limits, q.Moves)
		}
	}
}

// TestGroupChanged: an approved group is not moved if what moves as one is another by then: nobody has approved that.
func TestGroupChanged(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(w *world, n *plan.Node)
		why    string
	}{
		"the first is gone": {func(_ *world, n *plan.Node) { n.Containers = n.Containers[1:] }, "there is no container"},
		"another is gone":   {func(_ *world, n *plan.Node) { n.Containers = slices.Delete(slices.Clone(n.Containers), 1, 2) }, "by now it is web1"},
		"another is anew":   {func(_ *world, n *plan.Node) { n.Containers[1].ID = strings.Repeat("1", 64) }, "by now it is web1 + web2"},
		"one is alone":      {func(_ *world, n *plan.Node) { n.Containers[1].Net.Mode = "" }, "by now it is web1"},
		"one more": {func(w *world, n *plan.Node) {
			c := w.container("web3", 1)
			c.Net.Mode = n.Containers[1].Net.Mode
			n.Containers = append(n.Containers, c)
		}, "by now it is web1 + web2 + web3"},
		"one that must stay": {func(_ *world, n *plan.Node) { n.Containers[2].Net.Mode = n.Containers[1].Net.Mode }, `it moves together with "db", which stays`},
		"one is refused": {func(w *world, n *plan.Node) {
			n.Containers[1].Image.Digest = "sha256:2"
		}, "the target does not take it any more: it has not said whether the image"},
	} {
		t.Run(name, func(t *testing.T) {
			w := groupWorld(t, strings.Replace(migrating, "migrate", "propose", 1))
			w.steps(1)
			tt.change(w, &w.state.Nodes[0])
			if _, err := w.c.Decide(w.c.Status().Proposals[0].ID, true, "root", ""); err != nil {
				t.Fatal(err)
			}
			w.steps(1)
			w.want("proposed approved move-skipped")
			if got := w.notes[2].Text; !strings.Contains(got, "web1 + web2 is not moved to b: ") || !strings.Contains(got, tt.why) || len(w.args) > 0 {
				t.Errorf("got %s, movers %q", got, w.args)
			}
		})
	}
}
