package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

const noDrift = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata:
  name: no-drift
spec:
  mode: enforce
  exec:
    asRoot: deny
`

// dropScript writes a script and runs it. It stays a moment, as scripts do; that of the
// image's shell that waits for it holds the container.
const dropScript = `printf '#!/bin/sh\n/bin/busybox sleep 1\n/bin/actor say script\n' >/tmp/script && /bin/busybox chmod +x /tmp/script && /tmp/script`

// A dropped #! script is prevented where the kernel shows it before it is run. Under the
// signal backend the agent finds it by its path, after the fact, and says so.
func TestDroppedScript(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	st, err := w.agent.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	signal := st.Backend == "signal"
	for _, tt := range []struct {
		name, policy, shipped string
		mode                  string // of the record; empty: there is none
	}{
		{name: "enforced", policy: "hardened", shipped: "hardened.yaml", mode: "enforce"},
		{name: "audited", policy: "audit-floor", shipped: "audit-floor.yaml", mode: "audit"},
		{name: "no rule", policy: "no-drift"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := noDrift
			if tt.shipped != "" {
				if text, err = w.lab.ShippedPolicy(tt.shipped); err != nil {
					t.Fatal(err)
				}
			}
			w.floor(t, text, tt.policy)
			begin := time.Now()
			w.up(t, "scripted", "-u", "1000", image, "wait")
			r := w.engine.Docker(ctx, "exec", "scripted", "/bin/busybox", "sh", "-c", dropScript)
			if prevented := !signal && tt.mode == "enforce"; prevented != refused(r) || !prevented && r.Code != 0 {
				t.Errorf("prevented %v: %v", prevented, r.Err())
			}
			var found []lab.Event
			look := func() bool {
				all, err := w.agent.Denials(ctx, begin)
				if err != nil {
					t.Fatal(err)
				}
				found = nil
				for _, e := range all {
					if e.Container.Name == "scripted" && e.Policy.Rule == "exec.drift" {
						found = append(found, e)
					}
				}
				return len(found) > 0
			}
			if tt.mode == "" {
				if lab.Await(ctx, time.Second, look) {
					t.Errorf("no policy asks for it: %+v", found)
				}
				return
			}
			if !lab.Await(ctx, 5*time.Second, look) {
				t.Fatal("no record of it")
			}
			e := found[0]
			decision, level := "would_deny", "prevent"
			if signal {
				level = "detect"
			} else if tt.mode == "enforce" {
				decision = "denied"
			}
			if e.Decision != decision || e.Level != level || e.Policy.Mode != tt.mode || e.Policy.Name != tt.policy {
				t.Errorf("%s at level %s by policy %s in mode %s, want %s at %s by %s in %s", e.Decision, e.Level, e.Policy.Name, e.Policy.Mode,
					decision, level, tt.policy, tt.mode)
			}
			if signal && (e.Object.Path != "/tmp/script" || e.Process.Executable.Path != "/bin/busybox") {
				t.Errorf("script %q run by %q, want /tmp/script by /bin/busybox", e.Object.Path, e.Process.Executable.Path)
			}
		})
	}
}

// floor puts another policy in the place of hardened.yaml until the end of the test.
func (w *world) floor(t *testing.T, text, name string) {
	t.Helper()
	hardened, err := w.lab.ShippedPolicy("hardened.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.agent.SetPolicy("hardened.yaml", hardened); err != nil {
			t.Error(err)
		}
		if err := w.agent.AwaitPolicies(context.WithoutCancel(t.Context()), 10*time.Second, "hardened"); err != nil {
			t.Error(err)
		}
	})
	if err := w.agent.SetPolicy("hardened.yaml", text); err != nil {
		t.Fatal(err)
	}
	if err := w.agent.AwaitPolicies(t.Context(), 10*time.Second, name); err != nil {
		t.Fatal(err)
	}
}
