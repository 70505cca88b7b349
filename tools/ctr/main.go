// Command ctr starts and enters real containers without a container engine, in the
// order of events in which runc does it, so that what the kernel sees of a container
// can be tested in milliseconds instead of seconds.
//
// It owns the cgroup of each container it starts and one folder a container below its
// state directory; every mount lives in the container's own mount namespace and ends
// with it. It never talks to an engine, never applies seccomp or AppArmor, and is a
// test tool: rootfs and binds are trusted. It depends on golang.org/x/sys/unix only.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

const usageText = `usage:
  ctr run [flags] -- CMD ARGS…     start a container, wait for it, pass its status on
  ctr exec --id ID [flags] -- CMD  run CMD in a container, as docker exec would
  ctr rm --id ID                   kill a container and remove what is left of it
  ctr mkroot [flags] DIR           build a small root file system for tests

A container's cgroup is /<cgroup-parent>/<64 hex> of the cgroup v2 tree. The child is
in the host's mount namespace when it enters the cgroup, then makes its own, mounts
overlay (upper layer on a tmpfs of its own), /proc, a minimal /dev and /dev/shm, pivots,
drops capabilities to Docker's default set and executes CMD. There is no seccomp filter.
ID may be any unambiguous beginning of an ID. "ctr run -h" lists the flags.

exit status: CMD's (128+N if signal N killed it); 126 if CMD could not be executed;
125 if the container could not be made; 64 on wrong usage.
`

const (
	exitUsage  = 64
	exitSetup  = 125
	exitNoExec = 126
)

// statusError ends the program with a status of its own. The message is printed
// unless it is empty.
type statusError struct {
	status int
	msg    string
}

func (e *statusError) Error() string { return e.msg }

// The namespaces and credentials set here belong to one thread, so the main goroutine
// stays on the main thread; only an init function can promise that.
func init() { runtime.LockOSThread() }

func main() {
	err := dispatch(os.Args[1:])
	if err == nil {
		return
	}
	status := exitSetup
	if se, ok := errors.AsType[*statusError](err); ok {
		status = se.status
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintln(os.Stderr, "ctr: "+msg)
	}
	os.Exit(status)
}

func dispatch(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usageText)
		return &statusError{status: exitUsage}
	}
	switch args[0] {
	case "run":
		return cmdRun(args[1:])
	case "exec":
		return cmdExec(args[1:])
	case "rm":
		return cmdRm(args[1:])
	case "mkroot":
		return cmdMkroot(args[1:])
	case stageRun:
		return runChild()
	case stageExec:
		return execChild()
	case "-h", "--help", "help":
		fmt.Fprint(os.Stdout, usageText)
		return nil
	}
	return &statusError{exitUsage, fmt.Sprintf("unknown command %q; ctr -h lists them", args[0])}
}
