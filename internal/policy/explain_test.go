package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExplain(t *testing.T) {
	floor := named("floor", "mode: enforce", "exec:", "  asRoot: deny", "  drift: deny", "  deny: [/bin/nc]")
	web := named("web", "mode: enforce", "exec:", "  asRoot: allow", "  drift: deny", "  volumes: readOnly", "  allow: [/app/**]")
	trial := named("trial", "mode: audit", "exec:", "  fileCaps: deny")
	loose := named("loose", "selector: {imageDigest: '"+testDigest+"'}", "loosen: true", "mode: enforce", "exec: {asRoot: allow}")
	sub := Subject{Known: true, ImageDigest: testDigest}
	tests := []struct {
		name string
		set  *Set
		sub  Subject
		want string
	}{
		{"none", &Set{}, sub, `
exec.asRoot enforce allow | no policy sets it
exec.fileCaps enforce allow | no policy sets it
exec.drift enforce allow | no policy sets it
exec.memfd enforce allow | no policy sets it
exec.deny enforce allow | no policy sets it
exec.allow enforce allow | no policy sets it
ssh.server enforce allow | no policy sets it
ssh.client enforce allow | no policy sets it
ssh.keys enforce allow | no policy sets it
guard.bpf enforce deny built-in | the only policy that sets it`},
		{"merged", mustSet(t, floor, web, trial), sub, `
exec.asRoot enforce deny (nested: deny) floor p.yaml:7 | stricter than web: allow (p.yaml:17)
exec.fileCaps audit deny trial p.yaml:28 | the only policy that sets it
exec.drift enforce deny (volumes: deny, metadataOnly: deny) floor p.yaml:8 | first of equals, before web: deny (p.yaml:18)
exec.memfd enforce deny floor p.yaml:8 | first of equals, before web: deny (p.yaml:18); follows exec.drift
exec.deny enforce /bin/nc floor p.yaml:9 | any of them is denied, whichever policy lists it
exec.allow enforce /app/** web p.yaml:20 | a file must be on this list
ssh.server enforce allow | no policy sets it
ssh.client enforce allow | no policy sets it
ssh.keys enforce allow | no policy sets it
guard.bpf enforce deny built-in | the only policy that sets it`},
		{"loosened", mustSet(t, floor, loose), sub, `
exec.asRoot enforce allow loose p.yaml:18 | loosens floor: deny (p.yaml:7)`},
		{"build", mustSet(t, floor), Subject{Class: ClassBuild}, `
exec.asRoot enforce allow | a build step: only the guards apply`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			for _, l := range tt.set.Effective(tt.sub).Explain() {
				fmt.Fprintf(&got, "\n%s %s %s", l.Rule, l.Mode, l.Value)
				if l.Policy != "" {
					got.WriteString(" " + l.Policy)
				}
				if l.File != "" {
					fmt.Fprintf(&got, " %s:%d", l.File, l.Line)
				}
				got.WriteString(" | " + l.Why)
			}
			lines := strings.Split(got.String(), "\n")
			want := strings.Split(tt.want, "\n")
			if diff := cmp.Diff(want, lines[:min(len(lines), len(want))]); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExplainDestinations(t *testing.T) {
	client := func(name, to string) string { return named(name, "mode: enforce", "ssh: {client: {to: ["+to+"]}}") }
	tests := []struct {
		name, a, b, value, why string
	}{
		{"common", "'10.0.0.0/8:*'", "'10.1.0.0/16:22', '11.0.0.0/8:22'", "to 10.1.0.0/16:22", "only destinations that all of them name"},
		{"nothing", "'10.0.0.0/8:22'", "'11.0.0.0/8:22'", "to nothing", "none is allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, l := range mustSet(t, client("a", tt.a), client("b", tt.b)).Floor().Explain() {
				if l.Rule.String() != "ssh.client" {
					continue
				}
				if l.Value != tt.value || !strings.Contains(l.Why, tt.why) {
					t.Errorf("got %q, %q, want %q, %q", l.Value, l.Why, tt.value, tt.why)
				}
			}
		})
	}
}
