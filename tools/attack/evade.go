package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// evadeAttacks are about what stands between an act and whoever judges it: code without a file,
// arguments that change or are too many, and the cgroup by which a container is known.
func evadeAttacks() []attack {
	return []attack{
		{"e8-anon", "E8", "", "code written into memory of one's own", func(e *env) error { return e.exec(prim, "anon") }},
		{"e8-selfmem", "E8", "", "code written over a function of a permitted program by /proc/self/mem", func(e *env) error {
			return e.exec(prim, "selfmem")
		}},
		{"e9-source", "E9", "", "a dropped script read by a shell that runs", e9Source},
		{"e11-race", "E11", "", "a path that changes while it is executed", e11Race},
		{"e13-args", "E13", "", "a dropped program with 4,000 arguments", e13Args},
		{"i2-child", "I2", needAdmin, "a dropped program in a cgroup of one's own making, below the container's", func(e *env) error {
			return dropIn(e, func(tree, own string) (string, error) {
				dir := filepath.Join(tree, own, "below")
				return dir, os.Mkdir(dir, 0o755)
			})
		}},
		{"i2-leave", "I2", needAdmin, "a dropped program in the root of the cgroup tree", func(e *env) error {
			return dropIn(e, toRoot)
		}},
		{"n2-client-left", "N2", needAdmin, "an SSH client in the root of the cgroup tree", func(e *env) error {
			return sshClientIn("127.0.0.1:0", "whole", func(act func() error) error { return inCgroup(e, toRoot, act) })
		}},
		{"n2-server-left", "N2", needAdmin, "an SSH server in the root of the cgroup tree", func(e *env) error {
			return inCgroup(e, toRoot, func() error { return sshServer(e, "127.0.0.1:0", "whole") })
		}},
		{"i2-rmdir", "I2", needAdmin, "a dropped program in the root of the cgroup tree, after the container's own cgroup was removed from inside", func(e *env) error {
			return dropIn(e, leftTo(unix.Rmdir))
		}},
		{"i2-rmdir-uring", "I2", needAdmin, "the same, the container's own cgroup removed by a worker thread of an io_uring", func(e *env) error {
			return dropIn(e, leftTo(func(own string) error { return e.exec(prim, "uringrmdir", own) }))
		}},
	}
}

func e9Source(e *env) error {
	p, err := e.write("script", "echo uid=script\n")
	if err != nil {
		return err
	}
	return e.exec("/bin/sh", "-c", ". "+p)
}

func e11Race(e *env) error {
	p, err := e.drop("/bin/first", "dropped")
	if err != nil {
		return err
	}
	return e.exec(prim, "race", e.target, p, e.path("mark"))
}

func e13Args(e *env) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	args := []string{p}
	for i := range 4000 {
		args = append(args, fmt.Sprintf("%0100d", i))
	}
	return e.exec(args...)
}

// leftTo has the process leave its cgroup, of which then becomes what next does.
func leftTo(next func(own string) error) func(tree, own string) (string, error) {
	return func(tree, own string) (string, error) {
		err := os.WriteFile(filepath.Join(tree, "cgroup.procs"), []byte("0"), 0)
		if err == nil {
			err = next(filepath.Join(tree, own))
		}
		return tree, err
	}
}

func toRoot(tree, _ string) (string, error) { return tree, nil }

// dropIn executes a dropped program in the cgroup that choose returns.
func dropIn(e *env, choose func(tree, own string) (string, error)) error {
	p, err := e.drop(e.target, "dropped")
	if err != nil {
		return err
	}
	return inCgroup(e, choose, func() error { return e.exec(p) })
}

// inCgroup joins the cgroup that choose returns and acts from there. tree is where the hierarchy is
// mounted, own this process's cgroup in it.
func inCgroup(e *env, choose func(tree, own string) (string, error), act func() error) error {
	return withCgroups(e, func(tree string) error {
		own, err := cgroupOf("self")
		if err != nil {
			return err
		}
		dir, err := choose(tree, own)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
		}
		if err != nil {
			return untried(err)
		}
		return act()
	})
}

// withCgroups acts while the hierarchy of cgroups v2 is mounted on tree.
func withCgroups(e *env, act func(tree string) error) error {
	tree := e.path("tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return untried(err)
	}
	if err := unix.Mount("none", tree, "cgroup2", 0, ""); err != nil {
		return untried(fmt.Errorf("mount cgroup2: %w", err))
	}
	// Else the scratch directory's removal would take empty cgroups of the host with it.
	defer func() { _ = unix.Unmount(tree, unix.MNT_DETACH) }()
	return act(tree)
}

// cgroupOf returns the cgroup v2 of a process: a number, or self.
func cgroupOf(pid string) (string, error) {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return "", untried(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path, nil
		}
	}
	return "", untried(fmt.Errorf("process %s has no cgroup v2", pid))
}
