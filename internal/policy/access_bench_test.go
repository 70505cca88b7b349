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
