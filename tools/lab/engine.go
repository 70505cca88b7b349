package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ModernEngineEnv names the environment variable with a folder that holds another
// engine: dockerd, containerd, containerd-shim-runc-v2 and runc, and perhaps docker.
const ModernEngineEnv = "BELAY_TEST_MODERN_ENGINE"

// engine finds the programs of the container engine: those that were given; else those
// of the folder in [ModernEngineEnv], with a client that can speak to it; else the
// distribution's, before others that happen to come first in PATH.
func (o *Options) engine() error {
	modern := os.Getenv(ModernEngineEnv)
	find := func(name string) string {
		dirs := []string{modern, "/usr/bin", "/usr/sbin"}
		if modern != "" {
			dirs = dirs[:1] // an old client cannot speak to a new engine
		}
		for _, d := range dirs {
			p := filepath.Join(d, name)
			if st, err := os.Stat(p); d != "" && err == nil && st.Mode().IsRegular() {
				return p
			}
		}
		p, err := exec.LookPath(name)
		if err != nil {
			return ""
		}
		return p
	}
	if o.Docker == "" {
		o.Docker = find("docker")
	}
	if o.Dockerd == "" {
		o.Dockerd = find("dockerd")
	}
	if o.Docker == "" || o.Dockerd == "" {
		return errors.New("docker and dockerd are missing: apt-get install docker.io")
	}
	return nil
}

// HasEngine tells whether an engine is installed, and if not what to do.
func HasEngine() (bool, string) {
	var o Options
	if err := o.engine(); err != nil {
		return false, err.Error()
	}
	return true, ""
}

// Engine is a private Docker Engine with its own containerd, in a network namespace of
// its own.
type Engine struct {
	// Socket is the path of the engine's socket.
	Socket string
	// Scope is the cgroup below which its containers live.
	Scope string
	// Version is the engine's, Driver that of its storage.
	Version, Driver string

	lab  *Lab
	name string
	ns   *netns
	env  []string
	args []string // given to StartEngine

	daemons []*Process
}

// Alive returns an error with the end of its log if one of the engine's daemons has
// ended.
func (e *Engine) Alive() error {
	for _, p := range e.daemons {
		if p.Ended() {
			return fmt.Errorf("%s %s; the end of its log:\n%s", p.Name, p.end(), tail(p.Log, 12))
		}
	}
	return nil
}

// Host returns the engine's address as a client takes it.
func (e *Engine) Host() string { return "unix://" + e.Socket }

// StartEngine starts an engine; name tells it from the lab's others. args are added to the
// daemon's.
func (l *Lab) StartEngine(ctx context.Context, name string, args ...string) (*Engine, error) {
	l.logf("starting a private dockerd (%s)", name)
	dir := l.Path(name)
	for _, d := range []string{"ctd-state", "cli"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o711); err != nil {
			return nil, fmt.Errorf("engine %s: %w", name, err)
		}
	}
	ns, err := newNetns()
	if err != nil {
		return nil, fmt.Errorf("engine %s: %w", name, err)
	}
	l.push(ns.Close)
	e := &Engine{
		Socket: filepath.Join(dir, "docker.sock"), Scope: "/" + l.Name + "-" + name, lab: l, name: name, ns: ns, args: args,
		env: []string{
			// dockerd finds containerd, and containerd runc, through PATH.
			"PATH=" + filepath.Dir(l.opts.Dockerd) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=" + dir, "TMPDIR=" + dir, "DOCKER_CONFIG=" + filepath.Join(dir, "cli"),
		},
	}
	if err := e.startContainerd(ctx, dir); err != nil {
		return nil, err
	}
	if err := e.startDockerd(ctx, dir, args); err != nil {
		return nil, err
	}
	// Pushed last, so it runs first: containers end through the engine that runs them.
	l.push(e.removeContainers)
	return e, e.about(ctx)
}

const containerdConfig = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = %q
`

// startContainerd: dockerd would otherwise use the host's containerd where one runs.
func (e *Engine) startContainerd(ctx context.Context, dir string) error {
	sock, conf := filepath.Join(dir, "ctd.sock"), filepath.Join(dir, "containerd.toml")
	text := fmt.Sprintf(containerdConfig, filepath.Join(dir, "ctd"), filepath.Join(dir, "ctd-state"), sock)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return fmt.Errorf("engine %s: %w", e.name, err)
	}
	bin := filepath.Join(filepath.Dir(e.lab.opts.Dockerd), "containerd")
	if _, err := os.Stat(bin); err != nil {
		if bin, err = exec.LookPath("containerd"); err != nil {
			return fmt.Errorf("engine %s: %w: apt-get install containerd", e.name, err)
		}
	}
	cmd := exec.Command(bin, "--config", conf)
	cmd.Env = e.env
	p, err := e.lab.start(e.name+"/containerd", cmd, e.ns)
	if err != nil {
		return err
	}
	e.daemons = append(e.daemons, p)
	return p.ready(ctx, time.Minute, func() bool { _, err := os.Stat(sock); return err == nil })
}

func (e *Engine) startDockerd(ctx context.Context, dir string, extra []string) error {
	bin := e.lab.opts.Dockerd
	conf := filepath.Join(dir, "daemon.json") // the host's is for the host's engine
	if _, err := os.Stat(conf); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(conf, []byte("{}\n"), 0o600); err != nil {
			return fmt.Errorf("engine %s: %w", e.name, err)
		}
	}
	args := []string{
		"--config-file", conf, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "docker.pid"), "-H", e.Host(), "--containerd", filepath.Join(dir, "ctd.sock"),
		"--cgroup-parent", e.Scope, "--exec-opt", "native.cgroupdriver=cgroupfs",
		// One namespace without a way out needs no firewall.
		"--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false",
	}
	// Engines before 23 write a key to /etc/docker, unless told where else.
	key := "--deprecated-key-path=" + filepath.Join(dir, "key.json")
	if exec.CommandContext(ctx, bin, key, "--version").Run() == nil {
		args = append(args, key)
	}
	cmd := exec.Command(bin, append(args, extra...)...)
	cmd.Env = e.env
	p, err := e.lab.start(e.name+"/dockerd", cmd, e.ns)
	if err != nil {
		return err
	}
	e.daemons = append(e.daemons, p)
	return p.ready(ctx, 3*time.Minute, func() bool {
		// An authorisation plugin answers too, with a refusal.
		r := e.Docker(ctx, "version")
		return r.Code == 0 || strings.Contains(r.Stderr, "authorization denied")
	})
}

// Restart ends the daemon in order and starts it again on another socket; args are added as
// by [Lab.StartEngine]. Its containers go on if it had --live-restore.
func (e *Engine) Restart(ctx context.Context, socket string, args ...string) error {
	last := len(e.daemons) - 1
	if err := e.daemons[last].Stop(time.Minute); err != nil {
		return err
	}
	e.daemons, e.Socket = e.daemons[:last], socket
	return e.startDockerd(ctx, e.lab.Path(e.name), args)
}

func (e *Engine) about(ctx context.Context) error {
	if r := e.Docker(ctx, "version"); strings.Contains(r.Stderr, "authorization denied") {
		return nil // by a plugin, which lets nobody ask
	}
	r := e.Docker(ctx, "info", "--format", "{{.ServerVersion}} {{.Driver}}")
	if r.Code != 0 {
		return fmt.Errorf("engine %s: %w", e.name, r.Err())
	}
	e.Version, e.Driver, _ = strings.Cut(strings.TrimSpace(r.Stdout), " ")
	return nil
}

// Halt ends the daemon, and with it what it runs; Resume starts it again. Its containerd
// goes on.
func (e *Engine) Halt() error {
	last := len(e.daemons) - 1
	p := e.daemons[last]
	e.daemons = e.daemons[:last]
	return p.Stop(time.Minute)
}

// Resume starts the daemon again after Halt.
func (e *Engine) Resume(ctx context.Context) error {
	return e.startDockerd(ctx, e.lab.Path(e.name), e.args)
}

// Crash kills the daemon and its containerd at once, and starts them again.
func (e *Engine) Crash(ctx context.Context) error {
	if err := e.Kill(); err != nil {
		return err
	}
	return e.Revive(ctx)
}

// Kill kills the daemon and its containerd, as kill -9 does. What it runs goes on until Revive.
func (e *Engine) Kill() error {
	for len(e.daemons) > 0 {
		last := len(e.daemons) - 1
		p := e.daemons[last]
		e.daemons = e.daemons[:last]
		if err := p.Kill(); err != nil {
			return err
		}
	}
	return nil
}

// Revive starts the daemon and its containerd again after Kill.
func (e *Engine) Revive(ctx context.Context) error {
	dir := e.lab.Path(e.name)
	// Nobody took these away, and their being there is what readiness is told by.
	for _, left := range []string{"ctd.sock", "docker.pid"} {
		if err := os.Remove(filepath.Join(dir, left)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := e.startContainerd(ctx, dir); err != nil {
		return err
	}
	return e.startDockerd(ctx, dir, e.args)
}

// CrashContainerd kills containerd alone and starts it again: the daemon goes on, and finds it.
func (e *Engine) CrashContainerd(ctx context.Context) error {
	if err := e.daemons[0].Kill(); err != nil {
		return err
	}
	rest := e.daemons[1:]
	e.daemons = nil
	dir := e.lab.Path(e.name)
	if err := os.Remove(filepath.Join(dir, "ctd.sock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := e.startContainerd(ctx, dir)
	e.daemons = append(e.daemons, rest...) // containerd is first
	return err
}

// PID returns the daemon's process.
func (e *Engine) PID() int { return e.daemons[len(e.daemons)-1].PID }

// Listen listens on a TCP address of the engine's network namespace, such as
// 127.0.0.1:0, which nothing outside it reaches.
func (e *Engine) Listen(addr string) (l net.Listener, err error) {
	err = e.ns.do(func() error {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l, err
}

// Dial connects to a TCP address in the engine's network namespace: a container's own.
func (e *Engine) Dial(addr string, timeout time.Duration) (c net.Conn, err error) {
	err = e.ns.do(func() error {
		c, err = net.DialTimeout("tcp", addr, timeout)
		return err
	})
	return c, err
}

func (e *Engine) removeContainers() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // the caller's may have ended
	defer cancel()
	if e.Alive() != nil {
		return nil // its containers are the scrubbing's
	}
	ids := strings.Fields(e.Docker(ctx, "ps", "-aq").Stdout)
	if len(ids) == 0 {
		return nil
	}
	if r := e.Docker(ctx, append([]string{"rm", "-f"}, ids...)...); r.Code != 0 {
		return r.Err()
	}
	return nil
}

// Result is what a command came to.
type Result struct {
	Args           []string
	Stdout, Stderr string
	// Code is the exit status; 128 + n if signal n ended it, -1 if it did not start.
	Code int
	Took time.Duration
}

// Text returns both outputs.
func (r Result) Text() string { return strings.TrimSpace(r.Stdout + "\n" + r.Stderr) }

// Err returns the result as an error, with the command and what it said.
func (r Result) Err() error {
	return fmt.Errorf("%s: exit status %d: %s", strings.Join(r.Args, " "), r.Code, r.Text())
}

// Docker runs the docker command against the engine.
func (e *Engine) Docker(ctx context.Context, args ...string) Result {
	return e.DockerIn(ctx, nil, args...)
}

// dockerTimeout is for commands that hang; emulated machines take a minute for some.
const dockerTimeout = 4 * time.Minute

// DockerIn is [Engine.Docker] with standard input.
func (e *Engine) DockerIn(ctx context.Context, in io.Reader, args ...string) Result {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.lab.opts.Docker, args...)
	cmd.Env = append([]string{"DOCKER_HOST=" + e.Host()}, e.env...)
	cmd.Stdin = in
	return run(cmd)
}

// Shell runs a script of bash in a directory, as on a host whose engine e is.
func (e *Engine) Shell(ctx context.Context, dir, script string) Result {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env, cmd.Dir = append([]string{"DOCKER_HOST=" + e.Host()}, e.env...), dir
	return run(cmd)
}

func run(cmd *exec.Cmd) Result {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A child that keeps the output open must not keep us: docker's plugins do.
	cmd.WaitDelay = 2 * time.Second
	start := time.Now()
	err := cmd.Run()
	r := Result{Args: cmd.Args, Stdout: stdout.String(), Stderr: stderr.String(), Took: time.Since(start)}
	switch st := cmd.ProcessState; {
	case st == nil:
		r.Code, r.Stderr = -1, r.Stderr+fmt.Sprint(err)
	case st.ExitCode() < 0:
		r.Code = 137
	default:
		r.Code = st.ExitCode()
	}
	return r
}
