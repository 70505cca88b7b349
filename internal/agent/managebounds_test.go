package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/revision"
)

// What a deleted policy was decides who may read it, and not what has its name today.
func TestFormerPolicyIsJudgedAsItWas(t *testing.T) {
	bobs := `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: bobs}
spec:
  mode: enforce
  subjects: {users: [bob]}
  rules:
    - {name: runtime, effect: allow, actions: ["policy.*"], resources: {kinds: [runtimePolicy]}}
`
	m := newManaged(t, "", map[string]string{"a.yaml": admins, "b.yaml": bobs})
	secret := strings.Replace(editors, "name: editors", "name: secret", 1)
	m.must(m.apply(rootCaller, secret))
	made, _ := m.history.Head()
	m.must(m.named(rootCaller, revision.OpDelete, "secret"))
	ask := func() {
		t.Helper()
		if l, err := m.Policies(t.Context(), bob, control.PolicyQuery{Name: "secret", Revision: made}); !errors.Is(err, control.ErrForbidden) {
			t.Errorf("got %+v, %v, want a denial", l, err)
		}
	}
	ask()
	m.must(m.apply(bob, strings.Replace(web, "name: web", "name: secret", 1))) // of a kind that bob may read
	ask()
	if _, err := m.Policies(t.Context(), rootCaller, control.PolicyQuery{Name: "secret", Revision: made}); err != nil {
		t.Errorf("root: %v", err)
	}
}

// A policy that loosens has a say in what others deny: who may change one policy must not
// make it one of those.
func TestNotLoosening(t *testing.T) {
	bounded := strings.Replace(editors, "checks: [notOwnPolicy]", "checks: [notOwnPolicy, notLoosening]", 1)
	loose := document("web", "selector: {labels: {belay.dev/owner: \"uid:1000\"}}, loosen: true, exec: {asRoot: allow}")
	for text, want := range map[string]error{bounded: control.ErrForbidden, editors: nil} {
		m := newManaged(t, "", map[string]string{"a.yaml": text, "b.yaml": admins, "web.yaml": web})
		if _, err := m.apply(alice, loose); !errors.Is(err, want) {
			t.Errorf("%v: got %v", want != nil, err)
		}
		m.must(m.apply(alice, web2))
	}
}

// Who may change a policy does not say which containers it is for: not by the editors' shipped policy.
func TestSameSelector(t *testing.T) {
	bounded, err := os.ReadFile("../../policies/access-policy-editors.yaml")
	if err != nil {
		t.Fatal(err)
	}
	forWeb := document("web", "selector: {name: web}, exec: {asRoot: deny}")
	dora := &control.Caller{Subject: apicall.Subject{Kind: apicall.User, UID: 1003, Name: "dora", Groups: []string{"belay-policy-editors"}}}
	m := newManaged(t, "", map[string]string{"a.yaml": string(bounded), "b.yaml": admins, "web.yaml": forWeb})
	for name, text := range map[string]string{
		"widened":  document("web", "exec: {deny: [/**]}"),
		"narrowed": document("web", "selector: {name: none-such}, exec: {asRoot: deny}"),
	} {
		if _, err := m.apply(dora, text); !errors.Is(err, control.ErrForbidden) || !strings.Contains(err.Error(), "for others than it is") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	m.must(m.apply(dora, document("web", "selector: {name: web}, exec: {drift: deny}")))
	m.must(m.apply(rootCaller, document("web", "exec: {drift: deny}"))) // whom the check is not for
	m.must(m.apply(rootCaller, forWeb))
	if _, err := m.named(dora, revision.OpRollback, "web"); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("a rollback to another selector: %v", err)
	}
	if _, err := m.named(dora, revision.OpRollback, "web", func(c *control.ChangeRequest) { c.To = 1 }); err != nil {
		t.Errorf("a rollback to the same selector: %v", err)
	}
}

// A rollback that brings a deleted policy back must be allowed as a create.
func TestRollbackIsNoCreate(t *testing.T) {
	text := strings.Replace(editors, "policy.create, ", "", 1)
	m := newManaged(t, "", map[string]string{"a.yaml": text, "b.yaml": admins})
	m.must(m.apply(rootCaller, web))
	m.must(m.named(rootCaller, revision.OpDelete, "web"))
	if _, err := m.named(alice, revision.OpRollback, "web"); !errors.Is(err, control.ErrForbidden) || m.inForce("web") != "" {
		t.Errorf("alice, who may create nothing, brought web back: %v", err)
	}
	m.must(m.named(rootCaller, revision.OpRollback, "web"))
	m.must(m.apply(alice, web2))
}

// A policy of every section can be changed and deleted, and one of another kind is not taken for a
// RuntimePolicy.
func TestEveryKindIsManaged(t *testing.T) {
	text := strings.Replace(editors, "checks: [notOwnPolicy]}", "checks: [notLoosening], resources: {kinds: [runtimePolicy]}}", 1)
	m := newManaged(t, "", map[string]string{"a.yaml": text, "b.yaml": admins})
	for _, spec := range []string{
		"exec: {asRoot: deny}", "ssh: {server: deny}", "files: {readOnly: [/etc]}", "privileges: {mount: deny}", "network: {listen: deny}", "guard: {sockets: deny}",
	} {
		m.must(m.apply(alice, document("one", spec)))
	}
	m.must(m.named(rootCaller, revision.OpDelete, "one"))
	load := "apiVersion: belay.dev/v1\nkind: LoadPolicy\nmetadata: {name: full}\nspec:\n  caps: {memory: 90%}\n  actions: [alert]\n"
	if _, err := m.apply(alice, load); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("alice, who may change RuntimePolicies, wrote a LoadPolicy: %v", err)
	}
	m.must(m.apply(rootCaller, load))
	m.must(m.named(rootCaller, revision.OpDelete, "full"))
	if _, err := m.named(alice, revision.OpRollback, "full"); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("alice brought a LoadPolicy back: %v", err)
	}
}

// A change that failed and could not be undone keeps the next from being made on top of it, and what
// it left is nobody's edit.
func TestUndoneBeforeTheNext(t *testing.T) {
	m := newManaged(t, "", map[string]string{"web.yaml": web})
	lost := filepath.Join(t.TempDir(), "gone", "lost.yaml")
	pending := &revision.Pending{Files: map[string]revision.Backup{lost: {Existed: true, Before: []byte(web2), Gone: true, Mode: 0o600}}}
	if err := m.history.Begin(pending); err != nil {
		t.Fatal(err)
	}
	last, _ := m.history.Head()
	write(t, filepath.Join(m.policies.dir, "other.yaml"), document("other", "exec: {asRoot: deny}"))
	if err := m.reload(true); err != nil {
		t.Fatal(err)
	}
	m.recordEdits(nil)
	if now, _ := m.history.Head(); now != last {
		t.Error("what an unfinished change has left is recorded as an edit")
	}
	if _, err := m.apply(rootCaller, web2); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "not undone yet") {
		t.Errorf("a change on top of one that is not undone: %v", err)
	}
	if err := os.Mkdir(filepath.Dir(lost), 0o700); err != nil {
		t.Fatal(err)
	}
	m.must(m.apply(rootCaller, web2))
	if b, err := os.ReadFile(lost); err != nil || string(b) != web2 {
		t.Errorf("what was there before is not back: %q, %v", b, err)
	}
}

// A caller cannot make what somebody is in the middle of editing be in force; root can.
func TestNotInTheMiddleOfAnEdit(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": editors, "b.yaml": admins, "web.yaml": web})
	write(t, filepath.Join(m.policies.dir, "half.yaml"), document("half", "exec: {asRoot: deny}"))
	if _, err := m.apply(alice, web2); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "being edited") || m.inForce("half") != "" {
		t.Errorf("alice: %v; half is %q", err, m.inForce("half"))
	}
	m.must(m.apply(rootCaller, web2))
	if m.inForce("half") == "" {
		t.Error("what root edited is not in force")
	}
	m.must(m.apply(alice, web))
}

// A container gets at the control socket only by a policy that could allow it an action of policy.*.
func TestAdmit(t *testing.T) {
	named := strings.NewReplacer("users: [root]", "containers: [{any: true}]", "admins", "named", `["*"]`, "[policy.list]").Replace(admins)
	everyone := strings.NewReplacer("users: [root]", "everyone: true", "admins", "floor", `["*"]`, `["container.*"]`).Replace(admins)
	for name, tt := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"no access policy":        {map[string]string{"web.yaml": web}, false},
		"one that names everyone": {map[string]string{"a.yaml": everyone, "b.yaml": admins}, false},
		"one for containers":      {map[string]string{"a.yaml": named, "b.yaml": admins}, true},
		"the same in audit":       {map[string]string{"a.yaml": strings.Replace(named, "enforce", "audit", 1), "b.yaml": admins}, false},
	} {
		if got := newManaged(t, "", tt.files).admit(inside); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Only root of the host makes an empty directory be in force, and the journal says who reloads.
func TestWhoReloads(t *testing.T) {
	for _, tt := range []struct {
		who  *control.Caller
		want bool
		text string
	}{
		{rootCaller, true, "user root (uid 0, pid 0)"},
		{alice, false, "user alice (uid 1000, pid 7)"},
		{inside, false, "container aaaaaaaaaaaa"},
		{&control.Caller{}, false, "nobody that is known"},
	} {
		m := newManaged(t, "", map[string]string{"a.yaml": editors, "web.yaml": web})
		for _, name := range []string{"a.yaml", "web.yaml"} {
			if err := os.Remove(filepath.Join(m.policies.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.reload(isHostRoot(&tt.who.Subject)); (err == nil) != tt.want {
			t.Errorf("%s: %v", tt.text, err)
		}
		if got := m.inForce("web") == ""; got != tt.want {
			t.Errorf("%s: nothing is in force: %v", tt.text, got)
		}
		if got := callerText(&tt.who.Subject); !strings.HasPrefix(got, tt.text) {
			t.Errorf("got %q, want %q", got, tt.text)
		}
	}
}
