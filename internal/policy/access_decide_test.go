package policy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/apicall"
)

// accessSet compiles the documents; it fails the test if they are not valid.
func accessSet(t testing.TB, docs ...string) *Access {
	t.Helper()
	var ps []*AccessPolicy
	for _, doc := range docs {
		got, err := ParseAll("a.yaml", []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, got.Access...)
	}
	set, err := NewSet(nil, ps...)
	if err != nil {
		t.Fatal(err)
	}
	return set.Access()
}

// access is a document with the given spec, indented by two.
func access(name, spec string) string {
	return "apiVersion: belay.dev/v1\nkind: AccessPolicy\nmetadata: {name: " + name + "}\nspec:\n" + spec
}

var (
	alice = apicall.Subject{Kind: apicall.User, UID: 1000, GID: 1000, Name: "alice", Groups: []string{"alice", "dev"}, GIDs: []uint32{998}}
	bob   = apicall.Subject{Kind: apicall.User, UID: 1001, GID: 1001, Name: "bob", Groups: []string{"bob"}}
	root  = apicall.Subject{Kind: apicall.User, Name: "root", Groups: []string{"root"}}
	inner = apicall.Subject{Kind: apicall.Container, UID: 0, ContainerID: "c1", ContainerLabels: map[string]string{"app": "traefik"}, ContainerName: "/traefik-1"}
	cert  = apicall.Subject{Kind: apicall.Certificate, CN: "ci-1", Orgs: []string{"Example"}, SANs: []string{"spiffe://ci/1"}}
	token = apicall.Subject{Kind: apicall.Token, Token: "portainer"}
	at    = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
)

func TestDecideBySubject(t *testing.T) {
	tests := []struct {
		name     string
		subjects string
		yes, no  []apicall.Subject
	}{
		{"user", "{users: [alice]}", []apicall.Subject{alice}, []apicall.Subject{bob, root, inner, cert, token}},
		{"user glob", `{users: ["a*"]}`, []apicall.Subject{alice}, []apicall.Subject{bob, root, inner}},
		{"every user", `{users: ["*"]}`, []apicall.Subject{alice, bob, root, {Kind: apicall.User, UID: 7}}, []apicall.Subject{inner, cert, token}},
		{"group", "{groups: [dev]}", []apicall.Subject{alice}, []apicall.Subject{bob, inner}},
		{"uid", "{uids: [1001]}", []apicall.Subject{bob}, []apicall.Subject{alice, root}},
		{"uid range", `{uids: ["1000-1001"]}`, []apicall.Subject{alice, bob}, []apicall.Subject{root, inner}},
		{"gid", "{gids: [998]}", []apicall.Subject{alice}, []apicall.Subject{bob}},
		{"root", "{users: [root]}", []apicall.Subject{root, {Kind: apicall.User, Name: "toor"}}, []apicall.Subject{alice, inner, {Kind: apicall.User, UID: 5, Name: "root"}}},
		{"uid 0 is no container", "{uids: [0], gids: [0]}", []apicall.Subject{root}, []apicall.Subject{inner}},
		{"cn", `{certificates: [{cn: "ci-*", o: Example}]}`, []apicall.Subject{cert}, []apicall.Subject{alice, {Kind: apicall.Certificate, CN: "ci-2"}, {Kind: apicall.User, Name: "ci-1"}}},
		{"san", `{certificates: [{san: "spiffe://ci/*"}]}`, []apicall.Subject{cert}, []apicall.Subject{alice, {Kind: apicall.Certificate, CN: "x"}}},
		{"exact cn, other san", "{certificates: [{cn: ci-1, san: x}]}", nil, []apicall.Subject{cert}},
		{"token", "{tokens: [portainer]}", []apicall.Subject{token}, []apicall.Subject{alice, {Kind: apicall.User, Name: "portainer"}}},
		{"container by label", "{containers: [{labels: {app: traefik}}]}", []apicall.Subject{inner}, []apicall.Subject{root, alice, {Kind: apicall.Container, ContainerID: "c2"}}},
		{"container by labels, one wrong", "{containers: [{labels: {app: traefik, tier: x}}]}", nil, []apicall.Subject{inner}},
		{"container by name", `{containers: [{name: "traefik-*"}]}`, []apicall.Subject{inner}, []apicall.Subject{root}},
		{"any container", "{containers: [{any: true}]}", []apicall.Subject{inner}, []apicall.Subject{root, alice, cert, token}},
		{"everyone", "{everyone: true}", []apicall.Subject{alice, root, inner, cert, token}, []apicall.Subject{{}, {Name: "root"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := accessSet(t, access("p", "  mode: enforce\n  subjects: "+tt.subjects+"\n  rules: [{effect: allow, actions: [container.list]}]\n"))
			for _, sub := range tt.yes {
				if d := s.Decide(&apicall.Call{Subject: sub, Action: "container.list"}, at); !d.Allowed {
					t.Errorf("%+v: denied: %s", sub, d.Reason)
				}
				if d := s.Decide(&apicall.Call{Subject: sub, Action: "container.delete"}, at); d.Allowed || d.Reason != ReasonNoRule {
					t.Errorf("%+v: got %+v for an action without a rule, want %q", sub, d, ReasonNoRule)
				}
			}
			for _, sub := range tt.no {
				d := s.Decide(&apicall.Call{Subject: sub, Action: "container.list"}, at)
				if d.Allowed || sub.Kind != apicall.Nobody && d.Reason != ReasonUnnamed {
					t.Errorf("%+v: got %+v, want a denial because nobody names it", sub, d)
				}
			}
		})
	}
}

func TestDecideWithoutPolicies(t *testing.T) {
	for _, s := range []*Access{{}, accessSet(t), (&Set{}).Access()} {
		d := s.Decide(&apicall.Call{Subject: alice, Action: "container.create"}, at)
		if diff := cmp.Diff(AccessDecision{Allowed: true, Reason: ReasonNoPolicy}, d); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if d := s.Decide(&apicall.Call{Action: "system.ping"}, at); d.Allowed {
			t.Errorf("nobody is allowed: %+v", d)
		}
		if d := s.Decide(&apicall.Call{Subject: root, Action: "container.fly"}, at); d.Allowed {
			t.Errorf("an unknown action is allowed: %+v", d)
		}
		if !s.Visible(&alice, "container.list", &apicall.Resource{}) || s.Visible(&apicall.Subject{}, "container.list", &apicall.Resource{}) {
			t.Error("without policies everybody but nobody sees everything")
		}
	}
	var zero AccessDecision
	if zero.Allowed {
		t.Error("the zero decision allows")
	}
}

// Grants is about who and what, and not about which: where it is false, no call is allowed.
func TestGrants(t *testing.T) {
	docs, err := ParseAll("a.yaml", []byte(`apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: ci}
spec:
  mode: enforce
  subjects: {uids: [1000]}
  rules: [{name: some, effect: allow, actions: [scan.create], resources: {names: ["app:*"]}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	set, err := docs.Set()
	if err != nil {
		t.Fatal(err)
	}
	a := set.Access()
	for _, tt := range []struct {
		uid    uint32
		action string
		want   bool
	}{{1000, "scan.create", true}, {1000, "scan.accept", false}, {1001, "scan.create", false}, {1000, "scan.nothing", false}} {
		if got := a.Grants(&apicall.Subject{Kind: apicall.User, UID: tt.uid}, tt.action); got != tt.want {
			t.Errorf("%d, %s: got %v", tt.uid, tt.action, got)
		}
	}
	if (&Access{}).Grants(&apicall.Subject{Kind: apicall.Nobody}, "scan.create") {
		t.Error("nobody is granted something")
	}
}
