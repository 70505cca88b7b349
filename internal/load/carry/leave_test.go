package carry

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/load/plan"
)

// orchestratedWorld is one of which web1 and web2 are of one service.
func orchestratedWorld(t *testing.T, action string) *world {
	t.Helper()
	w := newWorld(t, "actions: ["+action+"]\n  movable: {names: ['web*']}\n  orchestrator: {swarm: {manager: 'tcp://m1:2376', ca: /ca.pem, cert: /c.pem, key: /k.pem}, within: 3m}")
	for i := range 2 {
		w.state.Nodes[0].Containers[i].Placed = &plan.Placed{Unit: "s1", Name: "web"}
	}
	w.state.Nodes[1] = plan.Node{Name: "swarm", Places: true, Accepts: true}
	w.mover = func(w *world, args []string) error { w.leave(idOf(args), phaseFinished, ""); return nil }
	return w
}

func (w *world) leave(id, phase, err string) {
	b, _ := json.Marshal(progress{Schema: leaveSchema, ID: id, Name: "web", Phase: phase, Step: "leave", Error: err, NoFault: err == noFault})
	if err := os.WriteFile(filepath.Join(w.dir, id+leaveSuffix), b, 0o600); err != nil {
		w.t.Error(err)
	}
}

const noFault = "it was interrupted"

// TestOrchestratedAgain: what ended for no fault of the service's may be asked again.
func TestOrchestratedAgain(t *testing.T) {
	for _, why := range []string{noFault, "an update of it is paused"} {
		w := orchestratedWorld(t, "migrate")
		w.mover = func(w *world, args []string) error {
			w.leave(idOf(args), phaseTaken, why)
			return errors.New(why)
		}
		w.steps(1)
		w.want("approved move-started move-failed")
		if again := len(w.c.History("a")) == 0; again != (why == noFault) {
			t.Errorf("%s: history %+v", why, w.c.History("a"))
		}
	}
}

// TestOrchestrated: what an orchestrator has placed is asked to leave as one, and counts as one move.
func TestOrchestrated(t *testing.T) {
	w := orchestratedWorld(t, "migrate")
	w.steps(1)
	w.over = false
	w.steps(2)
	w.want("approved move-started moved")
	want := "load leave " + w.state.Nodes[0].Containers[0].ID + " --id " + w.c.Status().Moves[0].ID + " --state-dir " + w.stateDir +
		" --within 3m0s --orchestrator swarm --engine unix:///run/a.sock --manager tcp://m1:2376 --tlscacert /ca.pem --tlscert /c.pem --tlskey /k.pem"
	if len(w.args) != 1 || strings.Join(w.args[0], " ") != want {
		t.Errorf("got %q, want %s", w.args, want)
	}
	if h := w.c.History("a"); len(h) != 1 || h[0].Name != "web" || h[0].To != "swarm" || h[0].Use.MemoryBytes != 500*mib || h[0].Ended.IsZero() {
		t.Errorf("history %+v", h)
	}
	if last := w.notes[2]; last.Text != "web was moved to swarm" {
		t.Errorf("got %+v", last)
	}
}

func TestOrchestratedPropose(t *testing.T) {
	w := orchestratedWorld(t, "propose")
	w.steps(2)
	w.want("proposed")
	w.state.Nodes[0].Containers[0].Placed.Stays = "an update of it is in progress"
	if _, err := w.c.Decide(w.c.Status().Proposals[0].ID, true, "root", ""); err != nil {
		t.Fatal(err)
	}
	w.steps(1)
	w.want("proposed approved move-skipped")
	if !strings.Contains(w.notes[2].Text, "an update of it is in progress") || len(w.args) > 0 {
		t.Errorf("got %+v, movers %q", w.notes[2], w.args)
	}
}

// TestOrchestratedFails: what was taken back has failed; what has stopped halfway is gone on with, and so is
// what somebody began by hand.
func TestOrchestratedFails(t *testing.T) {
	w := orchestratedWorld(t, "migrate")
	w.mover = func(w *world, args []string) error {
		w.leave(idOf(args), phaseTaken, "an update of it is paused")
		return errors.New("an update of it is paused")
	}
	w.steps(1)
	w.want("approved move-started move-failed")
	if m := w.c.Status().Moves[0]; m.Outcome != Failed || !strings.Contains(w.notes[2].Text, "an update of it is paused") {
		t.Errorf("got %+v, %+v", m, w.notes)
	}

	w = orchestratedWorld(t, "migrate")
	w.mover = func(w *world, args []string) error {
		if id := idOf(args); args[2] != "--resume" {
			w.leave(id, phaseMoving, "the manager does not answer")
			w.pol.Spec.Orchestrator.Swarm.Manager = "tcp://m2:2376"
			return errors.New("the manager does not answer")
		}
		w.leave(args[3], phaseFinished, "")
		return nil
	}
	w.leave("00000000000000aa", phaseMoving, "")
	w.steps(3)
	w.want("approved move-started move-stopped moved")
	var resumed []string
	for _, a := range w.args {
		want := "--state-dir " + w.stateDir
		if a[3] != "00000000000000aa" { // of a policy, by which it is reached as it says now
			want += " --orchestrator swarm --engine unix:///run/a.sock --manager tcp://m2:2376 --tlscacert /ca.pem --tlscert /c.pem --tlskey /k.pem"
		}
		if a[2] == "--resume" && strings.Join(a[4:], " ") == want {
			resumed = append(resumed, a[3])
		}
	}
	if id := w.c.Status().Moves[0].ID; !strings.Contains(strings.Join(resumed, " "), id) || !strings.Contains(strings.Join(resumed, " "), "00000000000000aa") {
		t.Errorf("resumed %q of %q", resumed, w.args)
	}
}
