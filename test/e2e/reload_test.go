package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// A policy file that is written is in force within five seconds, one that is broken
// changes nothing and is reported, and one that is removed is gone.
func TestHotReload(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	w.up(t, "reload", "-u", "1000", image, "wait")
	try := func() lab.Result {
		return w.engine.Docker(ctx, "exec", "reload", "/bin/actor", "spawn", "/bin/forbidden", "say", "hello")
	}
	if r := try(); r.Code != 0 {
		t.Fatalf("before the rule: %v", r.Err())
	}
	const within = 5 * time.Second
	t.Cleanup(func() {
		for _, f := range []string{"path.yaml", "broken.yaml"} {
			_ = w.agent.SetPolicy(f, "") // gone already, unless the test failed
		}
		if err := w.agent.AwaitPolicies(context.WithoutCancel(ctx), 2*within, "hardened"); err != nil {
			t.Error(err)
		}
	})

	if err := w.agent.SetPolicy("path.yaml", pathPolicy); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if !lab.Await(ctx, within, func() bool { return refused(try()) }) {
		t.Fatalf("a new rule is not in force after %v", within)
	}
	t.Logf("in force after %v", time.Since(start).Round(time.Millisecond))

	if err := w.agent.SetPolicy("broken.yaml", "apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: broken}\nspec: {mode: enforce, exec: {asroot: deny}}\n"); err != nil {
		t.Fatal(err)
	}
	var st *lab.Status
	told := lab.Await(ctx, within, func() bool {
		s, err := w.agent.Status(ctx)
		st = s
		return err == nil && s.Policies.Error != ""
	})
	if !told {
		t.Errorf("status says nothing of a broken file after %v", within)
	} else {
		t.Logf("status: %s", st.Policies.Error)
		if got := st.Names(); got != "e2e-path,hardened" {
			t.Errorf("in force beside a broken file: %s, want e2e-path,hardened", got)
		}
	}
	if r := try(); !refused(r) {
		t.Errorf("beside a broken file the old rule does not hold: %v", r.Err())
	}

	if err := errors.Join(w.agent.SetPolicy("broken.yaml", ""), w.agent.SetPolicy("path.yaml", "")); err != nil {
		t.Fatal(err)
	}
	if !lab.Await(ctx, within, func() bool { return try().Code == 0 }) {
		t.Errorf("a removed rule is still in force after %v", within)
	}
}
