package main

import (
	"testing"

	"github.com/belay-project/belay/internal/archtest/depstest"
)

func TestDeps(t *testing.T) {
	depstest.Check(t, []depstest.Ban{
		{Package: "github.com/cilium/ebpf", Why: "the command asks the agent; it has nothing to do in the kernel"},
		{Package: "github.com/moby", Why: "the command asks the agent, not the runtimes"},
		{Package: "github.com/containerd", Why: "the command asks the agent, not the runtimes"},
		{Package: "os/exec", Why: "it may run as root and shows text that containers chose: it starts nothing"},
		{Package: "google.golang.org/grpc", Why: "the control socket speaks HTTP and JSON"},
	})
}
