package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	stageRun    = "run-child"
	stageExec   = "exec-child"
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// Descriptors of a child, beside the standard ones.
	fdConfig = 3 // what to do; the child waits on it until it is in the cgroup
	fdStatus = 4 // what went wrong; closed by a successful exec
)

// report is what a child writes to fdStatus.
type report struct {
	Ready  bool // the child runs
	Status int
	Msg    string
	PID    int // exec: the host's ID of the task that executes CMD
}

func cmdRun(args []string) error {
	f, err := parseRun(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("run needs root")
	}
	c, err := create(f)
	if err != nil {
		return err
	}
	proc, err := c.start(f)
	if err != nil {
		return errors.Join(err, c.remove())
	}
	if f.Detach {
		fmt.Fprintln(os.Stdout, c.ID)
		return nil
	}
	status := waitStatus(proc)
	if err := c.remove(); err != nil {
		return err
	}
	return exitWith(status)
}

// create makes the container's folder and cgroup; the container's record of them is
// complete at every return, so that remove undoes what was done.
func create(f *runFlags) (*container, error) {
	var err error
	if f.Rootfs, err = filepath.Abs(f.Rootfs); err != nil {
		return nil, err
	}
	if f.State, err = filepath.Abs(f.State); err != nil {
		return nil, err
	}
	root, err := cgroupRoot()
	if err != nil {
		return nil, err
	}
	if f.ID == "" {
		f.ID = newID()
	}
	if f.CgroupName == "" {
		f.CgroupName = f.ID
	}
	c := &container{ID: f.ID, Userns: f.Userns, CapAdd: f.CapAdd, dir: filepath.Join(f.State, f.ID)}
	// Another container's remover may take the empty folder away between the two.
	for range 100 {
		if err = os.MkdirAll(f.State, 0o755); err == nil {
			err = os.Mkdir(c.dir, 0o755)
		}
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", f.ID, err)
	}
	for _, sub := range []string{"layers", "merged"} {
		if err := os.Mkdir(filepath.Join(c.dir, sub), 0o755); err != nil {
			return nil, errors.Join(err, c.remove())
		}
	}
	c.Cgroup, c.MadeParent, err = makeCgroup(root, f.CgroupParent, f.CgroupName)
	if err != nil {
		return nil, errors.Join(err, c.remove())
	}
	return c, nil
}

// start runs the container's first process up to its exec of CMD, which has succeeded
// when start returns without error.
func (c *container) start(f *runFlags) (*os.Process, error) {
	attr := &syscall.SysProcAttr{Setsid: f.Detach}
	if !f.Detach {
		attr.Pdeathsig = syscall.SIGKILL
	}
	if f.IPC == "own" {
		attr.Cloneflags |= unix.CLONE_NEWIPC
	}
	if f.UTS == "own" {
		attr.Cloneflags |= unix.CLONE_NEWUTS
	}
	if f.PIDNS == "own" {
		attr.Cloneflags |= unix.CLONE_NEWPID
	}
	if f.Net == "none" {
		attr.Cloneflags |= unix.CLONE_NEWNET
	}
	if f.Userns {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: usernsBase, Size: usernsSize}}
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = ids, ids, true
		attr.Credential = &syscall.Credential{}
	}
	cg, err := os.Open(c.Cgroup)
	if err != nil {
		return nil, err
	}
	defer cg.Close()
	attr.UseCgroupFD, attr.CgroupFD = f.IntoCgroup, int(cg.Fd())
	stdio := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	if f.Detach {
		if stdio, err = c.logFiles(); err != nil {
			return nil, err
		}
		defer closeAll(stdio)
	}
	child, err := startStage(stageRun, stdio, attr)
	if err != nil {
		return nil, err
	}
	defer child.close()
	if err = c.adopt(child.proc.Pid, !f.IntoCgroup); err == nil {
		err = child.release(f)
	}
	if err == nil {
		_, err = child.await()
	}
	if err != nil {
		_ = child.proc.Kill()
		_, _ = child.proc.Wait()
		return nil, err
	}
	return child.proc, nil
}

// adopt records pid as the container's first process and puts it into the cgroup
// unless it was born there.
func (c *container) adopt(pid int, move bool) (err error) {
	c.PID = pid
	if c.Start, err = startTime(pid); err != nil {
		return err
	}
	if move {
		if err := attach(c.Cgroup, pid); err != nil {
			return err
		}
	}
	return c.save()
}

func (c *container) logFiles() ([]*os.File, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, errors.Join(err, null.Close())
	}
	return []*os.File{null, log, log}, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // twice for the log: harmless
	}
}

// A stage is this program run again as a child that waits to be told what to do.
type stage struct {
	proc           *os.Process
	config, status *os.File
	reports        *json.Decoder // of status
}

// startStage returns when the child runs. A child that is put into a cgroup before its exec is
// over would be judged there as the container's program.
func startStage(name string, stdio []*os.File, attr *syscall.SysProcAttr) (*stage, error) {
	configR, configW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer configR.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, configW.Close())
	}
	defer statusW.Close()
	s := &stage{config: configW, status: statusR, reports: json.NewDecoder(io.LimitReader(statusR, 1<<16))}
	s.proc, err = os.StartProcess("/proc/self/exe", []string{"ctr", name}, &os.ProcAttr{
		Env: []string{}, Files: append(append([]*os.File{}, stdio...), configR, statusW), Sys: attr,
	})
	if err != nil {
		s.close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	_ = statusW.Close() // or the end of a child that is killed is not seen
	// One that was born in the cgroup may have been: await says so.
	_ = s.reports.Decode(new(report))
	return s, nil
}

func (s *stage) close() {
	_ = s.config.Close()
	_ = s.status.Close()
}

// release tells the waiting child what to do.
func (s *stage) release(config any) error {
	if err := json.NewEncoder(s.config).Encode(config); err != nil {
		return fmt.Errorf("release the child: %w", err)
	}
	return s.config.Close()
}

// await reads the child's reports until an exec closes the pipe. It returns the PID
// that was reported, if any, and the failure that was.
func (s *stage) await() (pid int, err error) {
	for {
		var r report
		switch derr := s.reports.Decode(&r); {
		case errors.Is(derr, io.EOF):
			return pid, err
		case derr != nil:
			return pid, fmt.Errorf("read the child's report: %w", derr)
		}
		if r.PID != 0 {
			pid = r.PID
		}
		if r.Status != 0 {
			err = &statusError{r.Status, r.Msg}
		}
	}
}

// waitStatus waits for proc, which it kills when this program is told to stop.
func waitStatus(proc *os.Process) syscall.WaitStatus {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-stop:
			// A container's first process ignores every signal it does not handle, but this.
			_ = proc.Kill()
		case <-done:
		}
	}()
	st, err := proc.Wait()
	close(done)
	<-stopped
	if err != nil {
		return syscall.WaitStatus(exitSetup << 8)
	}
	return st.Sys().(syscall.WaitStatus)
}

func exitWith(ws syscall.WaitStatus) error {
	switch {
	case ws.Signaled():
		return &statusError{status: 128 + int(ws.Signal())}
	case ws.ExitStatus() != 0:
		return &statusError{status: ws.ExitStatus()}
	}
	return nil
}
