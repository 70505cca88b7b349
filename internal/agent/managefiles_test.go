package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/revision"
)

// Shipped policies are overridden, never removed.
func TestShipped(t *testing.T) {
	shipped := t.TempDir()
	write(t, filepath.Join(shipped, "hardened.yaml"), document("hardened", "exec: {asRoot: deny}"))
	m := newManaged(t, shipped, nil)
	if _, err := m.named(rootCaller, revision.OpDelete, "hardened"); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "ships with Belay") {
		t.Errorf("delete of a shipped policy: %v", err)
	}
	same, err := m.apply(rootCaller, "# pinned\n"+document("hardened", "exec: {asRoot: deny}"))
	if err != nil || len(same.Changes) != 0 || len(same.Unchanged) != 1 {
		t.Errorf("its own text again: %+v, %v", same, err)
	}
	m.must(m.apply(rootCaller, document("hardened", "exec: {drift: deny}")))
	if got := m.inForce("hardened"); !strings.Contains(got, "drift") || strings.Contains(got, "asRoot") {
		t.Errorf("overridden: %s", got)
	}
	l, err := m.Policies(t.Context(), rootCaller, control.PolicyQuery{Name: "hardened"})
	if err != nil || l.Policies[0].Origin != control.OriginOverride {
		t.Errorf("got %+v, %v", l, err)
	}
	res, err := m.named(rootCaller, revision.OpDelete, "hardened")
	if err != nil || res.Changes[0].What != revision.Restored {
		t.Errorf("delete of an override: %+v, %v", res, err)
	}
	if got := m.inForce("hardened"); !strings.Contains(got, "asRoot") {
		t.Errorf("the shipped one is not back: %s", got)
	}
	if n, _ := m.history.Head(); n != 3 {
		t.Errorf("%d revisions", n)
	}
	m.recordEdits(nil)
	if n, _ := m.history.Head(); n != 3 {
		t.Error("the shipped policy that came back is told twice")
	}
	if _, err := m.apply(rootCaller, strings.Replace(admins, "admins", "hardened", 1)); !errors.Is(err, control.ErrRefused) {
		t.Errorf("an override of another kind: %v", err)
	}
	write(t, filepath.Join(m.policies.dir, "web.yaml"), web)
	if err := m.manager.reload(false); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.policies.dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := m.manager.reload(false); err == nil || m.inForce("web") == "" {
		t.Errorf("a directory that lost its policies was taken beside shipped ones: %v", err)
	}
	if err := os.Rename(shipped, shipped+"-gone"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(shipped + "-gone") })
	if err := m.manager.reload(true); err == nil || m.inForce("hardened") == "" {
		t.Errorf("shipped policies that vanish: %v", err)
	}
}

// A file of several policies loses only the one that goes.
func TestSharedFile(t *testing.T) {
	all := "# all\n" + web + "---\n# of db\n" + document("db", "exec: {asRoot: deny}")
	m := newManaged(t, "", map[string]string{"all.yaml": all})
	file := filepath.Join(m.policies.dir, "all.yaml")
	m.must(m.apply(rootCaller, web2))
	if b, _ := os.ReadFile(file); !strings.Contains(string(b), "# of db") || !strings.Contains(string(b), "drift") || m.inForce("db") == "" {
		t.Errorf("after an update: %s", b)
	}
	m.must(m.named(rootCaller, revision.OpDelete, "web"))
	if b, _ := os.ReadFile(file); !strings.HasPrefix(string(b), "---\n# of db") || m.inForce("web") != "" || m.inForce("db") == "" {
		t.Errorf("after a delete: %s", b)
	}
	m.must(m.named(rootCaller, revision.OpDelete, "db"))
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("an empty file is left: %v", err)
	}
	if m.policies.current().Len() != 0 {
		t.Error("policies are left")
	}
	write(t, filepath.Join(m.policies.dir, "web.yaml"), document("other", "exec: {asRoot: deny}"))
	m.must(m.apply(rootCaller, web)) // its file holds another policy
	if m.inForce("web") == "" || m.inForce("other") == "" {
		t.Error("one of two policies is lost")
	}
}

// Only root ends the last enforced AccessPolicy.
func TestLastAccessPolicy(t *testing.T) {
	all := strings.NewReplacer("root", "alice", "admins", "mine").Replace(admins)
	m := newManaged(t, "", map[string]string{"mine.yaml": all})
	for name, err := range map[string]error{
		"delete": func() error { _, err := m.named(alice, revision.OpDelete, "mine"); return err }(),
		"audit":  func() error { _, err := m.apply(alice, strings.Replace(all, "enforce", "audit", 1)); return err }(),
	} {
		if !errors.Is(err, control.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// They have tried, which the journal tells.
	if len(m.events) != 2 || m.events[0].Decision != proxy.Denied || m.events[0].Policy != "admins" && m.events[0].Policy != "mine" || m.events[0].Reason == "" {
		t.Errorf("recorded: %+v", m.events)
	}
}

func TestChangeLimits(t *testing.T) {
	m := newManaged(t, "", map[string]string{"web.yaml": web})
	for name, c := range map[string]*control.ChangeRequest{
		"nothing":  {},
		"no files": {Op: revision.OpApply},
		"no name":  {Op: revision.OpDelete},
		"both":     {Op: revision.OpDelete, Name: "web", Files: []control.ChangeFile{{}}},
		"by file":  {Op: revision.OpFile, Name: "web"},
		"message":  {Op: revision.OpDelete, Name: "web", Message: strings.Repeat("x", maxMessage+1)},
		"escape":   {Op: revision.OpDelete, Name: "web", Message: "\x1b[2J"},
		"to":       {Op: revision.OpRollback, Name: "web", To: 9},
	} {
		if _, err := m.Change(t.Context(), rootCaller, c); !errors.Is(err, control.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := m.named(rootCaller, revision.OpDelete, "none"); !errors.Is(err, control.ErrNoPolicy) {
		t.Errorf("no such policy: %v", err)
	}
	if got := fmt.Sprint(m.screen(rootCaller) == nil, m.screen(alice) == nil, m.screen(inside) == nil); got != "true false false" {
		t.Errorf("screened: %s", got)
	}
	floor := strings.NewReplacer("users: [root]", "everyone: true", "admins", "floor", `["*"]`, `["container.*", policy.list]`).Replace(admins)
	shut := strings.NewReplacer("users: [root]", "users: [bob]", "admins", "shut", "allow", "forbid").Replace(admins)
	grant := strings.NewReplacer("users: [root]", "users: [bob]", "admins", "grant").Replace(admins)
	m = newManaged(t, "", map[string]string{"a.yaml": admins, "b.yaml": editors, "c.yaml": floor, "d.yaml": shut, "e.yaml": grant})
	if got := fmt.Sprint(m.screen(rootCaller) == nil, m.screen(alice) == nil, m.screen(inside) == nil, m.screen(bob) == nil); got != "true true false false" {
		t.Errorf("screened by policies that name everyone: %s", got)
	}
	// He does not hear what is wrong with what is not read for him.
	if _, err := m.apply(bob, "kind: ["); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("bob: %v", err)
	}
	if _, err := m.named(alice, revision.OpDelete, "admins"); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("alice: %v", err)
	}
	if _, err := m.apply(alice, "kind: ["); err == nil || errors.Is(err, control.ErrForbidden) {
		t.Errorf("alice, who may write policies, does not hear what is wrong: %v", err)
	}
}
