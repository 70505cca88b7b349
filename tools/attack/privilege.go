package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// privilegeAttacks ask of the kernel what the section privileges is about: F5, P1, P2, P5 to P8.
func privilegeAttacks() []attack {
	return []attack{
		{"priv-mount", "F5", needAdmin, "mount a file system", func(e *env) error { return unix.Mount("none", e.dir, "tmpfs", 0, "") }},
		{"priv-bind", "F5", needAdmin, "bind a directory elsewhere", func(e *env) error { return unix.Mount("/bin", e.dir, "", unix.MS_BIND, "") }},
		{"priv-remount", "F5", needAdmin, "make a mount writable", func(*env) error {
			return reached(unix.Mount("", "/proc", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		}},
		{"priv-umount", "F5", needAdmin, "bare what a mount covers", func(*env) error { return unix.Unmount("/proc", unix.MNT_DETACH) }},
		{"priv-movemount", "F5", needAdmin, "mount by the new calls", privMoveMount},
		{"priv-move", "F5", needAdmin, "give a mount another place by move_mount", func(e *env) error {
			return unix.MoveMount(unix.AT_FDCWD, "/proc", unix.AT_FDCWD, e.dir, 0)
		}},
		{"priv-pivot", "F5", needAdmin, "change the root", func(*env) error { return reached(unix.PivotRoot(".", ".")) }},
		{"priv-ptrace", "P5", "", "trace a process", func(*env) error { return onChild(unix.PtraceAttach) }},
		{"priv-mem", "P5", "", "read the memory of a process", func(*env) error { return onChild(readMemory) }},
		{"priv-traceme", "P5", "", "be traced by the parent", privTraceme},
		{"priv-userns", "P1", "", "make a user namespace", func(e *env) error {
			return e.start(command{path: e.target, args: []string{"id"}, want: "uid=", sys: userns(1000, 0)})
		}},
		{"priv-module", "P5", needModule, "load a module from memory", func(*env) error { return reached(unix.InitModule(make([]byte, 128), "")) }},
		{"priv-module-fd", "P5", needModule, "load a module from a file", privModuleFD},
		{"priv-autoload", "P5", "", "have the kernel load a protocol's module; whether it tried, its records say", privAutoload},
		{"priv-perf", "P5", needPerf, "open a performance counter", privPerf},
		{"priv-keyctl", "P5", "", "add a key to a keyring of the kernel's", func(*env) error {
			_, err := unix.AddKey("user", "belay", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			return err
		}},
		{"priv-uring", "P6", "", "make an io_uring", privUring},
		{"priv-block", "P5", needRoot, "open a block device of one's own making", privBlock},
		{"priv-corepattern", "P2", needRoot, "open core_pattern for writing", func(*env) error { return openForWriting("/proc/sys/kernel/core_pattern") }},
		{"priv-sysrq", "P2", needRoot, "open sysrq-trigger for writing", func(*env) error { return openForWriting("/proc/sysrq-trigger") }},
		{"priv-signal", "P5", needHostPID, "signal a process of the host", func(*env) error { return unix.Kill(os.Getppid(), 0) }},
		{"priv-nice", "P5", needHostPID, "give a process of the host another priority", func(*env) error {
			return unix.Setpriority(unix.PRIO_PROCESS, os.Getppid(), 0)
		}},
		{"priv-environ", "P5", needHostPID, "read the environment of a process of the host", func(*env) error {
			_, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
			return err
		}},
		{"priv-cgroup", "P5", needAdmin, "open a control file of a cgroup that is not the container's", privCgroup},
		{"priv-setid", "P7", "", "a setuid-root program", func(e *env) error {
			return e.start(command{path: "/bin/suid-id", args: []string{"id"}, want: "euid=0 "})
		}},
		{"priv-cap", "P8", needRoot, "use a capability: give a file away", privChown},
	}
}

// privCgroup opens what moves tasks into the root of the tree, and writes nothing.
func privCgroup(e *env) error {
	return inCgroupTree(e, func(tree string) error { return openForWriting(tree + "/cgroup.procs") })
}

// inCgroupTree acts with the tree of version 2 mounted at a place of its own.
func inCgroupTree(e *env, act func(tree string) error) error {
	tree := e.path("tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return untried(err)
	}
	if err := unix.Mount("none", tree, "cgroup2", 0, ""); err != nil {
		return untried(fmt.Errorf("mount cgroup2: %w", err))
	}
	defer func() { _ = unix.Unmount(tree, unix.MNT_DETACH) }()
	return act(tree)
}

// reached takes any answer but a refusal for a win: the call came to where the kernel looks at
// its arguments.
func reached(err error) error {
	if refused(err) {
		return err
	}
	return nil
}

func privMoveMount(e *env) error {
	fs, err := unix.Fsopen("tmpfs", 0)
	if err != nil {
		return err // the act, where the rule sees it
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return untried(err)
	}
	m, err := unix.Fsmount(fs, 0, 0)
	if err != nil {
		return untried(err)
	}
	defer unix.Close(m)
	return unix.MoveMount(m, "", unix.AT_FDCWD, e.dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// onChild acts on a child that waits. Tracing is of one thread.
func onChild(act func(pid int) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := exec.Command("/bin/sleep", "30")
	if err := c.Start(); err != nil {
		return untried(err)
	}
	defer func() {
		_ = c.Process.Kill()
		_ = unix.PtraceDetach(c.Process.Pid)
		_ = c.Wait()
	}()
	// Until its exec is over, and its program is there and waits, the child has this process's own
	// memory, which is no attack, or none. Its status can be read by everybody.
	for range 1000 {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid)); err == nil && strings.Contains(string(stat), "(sleep) S ") {
			return act(c.Process.Pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return untried(errors.New("the child has not executed its program"))
}

func readMemory(pid int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// privTraceme starts a child that asks for it, which stops at its exec.
func privTraceme(*env) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := exec.Command("/bin/sleep", "30")
	c.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := c.Start(); err != nil {
		return err
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	return nil
}

func privModuleFD(*env) error {
	f, err := os.Open("/bin/id")
	if err != nil {
		return untried(err)
	}
	defer f.Close()
	return reached(unix.FinitModule(int(f.Fd()), "", 0))
}

// privAutoload asks for a protocol that no kernel has any more, nor a module: each try makes the kernel
// look for one anew. The answer is the same whether the search was refused or found nothing.
func privAutoload(*env) error {
	fd, err := unix.Socket(unix.AF_WANPIPE, unix.SOCK_DGRAM, 0)
	if err != nil {
		return reached(err)
	}
	return unix.Close(fd)
}

func privPerf(*env) error {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
	}, 0, -1, -1, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// privUring makes a ring; struct io_uring_params of include/uapi/linux/io_uring.h has 120 bytes.
func privUring(*env) error {
	var params [120]byte
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	switch {
	case errno == unix.ENOSYS:
		return untried(errno)
	case errno != 0:
		return errno
	}
	return unix.Close(int(fd))
}

// privBlock opens a device that does not exist: reached, its driver is asked.
func privBlock(e *env) error {
	path := e.path("block")
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))); err != nil {
		return untried(err)
	}
	f, err := os.Open(path)
	if err == nil {
		err = f.Close()
	}
	return reached(err)
}

func openForWriting(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOENT) {
		return untried(err)
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func privChown(e *env) error {
	path := e.path("mine")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return untried(err)
	}
	return os.Chown(path, 1234, 1234)
}
