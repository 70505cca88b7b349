package survive

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

const egressPolicy = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata:
  name: no-egress
spec:
  mode: enforce
  network:
    egress:
      deny: [{to: ["198.51.100.0/24"]}]
`

// A container causes more denials than anybody reads, first with an agent that stands still
// and then with one that runs: each is denied, and what was not recorded is counted.
func TestRingFlood(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	n := count(t, "BELAY_RING_FLOOD", 1_000_000)
	if err := w.agent.SetPolicy("egress.yaml", egressPolicy); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.agent.SetPolicy("egress.yaml", ""); err != nil {
			t.Error(err)
		}
	})
	if err := w.agent.AwaitPolicies(ctx, 30*time.Second, "hardened,no-egress"); err != nil {
		t.Fatal(err)
	}
	w.docker(t, "run", "-d", "--name", "flood", "--network", "host", "-u", "1000", image, "wait")
	t.Cleanup(func() {
		if r := w.engine.Docker(context.WithoutCancel(ctx), "rm", "-f", "flood"); r.Code != 0 {
			t.Error(r.Err())
		}
	})
	knock := func(when string) {
		r := w.engine.Docker(ctx, "exec", "flood", "/bin/actor", "knock", fmt.Sprint(n), "198.51.100.7:7")
		t.Logf("%s: %s in %v", when, strings.TrimSpace(r.Stdout), r.Took)
		if want := fmt.Sprintf("knock passed=0 refused=%d", n); strings.TrimSpace(r.Stdout) != want {
			t.Errorf("%s: %v, want %s", when, r.Err(), want)
		}
	}
	if err := syscall.Kill(w.agent.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	knock("with an agent that stands still")
	w.enforced(t, "with full rings")
	if err := syscall.Kill(w.agent.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	var lost uint64
	counted := lab.Await(ctx, 30*time.Second, func() bool {
		st, err := w.agent.Status(ctx)
		if err != nil {
			return false
		}
		lost = st.Failures["ring_denials"]
		return lost > 0
	})
	if !counted {
		t.Errorf("no loss is counted: %s", w.agent.Belay(ctx, "status").Text())
	}
	t.Logf("lost: %d of %d", lost, n)
	knock("with an agent that runs")
	w.enforced(t, "after the flood")
}
