package move

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

const gateOf = "run/docker.sock"

// node is an engine with an agent of its own.
type node struct {
	*lab.Agent
	e    *lab.Engine
	gate string
}

// nodePolicy is of a node that may be filled to a share of its memory.
const nodePolicy = `apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: node}
spec:
  caps: {memory: %d%%}
  for: 2s
  hysteresis: 5%%
  actions: [%s]
`

const planned = `  movable: {names: ["shop*"]}
  targets: [{name: other, engine: "unix://%s"}]
  limits: {atOnce: 1, perHour: 10, perContainer: 1m}
  moves: {image: stream, settle: 300ms, drain: 1s, hook: [%s]}
`

// newNode starts an agent over an engine whose containers have so much memory together.
func (w *world) newNode(t *testing.T, e *lab.Engine, l *lab.Lab, memory int64) *node {
	t.Helper()
	if err := e.Limit(lab.Limits{Memory: memory}); err != nil {
		t.Fatal(err)
	}
	name := "agent-" + strings.ToLower(strings.NewReplacer("/", "-").Replace(t.Name()))
	a, err := l.NewAgent(t.Context(), lab.AgentOptions{Name: name, Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	return &node{Agent: a, e: e, gate: l.Path(name, gateOf)}
}

func (n *node) start(t *testing.T, policy string) {
	t.Helper()
	n.apply(t, policy)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			ctx := context.Background()
			t.Logf("%s\n%s\n%s", n.Log(), n.Belay(ctx, "load", "status").Text(), n.Belay(ctx, "events").Text())
		}
		if n.PID() != 0 {
			if err := n.Stop(); err != nil {
				t.Error(err)
			}
		}
	})
	if !lab.Await(t.Context(), 20*time.Second, func() bool { _, err := os.Stat(n.gate); return err == nil }) {
		t.Fatal("the gate is not open")
	}
}

func (n *node) apply(t *testing.T, policy string) {
	t.Helper()
	if err := n.SetPolicy("load.yaml", policy); err != nil {
		t.Fatal(err)
	}
}

// status is what of `belay load status -o json` is looked at.
type status struct {
	Moves struct {
		Cordon string
		Plans  []struct {
			ID, State, Because string
			Moves              []struct {
				Names         []string
				To            string
				Skipped, Held string
			}
		}
		Moves []struct {
			ID, Name, To, Outcome, Step, Error string
			With                               []string
		}
	}
}

func (n *node) status(t *testing.T) (s status) {
	t.Helper()
	r := n.Belay(context.Background(), "load", "status", "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("%v: %v", err, r.Err())
	}
	return s
}

// moveJournal returns the journal of a move of the node, or nothing as long as there is none.
func (n *node) moveJournal(id string) string {
	raw, err := os.ReadFile(filepath.Join(n.StateDir(), "moves", id+".json"))
	if err != nil {
		return ""
	}
	return string(raw)
}

// await waits for what a node says of itself.
func (n *node) await(t *testing.T, what string, ok func(s status) bool) status {
	t.Helper()
	var s status
	if !lab.Await(t.Context(), time.Minute, func() bool { s = n.status(t); return ok(s) }) {
		t.Fatalf("%s: got %+v", what, s)
	}
	return s
}

// busy is a server that holds memory and works.
func busy(mib int) []string {
	return []string{"--stop-signal", "KILL", "--stop-timeout", "1", "--cpus", "0.2", "--user", "1000", image, "sh", "-c",
		fmt.Sprintf("dd if=/dev/zero of=/dev/null bs=%dM & exec httpd -f -p 8080 -h /www", mib)}
}

// lb is a balancer: requests go where the hook says.
type lb struct {
	file       string
	from, to   *lab.Engine
	first      string // address before any hook was called
	sent, lost atomic.Int64
}

// hook writes a program of root's that keeps what it is given.
func (b *lb) hook(t *testing.T, dir string) string {
	t.Helper()
	b.file = filepath.Join(dir, "lb.json")
	path := filepath.Join(dir, "lb.sh")
	if err := os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\ncat >%[1]s.new && mv %[1]s.new %[1]s\n", b.file), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *lb) where() (*lab.Engine, string) {
	raw, err := os.ReadFile(b.file)
	if err != nil {
		return b.from, b.first
	}
	var in struct {
		Phase          string
		Source, Target struct{ Addresses map[string]string }
	}
	if json.Unmarshal(raw, &in) != nil || in.Phase == "hand-back" {
		return b.from, b.first
	}
	for _, a := range in.Target.Addresses {
		return b.to, a + ":8080"
	}
	return b.to, ""
}

func (b *lb) run(ctx context.Context, t *testing.T) {
	for ctx.Err() == nil {
		e, addr := b.where()
		b.sent.Add(1)
		if body, err := get(e, addr, "/"); err != nil || body != "hello\n" {
			b.lost.Add(1)
			t.Logf("lost at %s: %q %v", addr, body, err)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // of a test
	}
}

func (b *lb) start(ctx context.Context, t *testing.T, name string) *sync.WaitGroup {
	t.Helper()
	b.first = strings.Replace(address(b.from, name), ":80", ":8080", 1)
	if !lab.Await(ctx, 20*time.Second, func() bool { body, err := get(b.from, b.first, "/"); return err == nil && body == "hello\n" }) {
		t.Fatal("the server does not answer")
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.run(ctx, t) })
	return &wg
}

const mib = 1 << 20

// TestAgentMoves: a node whose containers pass a cap is cordoned, proposes a move, and carries it out when
// that is approved. Every request is answered throughout; afterwards the node takes containers again.
func TestAgentMoves(t *testing.T) {
	w := need(t)
	a, b := w.newNode(t, w.from, w.labs[0], 160*mib), w.newNode(t, w.to, w.labs[1], 400*mib)
	dir := w.labs[0].Path("hook-" + t.Name())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l := &lb{from: w.from, to: w.to}
	hook := l.hook(t, dir)
	b.start(t, fmt.Sprintf(nodePolicy, 80, "alert"))
	a.start(t, fmt.Sprintf(nodePolicy, 50, "alert, cordon, propose")+fmt.Sprintf(planned, b.gate, hook))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w.run(t, "shop", busy(100)...)
	wg := l.start(ctx, t, "shop")

	s := a.await(t, "a plan", func(s status) bool { return len(s.Moves.Plans) > 0 && s.Moves.Cordon != "" })
	p := s.Moves.Plans[0]
	if p.State != "waiting" || len(p.Moves) != 1 || p.Moves[0].Names[0] != "shop" || p.Moves[0].To != "other" {
		t.Fatalf("got %+v", p)
	}
	// The gate takes no new container; one that has run starts again.
	client := w.from.Client(a.gate, 0)
	if r := client.Docker(ctx, "create", "--name", "late", image); r.Code == 0 || !strings.Contains(r.Text(), "takes no new containers: memory is over the cap of 50% of policy node") {
		t.Errorf("a create on a full node: %s", r.Text())
	}
	if r := a.Belay(ctx, "load", "explain", "shop"); r.Code != 0 || !strings.Contains(r.Stdout, "shop can be moved") || !strings.Contains(r.Stdout, "fits") {
		t.Errorf("explain: %s", r.Text())
	}
	if r := a.Belay(ctx, "load", "plan", "--targets"); r.Code != 0 || !strings.Contains(r.Stdout, "shop  to other") {
		t.Errorf("plan: %s", r.Text())
	}
	if r := a.Belay(ctx, "load", "approve", p.ID); r.Code != 0 {
		t.Fatal(r.Text())
	}
	s = a.await(t, "the move", func(s status) bool { return len(s.Moves.Moves) > 0 && s.Moves.Moves[0].Outcome != "under way" })
	if m := s.Moves.Moves[0]; m.Outcome != "moved" || m.Name != "shop" {
		t.Fatalf("got %+v", m)
	}
	if !w.running(w.to, "shop") || w.running(w.from, "shop-moved-"+s.Moves.Moves[0].ID[:8]) {
		t.Error("want the copy running and the source stopped")
	}
	a.await(t, "no cordon", func(s status) bool { return s.Moves.Cordon == "" && s.Moves.Plans[0].State == "done" })
	stop()
	wg.Wait()
	t.Logf("%d requests, %d lost", l.sent.Load(), l.lost.Load())
	if l.lost.Load() > 0 || l.sent.Load() < 50 {
		t.Errorf("%d requests, %d lost", l.sent.Load(), l.lost.Load())
	}
	if r := client.Docker(t.Context(), "create", "--name", "late", image); r.Code != 0 {
		t.Errorf("after it: %s", r.Text())
	}
	ok(t, w.from, "rm", "late")
	events := a.Belay(t.Context(), "events", "-o", "json").Stdout
	for _, want := range []string{`"event":"proposed"`, `"event":"approved"`, `"event":"moved"`, `"event":"cordoned"`, `"event":"uncordoned"`} {
		if !strings.Contains(strings.ReplaceAll(events, `": "`, `":"`), want) {
			t.Errorf("the journal has no %s", want)
		}
	}
}

// TestAgentMigrates: with the action migrate nobody is asked, and a mover that is killed with its
// agent is carried on by the next agent.
func TestAgentMigrates(t *testing.T) {
	w := need(t)
	a, b := w.newNode(t, w.from, w.labs[0], 160*mib), w.newNode(t, w.to, w.labs[1], 400*mib)
	hook := w.slowHook(t)
	b.start(t, fmt.Sprintf(nodePolicy, 80, "alert"))
	a.start(t, fmt.Sprintf(nodePolicy, 50, "alert, migrate")+fmt.Sprintf(planned, b.gate, hook))
	w.run(t, "shop", busy(100)...)
	a.await(t, "the hand-over", func(s status) bool {
		if len(s.Moves.Moves) == 0 {
			return false
		}
		return strings.Contains(a.moveJournal(s.Moves.Moves[0].ID), `"step": "hand-over"`)
	})
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := a.await(t, "the move", func(s status) bool { return len(s.Moves.Moves) > 0 && s.Moves.Moves[0].Outcome != "under way" })
	if m := s.Moves.Moves[0]; m.Outcome != "moved" || !w.running(w.to, "shop") || len(s.Moves.Moves) != 1 {
		t.Errorf("got %+v", s.Moves.Moves)
	}
}

// slowHook takes three seconds, in which a move that was seen is still under way.
func (w *world) slowHook(t *testing.T) string {
	t.Helper()
	dir := w.labs[0].Path("hook-" + strings.ReplaceAll(t.Name(), "/", "-"))
	hook := filepath.Join(dir, "slow.sh")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(hook, []byte("#!/bin/sh\nsleep 3\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	return hook
}

// TestAgentMovesGroup: a container and another in its network namespace leave a full node by one move, and find each other there,
// also where the agent is killed as soon as their move has begun.
func TestAgentMovesGroup(t *testing.T) {
	w := need(t)
	for name, meanwhile := range map[string]func(*testing.T, *node){
		"undisturbed": func(*testing.T, *node) {},
		"killed": func(t *testing.T, n *node) {
			t.Helper()
			began := func(s status) bool { return len(s.Moves.Moves) > 0 && n.moveJournal(s.Moves.Moves[0].ID) != "" }
			s := n.await(t, "the journal of a move", began)
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			if got := n.moveJournal(s.Moves.Moves[0].ID); !strings.Contains(got, `"phase": "moving"`) {
				t.Errorf("it was over before the agent was killed: %s", got)
			}
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { w.movesGroup(t, meanwhile) })
	}
}

func (w *world) movesGroup(t *testing.T, meanwhile func(*testing.T, *node)) {
	t.Helper()
	a, b := w.newNode(t, w.from, w.labs[0], 160*mib), w.newNode(t, w.to, w.labs[1], 400*mib)
	b.start(t, fmt.Sprintf(nodePolicy, 80, "alert"))
	w.run(t, "shop", busy(50)...)
	w.run(t, "shop-side", "--network", "container:shop", "--cpus", "0.2", image, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=50M & exec sleep 100000")
	a.start(t, fmt.Sprintf(nodePolicy, 50, "alert, migrate")+fmt.Sprintf(planned, b.gate, w.slowHook(t)))
	meanwhile(t, a)
	s := a.await(t, "the move", func(s status) bool { return len(s.Moves.Moves) > 0 && s.Moves.Moves[0].Outcome != "under way" })
	m := s.Moves.Moves[0]
	if len(s.Moves.Moves) != 1 || m.Outcome != "moved" || m.Name != "shop" || strings.Join(m.With, " ") != "shop-side" {
		t.Fatalf("got %+v", s.Moves.Moves)
	}
	for _, name := range []string{"shop", "shop-side"} {
		kept := name + "-moved-" + m.ID[:8]
		if !w.running(w.to, name) || w.running(w.from, kept) || !w.there(w.from, kept) {
			t.Errorf("%s: want the copy running, and the source kept and stopped", name)
		}
	}
	if got := ok(t, w.to, "exec", "shop-side", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"); got != "hello" {
		t.Errorf("in the one network: %q", got)
	}
	if r := a.Belay(t.Context(), "load", "status"); !strings.Contains(r.Stdout, "shop + shop-side  other  moved") {
		t.Errorf("got %s", r.Text())
	}
}

// TestAgentRefuses: to a target that is cordoned by hand, or would pass its cap, nothing moves, and
// each says why.
func TestAgentRefuses(t *testing.T) {
	w := need(t)
	a, b := w.newNode(t, w.from, w.labs[0], 160*mib), w.newNode(t, w.to, w.labs[1], 120*mib)
	b.start(t, fmt.Sprintf(nodePolicy, 60, "alert"))
	a.start(t, fmt.Sprintf(nodePolicy, 50, "migrate")+fmt.Sprintf(planned, b.gate, "/bin/true"))
	w.run(t, "shop", busy(100)...)
	refused := func(want string) {
		t.Helper()
		var r lab.Result
		if !lab.Await(t.Context(), 40*time.Second, func() bool {
			r = a.Belay(t.Context(), "load", "explain", "shop")
			return strings.Contains(r.Stdout, want)
		}) {
			t.Errorf("got %s, want %s", r.Text(), want)
		}
	}
	refused("no room: with it ")
	if r := b.Belay(t.Context(), "load", "cordon", "--reason", "new disks"); r.Code != 0 {
		t.Fatal(r.Text())
	}
	refused("it takes no containers: it was cordoned by ")
	if s := a.status(t); len(s.Moves.Moves) > 0 || len(s.Moves.Plans) > 0 {
		t.Errorf("got %+v", s)
	}
	if r := a.Belay(t.Context(), "load", "status"); !strings.Contains(r.Stdout, "Nothing moves for policy node:") {
		t.Errorf("got %s", r.Text())
	}
	if r := w.to.Client(b.gate, 0).Docker(t.Context(), "create", newImage); r.Code == 0 || !strings.Contains(r.Text(), "new disks") {
		t.Errorf("a create there: %s", r.Text())
	}
	if r := b.Belay(t.Context(), "load", "uncordon"); r.Code != 0 {
		t.Fatal(r.Text())
	}
	if !w.running(w.from, "shop") {
		t.Error("it is gone from the full node")
	}
}
