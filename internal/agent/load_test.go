package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/policy"
)

const loadPolicy = `apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: node}
spec: {caps: {memory: 85%}, actions: [alert]}
`

// TestLoadPolicyRefused: nothing acts on a LoadPolicy, so none is taken, whichever way it
// comes, and what is in force stays in force.
func TestLoadPolicyRefused(t *testing.T) {
	const want = `policy "node" is a LoadPolicy, and this agent does not watch load yet; fix: keep it outside the policy directory`
	m := newManaged(t, "", map[string]string{"a.yaml": admins})
	if _, err := m.apply(rootCaller, loadPolicy); err == nil || !strings.Contains(err.Error(), "given.yaml:1: "+want) {
		t.Errorf("apply: got %v, want %s", err, want)
	}
	file := filepath.Join(m.policies.dir, "load.yaml")
	if err := os.WriteFile(file, []byte(loadPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	err := m.manager.reload(true)
	if err == nil || !strings.Contains(err.Error(), file+":1: "+want) {
		t.Errorf("reload: got %v, want %s", err, want)
	}
	set := m.policies.current()
	if set.Len() != 1 || len(set.AccessPolicies()) != 1 || len(set.LoadPolicies()) != 0 {
		t.Errorf("in force are %s", set.Canonical())
	}
	var all policy.Documents
	if docs, err := policy.ParseAll("x", []byte(loadPolicy)); err != nil {
		t.Fatal(err)
	} else if e := docs.Entries(); len(e) == 1 {
		addEntry(&all, &e[0])
	}
	if len(all.Loads) != 1 || len(all.Runtime) != 0 {
		t.Errorf("a LoadPolicy was sorted as %+v", all)
	}
}
