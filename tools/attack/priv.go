package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// privAttacks are about executing with root or with capabilities: P7.
func privAttacks() []attack {
	return []attack{
		{"p7-setuid", "P7", "", "a setuid-root program", func(e *env) error {
			return e.start(command{path: "/bin/suid-id", args: []string{"id"}, want: "euid=0 "})
		}},
		{"p7-setuid-exec", "P7", "", "a setuid-root program that becomes root and executes another", func(e *env) error {
			return becomeRoot(e, "/bin/suid-id")
		}},
		{"p7-cap-setuid", "P7", "", "a program with CAP_SETUID that becomes root and executes another", func(e *env) error {
			return becomeRoot(e, "/bin/cap-setuid")
		}},
		{"p7-filecaps", "P7", "", "a program with file capabilities", p7FileCaps},
		{"p7-saved", "P7", needRoot, "a saved user ID of 0 taken back", p7Saved},
		{"p7-root", "P7", needRoot, "a program executed as root", func(e *env) error {
			return e.start(command{path: e.target, args: []string{"id"}, want: "euid=0 "})
		}},
		{"p7-userns", "P7", "", "root of a user namespace of one's own", p7Userns},
	}
}

func becomeRoot(e *env, program string) error {
	return e.start(command{path: program, args: []string{"id", "setuid0", e.target}, want: "uid=0 euid=0 "})
}

func p7FileCaps(e *env) error {
	out, err := output(command{path: "/bin/cap-id", args: []string{"id"}})
	switch {
	case err != nil:
		return err
	case !strings.Contains(out, ran):
		return untried(fmt.Errorf("cap-id printed %q", out))
	case strings.Contains(out, "cap=0000000000000000"):
		return fmt.Errorf("%w: it ran without its capabilities", errRefused)
	}
	return nil
}

// p7Saved is a service that drops root, but not for good.
func p7Saved(e *env) error {
	if os.Getuid() != 0 {
		return untried(errors.New("start it as root"))
	}
	if err := syscall.Setresuid(1000, 1000, 0); err != nil {
		return untried(err)
	}
	if err := syscall.Setresuid(0, 0, 0); err != nil {
		return err
	}
	return e.start(command{path: e.target, args: []string{"id"}, want: "uid=0 euid=0 "})
}

func p7Userns(e *env) error {
	for file, off := range map[string]string{
		"/proc/sys/kernel/unprivileged_userns_clone": "0",
		"/proc/sys/user/max_user_namespaces":         "0",
	} {
		if data, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(data)) == off {
			return untried(fmt.Errorf("user namespaces are off: %s", file))
		}
	}
	return e.start(command{path: e.target, args: []string{"id"}, want: "uid=0 euid=0 ", sys: userns(0, 0)})
}

// userns returns the attributes of a child in a user namespace, in which it has the
// user ID inside, and in the namespaces of flags.
func userns(inside int, flags uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: inside, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: inside, HostID: os.Getgid(), Size: 1}},
	}
}
