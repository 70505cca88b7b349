package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Agent is an agent of the lab, on directories of its own. It can be killed and
// started again.
type Agent struct {
	// PolicyDir is read by the agent; change it with [Agent.SetPolicy].
	PolicyDir string

	lab    *Lab
	dir    string
	bin    string
	ctl    string
	args   []string
	proc   *Process
	starts int
}

// AgentOptions says what an agent watches.
type AgentOptions struct {
	Name   string
	Engine *Engine
	// Scopes are more cgroups than the engine's.
	Scopes []string
	// Flags are passed on, after those in BELAY_TEST_AGENT_FLAGS.
	Flags []string
}

// NewAgent makes the directories of an agent. Give it policies, then Start it.
func (l *Lab) NewAgent(ctx context.Context, o AgentOptions) (*Agent, error) {
	dir := l.Path(o.Name)
	a := &Agent{lab: l, dir: dir, PolicyDir: filepath.Join(dir, "policies")}
	for _, d := range []string{a.PolicyDir, filepath.Join(dir, "run"), filepath.Join(dir, "state")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("agent %s: %w", o.Name, err)
		}
	}
	var err error
	if a.bin, err = l.binary(ctx, "belay-agent", "./cmd/agent"); err != nil {
		return nil, err
	}
	if a.ctl, err = l.binary(ctx, "belay", "./cmd/ctl"); err != nil {
		return nil, err
	}
	a.args = []string{
		"run", "--run-dir", a.RunDir(), "--state-dir", a.StateDir(), "--policy-dir", a.PolicyDir,
		"--docker-host", o.Engine.Host(), "--containerd", "none", "--backend", l.opts.Backend,
	}
	for _, s := range append([]string{o.Engine.Scope}, o.Scopes...) {
		a.args = append(a.args, "--cgroup-scope", s)
	}
	a.args = append(a.args, strings.Fields(os.Getenv("BELAY_TEST_AGENT_FLAGS"))...)
	a.args = append(a.args, o.Flags...)
	l.push(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the caller's may have ended
		defer cancel()
		return a.Unload(ctx)
	})
	return a, nil
}

// RunDir returns the directory of the agent's sockets and pins.
func (a *Agent) RunDir() string { return filepath.Join(a.dir, "run") }

// StateDir returns the directory of what the agent keeps.
func (a *Agent) StateDir() string { return filepath.Join(a.dir, "state") }

// Start starts the agent and waits until `belay status` says that it enforces.
func (a *Agent) Start(ctx context.Context) error {
	if err := a.Launch(); err != nil {
		return err
	}
	// An emulated kernel on a busy machine takes minutes to verify the programs.
	return a.proc.ready(ctx, 5*time.Minute, func() bool { return a.Belay(ctx, "status").Code == 0 })
}

// Launch starts the agent and does not wait.
func (a *Agent) Launch() error {
	a.starts++
	p, err := a.lab.start(fmt.Sprintf("%s/agent-%d", filepath.Base(a.dir), a.starts), exec.Command(a.bin, a.args...), nil)
	if err != nil {
		return err
	}
	a.proc = p
	return nil
}

// Second runs another agent on the same directories until it ends, which it must by itself.
func (a *Agent) Second(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return run(exec.CommandContext(ctx, a.bin, a.args...))
}

// Kill ends the agent as kill -9 does. What it put into the kernel stays.
func (a *Agent) Kill() error { return a.proc.Kill() }

// Stop ends the agent in order. What it put into the kernel stays.
func (a *Agent) Stop() error { return a.proc.Stop(20 * time.Second) }

// PID returns the agent's process; 0 if none runs.
func (a *Agent) PID() int {
	if a.proc == nil || a.proc.Ended() {
		return 0
	}
	return a.proc.PID
}

// Log returns the end of the log of the last start.
func (a *Agent) Log() string {
	if a.proc == nil {
		return ""
	}
	return tail(a.proc.Log, 20)
}

// LogFile returns the path of the log of the last start; "" if there was none.
func (a *Agent) LogFile() string {
	if a.proc == nil {
		return ""
	}
	return a.proc.Log
}

// Unload takes the agent's programs out of the kernel: nothing is enforced after it.
// The agent must have ended.
func (a *Agent) Unload(ctx context.Context) error {
	if r := run(exec.CommandContext(ctx, a.bin, "run", "--unload", "--run-dir", a.RunDir())); r.Code != 0 {
		return r.Err()
	}
	return nil
}

// Belay runs the operator's command against the agent.
func (a *Agent) Belay(ctx context.Context, args ...string) Result {
	return run(exec.CommandContext(ctx, a.ctl, append([]string{"--run-dir", a.RunDir()}, args...)...))
}

// BelayAs runs the operator's command as a user of the host that may have no name, with
// text as its input. The lab's directory must let it through.
func (a *Agent) BelayAs(ctx context.Context, uid uint32, text string, args ...string) Result {
	cmd := exec.CommandContext(ctx, a.ctl, append([]string{"--run-dir", a.RunDir()}, args...)...)
	cmd.Stdin, cmd.Dir, cmd.Env = strings.NewReader(text), "/", []string{"HOME=/nonexistent"}
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	return run(cmd)
}

// BelayIn runs the operator's command as root in a cgroup.
func (a *Agent) BelayIn(ctx context.Context, cgroup, text string, args ...string) Result {
	dir, err := os.Open(cgroup)
	if err != nil {
		return Result{Code: -1, Stderr: err.Error()}
	}
	defer dir.Close()
	cmd := exec.CommandContext(ctx, a.ctl, append([]string{"--run-dir", a.RunDir()}, args...)...)
	cmd.Stdin = strings.NewReader(text)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	return run(cmd)
}

// SetPolicy writes a policy file as an editor does: whole, and renamed into place. No
// text removes the file.
func (a *Agent) SetPolicy(file, text string) error {
	path := filepath.Join(a.PolicyDir, file)
	if text == "" {
		return os.Remove(path)
	}
	tmp := path + "~"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// ShippedPolicy returns the text of a policy that ships.
func (l *Lab) ShippedPolicy(file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(l.opts.Source, "policies", file))
	return string(b), err
}

// Status is what the lab reads of `belay status -o json`.
type Status struct {
	Enforcing  bool   `json:"enforcing"`
	Why        string `json:"why"`
	Backend    string `json:"backend"`
	Adopted    bool   `json:"adopted"`
	Containers int    `json:"containers"`
	// Failures are what the kernel side counted, by cause.
	Failures map[string]uint64 `json:"failures"`
	Levels   []struct {
		Rule  string `json:"rule"`
		Level string `json:"level"`
	} `json:"levels"`
	Policies struct {
		Revision string `json:"revision"`
		Error    string `json:"error"`
		Policies []struct {
			Name    string `json:"name"`
			Mode    string `json:"mode"`
			Refused string `json:"refused"`
		} `json:"policies"`
	} `json:"policies"`
}

// Level returns what the host gives a rule: prevent, kill, detect or unsupported.
func (s *Status) Level(rule string) string {
	for _, l := range s.Levels {
		if l.Rule == rule {
			return l.Level
		}
	}
	return "unsupported"
}

// Names returns the names of the policies in force, joined by commas.
func (s *Status) Names() string {
	var names []string
	for _, p := range s.Policies.Policies {
		if p.Refused == "" {
			names = append(names, p.Name)
		}
	}
	return strings.Join(names, ",")
}

// Status asks the agent how it is.
func (a *Agent) Status(ctx context.Context) (*Status, error) {
	r := a.Belay(ctx, "status", "-o", "json")
	var s Status
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		return nil, fmt.Errorf("belay status: %w: %w", err, r.Err())
	}
	return &s, nil
}

// AwaitPolicies waits until exactly the policies of these names are in force.
func (a *Agent) AwaitPolicies(ctx context.Context, timeout time.Duration, names string) error {
	var last string
	ok := Await(ctx, timeout, func() bool {
		s, err := a.Status(ctx)
		if err != nil {
			last = err.Error()
			return false
		}
		last = "in force: " + s.Names() + " " + s.Policies.Error
		return s.Names() == names && s.Policies.Error == ""
	})
	if !ok {
		return fmt.Errorf("policies %s are not in force after %v: %s", names, timeout, last)
	}
	return nil
}

// Event is what the lab reads of a record of `belay events -o json`.
type Event struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"`
	Decision  string    `json:"decision"`
	Hook      string    `json:"hook"`
	Level     string    `json:"level"`
	Container struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"container"`
	Process struct {
		UID        int    `json:"uid"`
		Comm       string `json:"comm"`
		Executable struct {
			Path  string `json:"path"`
			Layer string `json:"layer"`
		} `json:"executable"`
	} `json:"process"`
	Policy struct {
		Name string `json:"name"`
		Rule string `json:"rule"`
		Mode string `json:"mode"`
	} `json:"policy"`
	Object struct {
		Path string `json:"path"`
		Addr string `json:"addr"`
		Port int    `json:"port"`
	} `json:"object"`
	API struct {
		Action string   `json:"action"`
		Checks []string `json:"checks"`
	} `json:"api"`
	// Load is of a full node, and of the moves from it.
	Load struct {
		Event  string    `json:"event"`
		Cap    string    `json:"cap"`
		Since  time.Time `json:"since"`
		Causes []struct {
			Name string `json:"name"`
		} `json:"causes"`
		To string `json:"to"`
	} `json:"load"`
	Message string `json:"message"`
}

// Events returns the records that the flags of `belay events` choose, oldest first.
func (a *Agent) Events(ctx context.Context, flags ...string) ([]Event, error) {
	r := a.Belay(ctx, append([]string{"events", "-o", "json"}, flags...)...)
	if r.Code != 0 {
		return nil, r.Err()
	}
	all, err := decodeEvents([]byte(r.Stdout))
	if err != nil {
		return nil, fmt.Errorf("belay events: %w", err)
	}
	return all, nil
}

// Denials returns the records of what was refused, or in audit would have been, since
// a time; oldest first.
func (a *Agent) Denials(ctx context.Context, since time.Time) ([]Event, error) {
	all, err := a.Events(ctx, "--denials", "--since", since.Format(time.RFC3339Nano))
	if err != nil {
		return nil, err
	}
	var out []Event
	for _, e := range all {
		if !e.Time.Before(since) {
			out = append(out, e)
		}
	}
	return out, nil
}

// decodeEvents reads records one after the other, or in one array.
func decodeEvents(b []byte) ([]Event, error) {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '[' {
		var all []Event
		err := json.Unmarshal(b, &all)
		return all, err
	}
	var all []Event
	for d := json.NewDecoder(bytes.NewReader(b)); ; {
		var e Event
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
}
