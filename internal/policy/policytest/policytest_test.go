package policytest

import (
	"testing"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

func TestReference(t *testing.T) {
	Run(t, func(t *testing.T, e *policy.Effective, f policy.Facts) policy.Decision { return e.Exec(f) })
}

func TestFilesReference(t *testing.T) {
	RunFiles(t, func(_ *testing.T, e *policy.Effective, path string) (acts [2]policy.FileActs) {
		for mode := range acts {
			acts[mode] = e.FileActsDenied(verdict.Mode(mode), path)
		}
		return acts
	})
}

// The suite is a contract: it must hold enough, and a case must be findable by name.
func TestCases(t *testing.T) {
	const want = 60
	cases := ExecCases()
	if len(cases) < want {
		t.Errorf("got %d cases, want at least %d", len(cases), want)
	}
	seen := map[string]bool{}
	for _, c := range cases {
		if seen[c.Name] {
			t.Errorf("two cases named %s", c.Name)
		}
		seen[c.Name] = true
	}
}
