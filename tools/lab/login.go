package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Login is a login session of a user of the host: a shell that leads a session of its own,
// as one on a terminal does. Close it.
type Login struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	dir string
	n   int

	once sync.Once
	err  error
}

// Login starts a session. In its lines docker is the engine's command at the agent's gate and
// belay asks the agent.
func (a *Agent) Login(ctx context.Context, e *Engine, uid uint32) (*Login, error) {
	dir, err := os.MkdirTemp("", "belay-login-")
	if err != nil {
		return nil, err
	}
	l := &Login{dir: dir}
	// The user may not be able to reach where the command was built.
	body, err := os.ReadFile(a.ctl)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "belay"), body, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = l.start(ctx, e, a.RunDir(), uid)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("log in as uid %d: %w", uid, err)
	}
	a.lab.push(l.Close)
	return l, nil
}

func (l *Login) start(ctx context.Context, e *Engine, runDir string, uid uint32) error {
	c := e.Client(filepath.Join(runDir, "docker.sock"), uid)
	l.cmd = c.Command(ctx)
	l.cmd.Path, l.cmd.Args = "/bin/sh", []string{"sh"}
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uid != 0 {
		l.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	var err error
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	l.cmd.Stderr = l.cmd.Stdout
	l.out = bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(l.in, "docker() { '%s' \"$@\"; }\nbelay() { '%s/belay' --run-dir '%s' \"$@\"; }\n", c.bin, l.dir, runDir)
	return err
}

// Run runs one line of shell in the session. What it writes, to both outputs, is in Stdout.
func (l *Login) Run(line string) Result {
	l.n++
	mark := fmt.Sprintf("--login-%d-", l.n)
	if _, err := fmt.Fprintf(l.in, "{ %s; } </dev/null 2>&1\ncode=$?; echo; echo \"%s$code\"\n", line, mark); err != nil {
		return Result{Code: -1, Stderr: err.Error()}
	}
	var out strings.Builder
	for {
		text, err := l.out.ReadString('\n')
		if err != nil {
			return Result{Code: -1, Stdout: out.String(), Stderr: "the session ended: " + err.Error()}
		}
		if rest, ok := strings.CutPrefix(text, mark); ok {
			code, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				code = -1
			}
			return Result{Code: code, Stdout: strings.TrimSuffix(out.String(), "\n")}
		}
		out.WriteString(text)
	}
}

// Close ends the session. The lab does it too.
func (l *Login) Close() error {
	l.once.Do(func() {
		l.in.Close()
		_ = l.cmd.Wait() // the last line's status
		l.err = os.RemoveAll(l.dir)
	})
	return l.err
}
