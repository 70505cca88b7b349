package spawn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUntrusted is returned for a program that others than root could have changed.
var ErrUntrusted = errors.New("others than root may change it")

// Command runs a program of the host that the operator has named, with an input, and waits for
// it. Unlike [Run] it has the host's network and files, since mail goes there: it is for what
// root has chosen, never for what reads hostile bytes of a form that matters. It has an empty
// environment but for PATH, none of the caller's protection from being killed for memory, and ends, with all that
// it has started in its process group, after the timeout; 0: it ends by itself, or with ctx.
//
// Errors: [ErrUntrusted]; [*LimitError] at the timeout; [*ExitError] if it failed.
func Command(ctx context.Context, path string, args []string, input []byte, timeout time.Duration) error {
	return CommandIn(ctx, Limits{}, path, args, input, timeout)
}

// Limits are those of a program that is not to share the caller's: it has a cgroup of its own, where one can be
// made.
type Limits struct {
	Kind       string // what the cgroup's name begins with
	MemoryMax  int64  // bytes; 0: no cgroup of its own
	Processors int    // at most so many at a time; under version 1 as the caller
	// Grace is how long a program that starts no others may take to end, when it is asked to (SIGTERM) because
	// ctx or its time is over; 0: it is killed.
	Grace time.Duration
}

// CommandIn is [Command] with limits of its own.
//
// Errors: also [*LimitError] at its memory.
func CommandIn(ctx context.Context, l Limits, path string, args []string, input []byte, timeout time.Duration) error {
	return command(ctx, l, path, args, input, nil, timeout)
}

// OutputIn is [CommandIn] for what it writes to its standard output, of which it may be most bytes.
//
// Errors: also [ErrOutput].
func OutputIn(ctx context.Context, l Limits, path string, args []string, most int, timeout time.Duration) ([]byte, error) {
	out := &bounded{most: most}
	err := command(ctx, l, path, args, nil, out, timeout)
	if out.over {
		err = ErrOutput
	}
	return out.b.Bytes(), err
}

// ErrOutput says that a program has written more than was to be read.
var ErrOutput = errors.New("it writes more than it may")

type bounded struct {
	b    bytes.Buffer
	most int
	over bool
}

func (w *bounded) Write(p []byte) (int, error) {
	if w.over = w.over || w.b.Len()+len(p) > w.most; w.over {
		return 0, ErrOutput
	}
	return w.b.Write(p)
}

func command(ctx context.Context, l Limits, path string, args []string, input []byte, out io.Writer, timeout time.Duration) error {
	real, err := trusted(path)
	if err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	timed := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		timed, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep open files from %s: %w (close_range with CLOEXEC takes Linux 5.11)", path, err)
	}
	cmd := exec.CommandContext(timed, real, args...)
	cmd.Args[0] = path // programs such as sendmail go by the name they are called by
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout = out
	stderr := new(tail)
	cmd.Stderr = stderr
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if l.Grace > 0 {
		cmd.WaitDelay = l.Grace
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	}
	cg, err := newCgroup(l.Kind, l.MemoryMax, 0, false)
	if err != nil && !errors.Is(err, errNoCgroup) {
		return fmt.Errorf("start %s: %w", path, err)
	}
	if cg != nil {
		defer cg.remove()
		cg.limitCPU(max(l.Processors, 1))
	}
	err = runIn(cmd, cg)
	switch exit, failed := errors.AsType[*exec.ExitError](err); {
	case ctx.Err() != nil:
		return ctx.Err()
	case timed.Err() != nil:
		return &LimitError{What: "time", Cap: timeout.String()}
	case failed && cg != nil && cg.oomKilled():
		return &LimitError{What: "memory", Cap: strconv.FormatInt(l.MemoryMax, 10) + " bytes"}
	case failed:
		return &ExitError{Status: exit.Error(), Code: exit.ExitCode(), Stderr: stderr.String()}
	case err != nil:
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

// runIn runs a program in a cgroup, or, without one, in ours.
func runIn(cmd *exec.Cmd, cg *cgroup) error {
	if cg != nil && cg.v2 {
		dir, err := os.Open(cg.dir)
		if err != nil {
			return err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err := raiseOOM(cmd.Process.Pid, 0)
	if err == nil && cg != nil && !cg.v2 {
		err = cg.add(cmd.Process.Pid)
	}
	if err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return cmd.Wait()
}

// trusted follows links and returns the program itself, if it and every directory above it
// are root's, and others cannot write them.
func trusted(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", errors.New("want an absolute path")
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	for at := real; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		if at == real && !info.Mode().IsRegular() {
			return "", errors.New("it is no file")
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid != 0 || info.Mode()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return "", fmt.Errorf("%w; fix: chown root %s and chmod go-w %s", ErrUntrusted, at, at)
		}
		if at == "/" {
			return real, nil
		}
	}
}
