package survive

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// Docker's daemon, or its containerd, ends and comes back: containers stay under their
// policy, those that the engine starts again too, and the agent finds its way back.
func TestEngineRestarts(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		w.engine.Docker(ctx, "rm", "-f", "stays", "forbidden")
	})
	w.docker(t, "run", "-d", "--name", "stays", "--restart=always", "-u", "1000", image, "wait")
	// Its entrypoint is denied, and the engine tries it again and again.
	w.engine.Docker(ctx, "run", "-d", "--name", "forbidden", "--restart=always", image, "wait")
	running := func(name string) bool {
		r := w.engine.Docker(ctx, "inspect", "-f", "{{.State.Running}} {{.State.Pid}}", name)
		return strings.HasPrefix(r.Stdout, "true ") && !strings.HasSuffix(strings.TrimSpace(r.Stdout), " 0")
	}
	check := func(when string) {
		t.Helper()
		if !lab.Await(ctx, time.Minute, func() bool { return running("stays") }) {
			t.Fatalf("%s, the allowed container does not come back", when)
		}
		if r := w.engine.Docker(ctx, "exec", "-u", "0", "stays", "/bin/actor", "say", "hello"); r.Code == 0 || strings.Contains(r.Stdout, "hello") {
			t.Errorf("%s, docker exec -u 0 runs", when)
		}
		if r := w.engine.Docker(ctx, "exec", "stays", "/bin/actor", "say", "hello"); r.Code != 0 {
			t.Errorf("%s, a user's program does not run: %v", when, r.Err())
		}
		if r := w.engine.Docker(ctx, "run", "--rm", image, "say", "hello"); r.Code == 0 || strings.Contains(r.Stdout, "hello") {
			t.Errorf("%s, root runs in a new container", when)
		}
		named := lab.Await(ctx, 30*time.Second, func() bool {
			return strings.Contains(w.agent.Belay(ctx, "containers").Stdout, "stays")
		})
		if !named {
			t.Errorf("%s, the agent does not know the container by its name: %s", when, w.agent.Belay(ctx, "containers").Text())
		}
		if r := w.engine.Docker(ctx, "logs", "forbidden"); strings.TrimSpace(r.Stdout) != "" {
			t.Errorf("%s, the forbidden entrypoint said %q", when, r.Stdout)
		}
	}
	check("at first")
	if err := w.engine.Halt(); err != nil {
		t.Fatal(err)
	}
	w.enforced(t, "with no engine")
	if err := w.engine.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	check("after a restart of the daemon")
	if err := w.engine.Crash(ctx); err != nil {
		t.Fatal(err)
	}
	check("after kill -9 of the daemon and of containerd")
	if err := w.engine.CrashContainerd(ctx); err != nil {
		t.Fatal(err)
	}
	if !lab.Await(ctx, time.Minute, func() bool {
		return w.engine.Docker(ctx, "run", "--rm", "-u", "1000", image, "say", "hello").Code == 0
	}) {
		t.Fatal("the daemon does not find containerd again")
	}
	check("after kill -9 of containerd alone")
}
