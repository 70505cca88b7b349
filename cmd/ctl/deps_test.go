package main

import (
	"testing"

	"github.com/belay-project/belay/internal/archtest/depstest"
)

// TestDeps: os/exec is linked for one thing, the scanner in its sandbox
// (internal/sandbox/spawn, the only place that archtest allows), and the hook of a move.
// archive/tar is linked to compare copies of volumes: it unpacks nothing.
func TestDeps(t *testing.T) {
	depstest.Check(t, []depstest.Ban{
		{Package: "github.com/cilium/ebpf", Why: "the command asks the agent; it has nothing to do in the kernel"},
		{Package: "github.com/moby/moby/client", Why: "what the runtimes do is the agent's to know; a move asks two engines by the API's types alone (docs/adr/0017-moving.md)"},
		{Package: "github.com/containerd/containerd/v2", Why: "the command asks the agent, not the runtimes; scan looks names up by containerd's own API alone (docs/adr/0012)"},
		{Package: "github.com/belay-project/belay/internal/scan/image", Why: "images are read in the scanner's sandbox only"},
		{Package: "github.com/belay-project/belay/internal/scan/extract", Why: "images are read in the scanner's sandbox only"},
	})
}
