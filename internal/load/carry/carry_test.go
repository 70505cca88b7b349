package carry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/policy"
)

var start = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) // a Monday

const mib = 1 << 20

// world is a node over its cap with a target, and movers that are a function.
type world struct {
	t        *testing.T
	c        *Carrier
	dir      string // of the movers' journals, below stateDir
	stateDir string
	now      time.Time
	over     bool
	pol      *policy.LoadPolicy
	state    *plan.State
	notes    []Note
	args     [][]string
	mover    func(w *world, args []string) error
	health   *health.Registry
	schema   string        // of the movers' journals
	lag      time.Duration // of readings
	lock     sync.Mutex
}

const migrating = "actions: [migrate]\n  movable: {names: ['web*']}\n  targets: [{name: b, engine: unix:///run/b.sock}]\n  limits: {atOnce: 1, perHour: 4, perContainer: 1h}"

func newWorld(t *testing.T, spec string) *world {
	t.Helper()
	state := t.TempDir()
	w := &world{t: t, stateDir: state, dir: movesdir.Below(state), now: start, over: true, health: health.New(nil), schema: moveSchema}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.policy(spec)
	w.state = &plan.State{
		Caps: plan.Caps{Memory: 80}, Hysteresis: 5,
		Nodes: []plan.Node{
			w.node("a", 900*mib, w.container("web1", 300*mib), w.container("web2", 200*mib), w.container("db", 400*mib)),
			w.node("b", 100*mib),
		},
	}
	w.state.Nodes[0].Containers[2].Selected = false
	w.mover = func(w *world, args []string) error { w.journal(idOf(args), phaseKept, "commit", ""); return nil }
	w.open()
	return w
}

func (w *world) policy(spec string) {
	w.t.Helper()
	docs, err := policy.ParseAll("l.yaml", []byte("apiVersion: belay.dev/v1\nkind: LoadPolicy\nmetadata: {name: node}\nspec:\n  caps: {memory: 80%}\n  "+spec+"\n"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.pol = docs.Loads[0]
}

func (w *world) open() {
	w.t.Helper()
	var err error
	w.c, err = Open(Options{
		File: filepath.Join(w.dir, "ledger.json"), StateDir: w.stateDir, Policies: func() []*policy.LoadPolicy {
			if w.pol == nil {
				return nil
			}
			return []*policy.LoadPolicy{w.pol}
		},
		Over: func(string) bool { return w.over },
		State: func(context.Context, *policy.LoadPolicy) (*plan.State, string, error) {
			s := *w.state
			s.Now, s.Nodes = w.now, slices.Clone(w.state.Nodes)
			for i := range s.Nodes {
				s.Nodes[i].Seen = w.now.Add(-w.lag)
			}
			s.Limits = plan.DefaultLimits()
			s.Limits.AtOnce, s.Limits.PerHour, s.Limits.PerContainer = w.pol.Spec.Limits.AtOnce, w.pol.Spec.Limits.PerHour, w.pol.Spec.Limits.PerContainer
			return &s, "a", nil
		},
		From: func() string { return "unix:///run/a.sock" },
		Run: func(_ context.Context, _ string, args []string) error {
			w.lock.Lock()
			defer w.lock.Unlock()
			w.args = append(w.args, args)
			return w.mover(w, args)
		},
		Tell: func(n Note) {
			w.lock.Lock()
			defer w.lock.Unlock()
			w.notes = append(w.notes, n)
		},
		Now: func() time.Time { return w.now }, Health: w.health, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) container(name string, mem int64) plan.Container {
	return plan.Container{
		ID: strings.Repeat("0", 60) + (name + "----")[:4], Name: name, State: "running", Selected: true, Image: plan.Image{Digest: "sha256:1"},
		Storage: plan.Storage{LayerKnown: true}, Use: plan.Amounts{MemoryBytes: mem},
	}
}

func (w *world) node(name string, use int64, cs ...plan.Container) plan.Node {
	return plan.Node{
		Name: name, Accepts: true, Enforces: true, Has: plan.Amounts{MemoryBytes: 1000 * mib}, Use: plan.Amounts{MemoryBytes: use},
		Host: plan.Platform{Architecture: "amd64", Cgroup: 2, Engine: "28.5.1"},
		Gate: plan.Gate{Policies: "r", Images: map[string]plan.Answer{"sha256:1": {Allow: true}}}, Containers: cs,
	}
}

// idOf returns the ID of the move that a mover was started for.
func idOf(args []string) string {
	if args[1] == "resume" {
		return args[2]
	}
	if args[2] == "--resume" {
		return args[3]
	}
	return args[slices.Index(args, "--id")+1]
}

func (w *world) journal(id, phase, step, err string) {
	b, _ := json.Marshal(progress{Schema: w.schema, ID: id, Phase: phase, Step: step, Error: err, KeepUntil: w.now.Add(time.Hour)})
	if err := os.WriteFile(filepath.Join(w.dir, id+".json"), b, 0o600); err != nil {
		w.t.Error(err)
	}
}

// busy has somebody work at a move by hand, until the file is closed.
func (w *world) busy(id string) *os.File {
	w.t.Helper()
	f, err := os.Create(filepath.Join(w.dir, id+".lock"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		w.t.Fatal(err)
	}
	return f
}

// steps lets time pass, and waits for movers at each step.
func (w *world) steps(n int) {
	for range n {
		w.step()
		w.now = w.now.Add(planEvery)
	}
}

func (w *world) step() {
	var movers sync.WaitGroup
	w.c.step(w.t.Context(), &movers)
	movers.Wait()
}

func (w *world) events() string {
	var out []string
	for _, n := range w.notes {
		out = append(out, n.Event)
	}
	return strings.Join(out, " ")
}

func (w *world) want(events string) {
	w.t.Helper()
	if got := w.events(); got != events {
		w.t.Errorf("got %s, want %s\n%+v", got, events, w.notes)
	}
}

// TestMigrate: a node over its cap has the smallest set moved, with the policy's settings, and
// the plan ends.
func TestMigrate(t *testing.T) {
	w := newWorld(t, migrating+"\n  moves: {hook: [/usr/local/sbin/lb, web], drain: 3s, keep: 1h}")
	w.steps(1)
	w.over = false
	w.steps(2)
	w.want("approved move-started moved")
	line := strings.Join(w.args[0], " ")
	for _, want := range []string{"move " + w.state.Nodes[0].Containers[1].ID, "--from unix:///run/a.sock", "--to unix:///run/b.sock", "--hook /usr/local/sbin/lb web", "--drain 3s", "--keep 1h0m0s", "--state-dir " + w.stateDir + " "} {
		if !strings.Contains(line, want) {
			t.Errorf("the mover was started with %s, want %s", line, want)
		}
	}
	s := w.c.Status()
	if len(s.Proposals) != 1 || s.Proposals[0].State != Done || s.Moves[0].Outcome != Moved || s.Moves[0].To != "b" || s.Proposals[0].By != "policy node" {
		t.Errorf("got %+v", s)
	}
	if h := w.c.History("a"); len(h) != 1 || h[0].Name != "web2" || h[0].From != "a" || h[0].To != "b" || h[0].Ended.IsZero() {
		t.Errorf("history %+v", h)
	}
	// Its source is removed when its time is over.
	w.mover = func(w *world, args []string) error {
		w.journal(idOf(args), phaseFinished, "commit", "")
		return nil
	}
	w.now = w.now.Add(2 * time.Hour)
	w.steps(2)
	if s := w.c.Status(); s.Moves[0].Outcome != Finished || len(w.args) != 2 || strings.Join(w.args[1][:2], " ") != "move resume" {
		t.Errorf("got %+v, movers %q", s.Moves, w.args)
	}
}

// TestPropose: nothing moves before somebody approves, and what was refused is not proposed again
// within the cool-down.
func TestPropose(t *testing.T) {
	w := newWorld(t, strings.Replace(migrating, "migrate", "propose", 1))
	w.steps(3)
	w.want("proposed")
	if len(w.args) > 0 {
		t.Fatalf("a mover was started unasked: %q", w.args)
	}
	id := w.c.Status().Proposals[0].ID
	if _, err := w.c.Decide("ffff", true, "root", ""); !errors.Is(err, ErrNoPlan) {
		t.Errorf("another plan: %v", err)
	}
	if q, err := w.c.Decide(id, false, "root", "not today"); err != nil || q.State != Refused || q.Reason != "not today" {
		t.Errorf("got %+v, %v", q, err)
	}
	if _, err := w.c.Decide(id, true, "root", ""); !errors.Is(err, ErrDecided) {
		t.Errorf("twice: %v", err)
	}
	w.steps(3)
	w.want("proposed refused")
	w.now = w.now.Add(policy.DefaultCoolDown)
	w.steps(1)
	w.want("proposed refused proposed")
	if _, err := w.c.Decide(w.c.Status().Proposals[0].ID, true, "root", ""); err != nil {
		t.Error(err)
	}
	w.steps(1)
	w.want("proposed refused proposed approved move-started moved")
}

// TestWithdrawn: a plan is given up when the node is no longer over, when its policy is another,
// and when nobody decides.
func TestWithdrawn(t *testing.T) {
	propose := strings.Replace(migrating, "migrate", "propose", 1)
	tests := []struct {
		name, why string
		do        func(w *world)
	}{
		{"relieved", "no longer over its caps", func(w *world) { w.over = false }},
		{"gone", "no longer in force", func(w *world) { w.pol = nil }},
		{"changed", "its policy was changed", func(w *world) { w.policy(propose + "\n  coolDown: 20m") }},
		{"old", "nobody has decided on it for a day", func(w *world) { w.now = w.now.Add(25 * time.Hour) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, propose)
			w.steps(1)
			tt.do(w)
			w.over = false
			w.steps(1)
			w.want("proposed withdrawn")
			if q := w.c.Status().Proposals[0]; q.State != Withdrawn || !strings.Contains(q.Reason, tt.why) {
				t.Errorf("got %+v", q)
			}
			if len(w.args) > 0 {
				t.Errorf("moved: %q", w.args)
			}
		})
	}
}

// TestLimits: one at a time, and outside of the windows none; what was planned waits with its reason.
func TestLimits(t *testing.T) {
	w := newWorld(t, strings.Replace(migrating, "perHour: 4", "perHour: 1", 1))
	w.state.Nodes[0].Use.MemoryBytes = 999 * mib // both have to leave
	w.state.Nodes[0].Containers[1].Use.MemoryBytes = 100 * mib
	w.state.Nodes[0].Containers[0].Use.MemoryBytes = 150 * mib
	w.state.Hysteresis = 4
	w.steps(1)
	started := strings.Count(w.events(), "move-started")
	if started != 1 || len(w.args) != 1 {
		t.Fatalf("got %s", w.events())
	}
	q := w.c.Status().Proposals[0]
	held := 0
	for _, m := range q.Moves {
		if strings.Contains(m.Held, "limits.") {
			held++
		}
	}
	if held != 1 {
		t.Errorf("moves %+v, want one held by a limit", q.Moves)
	}
	w = newWorld(t, migrating)
	w.state.Windows = []plan.Window{{Days: [7]bool{true, true, true, true, true, true, true}, From: 0, To: 60}}
	w.steps(2)
	w.want("approved")
	if q := w.c.Status().Proposals[0]; !strings.Contains(q.Moves[0].Held, "outside of the maintenance windows") {
		t.Errorf("got %+v", q)
	}
	w.state.Windows = nil
	w.steps(1)
	w.want("approved move-started moved")
}

// TestReadingsLag: after a move nothing more is begun, or planned, before readings know of it. Of what they have half of, the rest
// is anyone's guess: a target that has room for both was taken for full, and the second was left out.
func TestReadingsLag(t *testing.T) {
	w := newWorld(t, migrating)
	a, b := &w.state.Nodes[0], &w.state.Nodes[1]
	a.Use.MemoryBytes, b.Use.MemoryBytes = 999*mib, 450*mib
	a.Containers[0].Use.MemoryBytes, a.Containers[1].Use.MemoryBytes = 150*mib, 100*mib
	w.state.Hysteresis = 4
	w.mover = func(w *world, args []string) error {
		at := slices.IndexFunc(a.Containers, func(c plan.Container) bool { return c.ID == args[1] })
		moved := a.Containers[at]
		a.Containers, b.Containers = slices.Delete(slices.Clone(a.Containers), at, at+1), append(b.Containers, moved)
		a.Use.MemoryBytes, b.Use.MemoryBytes = a.Use.MemoryBytes-moved.Use.MemoryBytes, b.Use.MemoryBytes+moved.Use.MemoryBytes
		w.journal(idOf(args), phaseKept, "commit", "")
		return nil
	}
	w.step()
	w.want("approved move-started moved")
	w.lag = planEvery + time.Second // at the next look, readings are of a second before its end
	w.now = w.now.Add(planEvery)
	w.step()
	w.want("approved move-started moved")
	if q := w.c.Status().Proposals[0]; !slices.ContainsFunc(q.Moves, func(m Planned) bool { return m.open() && m.Held == lags }) {
		t.Errorf("got %+v", q.Moves)
	}
	w.now = w.now.Add(planEvery)
	w.step()
	w.want("approved move-started moved move-started moved")
	a.Use.MemoryBytes = 990 * mib // of something else
	w.step()                      // the plan is done
	w.now = w.now.Add(planEvery)
	w.step()
	w.want("approved move-started moved move-started moved")
	w.now = w.now.Add(planEvery)
	w.step()
	w.want("approved move-started moved move-started moved no-plan")
}

// TestEndedAhead: a clock that was ahead when a move ended, and was set right since, has nothing wait until it is there again.
func TestEndedAhead(t *testing.T) {
	now := time.Unix(1e9, 0)
	for ago, want := range map[time.Duration]bool{time.Minute: false, 10 * time.Second: true, 0: true, -time.Hour: false} {
		l := ledger{Moves: []*Move{{Ended: now.Add(-ago)}}}
		if got := l.endedWithin(lagTime, now); got != want {
			t.Errorf("%v ago: got %v", ago, got)
		}
	}
}

// TestSkipped: an approved move is not made when its target is full by then.
func TestSkipped(t *testing.T) {
	w := newWorld(t, strings.Replace(migrating, "migrate", "propose", 1))
	w.steps(1)
	w.state.Nodes[1].Use.MemoryBytes = 790 * mib
	if _, err := w.c.Decide(w.c.Status().Proposals[0].ID, true, "root", ""); err != nil {
		t.Fatal(err)
	}
	w.steps(2)
	w.want("proposed approved move-skipped")
	if last := w.notes[2]; !strings.Contains(last.Text, "the target does not take it any more: ") || len(w.args) > 0 {
		t.Errorf("got %+v, movers %q", last, w.args)
	}
	// No new plan within the cool-down.
	w.steps(5)
	w.want("proposed approved move-skipped")
}

// TestNoPlan: it is said once why nothing helps.
func TestNoPlan(t *testing.T) {
	w := newWorld(t, migrating)
	w.state.Nodes[1].Refuses = "it is cordoned by hand"
	w.steps(4)
	w.want("no-plan")
	if got := w.notes[0].Text; !strings.Contains(got, "it is cordoned by hand") {
		t.Errorf("got %s", got)
	}
	if got := w.c.Status().NoPlan["node"]; got == "" {
		t.Error("the status does not say so")
	}
}

// TestFailed: a move that was taken back, or that never began, is told with its reason, and not
// tried again within the limits.
func TestFailed(t *testing.T) {
	for name, tt := range map[string]struct {
		mover func(w *world, args []string) error
		says  string
	}{
		"taken back": {func(w *world, args []string) error {
			w.journal(idOf(args), phaseTaken, "create", "the target: its port 80/tcp is taken")
			return errors.New("exit status 1")
		}, "failed at create and was taken back: the target: its port 80/tcp is taken"},
		"never begun": {func(*world, []string) error {
			return &MoverError{Status: statusTarget, Text: "web2 is not moved:\n  the target: it has no runtime \"x\""}
		}, "web2 is not moved"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, migrating)
			w.state.Nodes[0].Containers[0].Selected = false
			w.mover = tt.mover
			w.steps(4)
			w.want("approved move-started move-failed no-plan")
			if got := w.notes[2].Text; !strings.Contains(got, tt.says) {
				t.Errorf("got %s", got)
			}
			if len(w.args) != 1 {
				t.Errorf("movers %q", w.args)
			}
		})
	}
}

// TestCarriedOn: a mover that died, with this process or without it, is followed by another, and
// meanwhile nothing else starts.
func TestCarriedOn(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w := newWorld(t, migrating)
		w.mover = func(w *world, args []string) error {
			w.journal(idOf(args), phaseMoving, "copy", "")
			return errors.New("signal: killed")
		}
		w.step()
		if s := w.c.Status(); s.Moves[0].Outcome != "" || s.Moves[0].Tries != 1 || s.Moves[0].Step != "copy" {
			t.Fatalf("got %+v", s.Moves)
		}
		if restart {
			w.open()
		}
		w.mover = func(w *world, args []string) error {
			if args[1] != "resume" {
				t.Errorf("another move was started: %q", args)
			}
			w.journal(idOf(args), phaseKept, "commit", "")
			return nil
		}
		w.over = false // or the next look at the node plans anew
		w.steps(2)
		w.want("approved move-started move-stopped moved")
		if s := w.c.Status(); s.Moves[0].Outcome != Moved || s.Moves[0].Tries != 0 {
			t.Errorf("got %+v", s.Moves)
		}
	}
}

// TestDiedBeforeItBegan: an agent that died between its ledger and the mover's journal has moved
// nothing.
func TestDiedBeforeItBegan(t *testing.T) {
	w := newWorld(t, migrating)
	ctx, stop := context.WithCancel(t.Context())
	w.mover = func(*world, []string) error { stop(); return ctx.Err() }
	var movers sync.WaitGroup
	w.c.step(ctx, &movers)
	movers.Wait()
	w.open()
	w.mover = func(_ *world, args []string) error { t.Errorf("started %q", args); return nil }
	w.over = false
	w.step()
	if s := w.c.Status(); s.Moves[0].Outcome != Failed || !strings.Contains(s.Moves[0].Error, "never begun") {
		t.Errorf("got %+v", s.Moves)
	}
}

// TestNoLedger: what cannot be written down is not started, and health says so.
func TestNoLedger(t *testing.T) {
	w := newWorld(t, migrating)
	w.c.o.File = filepath.Join(w.dir, "none", "ledger.json")
	w.steps(2)
	if len(w.args) > 0 || strings.Contains(w.events(), "move-started") {
		t.Errorf("started %q: %s", w.args, w.events())
	}
	if w.health.Counter("load_ledger_failed").Load() == 0 {
		t.Error("it is not counted")
	}
	if err := os.WriteFile(filepath.Join(w.dir, "bad.json"), []byte(`{"schema":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{File: filepath.Join(w.dir, "bad.json")}); err == nil || !strings.Contains(err.Error(), "not of this version") {
		t.Errorf("got %v", err)
	}
}

// TestTakenBackByHand: a move that somebody has taken back is known to be so, and no longer counts
// as one that has left.
func TestTakenBackByHand(t *testing.T) {
	w := newWorld(t, migrating)
	w.step()
	w.over = false
	w.journal(w.c.Status().Moves[0].ID, phaseTaken, "commit", "the operator has taken it back")
	w.now = w.now.Add(2 * lookEvery)
	w.step()
	if s := w.c.Status(); s.Moves[0].Outcome != TakenBack || len(w.args) != 1 {
		t.Errorf("got %+v, movers %q", s.Moves, w.args)
	}
	if h := w.c.History("a"); len(h) > 0 {
		t.Errorf("history %+v", h)
	}
}

// TestRetried: a move that stopped halfway is tried again at least twice in a minute, for as long as it takes.
func TestRetried(t *testing.T) {
	w := newWorld(t, migrating)
	w.mover = func(w *world, args []string) error {
		w.journal(idOf(args), phaseBack, "copy", "")
		return errors.New("exit status 1: target: connection refused")
	}
	w.step()
	for range 60 {
		before := len(w.args)
		for range 60 {
			w.now = w.now.Add(time.Second)
			w.step()
		}
		if n := len(w.args) - before; n < 2 || n > 5 {
			t.Fatalf("%d tries in a minute", n)
		}
	}
	w.want("approved move-started move-stopped")
}

// TestRetriedBack: a move that is taken back after it was done is tried again as often.
func TestRetriedBack(t *testing.T) {
	w := newWorld(t, migrating)
	w.step()
	w.over = false
	w.mover = func(w *world, args []string) error { return errors.New("exit status 1: target: connection refused") }
	w.journal(w.c.Status().Moves[0].ID, phaseBack, "commit", "the operator has taken it back")
	w.now = w.now.Add(lookEvery)
	w.step()
	before := len(w.args)
	for range 300 {
		w.now = w.now.Add(time.Second)
		w.step()
	}
	if n := len(w.args) - before; n < 8 || n > 12 {
		t.Errorf("%d tries in five minutes", n)
	}
	if h, _ := w.health.Component(component); !strings.Contains(h.Reason, "has stopped at commit") {
		t.Errorf("health %+v", h)
	}
}

// TestByHand: a move that was begun by hand and whose mover has died is carried on too; one whose mover is at work,
// or that has ended, is left alone.
func TestByHand(t *testing.T) {
	w := newWorld(t, migrating)
	w.over = false
	const id, busy, done = "00000000000000aa", "00000000000000bb", "00000000000000cc"
	w.journal(id, phaseMoving, "copy", "")
	w.journal(busy, phaseMoving, "copy", "")
	w.journal(done, phaseKept, "commit", "")
	f := w.busy(busy)
	w.mover = func(*world, []string) error { return errors.New("exit status 1: target: connection refused") }
	w.steps(3)
	if len(w.args) < 2 || slices.ContainsFunc(w.args, func(a []string) bool { return idOf(a) != id }) {
		t.Fatalf("movers %q", w.args)
	}
	if h := w.health.Snapshot(); !strings.Contains(fmt.Sprint(h), "connection refused") {
		t.Errorf("health says %+v", h)
	}
	w.mover = func(w *world, args []string) error { w.journal(idOf(args), phaseTaken, "copy", ""); return nil }
	f.Close() // the other one's mover dies too
	for range 12 {
		w.steps(1)
	}
	for _, id := range []string{id, busy} {
		if p, err := readProgress(w.dir, id); err != nil || p.Phase != phaseTaken {
			t.Errorf("%s: %+v, %v", id, p, err)
		}
	}
	n := len(w.args)
	w.steps(20)
	if len(w.args) != n {
		t.Errorf("carried on after its end: %q", w.args[n:])
	}
	if h := w.health.Snapshot(); strings.Contains(fmt.Sprint(h), "connection refused") {
		t.Errorf("health says %+v", h)
	}
}

// TestOwnByHand: a move of the agent's own that an operator carries on by hand has not stopped, and no mover comes in between;
// once nobody works at it any more it is carried on.
func TestOwnByHand(t *testing.T) {
	w := newWorld(t, migrating)
	w.mover = func(w *world, args []string) error {
		w.journal(idOf(args), phaseMoving, "copy", "")
		return errors.New("exit status 1: target: connection refused")
	}
	w.step()
	id := w.c.Status().Moves[0].ID
	f := w.busy(id)
	began := len(w.args)
	w.steps(30)
	if m := w.c.Status().Moves[0]; len(w.args) != began || m.Error != "" || m.Step != "copy" {
		t.Errorf("movers %q, move %+v", w.args[began:], m)
	}
	if h := fmt.Sprint(w.health.Snapshot()); strings.Contains(h, "has stopped") {
		t.Errorf("health %s", h)
	}
	f.Close()
	w.steps(6)
	if len(w.args) == began || !strings.Contains(w.c.Status().Moves[0].Error, "connection refused") {
		t.Errorf("movers %q, move %+v", w.args[began:], w.c.Status().Moves[0])
	}
}

// TestByHandRemoved: a move of nobody whose journal somebody removes is forgotten.
func TestByHandRemoved(t *testing.T) {
	w := newWorld(t, migrating)
	w.over = false
	const id = "00000000000000aa"
	w.journal(id, phaseMoving, "copy", "")
	w.mover = func(w *world, args []string) error {
		return errors.Join(errors.New("exit status 1: there is no move"), os.Remove(filepath.Join(w.dir, id+".json")))
	}
	w.steps(20)
	if h := w.health.Snapshot(); len(w.args) != 1 || strings.Contains(fmt.Sprint(h), "there is no move") {
		t.Errorf("movers %q, health %+v", w.args, h)
	}
}

// TestByHandWithoutMover: an agent that moves nothing leaves moves that were begun by hand alone.
func TestByHandWithoutMover(t *testing.T) {
	w := newWorld(t, migrating)
	w.over, w.c.o.NoMover = false, true
	w.journal("00000000000000aa", phaseMoving, "copy", "")
	w.steps(5)
	if h := w.health.Snapshot(); len(w.args) > 0 || strings.Contains(fmt.Sprint(h), "halfway") {
		t.Errorf("movers %q, health %+v", w.args, h)
	}
}

// TestWithoutMover: an agent that is started anew to move nothing begins no move, and leaves the one that is under
// way to be carried on by hand: it says so, starts no mover, and sees what comes of it.
func TestWithoutMover(t *testing.T) {
	w := newWorld(t, migrating)
	w.mover = func(w *world, args []string) error {
		w.journal(idOf(args), phaseMoving, "copy", "")
		return errors.New("killed")
	}
	w.step()
	w.open()
	w.c.o.NoMover = true
	began := len(w.args)
	w.steps(60)
	st := w.c.Status()
	if len(w.args) != began || len(st.Moves) != 1 || !strings.Contains(st.Moves[0].Error, "--mover none): belay move resume "+st.Moves[0].ID) {
		t.Fatalf("movers %q, moves %+v", w.args[began:], st.Moves)
	}
	if h := fmt.Sprint(w.health.Snapshot()); !strings.Contains(h, "has stopped at copy: nothing is moved by this agent") {
		t.Errorf("health %s", h)
	}
	w.journal(st.Moves[0].ID, phaseKept, "commit", "")
	w.steps(6)
	if st := w.c.Status(); st.Moves[0].Outcome != Moved || st.Moves[0].Error != "" {
		t.Errorf("got %+v", st.Moves[0])
	}
	w.steps(6) // the node is still over: the next plan is made
	if st := w.c.Status(); len(w.args) != began || len(st.Moves) != 1 || len(st.Proposals) != 2 || !strings.Contains(st.Proposals[0].Moves[0].Held, "--mover none") {
		t.Errorf("movers %q, moves %+v, plans %+v", w.args[began:], st.Moves, st.Proposals)
	}
}

// TestWithoutMoverBack: a move that was done and is being taken back is said to have stopped, and not to have a kept source
// that is not removed.
func TestWithoutMoverBack(t *testing.T) {
	w := newWorld(t, migrating)
	w.mover = func(w *world, args []string) error {
		w.journal(idOf(args), phaseKept, "commit", "")
		return nil
	}
	w.step()
	w.over, w.c.o.NoMover = false, true
	w.journal(w.c.Status().Moves[0].ID, phaseBack, "commit", "")
	w.steps(20)
	if h := fmt.Sprint(w.health.Snapshot()); !strings.Contains(h, "has stopped at commit") || strings.Contains(h, "is not removed") {
		t.Errorf("health %s", h)
	}
}

// TestKeptSeldom: a kept source that cannot be removed is tried each day in the end.
func TestKeptSeldom(t *testing.T) {
	w := newWorld(t, migrating)
	w.step()
	w.over = false
	w.mover = func(*world, []string) error { return errors.New("exit status 1: its copy does not run") }
	w.now = w.now.Add(30 * 24 * time.Hour)
	w.step()
	before := len(w.args)
	for range 3 * 24 * 6 {
		w.now = w.now.Add(10 * time.Minute)
		w.step()
	}
	if n := len(w.args) - before; n < 3 || n > 6 {
		t.Errorf("%d tries in three days", n)
	}
}

// TestSeldom: where no moves would help, targets are asked ever less often, and at once under another policy.
func TestSeldom(t *testing.T) {
	w := newWorld(t, migrating)
	w.state.Nodes[1].Refuses = "it is cordoned by hand"
	asked, state := 0, w.c.o.State
	w.c.o.State = func(ctx context.Context, p *policy.LoadPolicy) (*plan.State, string, error) {
		asked++
		return state(ctx, p)
	}
	w.steps(60) // ten minutes
	if asked < 5 || asked > 9 {
		t.Errorf("asked %d times", asked)
	}
	w.state.Nodes[1].Refuses = ""
	w.steps(12)
	if !strings.Contains(w.events(), "moved") {
		t.Errorf("got %s", w.events())
	}
	w = newWorld(t, migrating)
	w.state.Nodes[1].Refuses = "it is cordoned by hand"
	w.steps(30)
	w.state.Nodes[1].Refuses = ""
	w.policy(migrating + "\n  coolDown: 20m")
	w.steps(1)
	if !strings.Contains(w.events(), "moved") {
		t.Errorf("under another policy: %s", w.events())
	}
}

// TestNotBegun: a move that was not even begun, for no reason of the target's, leaves the target a target, and rests for
// the cool-down. Whose reason it is the exit status says, and no word of the message.
func TestNotBegun(t *testing.T) {
	for _, c := range []struct {
		err    error
		target bool
	}{
		{err: errors.New("there is no mover")},
		{err: &MoverError{Status: 1, Text: `source: inspect container target: no such container`}},
		{err: &MoverError{Status: 3, Text: "its name is taken there"}, target: true},
	} {
		w := newWorld(t, migrating)
		w.mover = func(*world, []string) error { return c.err }
		w.steps(6)
		if !strings.HasPrefix(w.events(), "approved move-started move-failed") || !c.target && w.events() != "approved move-started move-failed" {
			t.Errorf("%v: got %s", c.err, w.events())
		}
		w.mover = func(w *world, args []string) error { w.journal(idOf(args), phaseKept, "commit", ""); return nil }
		w.now = w.now.Add(policy.DefaultCoolDown)
		w.steps(2)
		again := strings.HasPrefix(w.events(), "approved move-started move-failed approved move-started moved") && w.c.Status().Moves[0].To == "b"
		if again == c.target || len(w.c.History("a")) == 0 {
			t.Errorf("%v: got %s", c.err, w.events())
		}
		if failed := w.c.History("a")[0].Failed; failed != c.target {
			t.Errorf("%v: counted as a failure of the target's: %v", c.err, failed)
		}
	}
}
