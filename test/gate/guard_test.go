package gate

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

const noSockets = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: floor}
spec: {mode: enforce, guard: {sockets: deny}}
`

// With the guard on, the daemon's own socket is the gate's alone: root's curl and the docker
// client are refused there and not at the gate, and so is a container that has it mounted.
func TestSocketGuard(t *testing.T) {
	w := need(t)
	curl, err := exec.LookPath("curl")
	testneed.Need(t, "curl", err == nil, "the scene calls the daemon with curl, as an administrator would")
	actor, err := w.lab.Actor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Import(t.Context(), callerImage, []lab.File{lab.Program("bin/actor", actor), {Name: "var/run/", Mode: 0o755}}, "ENV PATH=/bin"); err != nil {
		t.Fatal(err)
	}
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
