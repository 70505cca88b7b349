package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// phaseAttacks are about rules that hold only after a container's start (spec.phase): I11. Each
// tries to do what is denied then. They want a policy whose start lasts one second, or until the
// first listen.
func phaseAttacks() []attack {
	return []attack{
		{"phase-wait", "I11", "", "never listens, and waits until the start must be over", phaseWait},
		{"phase-fork", "I11", "", "the same by a child's child in a session of its own", phaseFork},
		{"phase-reexec", "I11", "", "the same, having executed another program in the first process", phaseReexec},
		{"phase-listen", "I11", "", "listens, closes the socket and goes on", func(e *env) error { return phaseListen(e, 1) }},
		{"phase-listen-twice", "I11", "", "listens again and again", func(e *env) error { return phaseListen(e, 3) }},
		{"phase-listen-child", "I11", "", "a child listens and ends", phaseListenChild},
		{"phase-listen-unbound", "I11", "", "listens on a socket that it never bound", phaseListenUnbound},
		{"phase-listen-v6", "I11", "", "listens by IPv6", phaseListenV6},
		{"phase-listen-mptcp", "I11", "", "listens by MPTCP", phaseListenMPTCP},
	}
}

// phaseOver is longer than the start of the policies under which these attacks are played.
const phaseOver = 1500 * time.Millisecond

func phaseWait(e *env) error {
	pause(phaseOver)
	return dropAndRun(e)
}

// phaseFork is a daemon's way: what was the container's first process is no ancestor any more.
func phaseFork(e *env) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	script, err := e.write("daemon.sh", "#!/bin/sh\n(sleep 2; "+p+" >"+e.path("out")+" 2>&1; echo $? >"+e.path("code.new")+"; mv "+e.path("code.new")+" "+e.path("code")+") &\n")
	if err != nil {
		return err
	}
	if err := exec.Command(busybox, "setsid", busybox, "sh", script).Run(); err != nil {
		return untried(err)
	}
	for range 300 {
		if code, err := os.ReadFile(e.path("code")); err == nil {
			if out, _ := os.ReadFile(e.path("out")); string(code) == "0\n" && len(out) > 0 {
				return nil
			}
			return fmt.Errorf("%w: exit status %s", errRefused, code)
		}
		pause(50 * time.Millisecond)
	}
	return untried(errors.New("the daemon gave no answer"))
}

// phaseReexec executes the shell in its own place; the shell runs what was dropped.
func phaseReexec(e *env) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	return e.exec(busybox, "sh", "-c", "sleep 2; exec "+busybox+" sh -c 'exec "+p+"'")
}

func phaseListen(e *env, times int) error {
	for range times {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return untried(err)
		}
		if err := l.Close(); err != nil {
			return untried(err)
		}
	}
	return dropAndRun(e)
}

func phaseListenChild(e *env) error {
	if out, err := exec.Command("/proc/self/exe", "listen").CombinedOutput(); err != nil {
		return untried(fmt.Errorf("%w: %s", err, out))
	}
	return dropAndRun(e)
}

func phaseListenUnbound(e *env) error {
	return listenRaw(e, unix.AF_INET, unix.IPPROTO_TCP)
}

func phaseListenV6(e *env) error {
	return listenRaw(e, unix.AF_INET6, unix.IPPROTO_TCP)
}

func phaseListenMPTCP(e *env) error {
	return listenRaw(e, unix.AF_INET, unix.IPPROTO_MPTCP)
}

func listenRaw(e *env, family, proto int) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return untried(err)
	}
	defer unix.Close(fd)
	if err := unix.Listen(fd, 1); err != nil {
		return untried(err)
	}
	return dropAndRun(e)
}

// listenOnce is what tests run in a container to end its start.
func listenOnce() int {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "attack: listen: %v\n", err)
		return exitUntried
	}
	return exitWon
}
