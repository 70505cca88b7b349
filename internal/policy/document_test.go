package policy

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

const (
	docA = "# a's comment\napiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: a}\nspec: {mode: audit, exec: {asRoot: deny}}\n"
	docB = "apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata:\n  name: b\n  annotations:\n    text: |\n      x\n      --- y\nspec: {mode: audit, exec: {asRoot: deny}}\n"
	docC = `{apiVersion: belay.dev/v1, kind: RuntimePolicy, metadata: {name: c}, spec: {mode: audit, exec: {asRoot: deny}}}`
)

// A document can be taken out of a file of several, and the others stay as they are.
func TestCutDocument(t *testing.T) {
	for name, file := range map[string]string{
		"plain":    docA + "---\n" + docB + "---\n" + docC + "\n",
		"markers":  "---\n" + docA + "--- # second\n" + docB + "--- " + docC,
		"comments": "# of the file\n---\n" + docA + "---\n\n# of b\n" + docB + "\n---\n# none\n---\n" + docC + "\n",
	} {
		docs, err := ParseAll("f.yaml", []byte(file))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, e := range docs.Entries() {
			doc, before, after, err := CutDocument([]byte(file), e.Line)
			if err != nil {
				t.Fatalf("%s: %s: %v", name, e.Name, err)
			}
			if got, err := ParseAll("doc", doc); err != nil || got.Len() != 1 || got.Entries()[0].Revision != e.Revision {
				t.Errorf("%s: cut %s: %q, %v", name, e.Name, doc, err)
			}
			rest, err := ParseAll("rest", JoinDocuments(before, after))
			if err != nil || rest.Len() != 2 {
				t.Errorf("%s: the rest without %s: %v", name, e.Name, err)
			}
			whole, err := ParseAll("whole", JoinDocuments(before, doc, after))
			if err != nil || whole.Len() != 3 {
				t.Errorf("%s: %s put back: %v", name, e.Name, err)
			}
		}
	}
	if _, _, _, err := CutDocument([]byte(docA+"...\n"), 2); err == nil || !strings.Contains(err.Error(), "fix:") {
		t.Errorf("a document end: %v", err)
	}
	if _, _, _, err := CutDocument([]byte(docA), 99); err == nil {
		t.Error("a line past the end was found")
	}
}

// What is allowed on policies goes by their names, kinds and annotations.
func TestPolicyActions(t *testing.T) {
	src := `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: editors}
spec:
  mode: enforce
  subjects: {users: [alice]}
  rules:
    - {name: edit, effect: allow, actions: [policy.list, policy.read, policy.update, policy.rollback], resources: {names: ["team-*"]}, checks: [notOwnPolicy]}
    - {name: runtime, effect: allow, actions: [policy.create], resources: {kinds: [runtimePolicy], labels: {team: red}}}
    - {name: never, effect: forbid, actions: ["policy.*"], resources: {names: [team-locked]}}
`
	docs, err := ParseAll("f", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	set, err := NewSet(nil, docs.Access...)
	if err != nil {
		t.Fatal(err)
	}
	alice := apicall.Subject{Kind: apicall.User, UID: 1000, Name: "alice"}
	runtime := func(name string, labels map[string]string) apicall.Resource {
		return (&Entry{Name: name, Annotations: labels, Runtime: &RuntimePolicy{}}).Resource()
	}
	red := map[string]string{"team": "red"}
	for _, tt := range []struct {
		name, action string
		sub          apicall.Subject
		res          apicall.Resource
		facts        apicall.Facts
		want         bool
	}{
		{"update", "policy.update", alice, runtime("team-a", nil), apicall.Facts{}, true},
		{"delete", "policy.delete", alice, runtime("team-a", nil), apicall.Facts{}, false},
		{"another's", "policy.update", alice, runtime("other", nil), apicall.Facts{}, false},
		{"forbid wins", "policy.update", alice, runtime("team-locked", nil), apicall.Facts{}, false},
		{"the one that names her", "policy.update", alice, runtime("team-a", nil), apicall.Facts{NamesCaller: true}, false},
		{"create", "policy.create", alice, runtime("x", red), apicall.Facts{}, true},
		{"create without the label", "policy.create", alice, runtime("x", nil), apicall.Facts{}, false},
		{"create of another kind", "policy.create", alice, (&Entry{Name: "x", Annotations: red, Access: &AccessPolicy{}}).Resource(), apicall.Facts{}, false},
		{"a container's root", "policy.update", apicall.Subject{Kind: apicall.Container, ContainerID: "x", Name: "alice"}, runtime("team-a", nil), apicall.Facts{}, false},
	} {
		d := set.Access().Decide(&apicall.Call{Subject: tt.sub, Action: tt.action, Resources: []apicall.Resource{tt.res}, Facts: tt.facts}, at)
		if d.Allowed != tt.want {
			t.Errorf("%s: allowed %v (%s), want %v", tt.name, d.Allowed, d.Reason, tt.want)
		}
	}
	list := &apicall.Call{Subject: alice, Action: "policy.list"}
	if d := set.Access().Decide(list, at); !d.Allowed || !d.Scope.Filter {
		t.Errorf("list: %+v", d)
	}
	for name, want := range map[string]bool{"team-a": true, "team-locked": false, "other": false} {
		res := runtime(name, nil)
		if got := set.Access().VisibleTo(list, &res, at); got != want {
			t.Errorf("visible %s: %v, want %v", name, got, want)
		}
	}
	if !docs.Access[0].Names(&alice) || docs.Access[0].Names(&apicall.Subject{Kind: apicall.User, UID: 1, Name: "bob"}) {
		t.Error("Names is wrong")
	}
}
