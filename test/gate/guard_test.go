package gate

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// noSocketMounts lets a user run containers that have no socket of the engine's mounted.
const noSocketMounts = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: no-sockets}
spec:
  mode: MODE
  subjects: {uids: ["0"]}
  rules:
    - {name: run, effect: allow, actions: ["*"], checks: [noSocketMounts]}
`

const noSockets = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: floor}
spec: {mode: enforce, guard: {sockets: deny}}
`

// caller makes the image whose program calls the daemon.
func caller(t *testing.T, w *world) {
	t.Helper()
	actor, err := w.lab.Actor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Import(t.Context(), callerImage, []lab.File{lab.Program("bin/actor", actor), {Name: "var/run/", Mode: 0o755}}, "ENV PATH=/bin"); err != nil {
		t.Fatal(err)
	}
}

// What noSocketMounts refuses at a create, the kernel refuses later: the daemon's socket comes to
// a directory that was mounted without it.
func TestBothDoorsSocket(t *testing.T) {
	w := need(t)
	caller(t, w)
	for mode, denied := range map[string]bool{"enforce": true, "audit": false} {
		t.Run(mode, func(t *testing.T) {
			h := w.startAgent(t, map[string]string{"access.yaml": strings.ReplaceAll(noSocketMounts, "MODE", mode)}, "--guard-sockets", "off")
			st, err := h.agent.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			testneed.Need(t, "unix-connect", st.Level("guard.sockets") != "unsupported", "a kernel that shows who connects to a unix socket")
			dir, name, with := filepath.Dir(w.engine.Socket)+"/"+mode, "later-"+mode, "with-"+mode
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			h.remove(t, name, with)
			if r := h.as(0).Docker(t.Context(), "create", "--name", with, "-v", w.engine.Socket+":/s", callerImage, "/bin/actor", "wait"); (r.Code != 0) != denied {
				t.Fatalf("the socket itself: %s", r.Text())
			}
			ok(t, h.as(0), "run", "-d", "--name", name, "-v", dir+":/var/run", callerImage, "/bin/actor", "wait")
			if err := os.Link(w.engine.Socket, dir+"/docker.sock"); err != nil {
				t.Fatal(err)
			}
			r := h.as(0).Docker(t.Context(), "exec", name, "/bin/actor", "api", "GET", "/containers/json")
			if passed := r.Code == 0 && strings.Contains(r.Stdout, name); passed == denied {
				t.Errorf("a call to the daemon: %s", r.Text())
			}
			await(t, "the record", func() bool {
				out := h.agent.Belay(t.Context(), "events", "--denials").Stdout
				return strings.Contains(out, "[guard.sockets, policy no-sockets]")
			})
		})
	}
}

// With the guard on, the daemon's own socket is the gate's alone: root's curl and the docker
// client are refused there and not at the gate, and so is a container that has it mounted.
func TestSocketGuard(t *testing.T) {
	w := need(t)
	caller(t, w)
	curl, err := exec.LookPath("curl")
	testneed.Need(t, "curl", err == nil, "the scene calls the daemon with curl, as an administrator would")
	h := w.startAgent(t, map[string]string{"floor.yaml": noSockets}, "--guard-sockets", "enforce")
	if st := h.agent.Belay(t.Context(), "status"); !strings.Contains(st.Stdout, "socket guard") || strings.Contains(st.Stdout, "unsupported here") {
		testneed.Need(t, "unix-connect", false, "a kernel that shows who connects to a unix socket: "+st.Text())
	}
	ping := func(socket string) (string, error) {
		out, err := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "20", "--unix-socket", socket, "http://d/_ping").CombinedOutput()
		return string(out), err
	}
	t.Cleanup(func() { h.as(0).Docker(context.WithoutCancel(t.Context()), "rm", "-f", "mounted") })
	if out, err := ping(w.engine.Socket); err == nil {
		t.Errorf("curl on the daemon's own socket: %s", out)
	}
	if r := w.engine.Client(w.engine.Socket, 0).Docker(t.Context(), "ps"); r.Code == 0 {
		t.Errorf("docker on the daemon's own socket: %s", r.Text())
	}
	if out, err := ping(h.socket); err != nil || out != "OK" {
		t.Errorf("curl on the gate's: %v: %s", err, out)
	}
	ok(t, h.as(0), "run", "-d", "--name", "mounted", "-v", w.engine.Socket+":/var/run/docker.sock", callerImage, "/bin/actor", "wait")
	if r := h.as(0).Docker(t.Context(), "exec", "mounted", "/bin/actor", "api", "GET", "/containers/json"); r.Code == 0 || strings.Contains(r.Stdout, "mounted") {
		t.Errorf("a container with the socket: %s", r.Text())
	}
	await(t, "the records", func() bool {
		out := h.agent.Belay(t.Context(), "events", "--denials").Stdout
		return strings.Contains(out, "connect to ") && strings.Contains(out, "[guard.sockets, policy host]") && strings.Contains(out, "[guard.sockets, policy floor]")
	})
	ok(t, h.as(0), "ps")
	ok(t, h.as(0), "run", "--rm", rootImage, "true")
}
