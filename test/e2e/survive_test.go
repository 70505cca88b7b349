package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// restore brings the shared agent back, whatever a test did to it.
func (w *world) restore(t *testing.T) {
	t.Helper()
	if w.agent.PID() != 0 {
		return
	}
	if err := w.agent.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("the agent does not start again: %v", err)
	}
}

// Killing the agent does not stop enforcement; the next one takes over, and tells what
// was denied meanwhile.
func TestAgentKilled(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	w.up(t, "survivor", "-u", "1000", image, "wait")
	t.Cleanup(func() { w.restore(t) })
	killed := time.Now()
	if err := w.agent.Kill(); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		if r := w.engine.Docker(ctx, "run", "--rm", image, "say", "hello"); !refused(r) {
			t.Errorf("%s, root in a new container: %v", when, r.Err())
		}
		if r := w.engine.Docker(ctx, "exec", "-u", "0", "survivor", "/bin/actor", "say", "hello"); !refused(r) {
			t.Errorf("%s, docker exec -u 0: %v", when, r.Err())
		}
		if r := w.engine.Docker(ctx, "exec", "survivor", "/bin/actor", "drop", "/tmp/x"); !refused(r) {
			t.Errorf("%s, a dropped program: %v", when, r.Err())
		}
		if r := w.engine.Docker(ctx, "run", "--rm", "-u", "1000", image, "say", "hello"); r.Code != 0 {
			t.Errorf("%s, uid 1000 in a new container: %v", when, r.Err())
		}
	}
	check("with no agent")
	if err := w.agent.Start(ctx); err != nil {
		t.Fatal(err)
	}
	st, err := w.agent.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !st.Adopted {
		t.Error("the new agent started afresh")
	}
	if !lab.Await(ctx, 5*time.Second, func() bool { return len(w.denials(t, killed, "survivor")) >= 2 }) {
		t.Errorf("what was denied with no agent is not in the journal: %v", w.denials(t, killed, "survivor"))
	}
	check("with the next agent")
}

// A container that ran before there was an agent is under the policy by the time the
// agent says that it enforces, and so are the programs that its processes start.
func TestContainerBeforeAgent(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	t.Cleanup(func() { w.restore(t) })
	if err := w.agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.agent.Unload(ctx); err != nil {
		t.Fatal(err)
	}
	out := outDir(t)
	tick := filepath.Join(out, "tick")
	w.up(t, "early", "-v", out+":/out", "--entrypoint", "/bin/busybox", image, "sh", "-c",
		"while :; do /bin/actor touch /out/tick; /bin/busybox sleep 0.2; done")
	exists := func() bool { _, err := os.Stat(tick); return err == nil }
	if !lab.Await(ctx, 10*time.Second, exists) {
		t.Fatal("with nothing enforced root does not run")
	}
	if err := w.agent.Start(ctx); err != nil {
		t.Fatal(err)
	}
	// One that was started before may still be about to write.
	lab.Await(ctx, 500*time.Millisecond, func() bool { return false })
	if err := os.Remove(tick); err != nil {
		t.Fatal(err)
	}
	if lab.Await(ctx, 2*time.Second, exists) {
		t.Error("a root process from before the agent still starts programs")
	}
	if r := w.engine.Docker(ctx, "exec", "-u", "0", "early", "/bin/actor", "say", "hello"); !refused(r) {
		t.Errorf("docker exec -u 0: %v", r.Err())
	}
	if r := w.engine.Docker(ctx, "exec", "-u", "1000", "early", "/bin/actor", "say", "hello"); r.Code != 0 {
		t.Errorf("docker exec -u 1000: %v", r.Err())
	}
}
