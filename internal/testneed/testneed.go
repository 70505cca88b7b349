// Package testneed lets a test say what it needs from the machine, so that a
// missing need is a visible skip on a developer's laptop and a failure where the
// machine promised it.
//
// It owns no state, does no I/O beyond reading one environment variable, and is
// imported by tests only. It imports the standard library only (bottom row).
package testneed

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// EnvRequire names the environment variable that lists, separated by commas, what
// this machine promises to have: "root,bpf-lsm,cgroup2,docker".
const EnvRequire = "BELAY_TEST_REQUIRE"

// Need skips tb when have is false, saying why. If [EnvRequire] lists what, the
// machine promised it, and the lack of it fails the test instead.
//
// what is one of a few short words that CI also uses (root, docker, bpf-lsm,
// cgroup2, containerd, network, cc); why is a sentence for the one who reads the skip.
func Need(tb testing.TB, what string, have bool, why string) {
	tb.Helper()
	if have {
		return
	}
	if promised(os.Getenv(EnvRequire), what) {
		tb.Fatalf("%s is required here but missing: %s", what, why)
	}
	tb.Skipf("needs %s: %s", what, why)
}

func promised(list, what string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(s string) bool {
		return what != "" && strings.TrimSpace(s) == what
	})
}
