// Package policytest is the contract of decisions on execs, and of what is denied on files:
// one list of cases each that the Go reference, the pure C code and, of execs, the kernel must
// all answer alike.
//
// It owns no state and is imported by tests only. Row: core (as policy).
package policytest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// ExecCase is one question and its answer.
type ExecCase struct {
	Name string
	YAML string         // documents of the set; may be empty
	Sub  policy.Subject // the container
	// Facts about the exec. The parts about paths are filled in from Path, or, with
	// no path, say that no list names the file: see [ExecCase.Resolve].
	Facts policy.Facts
	Path  string // the resolved file, absolute
	Want  policy.Decision
}

// Resolve returns the effective policy of the case and its facts with the path
// looked up.
func (c ExecCase) Resolve(t testing.TB) (*policy.Effective, policy.Facts) {
	t.Helper()
	var ps []*policy.RuntimePolicy
	if c.YAML != "" {
		var err error
		if ps, err = policy.Parse(c.Name+".yaml", []byte(c.YAML)); err != nil {
			t.Fatalf("parse the case's policies: %v", err)
		}
	}
	set, err := policy.NewSet(ps)
	if err != nil {
		t.Fatalf("order the case's policies: %v", err)
	}
	e, f := set.Effective(c.Sub), c.Facts
	f.PathVerdict = [2]verdict.Verdict{verdict.Allow, verdict.Allow}
	if c.Path != "" {
		f.AllowBits, f.PathVerdict, f.PathPolicy = e.MatchPath(c.Path)
	}
	return e, f
}

// ExecCases returns all cases. Their names are unique.
func ExecCases() []ExecCase {
	return slices.Concat(rootCases(), driftCases(), otherCases(), pathCases(), mergeCases(), loosenCases(), orderCases())
}

// Run asks decide each case of [ExecCases], in subtests.
func Run(t *testing.T, decide func(t *testing.T, e *policy.Effective, f policy.Facts) policy.Decision) {
	t.Helper()
	for _, c := range ExecCases() {
		t.Run(c.Name, func(t *testing.T) {
			e, f := c.Resolve(t)
			if diff := cmp.Diff(c.Want, decide(t, e, f)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

// doc writes a policy with one line of spec each.
func doc(name string, spec ...string) string {
	return "apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: " + name + "}\nspec:\n  " +
		strings.Join(spec, "\n  ") + "\n"
}

func docs(ds ...string) string { return strings.Join(ds, "---\n") }

func enforce(spec ...string) string { return doc("p", append([]string{"mode: enforce"}, spec...)...) }

func audit(spec ...string) string { return doc("p", append([]string{"mode: audit"}, spec...)...) }

func deny(r verdict.Rule, p uint16) policy.Decision { return policy.Decision{Rule: r, Policy: p} }

func report(r verdict.Rule, p uint16) policy.Decision {
	return policy.Decision{Verdict: verdict.Audit, Rule: r, Policy: p}
}

var pass = policy.Decision{Verdict: verdict.Allow, Rule: verdict.RuleNone}

func flags(bits ...uint32) policy.Facts {
	var f policy.Facts
	for _, b := range bits {
		f.Flags |= b
	}
	return f
}
