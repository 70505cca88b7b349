package main

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Docker's default capabilities.
// Source: https://github.com/moby/moby/blob/v28.0.0/oci/caps/defaults.go
var dockerCaps = []string{
	"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
	"SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
}

// capNames holds the capabilities by number; see capabilities(7) and
// include/uapi/linux/capability.h.
var capNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
	"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
	"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// capMask returns the bits of Docker's default capabilities and of those in add.
// "ALL" adds every one.
func capMask(add []string) (mask uint64, err error) {
	bit := map[string]uint64{}
	var all uint64
	for i, name := range capNames {
		bit[name] = 1 << i
		all |= 1 << i
	}
	for _, name := range dockerCaps {
		mask |= bit[name]
	}
	for _, name := range add {
		short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		switch {
		case short == "ALL":
			mask = all
		case bit[short] == 0:
			return 0, fmt.Errorf("--cap-add %s: no such capability", name)
		default:
			mask |= bit[short]
		}
	}
	return mask, nil
}

// A step is one system call of a task that is about to execute a program. Steps are
// prepared while Go's runtime is whole, and can then run in a forked child where it is
// not: there no memory may be allocated and no lock taken.
type step struct {
	what string
	nr   uintptr
	a    [4]uintptr
}

// A program is the steps of one task, then the execve calls to try in turn, and the
// memory that their arguments point to.
type program struct {
	steps []step
	execs []step
	keep  []any
}

func (p *program) add(what string, nr uintptr, a ...uintptr) {
	s := step{what: what, nr: nr}
	copy(s.a[:], a)
	p.steps = append(p.steps, s)
}

// addCreds appends the steps that take a root task to uid with the capabilities of
// mask. As with runc under Docker, a task that is not root keeps them in its bounding
// set only. pdeathsig comes after the change of user, which clears it.
func (p *program) addCreds(uid, gid int, mask uint64, dieWithParent bool) error {
	last, err := lastCap()
	if err != nil {
		return err
	}
	for i := range last + 1 {
		if mask&(1<<i) == 0 {
			p.add("drop a capability", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(i))
		}
	}
	mask &= 1<<(last+1) - 1
	p.add("clear ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	p.add("setgroups", unix.SYS_SETGROUPS, 0, 0)
	p.add("setgid", unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
	p.add("setuid", unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
	if uid != 0 {
		mask = 0
	}
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{
		{Effective: uint32(mask), Permitted: uint32(mask)},
		{Effective: uint32(mask >> 32), Permitted: uint32(mask >> 32)},
	}
	p.keep = append(p.keep, hdr, data)
	p.add("capset", unix.SYS_CAPSET, uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(data)))
	if dieWithParent {
		p.add("set the parent death signal", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	}
	return nil
}

// lastCap returns the highest capability this kernel has.
func lastCap() (int, error) {
	for i := range slices.Backward(capNames) {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil {
			return i, nil
		}
	}
	return 0, fmt.Errorf("this kernel reports no capabilities")
}

// addExec appends the execve calls for args: one, or one for each directory of PATH if
// the name has no slash.
func (p *program) addExec(args, env []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envp, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	names := []string{args[0]}
	if !strings.Contains(args[0], "/") {
		names = nil
		for dir := range strings.SplitSeq(defaultPath, ":") {
			names = append(names, dir+"/"+args[0])
		}
	}
	p.keep = append(p.keep, argv, envp)
	for _, name := range names {
		b, err := unix.BytePtrFromString(name)
		if err != nil {
			return err
		}
		p.keep = append(p.keep, b)
		p.execs = append(p.execs, step{what: "exec " + name, nr: unix.SYS_EXECVE, a: [4]uintptr{
			uintptr(unsafe.Pointer(b)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envp[0])),
		}})
	}
	return nil
}

// run makes the calls of p. It returns only on failure: the number of the step that
// failed, execs counted on after steps, and why. It neither allocates nor grows the stack.
//
//go:nosplit
//go:norace
func (p *program) run() (failed int, errno unix.Errno) {
	for i := range p.steps {
		s := &p.steps[i]
		if _, _, errno = unix.RawSyscall6(s.nr, s.a[0], s.a[1], s.a[2], s.a[3], 0, 0); errno != 0 {
			return i, errno
		}
	}
	for i := range p.execs {
		s := &p.execs[i]
		_, _, errno = unix.RawSyscall6(s.nr, s.a[0], s.a[1], s.a[2], 0, 0, 0)
		failed = len(p.steps) + i
		if errno != unix.ENOENT && errno != unix.ENOTDIR {
			break
		}
	}
	return failed, errno
}

// failure words the result of run. A failed exec is CMD's fault, all else is ours.
func (p *program) failure(failed int, errno unix.Errno) *statusError {
	if failed < len(p.steps) {
		return &statusError{exitSetup, fmt.Sprintf("%s: %v", p.steps[failed].what, errno)}
	}
	return &statusError{exitNoExec, fmt.Sprintf("%s: %v", p.execs[failed-len(p.steps)].what, errno)}
}
