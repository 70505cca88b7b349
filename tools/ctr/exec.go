package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// execConfig is what `ctr exec` tells its child.
type execConfig struct {
	ID       string
	PID      int
	UID, GID int
	Userns   bool
	CapAdd   []string
	Covers   []string
	Pause    bool
	Env      []string
	Args     []string
}

func cmdExec(args []string) error {
	x := execConfig{}
	fs := flag.NewFlagSet("ctr exec", flag.ContinueOnError)
	id := fs.String("id", "", "container ID or the beginning of one")
	state := fs.String("state", defaultState, "where containers are recorded")
	fs.IntVar(&x.UID, "uid", 0, "user ID of CMD")
	fs.IntVar(&x.GID, "gid", -1, "group ID of CMD (default: as --uid)")
	fs.Var(listFlag{&x.CapAdd}, "cap-add", "capability that CMD has besides the container's, as with docker exec --privileged; repeatable")
	fs.Var(listFlag{&x.Env}, "env", "K=V; repeatable")
	fs.Var(listFlag{&x.Covers}, "cover", "SRC:DST, both in the container: bind SRC on DST on the way in; repeatable")
	fs.BoolVar(&x.Pause, "pause", false, "wait for a byte on the standard input before CMD is executed, in the container's namespaces")
	born := fs.Bool("clone-into-cgroup", false, "the child is born in the cgroup, as with newer runc")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if x.Args = fs.Args(); len(x.Args) == 0 {
		return &statusError{exitUsage, "no command given; write it after --"}
	}
	if x.GID < 0 {
		x.GID = x.UID
	}
	for _, s := range x.Covers {
		if _, err := parseBind(s); err != nil {
			return &statusError{exitUsage, err.Error()}
		}
	}
	c, err := find(*state, *id)
	if err != nil {
		return err
	}
	if !c.running() {
		return fmt.Errorf("container %s is not running", c.ID)
	}
	x.ID, x.PID, x.Userns, x.CapAdd = c.ID, c.PID, c.Userns, append(x.CapAdd, c.CapAdd...)
	return c.exec(&x, *born)
}

// exec starts a child in the host's namespaces, puts it into the container's cgroup and
// lets it join the rest. The task that executes CMD is this process's own child.
func (c *container) exec(x *execConfig, born bool) error {
	cg, err := os.Open(c.Cgroup)
	if err != nil {
		return err
	}
	defer cg.Close()
	attr := &syscall.SysProcAttr{UseCgroupFD: born, CgroupFD: int(cg.Fd())}
	child, err := startStage(stageExec, []*os.File{os.Stdin, os.Stdout, os.Stderr}, attr)
	if err != nil {
		return err
	}
	defer child.close()
	if !born {
		err = attach(c.Cgroup, child.proc.Pid)
	}
	if err == nil {
		err = child.release(x)
	}
	pid := 0
	if err == nil {
		pid, err = child.await()
	}
	if err != nil {
		_ = child.proc.Kill()
	}
	st, werr := child.proc.Wait()
	switch {
	case err != nil:
		return err
	case werr != nil:
		return werr
	case pid == 0:
		// Killed before it could report: as a killed CMD.
		return &statusError{status: 128 + int(unix.SIGKILL), msg: "exec: the child ended early: " + st.String()}
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return exitWith(waitStatus(proc))
}

// execChild joins a container's namespaces with the task that executes CMD. This
// process is in the container's cgroup already, and stays in the host's mount namespace.
func execChild() error {
	return childMain(func(x *execConfig) *statusError {
		p := &program{}
		pid, failed, err := enter(p, x)
		var errno unix.Errno
		switch {
		case errors.As(err, &errno) && failed >= 0:
			return p.failure(failed, errno)
		case err != nil:
			return &statusError{exitSetup, err.Error()}
		}
		if err := writeReport(report{PID: pid}); err != nil {
			return &statusError{exitSetup, err.Error()}
		}
		return nil
	})
}

// enter forks the task that joins the namespaces and executes CMD, and waits until it
// has. On failure the number of the failed step is returned if it is known, else -1.
func enter(p *program, x *execConfig) (pid, failed int, err error) {
	nsFD := func(name string) (int, error) {
		return unix.Open(fmt.Sprintf("/proc/%d/ns/%s", x.PID, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	// A task cannot change its own PID namespace, only that of its children.
	fd, err := nsFD("pid")
	if err == nil {
		err = unix.Setns(fd, unix.CLONE_NEWPID)
	}
	if err != nil {
		return 0, -1, fmt.Errorf("join the PID namespace: %w", err)
	}
	names := []string{"ipc", "uts", "net", "mnt"}
	if x.Userns {
		names = append([]string{"user"}, names...) // first: it gives the right to the others
	}
	for _, name := range names {
		if fd, err = nsFD(name); err != nil {
			return 0, -1, err
		}
		p.add("join the "+name+" namespace", unix.SYS_SETNS, uintptr(fd), 0)
	}
	mask, err := capMask(x.CapAdd)
	if err == nil {
		err = p.addCovers(x.Covers)
	}
	if err == nil {
		err = p.addCreds(x.UID, x.GID, mask, true)
	}
	if x.Pause {
		b := new([1]byte)
		p.keep = append(p.keep, b)
		p.add("wait for a byte", unix.SYS_READ, 0, uintptr(unsafe.Pointer(b)), 1)
	}
	if err == nil {
		err = p.addExec(x.Args, environ(x.ID, x.Env))
	}
	if err != nil {
		return 0, -1, err
	}
	return forkProgram(p)
}

// addCovers appends mounts in the container's mount namespace.
func (p *program) addCovers(list []string) error {
	for _, s := range list {
		b, err := parseBind(s)
		if err != nil {
			return err
		}
		src, err := unix.BytePtrFromString(b.src)
		if err != nil {
			return err
		}
		dst, err := unix.BytePtrFromString(b.dst)
		if err != nil {
			return err
		}
		p.keep = append(p.keep, src, dst)
		p.add("mount "+b.src+" on "+b.dst, unix.SYS_MOUNT, uintptr(unsafe.Pointer(src)), uintptr(unsafe.Pointer(dst)), 0, unix.MS_BIND)
	}
	return nil
}

func forkProgram(p *program) (pid, failed int, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, -1, err
	}
	result := new([8]byte)
	pid, errno := p.fork(pipe[1], result)
	_ = unix.Close(pipe[1])
	if errno != 0 {
		return 0, -1, fmt.Errorf("fork: %w", errno)
	}
	// The end of the file: the task is executing CMD, or was killed on the way.
	switch n, err := unix.Read(pipe[0], result[:]); {
	case err != nil:
		return 0, -1, fmt.Errorf("read the fork's result: %w", err)
	case n == len(result):
		return 0, int(binary.NativeEndian.Uint32(result[:])), unix.Errno(binary.NativeEndian.Uint32(result[4:]))
	}
	return pid, 0, nil
}

// fork runs p in a child of this process's parent, as runc does, so that nothing of the
// helper stays in the cgroup. A failure is written to fd: step and errno, in result.
//
// The child has one thread and Go's runtime does not know of it: like syscall.forkExec
// it may only make raw system calls. Package syscall cannot do this itself, because
// joining a user or mount namespace must happen between its fork and its exec.
//
//go:nosplit
//go:norace
func (p *program) fork(fd int, result *[8]byte) (pid int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || r != 0 {
		return int(r), errno
	}
	failed, errno := p.run()
	*(*uint32)(unsafe.Pointer(&result[0])) = uint32(failed)
	*(*uint32)(unsafe.Pointer(&result[4])) = uint32(errno)
	unix.RawSyscall6(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(result)), 8, 0, 0, 0)
	for {
		unix.RawSyscall6(unix.SYS_EXIT_GROUP, 1, 0, 0, 0, 0, 0)
	}
}
