package policy

import (
	"bytes"
	"errors"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// FuzzParseAccess feeds the parser of AccessPolicies and tests. It must not panic; its
// errors must be complete; what it accepts must survive its canonical form; and what is
// compiled from it must answer.
func FuzzParseAccess(f *testing.F) {
	f.Add([]byte(everyAccessField))
	for _, rule := range []string{
		`{effect: allow, actions: ["*"], when: 'facts.env.exists(e, e.matches("^A"))'}`,
		`{effect: forbid, actions: [container.create], checks: [{limits: {memory: 9223372036854775807}}]}`,
		`{effect: allow, actions: ["**"], resources: {names: ["****"]}}`,
		`{effect: allow, actions: ["*"], when: '"\u00e9" in facts.labels && duration("1h") > duration("1s")'}`,
	} {
		f.Add([]byte(access("p", forAlice+"  rules: ["+rule+"]\n")))
	}
	f.Add([]byte("apiVersion: belay.dev/v1\nkind: AccessTest\nmetadata: {name: t}\nspec: {requests: [{subject: {name: a}, method: GET, path: /v1.44/_ping, facts: {init: true, filters: {a: [b]}}, expect: denied}]}"))
	calls := []apicall.Call{
		{Subject: alice, Action: "container.create", Resources: []apicall.Resource{{Kind: apicall.ResourceContainer}}, Facts: apicall.Facts{Privileged: true}},
		{Subject: inner, Action: "container.prune"}, {Subject: cert, Action: "container.list"}, {Action: "system.ping"},
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, terr := ParseTests("f.yaml", data)
		docs, err := ParseAll("f.yaml", data)
		for _, err := range []error{err, terr} {
			if es, ok := errors.AsType[Errors](err); err != nil && !ok {
				t.Fatalf("got error %v, want Errors", err)
			} else {
				for _, e := range es {
					if e.Msg == "" || e.File == "" || e.Line < 0 {
						t.Fatalf("incomplete error %+v", e)
					}
				}
			}
		}
		if err != nil {
			return
		}
		for _, p := range docs.Access {
			canon := p.Canonical()
			again, err := ParseAll("f.yaml", canon)
			if err != nil || len(again.Access) != 1 || !bytes.Equal(again.Access[0].Canonical(), canon) {
				t.Fatalf("the canonical form is read otherwise: %v\n%s", err, canon)
			}
		}
		set, err := NewSet(docs.Runtime, docs.Access...)
		if err != nil {
			return
		}
		for i := range calls {
			d := set.Access().Decide(&calls[i], at)
			if d.Allowed && calls[i].Subject.Kind == apicall.Nobody {
				t.Fatalf("nobody is allowed: %+v", d)
			}
			if tr := set.Access().Explain(&calls[i], at); tr.Decision.Allowed != d.Allowed {
				t.Fatalf("Explain and Decide differ: %+v, %+v", tr.Decision, d)
			}
			set.Access().RuntimeFor(&calls[i], at)
		}
	})
}

// FuzzMatchText holds the glob matcher to a simple one.
func FuzzMatchText(f *testing.F) {
	for _, s := range [][2]string{{"*", ""}, {"a*b*c", "aXbYc"}, {"**", "x"}, {"*a", "aa"}, {"ab", "a"}} {
		f.Add(s[0], s[1])
	}
	var slow func(p, s string) bool
	slow = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return slow(p[1:], s) || s != "" && slow(p, s[1:])
		}
		return s != "" && p[0] == s[0] && slow(p[1:], s[1:])
	}
	f.Fuzz(func(t *testing.T, p, s string) {
		if len(p) > 12 || len(s) > 16 {
			return
		}
		if got, want := matchText(p, s), slow(p, s); got != want {
			t.Errorf("matchText(%q, %q) = %v, want %v", p, s, got, want)
		}
	})
}
