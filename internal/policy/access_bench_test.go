package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// manyRules is a set of n rules over policies for a hundred users each, of which one
// names alice.
func manyRules(tb testing.TB, n int) *Access {
	var docs []string
	perPolicy := max(1, n/100)
	for p := range min(n, 100) {
		var b strings.Builder
		fmt.Fprintf(&b, "  mode: enforce\n  subjects: {users: [user-%d], groups: [group-%d]}\n  rules:\n", p, p)
		for r := range perPolicy {
			fmt.Fprintf(&b, "    - {effect: allow, actions: [container.list, container.create], checks: [notPrivileged], resources: {names: [\"c-%d-*\"]}}\n", r)
		}
		docs = append(docs, access(fmt.Sprintf("p%d", p), b.String()))
	}
	docs = append(docs, access("alice", forAlice+`  rules:
    - {effect: allow, actions: [system.ping, container.list, container.inspect]}
    - {effect: allow, actions: [container.create], checks: [notRoot, notPrivileged, noHostNamespaces, noSocketMounts, {hostMounts: {allow: [/srv]}}, capabilities]}
    - {effect: allow, actions: [image.pull], when: 'facts.image.startsWith("nginx") && !facts.privileged'}
`))
	return accessSet(tb, docs...)
}

func hotCalls() []*apicall.Call {
	return []*apicall.Call{
		{Subject: alice, Action: "system.ping", Method: "GET", Path: "/_ping"},
		{Subject: alice, Action: "container.list", Method: "GET", Path: "/containers/json"},
		{Subject: alice, Action: "container.inspect", Resources: []apicall.Resource{mine}},
		{Subject: alice, Action: "container.create", Facts: apicall.Facts{User: "1000", HostMounts: []apicall.HostMount{{Via: "bind", Source: "/srv/x", Resolved: "/srv/x"}}}},
	}
}

// The hot path makes no garbage.
func TestDecideDoesNotAllocate(t *testing.T) {
	s := manyRules(t, 1000)
	for _, call := range hotCalls()[:3] {
		if d := s.Decide(call, at); !d.Allowed {
			t.Fatalf("%s is denied: %s", call.Action, d.Reason)
		}
		if n := testing.AllocsPerRun(100, func() { s.Decide(call, at) }); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", call.Action, n)
		}
	}
	own := accessSet(t, access("p", forAlice+"  rules: [{effect: allow, actions: [container.list], resources: {own: true}}]\n"))
	call := hotCalls()[1]
	if n := testing.AllocsPerRun(100, func() { own.Decide(call, at); own.VisibleTo(call, &mine, at) }); n != 0 {
		t.Errorf("a filtered list: got %v allocations, want 0", n)
	}
}

// oneName is a set of n rules of one caller that differ in the name of a container.
func oneName(tb testing.TB, n int) *Access {
	var b strings.Builder
	b.WriteString(forAlice + "  rules:\n")
	for i := range n {
		fmt.Fprintf(&b, "    - {effect: allow, actions: [container.inspect, container.list], resources: {names: [c-%d]}}\n", i)
	}
	return accessSet(tb, access("p", b.String()))
}

// The index by name finds what a walk over all rules finds.
func TestRulesByName(t *testing.T) {
	s := oneName(t, 100)
	for _, tt := range []struct {
		res  apicall.Resource
		want string
	}{
		{apicall.Resource{Kind: apicall.ResourceContainer, ID: "x", Names: []string{"/c-7"}}, "rules[7]"},
		{apicall.Resource{Kind: apicall.ResourceContainer, ID: "x", Names: []string{"/other", "/c-9", "/c-3"}}, "rules[3]"},
		{apicall.Resource{Kind: apicall.ResourceContainer, ID: "c-5", Names: []string{"/x"}}, "rules[5]"},
		{apicall.Resource{Kind: apicall.ResourceContainer, ID: "x", Asked: "c-5", Names: []string{"/x"}}, ""},
		{apicall.Resource{Kind: apicall.ResourceContainer, ID: "x", Names: []string{"/c-5/c-6"}}, ""},
	} {
		if d := s.Decide(&apicall.Call{Subject: alice, Action: "container.inspect", Resources: []apicall.Resource{tt.res}}, at); d.Rule != tt.want {
			t.Errorf("%+v: got rule %q, want %q", tt.res, d.Rule, tt.want)
		}
		if got := s.Visible(&alice, "container.list", &tt.res); got != (tt.want != "") {
			t.Errorf("%+v: visible %v", tt.res, got)
		}
	}
}

func BenchmarkDecideByName(b *testing.B) {
	for _, n := range []int{10, 9999} {
		s := oneName(b, n)
		res := apicall.Resource{Kind: apicall.ResourceContainer, ID: "x", Names: []string{"/c-5"}}
		list := &apicall.Call{Subject: alice, Action: "container.list"}
		for name, call := range map[string]*apicall.Call{
			"inspect": {Subject: alice, Action: "container.inspect", Resources: []apicall.Resource{res}},
			"list":    list,
			"deny":    {Subject: alice, Action: "container.inspect", Resources: []apicall.Resource{theirs}},
		} {
			b.Run(fmt.Sprintf("%s/rules=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Decide(call, at)
				}
			})
		}
		b.Run(fmt.Sprintf("visible/rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.VisibleTo(list, &theirs, at)
			}
		})
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 10000} {
		s := manyRules(b, n)
		for _, call := range hotCalls() {
			b.Run(fmt.Sprintf("%s/rules=%d", call.Action, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Decide(call, at)
				}
			})
		}
		b.Run(fmt.Sprintf("deny/rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			call := &apicall.Call{Subject: alice, Action: "container.create", Facts: apicall.Facts{User: "1000", Privileged: true}}
			for b.Loop() {
				s.Decide(call, at)
			}
		})
		b.Run(fmt.Sprintf("when/rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			call := &apicall.Call{Subject: alice, Action: "image.pull", Facts: apicall.Facts{Image: "nginx"}}
			for b.Loop() {
				s.Decide(call, at)
			}
		})
	}
}
