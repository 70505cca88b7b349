package agent

import (
	"errors"
	"strings"
	"testing"

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
