package e2e

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

const gatePolicy = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: root-may-look}
spec:
  mode: enforce
  subjects: {uids: ["0"]}
  rules:
    - {name: look, effect: allow, actions: [system.ping, system.version, container.list]}
`

// The agent's gate lets through what the engine would while there is no access policy,
// and what policies allow as soon as there are; both are in the journal.
func TestGate(t *testing.T) {
	w := need(t)
	socket := filepath.Join(w.lab.Path("agent", "run"), "docker.sock")
	c := w.engine.Client(socket, 0)
	begin := time.Now()
	var r lab.Result
	if !lab.Await(t.Context(), 20*time.Second, func() bool {
		r = c.Docker(t.Context(), "run", "--rm", "-u", "1000", "--entrypoint", "/bin/busybox", image, "echo", "through")
		return r.Code == 0
	}) {
		t.Fatal(r.Err(), w.agent.Log())
	}
	if strings.TrimSpace(r.Stdout) != "through" {
		t.Errorf("got %q", r.Stdout)
	}
	if err := w.agent.SetPolicy("gate.yaml", gatePolicy); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		err := w.agent.SetPolicy("gate.yaml", "")
		// That the last access policy is gone is believed when a person says so.
		if r := w.agent.Belay(ctx, "policy", "reload"); r.Code != 0 {
			err = errors.Join(err, r.Err())
		}
		if err := errors.Join(err, w.agent.AwaitPolicies(ctx, 10*time.Second, "hardened")); err != nil {
			t.Error(err)
		}
	})
	if err := w.agent.AwaitPolicies(t.Context(), 10*time.Second, "hardened,root-may-look"); err != nil {
		t.Fatal(err)
	}
	if r := c.Docker(t.Context(), "ps"); r.Code != 0 {
		t.Error(r.Err())
	}
	if r := c.Docker(t.Context(), "create", image); r.Code == 0 || !strings.Contains(r.Stderr, "belay:") {
		t.Errorf("a create that no rule allows: %v", r.Err())
	}
	ok := lab.Await(t.Context(), 10*time.Second, func() bool {
		all, err := w.agent.Denials(t.Context(), begin)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if e.Kind == "api" && e.Decision == "denied" {
				return true
			}
		}
		return false
	})
	if !ok {
		t.Error("the denial is not in the journal")
	}
}
