package agent

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/workload"
)

func testBinder(t *testing.T) *binder {
	t.Helper()
	return newBinder(&Agent{cfg: Config{StateDir: t.TempDir()}, health: health.New(nil), log: slog.New(slog.DiscardHandler)})
}

func testBinding(t *testing.T, id ident.ContainerID) *gateBinding {
	t.Helper()
	docs, err := policy.ParseAll("access.yaml", []byte(`apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: both}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules:
    - {name: create, effect: allow, actions: [container.create], checks: [notRoot]}
`))
	if err != nil {
		t.Fatal(err)
	}
	set, err := policy.NewSet(nil, docs.Access...)
	if err != nil {
		t.Fatal(err)
	}
	own := set.Access().RuntimeFor(&apicall.Call{
		Subject: apicall.Subject{Kind: apicall.User, UID: 5}, Action: "container.create", Facts: apicall.Facts{User: "1000"},
	}, time.Now())
	if len(own) != 1 {
		t.Fatalf("got %d policies", len(own))
	}
	return &gateBinding{
		ID: id, Time: time.Now(), Owner: "uid:5", Set: map[string]string{policy.OwnerLabel: "uid:5"}, runtime: own,
		Policies: []keptPolicy{{own[0].File, own[0].Line, string(own[0].Canonical())}},
	}
}

// The gate's records outlive the agent. One that cannot be read is counted, kept, and its
// container has what its label names.
func TestBindingsKept(t *testing.T) {
	b := testBinder(t)
	if err := b.recallGate(); err != nil {
		t.Fatal(err)
	}
	whole, broken := ident.ContainerID(strings.Repeat("a", 64)), ident.ContainerID(strings.Repeat("b", 64))
	g := testBinding(t, whole)
	raw, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.keepGate(whole, raw); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{b.gateFile(broken): `{"id":`, filepath.Join(b.a.cfg.bindingsDir(), ".half.tmp-1"): ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := newBinder(b.a)
	if err := next.recallGate(); err == nil {
		t.Error("the broken record is not reported")
	}
	if n := b.a.health.Counter("bindings_unreadable").Load(); n != 1 {
		t.Errorf("%d records counted as unreadable, want 1", n)
	}
	if !next.Bound(string(whole)) || next.Bound(string(broken)) {
		t.Error("the wrong containers are bound")
	}
	own := next.own(workload.Container{ID: whole})
	if len(own) != 1 || own[0].Revision != g.runtime[0].Revision || own[0].Name != "both" {
		t.Errorf("got %+v", own)
	}
	lost := workload.Container{ID: broken, Labels: map[string]string{policy.BindingLabel: "exec.asRoot"}}
	if own := next.own(lost); len(own) != 1 || own[0].Spec.Exec.AsRoot != policy.Deny {
		t.Errorf("of the label: %+v", own)
	}
	next.dropGate(whole)
	if next.Bound(string(whole)) {
		t.Error("a destroyed container is bound")
	}
	if _, err := os.Stat(next.gateFile(whole)); !os.IsNotExist(err) {
		t.Errorf("its record is still there: %v", err)
	}
	if _, err := os.Stat(next.gateFile(broken)); err != nil {
		t.Errorf("the broken record is gone: %v", err)
	}
}

// Labels of the gate's prefix select policies if the gate set them, and not otherwise.
func TestGateLabels(t *testing.T) {
	b := testBinder(t)
	mine := ident.ContainerID(strings.Repeat("a", 64))
	g := testBinding(t, mine)
	g.Set["belay.dev/trust"] = "root"
	b.gate[mine] = g
	says := map[string]string{"app": "x", "belay.dev/trust": "forged", "belay.dev/other": "forged"}
	got := b.trustedLabels(workload.Container{ID: mine, Labels: says})
	if got["app"] != "x" || got["belay.dev/trust"] != "root" || got["belay.dev/other"] != "" || got[policy.OwnerLabel] != "uid:5" {
		t.Errorf("got %v", got)
	}
	got = b.trustedLabels(workload.Container{ID: ident.ContainerID(strings.Repeat("b", 64)), Labels: says})
	if len(got) != 1 || got["app"] != "x" {
		t.Errorf("made elsewhere: got %v", got)
	}
}
