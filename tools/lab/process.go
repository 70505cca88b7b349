package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is a long-running program that the lab started.
type Process struct {
	Name string
	PID  int
	Log  string // file with its output

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // set before done is closed
}

// start runs a program until it ends or the lab does. It gets a process group of its
// own: an interrupt from the terminal is for the lab, which ends things in order.
func (l *Lab) start(name string, cmd *exec.Cmd, in *netns) (*Process, error) {
	p := &Process{Name: name, Log: l.Path(name + ".log"), cmd: cmd, done: make(chan struct{})}
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if in != nil {
		err = in.do(cmd.Start)
	} else {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.PID = cmd.Process.Pid
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	l.push(func() error { return p.Stop(20 * time.Second) })
	return p, nil
}

// Ended tells whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// end says how the process ended. It has.
func (p *Process) end() string {
	if p.err != nil {
		return "ended: " + p.err.Error()
	}
	return "ended by itself"
}

// Kill ends the process with SIGKILL and waits for its end.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.done
	return nil
}

// Stop asks the process to end, and kills it if it has not within grace.
//
// Errors: if it had to be killed.
func (p *Process) Stop(grace time.Duration) error {
	if p.Ended() {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.done:
		return nil
	case <-t.C:
		return errors.Join(fmt.Errorf("%s did not end within %v of SIGTERM", p.Name, grace), p.Kill())
	}
}

// ready waits until ok, and returns an error with the end of the log if the process
// ends or timeout passes first.
func (p *Process) ready(ctx context.Context, timeout time.Duration, ok func() bool) error {
	if Await(ctx, timeout, func() bool { return p.Ended() || ok() }) && !p.Ended() {
		return nil
	}
	why := "was not ready within " + timeout.String()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case p.Ended():
		why = p.end()
	}
	return fmt.Errorf("%s %s; the end of its log:\n%s", p.Name, why, tail(p.Log, 12))
}
