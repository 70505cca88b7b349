// Package testneed lets a test say what it needs from the machine, so that a
// missing need is a visible skip on a developer's laptop and a failure where the
// machine promised it.
//
// It owns no state, does no I/O beyond reading two environment variables and looking
// for the test data, and is imported by tests and tools only. It imports the standard
// library only (bottom row).
package testneed

import (
	"os"
	"path/filepath"
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

// EnvScanData names the environment variable with the folder of real records and images
// (docs/scan.md, "Test data").
const EnvScanData = "BELAY_SCAN_DATA"

// ScanDataDir is the folder of real records and images, which is not in the repository:
// that of [EnvScanData], or shared/data/feeds beside the repository in which the process
// runs. It need not be there.
func ScanDataDir() string {
	if dir := os.Getenv(EnvScanData); dir != "" {
		return dir
	}
	const beside = "shared/data/feeds"
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(filepath.Dir(dir), beside)
		}
		dir = filepath.Dir(dir)
	}
	return filepath.Join("..", beside)
}

// ScanData returns the path of what name is in [ScanDataDir], and skips tb where that is not there.
func ScanData(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(ScanDataDir(), name)
	_, err := os.Stat(path)
	Need(tb, "scan-data", err == nil, "there is no "+path+"; "+EnvScanData+` names another folder (docs/scan.md, "Test data")`)
	return path
}
