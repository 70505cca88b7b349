package gate

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// house is an agent with its gate in front of the world's engine.
type house struct {
	*world
	agent  *lab.Agent
	socket string
}

// startAgent starts an agent under policies, by file name.
func (w *world) startAgent(t *testing.T, policies map[string]string, flags ...string) *house {
	t.Helper()
	name := strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(t.Name()))
	agent, err := w.lab.NewAgent(t.Context(), lab.AgentOptions{Name: name, Engine: w.engine, Flags: append(flags, "--gate-mode", "0666")})
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range policies {
		if err := agent.SetPolicy(file, text); err != nil {
			t.Fatal(err)
		}
	}
	h := &house{world: w, agent: agent, socket: w.lab.Path(name, "run", "docker.sock")}
	if err := agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Stop()
		if err := agent.Unload(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	h.reachable(t, name)
	return h
}

// reachable lets users of the host reach the gate's socket, and waits until it answers.
func (h *house) reachable(t *testing.T, name string) {
	t.Helper()
	for _, dir := range []string{h.lab.Path(), h.lab.Path(name), h.lab.Path(name, "run")} {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the gate", func() bool { return h.as(0).Docker(t.Context(), "version").Code == 0 })
}

func (h *house) as(uid uint32) *lab.Client { return h.engine.Client(h.socket, uid) }

func (h *house) remove(t *testing.T, names ...string) {
	t.Cleanup(func() { h.engine.Docker(context.WithoutCancel(t.Context()), append([]string{"rm", "-f"}, names...)...) })
}

// explain returns what `belay explain` says of a container.
func (h *house) explain(t *testing.T, name string) (text string, binding map[string]any) {
	t.Helper()
	r := h.agent.Belay(t.Context(), "explain", name)
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	j := h.agent.Belay(t.Context(), "explain", name, "-o", "json")
	var e struct {
		Container struct{ Binding map[string]any }
	}
	if err := json.Unmarshal([]byte(j.Stdout), &e); err != nil {
		t.Fatalf("%v: %s", err, j.Text())
	}
	return r.Stdout, e.Container.Binding
}

// denial waits for the record of a root exec in a container.
func (h *house) denial(t *testing.T, since time.Time, name, policy string, decisions ...string) {
	t.Helper()
	await(t, "the record of root in "+name, func() bool {
		list, err := h.agent.Denials(t.Context(), since)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Container.Name == name && e.Policy.Name == policy && e.Policy.Rule == "exec.asRoot" && slices.Contains(decisions, e.Decision) {
				return true
			}
		}
		return false
	})
}

// bothDoors lets a user run containers, none of them as root, and everyone else what he likes.
const bothDoors = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: no-root}
spec:
  mode: MODE
  subjects: {uids: ["5001"]}
  rules:
    - {name: run, effect: allow, actions: ["system.*", "image.*", "container.*"], checks: [notRoot]}
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: others}
spec:
  mode: MODE
  subjects: {uids: ["0", "5002"]}
  obligations: {labels: {belay.dev/trust: root}}
  rules:
    - {name: all, effect: allow, actions: ["*"]}
`

// sleeper creates and starts a container that sleeps.
func sleeper(t *testing.T, c *lab.Client, name string, args ...string) {
	t.Helper()
	ok(t, c, append(append([]string{"run", "-d", "--name", name}, args...), image, "sleep", "1000")...)
}

// A container that was created without root has no root, whichever door is used later.
func TestBothDoors(t *testing.T) {
	w := need(t)
	h := w.startAgent(t, map[string]string{"access.yaml": strings.ReplaceAll(bothDoors, "MODE", "enforce")})
	h.remove(t, "both-gate", "both-raw")
	sleeper(t, h.as(5001), "both-gate", "-u", "1000")
	raw := w.engine.Client(w.engine.Socket, 0)
	sleeper(t, raw, "both-raw", "-u", "1000")
	held := func(t *testing.T, name, policy string) {
		t.Helper()
		since := time.Now()
		if r := raw.Docker(t.Context(), "exec", "-u", "0", name, "id"); r.Code == 0 || strings.Contains(r.Stdout, "uid=0") {
			t.Fatalf("root ran: %s", r.Text())
		}
		h.denial(t, since, name, policy, "denied", "killed")
		if out := ok(t, raw, "exec", name, "id"); !strings.Contains(out, "uid=1000") {
			t.Errorf("as its own user: %q", out)
		}
		if out := ok(t, raw, "exec", "-u", "1234", name, "id"); !strings.Contains(out, "uid=1234") {
			t.Errorf("as another user: %q", out)
		}
	}
	t.Run("root through the raw socket dies", func(t *testing.T) { held(t, "both-gate", "no-root") })
	t.Run("privileged root too", func(t *testing.T) {
		if r := raw.Docker(t.Context(), "exec", "--privileged", "-u", "root", "both-gate", "id"); strings.Contains(r.Stdout, "uid=0") {
			t.Errorf("root ran: %s", r.Text())
		}
	})
	t.Run("one from the raw socket is untouched", func(t *testing.T) {
		if out := ok(t, raw, "exec", "-u", "0", "both-raw", "id"); !strings.Contains(out, "uid=0") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("through the gate as whom it likes but root", func(t *testing.T) {
		for args, want := range map[string]string{"": "uid=1000", "-u app": "uid=1000", "-u 77": "uid=77", "-u root": "", "-u 0": "", "-u ghost": ""} {
			r := h.as(5001).Docker(t.Context(), slices.Concat([]string{"exec"}, strings.Fields(args), []string{"both-gate", "id"})...)
			if (r.Code == 0) != (want != "") || !strings.Contains(r.Stdout, want) || want == "" && !strings.Contains(r.Stderr, "notRoot") {
				t.Errorf("exec %s: %s", args, r.Text())
			}
		}
	})
	t.Run("explained", func(t *testing.T) {
		text, b := h.explain(t, "both-gate")
		if !strings.Contains(text, "bound by the gate") || !strings.Contains(text, "uid:5001") || !strings.Contains(text, "no-root") || b["owner"] != "uid:5001" {
			t.Errorf("explain says %s\n%v", text, b)
		}
		if out := h.agent.Belay(t.Context(), "containers").Stdout; !strings.Contains(out, "+gate") {
			t.Errorf("containers says %s", out)
		}
		if _, b := h.explain(t, "both-raw"); b != nil {
			t.Errorf("of the raw one: %v", b)
		}
		if out := h.agent.Belay(t.Context(), "events", "-o", "json").Stdout; !strings.Contains(out, "bound at create by the gate") {
			t.Error("the journal says nothing of the binding")
		}
	})
	t.Run("after kill -9, a restart and another policy", func(t *testing.T) {
		if err := h.agent.Kill(); err != nil {
			t.Fatal(err)
		}
		if r := raw.Docker(t.Context(), "exec", "-u", "0", "both-gate", "id"); strings.Contains(r.Stdout, "uid=0") {
			t.Fatalf("root ran while no agent did: %s", r.Text())
		}
		if err := h.agent.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.reachable(t, "testbothdoors")
		held(t, "both-gate", "no-root")
		if err := h.agent.SetPolicy("access.yaml", strings.ReplaceAll(strings.ReplaceAll(bothDoors, "MODE", "enforce"), "name: no-root", "name: renamed")); err != nil {
			t.Fatal(err)
		}
		if err := h.agent.AwaitPolicies(t.Context(), 20*time.Second, "others,renamed"); err != nil {
			t.Fatal(err)
		}
		held(t, "both-gate", "no-root") // what held at its create
		if _, b := h.explain(t, "both-gate"); b["owner"] != "uid:5001" {
			t.Errorf("the record is lost: %v", b)
		}
		ok(t, raw, "restart", "-t", "0", "both-gate")
		held(t, "both-gate", "no-root")
	})
	t.Run("dropped with the container", func(t *testing.T) {
		files := func() []string {
			list, err := filepath.Glob(w.lab.Path("testbothdoors", "state", "bindings", "*.json"))
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		if len(files()) != 1 {
			t.Errorf("records: %q", files())
		}
		ok(t, raw, "rm", "-f", "both-gate")
		await(t, "the removal of the record", func() bool { return len(files()) == 0 })
	})
}

func TestBothDoorsAudit(t *testing.T) {
	w := need(t)
	h := w.startAgent(t, map[string]string{"access.yaml": strings.ReplaceAll(bothDoors, "MODE", "audit")})
	h.remove(t, "both-audit")
	// The daemon's own rule holds while policies audit: root and the group of its socket.
	sleeper(t, h.as(0), "both-audit", "-u", "1000")
	if err := h.agent.SetPolicy("access.yaml", strings.ReplaceAll(strings.ReplaceAll(bothDoors, "MODE", "audit"), `["5001"]`, `["0", "5001"]`)); err != nil {
		t.Fatal(err)
	}
	await(t, "a binding in audit", func() bool {
		h.engine.Docker(t.Context(), "rm", "-f", "both-audit")
		sleeper(t, h.as(0), "both-audit", "-u", "1000")
		_, b := h.explain(t, "both-audit")
		return b["rules"] != nil
	})
	since := time.Now()
	if out := ok(t, w.engine.Client(w.engine.Socket, 0), "exec", "-u", "0", "both-audit", "id"); !strings.Contains(out, "uid=0") {
		t.Errorf("got %q", out)
	}
	h.denial(t, since, "both-audit", "no-root", "would_deny")
}

// A label of the gate's prefix loosens if the gate set it, and nothing if a client did.
func TestGateLabelLoosens(t *testing.T) {
	w := need(t)
	h := w.startAgent(t, map[string]string{
		"access.yaml": strings.ReplaceAll(bothDoors, "MODE", "enforce"),
		"runtime.yaml": `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: rootless}
spec:
  mode: enforce
  exec: {asRoot: deny}
---
apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: trusted}
spec:
  mode: enforce
  priority: 10
  loosen: true
  selector: {labels: {belay.dev/trust: root}}
  exec: {asRoot: allow}
`})
	h.remove(t, "trust-gate", "trust-raw")
	if out := ok(t, h.as(5002), "run", "-u", "0", "--name", "trust-gate", image, "id"); !strings.Contains(out, "uid=0") {
		t.Errorf("got %q", out)
	}
	raw := w.engine.Client(w.engine.Socket, 0)
	if r := raw.Docker(t.Context(), "run", "-u", "0", "--label", "belay.dev/trust=root", "--name", "trust-raw", image, "id"); strings.Contains(r.Stdout, "uid=0") {
		t.Errorf("a client's own label loosened: %s", r.Text())
	}
}
