// Package spawn starts a program that is going to read hostile bytes, in namespaces
// and a cgroup of its own, feeds it, takes a bounded answer from it and kills it at
// its time or memory cap.
//
// It owns the child process and its cgroup until [Run] returns; nothing of either is
// left then. It believes nothing that the child writes. It starts only the program
// that its caller names by an absolute path, with an empty environment. Row: adapter.
package spawn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options describes one run.
type Options struct {
	Path string // absolute path of the program
	Args []string
	// Files become descriptors 3 and up.
	Files []*os.File
	// Input makes what the program reads on its standard input, after it was put into
	// its cgroup and before it did anything. cgroup tells whether it is in one.
	Input func(cgroup bool) ([]byte, error)
	// Output reads the program's standard output, which it must take for hostile and
	// bound by itself. When it returns an error the program is killed.
	Output func(io.Reader) error
	// Timeout is the cap of wall time; 0 is ten minutes.
	Timeout time.Duration
	// MemoryMax is the cap in bytes for the cgroup.
	MemoryMax int64
	// Idle asks the cgroup for the lowest share of the processor and of block devices.
	Idle bool
	// Without lists pieces that may be missing where the caller is privileged: "namespaces", "cgroup". Who is not has
	// those that can be had.
	Without []string
}

// Report says how the child was held from outside.
type Report struct {
	Namespaces bool // it had a network, IPC and process namespace of its own
	Cgroup     bool // it was in a cgroup of its own with a memory cap
}

// LimitError says that the child was killed at a cap.
type LimitError struct {
	What string // "time", "memory" or "thread"
	Cap  string // with its unit
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("killed at its %s cap of %s", e.What, e.Cap)
}

// ExitError says that the child ended otherwise than it should.
type ExitError struct {
	Status string
	Code   int // of its exit; -1: a signal ended it
	// Stderr is the end of what it wrote, of [Run] the beginning: hostile text of at most 4 KiB.
	Stderr string
}

func (e *ExitError) Error() string { return "ended with " + e.Status + ": " + e.Stderr }

// DefaultTimeout is the cap of wall time of who sets none.
const DefaultTimeout = 10 * time.Minute

const maxStderr = 4 << 10

// maxThreads bounds the threads of a child, in its cgroup, or in its user namespace where it has that instead.
const maxThreads = 64

// Run starts the program and waits for it.
//
// Errors: [*LimitError] at a cap, [*ExitError] if it failed, the error of
// [Options.Output], that of ctx, and errors of starting it. The child is gone when it
// returns.
func Run(ctx context.Context, o Options) (Report, error) {
	if !filepath.IsAbs(o.Path) {
		return Report{}, fmt.Errorf("start %q: want an absolute path", o.Path)
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	cg, err := o.cgroup()
	if err != nil {
		return Report{}, err
	}
	if cg != nil {
		defer cg.remove()
	}
	timed, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	p, err := start(timed, o)
	if err != nil {
		return Report{}, err
	}
	rep := Report{Namespaces: p.namespaces, Cgroup: cg != nil}
	err = p.talk(cg, o)
	return rep, p.verdict(ctx, timed, cg, o, err)
}

// Probe tells beforehand why [Run] would start nothing for want of a cgroup, unless that is named in without. Namespaces
// every kernel has that runs containers.
func Probe(without []string) error {
	o := Options{MemoryMax: 64 << 20, Without: without}
	cg, err := o.cgroup()
	if cg != nil {
		cg.remove()
	}
	return err
}

// cgroup makes that of a run; nil where it may be missing.
func (o *Options) cgroup() (*cgroup, error) {
	cg, err := newCgroup("belay-scan-", o.MemoryMax, maxThreads, o.Idle)
	if errors.Is(err, errNoCgroup) {
		err = o.lacks("cgroup", err)
	}
	return cg, err
}

// lacks returns the error about a piece that cannot be had, if it must be.
func (o *Options) lacks(piece string, why error) error {
	if !privileged() || slices.Contains(o.Without, piece) {
		return nil
	}
	return fmt.Errorf("the sandbox piece %q cannot be had here: %w; to go on without it, name it: --sandbox-without %s", piece, why, piece)
}

// privileged reports whether this process may make namespaces and cgroups on a kernel that has them. Root of a
// container mostly may not, nor may that of a user namespace, whose capabilities are for what the namespace owns: they
// count as any user does. Source: user_namespaces(7).
func privileged() bool {
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	err := unix.Capget(hdr, &caps[0])
	if os.Geteuid() != 0 || err == nil && caps[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return false
	}
	users, err := os.ReadFile("/proc/self/uid_map")
	return err != nil || slices.Equal(strings.Fields(string(users)), []string{"0", "0", "4294967295"})
}

// child is a started program, with our ends of its pipes.
type child struct {
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        io.ReadCloser
	stderr     *head
	namespaces bool
}

// start starts the program in namespaces of its own; where an unprivileged caller may
// not make them, or one that is gave them up, without.
func start(ctx context.Context, o Options) (*child, error) {
	flags := uintptr(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWUTS)
	if os.Geteuid() != 0 {
		flags |= unix.CLONE_NEWUSER
	}
	// What this process inherited without close-on-exec must not reach the child.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("keep open files from %s: %w (close_range with CLOEXEC takes Linux 5.11)", o.Path, err)
	}
	p, err := try(ctx, o, flags)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) {
		if err := o.lacks("namespaces", err); err != nil {
			return nil, err
		}
		p, err = try(ctx, o, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Path, err)
	}
	return p, nil
}

func try(ctx context.Context, o Options, flags uintptr) (*child, error) {
	cmd := exec.CommandContext(ctx, o.Path, o.Args...)
	cmd.Env = []string{"GOTRACEBACK=none", "GOMAXPROCS=2"}
	cmd.Dir = "/"
	cmd.ExtraFiles = o.Files
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
	c := &child{cmd: cmd, stderr: new(head), namespaces: flags != 0}
	cmd.Stderr = c.stderr
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if c.out, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err = raiseOOM(cmd.Process.Pid, oomFirst)
	if err == nil && flags&unix.CLONE_NEWUSER != 0 {
		err = limitThreads(cmd.Process.Pid)
	}
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return c, nil
}

// limitThreads caps the threads of a child in a user namespace of its own, where its user has no others (Linux 5.14;
// user_namespaces(7)).
func limitThreads(pid int) error {
	if err := unix.Prlimit(pid, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: maxThreads, Max: maxThreads}, nil); err != nil {
		return fmt.Errorf("cap its threads: %w", err)
	}
	return nil
}

// oomFirst has the child killed before what the host is for, where it has no memory left.
const oomFirst = 500

// raiseOOM raises the score by which the kernel chooses whom to kill for memory to at least that (from
// -1000, never, to 1000: proc_pid_oom_score_adj(5)). A child inherits ours, and the agent's is low.
func raiseOOM(pid, score int) error {
	raw, err := os.ReadFile(oomScore("self"))
	if err != nil {
		return fmt.Errorf("read the OOM score: %w", err)
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("read the OOM score: %w", err)
	}
	if own >= score {
		return nil
	}
	if err := os.WriteFile(oomScore(strconv.Itoa(pid)), []byte(strconv.Itoa(score)), 0); err != nil {
		return fmt.Errorf("raise the OOM score: %w", err)
	}
	return nil
}

func oomScore(pid string) string { return "/proc/" + pid + "/oom_score_adj" }

// talk puts the child into its cgroup, gives it its input and reads its output. The
// child is waited for by verdict.
func (c *child) talk(cg *cgroup, o Options) error {
	err := func() error {
		if cg != nil {
			if err := cg.add(c.cmd.Process.Pid); err != nil {
				return err
			}
		}
		b, err := o.Input(cg != nil)
		if err != nil {
			return err
		}
		if _, err := c.in.Write(b); err != nil {
			return fmt.Errorf("give %s its input: %w", o.Path, err)
		}
		if err := c.in.Close(); err != nil {
			return err
		}
		return o.Output(c.out)
	}()
	if err != nil {
		// It may wait for a reader that is gone.
		c.cmd.Process.Kill()
	}
	return err
}

// verdict waits for the child and names the cause of a failure; caps come first,
// since what was read breaks off then.
func (c *child) verdict(ctx, timed context.Context, cg *cgroup, o Options, talked error) error {
	waited := c.cmd.Wait()
	stderr := c.stderr.String()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case timed.Err() != nil:
		return &LimitError{What: "time", Cap: o.Timeout.String()}
	case cg != nil && cg.oomKilled():
		return &LimitError{What: "memory", Cap: mebibytes(o.MemoryMax)}
	}
	exit, failed := errors.AsType[*exec.ExitError](waited)
	switch {
	case failed && signalled(exit, syscall.SIGXCPU):
		return &LimitError{What: "time", Cap: "processor time"}
	case failed && exit.ExitCode() == 2 && strings.Contains(stderr, "out of memory"):
		// RLIMIT_DATA: the Go runtime dies with this sentence.
		return &LimitError{What: "memory", Cap: mebibytes(o.MemoryMax)}
	case failed && exit.ExitCode() == 2 && strings.Contains(stderr, "failed to create new OS thread"):
		// So does it at the cap of threads.
		return &LimitError{What: "thread", Cap: strconv.Itoa(maxThreads)}
	case failed && !(signalled(exit, syscall.SIGKILL) && talked != nil):
		return &ExitError{Status: exit.Error(), Code: exit.ExitCode(), Stderr: stderr}
	case talked != nil:
		return talked
	case failed:
		return &ExitError{Status: exit.Error(), Code: exit.ExitCode(), Stderr: stderr}
	case waited != nil:
		return fmt.Errorf("wait for %s: %w", o.Path, waited)
	}
	return nil
}

func signalled(e *exec.ExitError, s syscall.Signal) bool {
	ws, ok := e.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == s
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// head keeps the first bytes of what is written and drops the rest, so that a child
// cannot fill the memory of its parent.
type head struct{ b bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.b.Write(p[:min(len(p), maxStderr-h.b.Len())])
	return len(p), nil
}

func (h *head) String() string { return text(h.b.Bytes()) }

// tail keeps the last bytes: of a program that tells of its progress, why it failed.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[max(0, len(p)-maxStderr):]...)
	t.b = slices.Delete(t.b, 0, max(0, len(t.b)-maxStderr))
	return len(p), nil
}

func (t *tail) String() string { return text(t.b) }

func text(b []byte) string { return strings.TrimSpace(strings.ToValidUTF8(string(b), "?")) }
