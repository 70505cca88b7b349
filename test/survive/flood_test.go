package survive

import (
	"context"
	"encoding/json"
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

// told returns how many denials of network rules of a container are recorded since a time, and how
// many records of the container were lost.
func (w *world) told(t *testing.T, name string, since time.Time) (recorded, lost uint64) {
	t.Helper()
	events, err := w.agent.Denials(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Container.Name == name {
			recorded++
		}
	}
	var list []struct {
		Name string `json:"name"`
		Lost uint64 `json:"lostRecords"`
	}
	r := w.agent.Belay(t.Context(), "containers", "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		t.Fatalf("belay containers: %v: %v", err, r.Err())
	}
	for _, c := range list {
		if c.Name == name {
			lost += c.Lost
		}
	}
	return recorded, lost
}

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
	since := time.Now()
	if err := syscall.Kill(w.agent.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	knock("with an agent that stands still")
	w.enforced(t, "with full rings")
	if err := syscall.Kill(w.agent.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// Each is a record, or was lost and counted, for the container and for the host.
	var recorded, lost, all uint64
	counted := lab.Await(ctx, time.Minute, func() bool {
		recorded, lost = w.told(t, "flood", since)
		st, err := w.agent.Status(ctx)
		if err != nil {
			return false
		}
		all = st.Failures["ring_denials"]
		return lost > 0 && all >= lost && recorded+lost == uint64(n)
	})
	if !counted {
		t.Errorf("recorded %d, lost %d, of the host %d, tried %d: %s", recorded, lost, all, n, w.agent.Belay(ctx, "status").Text())
	}
	t.Logf("recorded %d, lost %d of %d", recorded, lost, n)
	knock("with an agent that runs")
	w.enforced(t, "after the flood")
}
