package main

import (
	"testing"

	"github.com/belay-project/belay/internal/archtest/depstest"
)

// TestDeps: the scanner reads hostile bytes. What it does not link cannot be misused.
func TestDeps(t *testing.T) {
	depstest.Check(t, []depstest.Ban{
		{Package: "github.com/cilium/ebpf", Why: "it has nothing to do in the kernel"},
		{Package: "net", Why: "it has no network; registries are the caller's"},
		{Package: "net/http", Why: "it has no network; registries are the caller's"},
		{Package: "os/exec", Why: "it starts nothing"},
		{Package: "plugin", Why: "code that a review of the binary does not see"},
		{Package: "database/sql", Why: "SQL engines are large parsers"},
		{Package: "github.com/google/osv-scalibr", Why: "its extractors link net/http and file systems of other machines (docs/adr/0009)"},
		{Package: "testing", Why: "it registers flags in every binary that links it"},
	})
}
