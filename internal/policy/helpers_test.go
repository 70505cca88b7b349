package policy

import (
	"strings"
	"testing"
)

// doc writes a policy named p with one line of spec each.
func doc(spec ...string) string { return named("p", spec...) }

func named(name string, spec ...string) string {
	return "apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: " + name + "}\nspec:\n  " +
		strings.Join(spec, "\n  ") + "\n"
}

func mustParse(t testing.TB, src string) []*RuntimePolicy {
	t.Helper()
	ps, err := Parse("p.yaml", []byte(src))
	if err != nil {
		t.Fatalf("Parse(%s): %v", src, err)
	}
	return ps
}

func mustSet(t testing.TB, docs ...string) *Set {
	t.Helper()
	s, err := NewSet(mustParse(t, strings.Join(docs, "---\n")))
	if err != nil {
		t.Fatalf("NewSet: %v", err)
	}
	return s
}

const testDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
