package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/policy"
)

const loadPolicy = `apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: node}
spec: {caps: {memory: 85%}, actions: [alert]}
`

// TestLoadPolicyTaken: one that alerts is in force, whichever way it comes.
func TestLoadPolicyTaken(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": admins})
	if _, err := m.apply(rootCaller, loadPolicy); err != nil {
		t.Fatal(err)
	}
	set := m.policies.current()
	if got := set.LoadPolicies(); len(got) != 1 || got[0].Name != "node" {
		t.Errorf("in force are %s", set.Canonical())
	}
	for _, p := range m.policies.status().Policies {
		if p.Kind == policy.LoadKind && (p.Name != "node" || p.Mode != "alert") {
			t.Errorf("status has %+v", p)
		}
	}
}

// TestLoadActionsRefused: nothing cordons, proposes or moves, so no policy that wants it is
// taken, whichever way it comes, and what is in force stays in force.
func TestLoadActionsRefused(t *testing.T) {
	cordon := strings.Replace(loadPolicy, "[alert]", "[alert, cordon]", 1)
	propose := strings.Replace(loadPolicy, "[alert]}", "[propose], movable: {names: ['*']}, targets: [{name: b, cpus: 1, memory: 1Gi}]}", 1)
	for act, text := range map[string]string{"cordon": cordon, "propose": propose} {
		m := newManaged(t, "", map[string]string{"a.yaml": admins})
		want := `policy "node" has the action ` + act + `, which is not built yet: this agent watches and alerts; fix: write actions: [alert]`
		if _, err := m.apply(rootCaller, text); err == nil || !strings.Contains(err.Error(), "given.yaml:1: "+want) {
			t.Errorf("apply: got %v, want %s", err, want)
		}
		file := filepath.Join(m.policies.dir, "load.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.manager.reload(true); err == nil || !strings.Contains(err.Error(), file+":1: "+want) {
			t.Errorf("reload: got %v, want %s", err, want)
		}
		if set := m.policies.current(); set.Len() != 1 || len(set.LoadPolicies()) != 0 {
			t.Errorf("in force are %s", set.Canonical())
		}
	}
}

// TestLoadEmailCommand: who may change policies cannot have a program run as root by that.
func TestLoadEmailCommand(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": strings.Replace(admins, "users: [root]", "users: [root, alice]", 1)})
	mail := strings.Replace(loadPolicy, "[alert]}", "[alert], alerts: {email: {command: /usr/sbin/reboot, to: [a@example.org]}}}", 1)
	if _, err := m.apply(alice, mail); err == nil || !strings.Contains(err.Error(), "only root of the host may set it") {
		t.Errorf("by alice: got %v", err)
	}
	if _, err := m.apply(alice, loadPolicy); err != nil {
		t.Errorf("without it, by alice: %v", err)
	}
	if _, err := m.apply(rootCaller, mail); err != nil {
		t.Errorf("by root: %v", err)
	}
}

// TestLoadRecord: an alert is a record with its causes.
func TestLoadRecord(t *testing.T) {
	a := new(Agent)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	web := load.Subject{ID: ident.ContainerID(strings.Repeat("a", 64)), Name: "web"}
	r := a.loadRecord(&load.Alert{
		Event: load.EventOver, Policy: "node", Cap: "memory", Time: at, Since: at, Percent: 90, Limit: 85, Container: &web,
		Causes: []load.Cause{{Subject: web, Now: 2, Grew: 1, Unit: "bytes", Since: at}}, Error: strings.Repeat("x", 4096),
	})
	if r.Kind != journal.KindLoad || r.Load.Cap != "memory" || len(r.Load.Causes) != 1 || r.Load.Causes[0].Name != "web" || r.Container.Name != "web" ||
		r.Policy.Rule != "caps.memory" || len(r.Load.Error) != maxLoadError || !strings.Contains(r.Message, "web grew by 1 B") {
		t.Errorf("got %+v", r)
	}
}
