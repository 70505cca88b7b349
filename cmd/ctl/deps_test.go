package main

import (
	"testing"

	"github.com/belay-project/belay/internal/archtest/depstest"
)

// TestDeps: os/exec is linked for one thing, the scanner in its sandbox
// (internal/sandbox/spawn, the only place that archtest allows).
func TestDeps(t *testing.T) {
	depstest.Check(t, []depstest.Ban{
		{Package: "github.com/cilium/ebpf", Why: "the command asks the agent; it has nothing to do in the kernel"},
		{Package: "github.com/moby", Why: "the command asks the agent, not the runtimes"},
		{Package: "github.com/containerd/containerd/v2", Why: "the command asks the agent, not the runtimes; scan looks names up by containerd's own API alone (docs/adr/0012)"},
		{Package: "github.com/belay-project/belay/internal/scan/image", Why: "images are read in the scanner's sandbox only"},
		{Package: "github.com/belay-project/belay/internal/scan/extract", Why: "images are read in the scanner's sandbox only"},
		{Package: "archive/tar", Why: "images are read in the scanner's sandbox only"},
	})
}
