package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// privAttacks are about executing with root or with capabilities: P7; and about reaching
// for what enforces: I7.
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
		{"bpf-enumerate", "I7", needBPF, "find and open the host's BPF programs, maps and links", bpfEnumerate},
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

// bpfEnumerate makes the calls by which programs, maps and links of others are found and
// opened. It changes nothing. One that is let through is enough: from a link's descriptor
// to its end is one call more.
func bpfEnumerate(*env) error {
	var last error
	for _, kind := range []struct {
		name       string
		next, open uintptr
	}{
		{"program", unix.BPF_PROG_GET_NEXT_ID, unix.BPF_PROG_GET_FD_BY_ID},
		{"map", unix.BPF_MAP_GET_NEXT_ID, unix.BPF_MAP_GET_FD_BY_ID},
		{"link", unix.BPF_LINK_GET_NEXT_ID, unix.BPF_LINK_GET_FD_BY_ID},
	} {
		// union bpf_attr of these commands: start_id or the id, next_id, open_flags.
		attr := [3]uint32{}
		_, err := bpf(kind.next, &attr)
		if err == nil {
			fmt.Fprintf(os.Stdout, "the first %s has id %d\n", kind.name, attr[1])
			return nil
		}
		if errors.Is(err, unix.ENOENT) { // let through: the host has none
			return nil
		}
		if !refused(err) {
			return fmt.Errorf("list %ss: %w", kind.name, err)
		}
		attr = [3]uint32{1}
		fd, err := bpf(kind.open, &attr)
		if err == nil {
			return unix.Close(fd)
		}
		if !refused(err) {
			return fmt.Errorf("open a %s: %w", kind.name, err)
		}
		last = err
	}
	return last
}

func bpf(cmd uintptr, attr *[3]uint32) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}
