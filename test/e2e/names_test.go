package e2e

import (
	"context"
	"strings"
	"testing"
	"time"
)

// namesPolicy lets containers with the label reach web by its name, and nothing else.
const namesPolicy = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: names}
spec:
  selector: {labels: {e2e: names}}
  mode: MODE
  network:
    dns: {servers: [127.0.0.11]}
    egress:
      default: deny
      allow: [{names: [web], ports: [7100], protocol: tcp}]
`

// On a network of the user's Docker answers by its own server at 127.0.0.11. What it has answered is
// open; an address that nobody asked for, and the same on another port, is not.
func TestNames(t *testing.T) {
	w := need(t)
	w.docker(t, "network", "create", "names")
	t.Cleanup(func() {
		if r := w.engine.Docker(context.WithoutCancel(t.Context()), "network", "rm", "names"); r.Code != 0 {
			t.Errorf("remove the network: %v", r.Err())
		}
	})
	const serve = "while true; do echo hello | /bin/busybox nc -l -p 7100; done & while true; do echo hello | /bin/busybox nc -l -p 7200; done"
	for _, mode := range []string{"enforce", "audit"} {
		t.Run(mode, func(t *testing.T) {
			w.policy(t, "names.yaml", strings.Replace(namesPolicy, "MODE", mode, 1), "hardened,names")
			w.up(t, "web", "-u", "1000", "--network", "names", "--entrypoint", "/bin/busybox", image, "sh", "-c", serve)
			w.up(t, "client", "-u", "1000", "--network", "names", "-l", "e2e=names", image, "wait")
			addr := strings.TrimSpace(w.docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.names.IPAddress}}", "web"))
			begin := time.Now()
			connect := func(to, port string) bool {
				t.Helper()
				r := w.engine.Docker(t.Context(), "exec", "client", "/bin/busybox", "nc", "-w", "3", to, port)
				if r.Code != 0 && !refused(r) {
					t.Fatalf("%s %s: %v", to, port, r.Err())
				}
				return r.Code == 0 && strings.Contains(r.Stdout, "hello")
			}
			for _, c := range []struct {
				to, port string
				want     bool
			}{
				{addr, "7100", mode == "audit"}, // nobody has asked
				{"web", "7100", true},
				{addr, "7100", true},
				{"web", "7200", mode == "audit"},
			} {
				if got := connect(c.to, c.port); got != c.want {
					t.Errorf("%s port %s: connected %v, want %v", c.to, c.port, got, c.want)
				}
			}
			evs, err := w.agent.Denials(t.Context(), begin)
			if err != nil {
				t.Fatal(err)
			}
			if len(evs) < 2 {
				t.Errorf("%d records, want two", len(evs))
			}
		})
	}
}
