package policy

import (
	"os"
	"strings"
	"testing"
)

// The reference must name every field, action, check with its meaning and parameters,
// and variable; its whole documents must be accepted; its test must pass.
func TestAccessReference(t *testing.T) {
	src, err := os.ReadFile("../../docs/access-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(src)
	want := func(what, text string) {
		if !strings.Contains(doc, text) {
			t.Errorf("%s is not documented: no %s", what, text)
		}
	}
	for name := range accessHome {
		want("field "+name, "`"+name)
	}
	for _, a := range actions {
		want("action", "`"+a+"`")
	}
	for _, c := range Checks() {
		want("check "+c.Name, "| `"+c.Name+"` | "+strings.ReplaceAll(c.Doc, "*", `\*`))
		for _, p := range c.Params {
			name, text, _ := strings.Cut(p, ": ")
			want("parameter of "+c.Name, "`"+name+"`: "+strings.ReplaceAll(text, "*", `\*`))
		}
	}
	for _, s := range structs {
		for _, f := range s.fields {
			want("field of "+s.name, "`"+f.name+"`")
		}
	}
	var policies []*AccessPolicy
	var tests []*AccessTest
	for _, block := range strings.Split(doc, "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		ts, docs, err := ParseTests("access-policy.md", []byte(block))
		if err != nil {
			t.Errorf("example:\n%s\n%v", block, err)
		}
		policies, tests = append(policies, docs.Access...), append(tests, ts...)
	}
	if len(policies) < 7 || len(tests) != 1 {
		t.Fatalf("got %d policies and %d tests", len(policies), len(tests))
	}
	if _, err := NewSet(nil, policies...); err != nil {
		t.Fatal(err)
	}
	first, err := NewSet(nil, policies[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range tests[0].Requests {
		r := &tests[0].Requests[i]
		d := first.Access().Decide(&r.Call, at)
		if differs := r.Want.Differs(&d); len(differs) > 0 {
			t.Errorf("%s: %s (%s)", r.Name, strings.Join(differs, "; "), d.Reason)
		}
	}
}
