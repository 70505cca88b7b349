package policy

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/verdict"
)

// FuzzParse feeds the parser what a broken or hostile file may hold. It must not
// panic; its errors must be complete; and what it accepts must survive its own
// canonical form and compile.
func FuzzParse(f *testing.F) {
	shipped, err := filepath.Glob("../../policies/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range shipped {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, s := range []string{
		everyField, "", "---\n---\n", "a: &a [*a]", "? [a]\n: b", "<<: {a: b}", "!!binary aGk=", "%YAML 1.2\n---\nx: 1",
		"\ufeffapiVersion: belay.dev/v1", strings.Repeat("[", 200), strings.Repeat("- ", 200), "a: \"\\u0000\"", "{a, a}",
		doc("mode: enforce", `exec: {allow: ["/a b/**", /usr/bin/[], deny: [/lib/*]}`),
		doc("mode: audit", `ssh: {client: {to: ["[::/0]:22", "10.0.0.1:*", "[::ffff:1.2.3.4/100]:1"]}}`),
		doc("mode: audit", `network: {egress: {default: deny, allow: [{to: ["::/0", metadata], ports: [1-9, 80]}], deny: [{protocol: icmp}]}, listen: {ports: [8080]}}`),
		named("a", "mode: audit", "ssh: {keys: deny}") + "---\n" + named("a", "mode: audit", "guard: {bpf: deny}"),
		"apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: a, annotations: {\"\\u2028\": \"\\x85 # x\", 'y': \"~\"}}\nspec: {mode: audit, ssh: {keys: deny}}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ps, err := Parse("f.yaml", data)
		if err != nil {
			es, ok := errors.AsType[Errors](err)
			if ps != nil || !ok {
				t.Fatalf("got policies %v with error %v, want Errors alone", ps, err)
			}
			for _, e := range es {
				if e.Msg == "" || e.File == "" || e.Line < 0 {
					t.Fatalf("incomplete error %+v", e)
				}
			}
			return
		}
		for _, p := range ps {
			canon := p.Canonical()
			again, err := Parse("f.yaml", canon)
			if err != nil || len(again) != 1 {
				t.Fatalf("canonical form does not parse: %v\n%s", err, canon)
			}
			if diff := cmp.Diff(string(canon), string(again[0].Canonical())); diff != "" {
				t.Fatalf("canonical form is not stable:\n%s", diff)
			}
			if p.Revision != again[0].Revision {
				t.Fatalf("revision changed from %s to %s", p.Revision, again[0].Revision)
			}
		}
		s, err := NewSet(ps)
		if err != nil {
			return // two of one name
		}
		for _, p := range ps {
			sub := Subject{Known: true, Image: p.Spec.Selector.Image, Labels: p.Spec.Selector.Labels}
			e := s.Effective(sub)
			if got := e.Rules[verdict.ModeEnforce][verdict.RuleBPF]; got.on() && int(got.Policy) >= len(e.Sources) {
				t.Fatalf("rule credited to source %d of %d", got.Policy, len(e.Sources))
			}
			e.Explain()
		}
	})
}

// FuzzMatchPath compares the lookup that the kernel does (the file, its directory, each
// directory above) with the plain meaning of the patterns.
func FuzzMatchPath(f *testing.F) {
	f.Add("/usr/bin/wget\n/opt/**\n/usr/local/bin/*", "/bin/wget")
	f.Add("/**", "/a/b/c")
	f.Add("/*\n/a/**\n/a/b", "/a/b")
	f.Add("/lib64/**\n/usr/lib/*", "/lib/x")
	f.Add("/a", "/a/../a")
	f.Add("/a/\x00", "")
	f.Fuzz(func(t *testing.T, list, file string) {
		var lists [2][]Pattern // deny in one policy, allow in the other
		for i, s := range strings.Split(list, "\n") {
			if p, msg, _ := parsePattern(s); msg == "" {
				if got, _, _ := parsePattern(p.String()); got != p {
					t.Fatalf("%q parses to %v, its own form to %v", s, p, got)
				}
				lists[i%2] = append(lists[i%2], p)
			}
		}
		s := &Set{policies: []*RuntimePolicy{
			{Name: "a", Spec: Spec{Exec: &Exec{Deny: lists[0]}}},
			{Name: "b", Spec: Spec{Exec: &Exec{Deny: lists[1], Allow: lists[1]}}},
		}}
		bits, v, pol := s.Floor().MatchPath(file)
		if !path.IsAbs(file) || path.Clean(file) != file {
			if bits != 0 {
				t.Fatalf("%q is on an allow list", file)
			}
			return
		}
		inA, inB := anyMatch(withAliases(lists[0]), file), anyMatch(withAliases(lists[1]), file)
		if (v[0] == verdict.Deny) != (inA || inB) {
			t.Errorf("%q: got %v, want denied: %v", file, v[0], inA || inB)
		}
		if (bits != 0) != inB {
			t.Errorf("%q: got allow bits %#x, want any: %v", file, bits, inB)
		}
		if v[0] == verdict.Deny && (pol[0] == 0) != inA {
			t.Errorf("%q: credited to policy %d, want the first that names it", file, pol[0])
		}
		if v[1] != verdict.Allow {
			t.Errorf("%q: the audit mode denies without a list", file)
		}
	})
}

// FuzzMatchGlob compares the matcher with its definition.
func FuzzMatchGlob(f *testing.F) {
	f.Add("nginx:*", "nginx:1.27")
	f.Add("a/**/b*c", "a/x/y/bzc")
	f.Add("***", "/")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 20 || len(s) > 20 {
			return // the definition below takes exponential time
		}
		if got, want := matchGlob(pattern, s), globDefinition(pattern, s); got != want {
			t.Errorf("%q on %q: got %v, want %v", pattern, s, got, want)
		}
	})
}

func globDefinition(pattern, s string) bool {
	switch {
	case pattern == "":
		return s == ""
	case strings.HasPrefix(pattern, "**"):
		return globDefinition(pattern[2:], s) || s != "" && globDefinition(pattern, s[1:])
	case pattern[0] == '*':
		return globDefinition(pattern[1:], s) || s != "" && s[0] != '/' && globDefinition(pattern, s[1:])
	}
	return s != "" && s[0] == pattern[0] && globDefinition(pattern[1:], s[1:])
}

// FuzzCutDocument: whatever parses can be taken apart and put together, and means the
// same.
func FuzzCutDocument(f *testing.F) {
	f.Add([]byte(docA + "---\n" + docB + "--- " + docC))
	f.Add([]byte("%YAML 1.2\n---\n" + docA + "...\n---\n" + docC))
	f.Add([]byte("\ufeff" + docA + "---\r\n" + docC + "\r\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		docs, err := ParseAll("f", file)
		if err != nil {
			return
		}
		for _, e := range docs.Entries() {
			doc, before, after, err := CutDocument(file, e.Line)
			if err != nil {
				continue // it says so, and the agent refuses
			}
			got, err := ParseAll("doc", doc)
			if err != nil || got.Len() != 1 || got.Entries()[0].Revision != e.Revision {
				continue // the trial of the change finds it
			}
			rest, err := ParseAll("rest", JoinDocuments(before, after))
			if err != nil {
				continue
			}
			for _, r := range rest.Entries() {
				if r.Name == e.Name && docs.Len() == rest.Len() {
					t.Fatalf("%s is in the rest: %q", e.Name, JoinDocuments(before, after))
				}
			}
		}
	})
}
