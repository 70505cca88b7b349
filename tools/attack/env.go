package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Programs of the image; see tools/ctr/mkroot.go.
const (
	busybox = "/bin/busybox"
	prim    = "/bin/prim"
	dynamic = "/bin/dyn-id"
	ran     = "uid=" // what a program that ran has printed
)

// env is what an attack works with.
type env struct {
	base   string
	dir    string // scratch, empty
	target string
	owned  string
	home   string
	sock   string // socket of the container engine
	peer   string
	over   string
	host   string
	agent  int
	at     string
	count  int
	pid    int
	wait   string
	late   bool
}

// errRefused marks a refusal that has no errno: killed, cut off, no answer.
var errRefused = errors.New("refused")

// untriedError wraps a failure that says nothing about the rule under test, whatever
// its errno.
type untriedError struct{ error }

func untried(err error) error {
	if err == nil {
		return nil
	}
	return untriedError{err}
}

// refused tells a denial from a failure to try.
func refused(err error) bool {
	if _, ok := errors.AsType[untriedError](err); ok {
		return false
	}
	return errors.Is(err, errRefused) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
}

func (e *env) path(name string) string { return filepath.Join(e.dir, name) }

// drop copies from to a file name of the scratch directory, executable, and returns
// its path.
func (e *env) drop(from, name string) (string, error) {
	return e.dropIn(e.dir, from, name)
}

func (e *env) dropIn(dir, from, name string) (string, error) {
	to := filepath.Join(dir, name)
	in, err := os.Open(from)
	if err != nil {
		return "", untried(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", untried(err)
	}
	_, err = io.Copy(out, in)
	return to, untried(errors.Join(err, out.Close()))
}

// write makes an executable file with text and returns its path.
func (e *env) write(name, text string) (string, error) {
	to := e.path(name)
	return to, untried(os.WriteFile(to, []byte(text), 0o755))
}

// deniedWords are how a shell or the dynamic loader tells of a denial that it met. The
// loader keeps the errno of an executable mapping to itself.
var deniedWords = []string{"not permitted", "ermission denied", "failed to map segment"}

// command is one program to execute.
type command struct {
	path  string
	args  []string // args[0] is the name the program is told
	env   []string
	want  string // in its output; default ran
	files []*os.File
	sys   *syscall.SysProcAttr
}

// exec executes argv[0] and wants it to say that it ran.
func (e *env) exec(argv ...string) error { return e.start(command{path: argv[0], args: argv}) }

// start executes c. nil: it ran; a refused error: it was denied or killed.
func (e *env) start(c command) error {
	out, err := output(c)
	if c.want == "" {
		c.want = ran
	}
	switch {
	case strings.Contains(out, c.want):
		return nil
	case err != nil:
		return err
	case slices.ContainsFunc(deniedWords, func(w string) bool { return strings.Contains(out, w) }):
		return fmt.Errorf("%w: %s", errRefused, strings.TrimSpace(out))
	}
	return fmt.Errorf("%s printed %q, want %q", c.path, out, c.want)
}

// output runs c to its end. The error is that of its exec, or tells how it was ended.
func output(c command) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", untried(err)
	}
	defer r.Close()
	attr := &os.ProcAttr{Env: c.env, Files: append([]*os.File{nil, w, w}, c.files...), Sys: c.sys}
	if attr.Env == nil {
		attr.Env = os.Environ()
	}
	proc, err := os.StartProcess(c.path, c.args, attr)
	_ = w.Close()
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if _, err := io.Copy(&out, io.LimitReader(r, 1<<16)); err != nil {
		return "", untried(err)
	}
	return out.String(), wait(proc)
}

// wait words the end of a process: killed and prim's status 1 are refusals.
func wait(proc *os.Process) error {
	st, err := proc.Wait()
	if err != nil {
		return untried(err)
	}
	switch ws := st.Sys().(syscall.WaitStatus); {
	case ws.Signaled():
		return fmt.Errorf("%w: killed by %v", errRefused, ws.Signal())
	case ws.ExitStatus() == exitRefused:
		return fmt.Errorf("%w: exit status 1", errRefused)
	}
	return nil
}

func pause(d time.Duration) { <-time.After(d) }

// stepTime is how long the second step of an attack waits for its turn.
const stepTime = time.Minute

// turn waits between two steps until whoever plays the attack has changed the rules.
func (e *env) turn() error {
	if e.wait == "" {
		return nil
	}
	if err := os.WriteFile(e.wait+".ready", nil, 0o644); err != nil {
		return untried(err)
	}
	for end := time.Now().Add(stepTime); time.Now().Before(end); pause(10 * time.Millisecond) {
		if _, err := os.Stat(e.wait); err == nil {
			return nil
		}
	}
	return untried(fmt.Errorf("%s did not appear", e.wait))
}
