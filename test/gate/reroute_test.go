package gate

import (
	"net"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/tools/lab"
)

// caller holds a small client of Docker's API and starts as root.
const callerImage = "gate/caller:1"

// rerouted lets a user run containers, whose calls to the daemon come to the gate: there
// they see what has the label team=web, and delete nothing.
const rerouted = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: starter}
spec:
  mode: enforce
  subjects: {uids: ["5001"]}
  obligations: {dockerSocket: replace}
  rules:
    - {name: all, effect: allow, actions: ["system.*", "image.*", "container.*"], checks: [noSocketMounts, {hostMounts: {allow: [/srv]}}]}
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: inside}
spec:
  mode: enforce
  subjects: {containers: [{any: true}]}
  rules:
    - {name: ping, effect: allow, actions: [system.ping]}
    - {name: web, effect: allow, actions: [container.list, container.inspect], resources: {labels: {team: web}}}
`

// A container that asks for the daemon's socket gets the gate's, and is itself there.
func TestReroute(t *testing.T) {
	w := need(t)
	actor, err := w.lab.Actor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Import(t.Context(), callerImage, []lab.File{lab.Program("bin/actor", actor), {Name: "var/run/", Mode: 0o755}}, "ENV PATH=/bin"); err != nil {
		t.Fatal(err)
	}
	g := w.start(t, rerouted)
	raw, user := w.engine.Client(w.engine.Socket, 0), g.as(5001)
	h := house{world: w}
	h.remove(t, "other", "web", "agent", "agent-raw")
	sleeper(t, raw, "other")
	sleeper(t, raw, "web", "--label", "team=web")
	up := func(c *lab.Client, name, source string) {
		ok(t, c, "run", "-d", "--name", name, "-v", source+":/var/run/docker.sock", callerImage, "/bin/actor", "wait")
	}
	ask := func(name, method, path string) string {
		return ok(t, raw, "exec", name, "/bin/actor", "api", method, path)
	}
	t.Run("without the gate it has the host", func(t *testing.T) {
		up(raw, "agent-raw", w.engine.Socket)
		if out := ask("agent-raw", "GET", "/containers/json"); !strings.Contains(out, "/other") || !strings.Contains(out, "/web") {
			t.Errorf("got %s", out)
		}
	})
	up(user, "agent", w.engine.Socket)
	sees := func(t *testing.T, g *gate) {
		t.Helper()
		out := ask("agent", "GET", "/containers/json")
		if !strings.HasPrefix(out, "200") || !strings.Contains(out, "/web") || strings.Contains(out, "/other") || strings.Contains(out, "/agent") {
			t.Errorf("it sees %s", out)
		}
		for _, call := range [][2]string{
			{"DELETE", "/containers/web?force=1"}, {"POST", "/containers/web/stop"}, {"GET", "/info"}, {"GET", "/containers/other/json"}, {"GET", "/images/json"},
		} {
			if out := ask("agent", call[0], call[1]); !strings.HasPrefix(out, "403") && !strings.HasPrefix(out, "404") {
				t.Errorf("%s %s: %s", call[0], call[1], out)
			}
		}
		if ev := g.last("container.list"); ev.Subject.Kind != apicall.Container || ev.Subject.UID != 0 || ev.Decision != proxy.Allowed {
			t.Errorf("record %+v of %+v", ev, ev.Subject)
		}
	}
	t.Run("through the gate what its policy says", func(t *testing.T) { sees(t, g) })
	t.Run("what holds the socket is refused", func(t *testing.T) {
		for _, source := range []string{"/", w.lab.Path(), "/tmp/", "/tmp/../" + w.lab.Path()[1:]} {
			r := user.Docker(t.Context(), "create", "-v", source+":/x", callerImage, "wait")
			if r.Code == 0 || !strings.Contains(r.Stderr, "dockerSocket") {
				t.Errorf("%s: %s", source, r.Text())
			}
		}
	})
	t.Run("after a restart of the gate", func(t *testing.T) {
		files, err := g.server.Files() // as the agent leaves them with systemd
		if err != nil {
			t.Fatal(err)
		}
		g.stop()
		var kept []net.Listener
		for _, f := range files {
			l, err := net.FileListener(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			kept = append(kept, l)
		}
		next := w.start(t, rerouted, func(o *proxy.Options) { o.Socket, o.Inherited = g.socket, kept })
		sees(t, next)
	})
}
