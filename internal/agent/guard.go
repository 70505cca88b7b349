package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/gate/authz"
	"github.com/belay-project/belay/internal/verdict"
)

const (
	// guardEvery is the time between two looks at what the sockets and programs are now: an
	// upgrade replaces programs, a restart sockets.
	guardEvery = time.Second
	// hostPolicy is the policy that a record of the guard of the host names.
	hostPolicy = "host"
	guardName  = "socket-guard" // in health
)

// The engine's usual sockets besides that of DockerHost, and those of its shims.
var (
	engineSockets = []string{
		"/run/docker.sock", "/run/containerd/containerd.sock", "/run/containerd/containerd.sock.ttrpc",
		"/run/docker/containerd/containerd.sock", "/run/docker/containerd/containerd.sock.ttrpc",
	}
	engineDirs     = []string{"/run/containerd/s", "/run/docker/containerd/s"}
	engineAbstract = []string{"/containerd-shim/"} // of containerd before 1.3.9 and 1.4.3: CVE-2020-15257
	engineUnits    = []string{"docker.service", "containerd.service", "belay-agent.service"}
	enginePrograms = []string{"dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v1", "containerd-shim-runc-v2", "runc"}
	programDirs    = []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/libexec/docker"}
)

// parseCaller reads one --guard-allow: uid=N, user=NAME, unit=NAME.service, exe=PATH (run by
// root) or exe=PATH:UID.
func parseCaller(s string) (c enforce.Caller, err error) {
	kind, value, _ := strings.Cut(s, "=")
	bad := fmt.Errorf("--guard-allow %q: want uid=N, user=NAME, unit=NAME.service, exe=/PATH or exe=/PATH:UID", s)
	if value == "" {
		return c, bad
	}
	switch kind {
	case "user":
		u, err := user.Lookup(value)
		if err != nil {
			return c, fmt.Errorf("--guard-allow %q: %w", s, err)
		}
		value = u.Uid
	case "uid":
	case "unit":
		if strings.Contains(value, "/") {
			return c, bad
		}
		return enforce.Caller{Unit: value}, nil
	case "exe":
		path, uid, found := strings.Cut(value, ":")
		if !filepath.IsAbs(path) {
			return c, bad
		}
		if c.Exe = path; !found {
			return c, nil
		}
		value = uid
	default:
		return c, bad
	}
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 1<<32-1 {
		return c, bad
	}
	c.UID = uint32(n)
	return c, nil
}

// fillGuard reads what the configuration says of the guard.
func (c *Config) fillGuard() error {
	var ok bool
	if c.guard.Mode, ok = enforce.ParseGuardMode(c.GuardSockets); !ok && c.GuardSockets != "" {
		return fmt.Errorf("--guard-sockets %q: want off, audit or enforce", c.GuardSockets)
	}
	for _, s := range c.GuardAllow {
		caller, err := parseCaller(s)
		if err != nil {
			return err
		}
		c.guard.Callers = append(c.guard.Callers, caller)
	}
	c.guard.Abstract = slices.Clone(engineAbstract)
	c.guard.Dirs = slices.Clone(engineDirs)
	add := func(p string) {
		switch {
		case strings.HasPrefix(p, "@"):
			c.guard.Abstract = append(c.guard.Abstract, p[1:])
		case p != "":
			c.guard.Sockets = append(c.guard.Sockets, p)
		}
	}
	for _, p := range c.GuardExtra {
		if !strings.HasPrefix(p, "@") && !filepath.IsAbs(p) {
			return fmt.Errorf("--guard-socket %q: want an absolute path, or @NAME for an abstract socket", p)
		}
		add(p)
	}
	docker, _ := strings.CutPrefix(c.DockerHost, "unix://")
	if docker != "none" {
		add(docker)
	}
	add(strings.TrimPrefix(c.Containerd, "unix://"))
	add(c.AuthzSocket)
	for _, p := range engineSockets {
		add(p)
	}
	return nil
}

// guardNow returns the guard as things are: without the gate's own socket, and with the
// programs that belong to the engine.
func (a *Agent) guardNow() enforce.Guard {
	g := a.cfg.guard
	gate := []string{a.cfg.GateSocket}
	if real, err := filepath.EvalSymlinks(a.cfg.GateSocket); err == nil {
		gate = append(gate, real)
	}
	g.Sockets = slices.DeleteFunc(slices.Clone(g.Sockets), func(p string) bool {
		real, err := filepath.EvalSymlinks(filepath.Dir(p))
		return slices.Contains(gate, p) || err == nil && slices.Contains(gate, filepath.Join(real, filepath.Base(p)))
	})
	g.Callers = slices.Clone(g.Callers)
	for _, u := range engineUnits {
		g.Callers = append(g.Callers, enforce.Caller{Unit: u})
	}
	dirs := slices.Clone(programDirs)
	if exe, err := os.Executable(); err == nil {
		g.Callers = append(g.Callers, enforce.Caller{Exe: exe}, enforce.Caller{Exe: filepath.Join(filepath.Dir(exe), "belay")})
	}
	// Of this process itself also if an upgrade has replaced its file.
	g.Callers = append(g.Callers, enforce.Caller{Exe: "/proc/self/exe"})
	for _, exe := range a.listeners() {
		g.Callers = append(g.Callers, enforce.Caller{Exe: exe})
		dirs = append(dirs, filepath.Dir(exe))
	}
	for _, d := range dirs {
		for _, p := range enginePrograms {
			g.Callers = append(g.Callers, enforce.Caller{Exe: filepath.Join(d, p)})
		}
	}
	if a.glassBroken() && g.Mode == enforce.GuardEnforce {
		g.Mode = enforce.GuardAudit
	}
	return g
}

// listeners returns the programs that listen on the engine's sockets, if root runs them:
// they need not be where a package puts them. They are asked for when a socket is new.
func (a *Agent) listeners() []string {
	var out []string
	for _, p := range []string{strings.TrimPrefix(a.cfg.DockerHost, "unix://"), a.cfg.Containerd} {
		var st unix.Stat_t
		if p == "" || p == "none" || unix.Stat(p, &st) != nil {
			continue
		}
		if was, known := a.listened[p]; !known || was.ino != st.Ino {
			exe, err := listener(p)
			if err != nil {
				a.log.Debug("who listens on a guarded socket", attr.Socket, p, attr.Error, err.Error())
				continue // and again the next time
			}
			a.listened[p] = listened{st.Ino, exe}
		}
		if exe := a.listened[p].exe; exe != "" {
			out = append(out, exe)
		}
	}
	return out
}

type listened struct {
	ino uint64
	exe string
}

func listener(socket string) (string, error) {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return "", err
	}
	var peer *unix.Ucred
	var perr error
	if err := raw.Control(func(fd uintptr) { peer, perr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || perr != nil {
		return "", errors.Join(err, perr)
	}
	if peer.Uid != 0 || peer.Pid <= 1 { // 1: systemd opened it
		return "", nil
	}
	return os.Readlink(fmt.Sprintf("/proc/%d/exe", peer.Pid))
}

// glassBroken tells whether root has broken the glass, and says so once.
func (a *Agent) glassBroken() bool {
	reason, until, ok := authz.GlassBroken(a.cfg.breakGlass(), a.cfg.BreakGlassFor, time.Now())
	if ok && !a.glass {
		a.note("break-glass: the socket guard of the host only reports until " + until.UTC().Format(time.RFC3339) + ": " + reason)
	} else if !ok && a.glass {
		a.note("break-glass: over, the socket guard of the host is as configured again")
	}
	a.glass = ok
	return ok
}

// setGuard puts the guard into the kernel.
func (a *Agent) setGuard() {
	g := a.guardNow()
	level, why := a.kernel.SocketLevel()
	err := a.kernel.SetGuard(g)
	a.guardMode.Store(uint32(g.Mode))
	switch {
	case err != nil:
		a.health.SetFailed(guardName, err.Error())
	case a.cfg.guard.Mode == enforce.GuardOff:
	case level == verdict.Unsupported:
		a.health.SetFailed(guardName, "this kernel does not show who connects to a unix socket: "+why)
	case g.Mode != a.cfg.guard.Mode:
		a.health.SetDegraded(guardName, "the glass is broken: connections around the gate are only reported")
	default:
		a.health.SetOK(guardName)
	}
}

// watchGuard follows what the engine's sockets, programs and files are.
func (a *Agent) watchGuard(ctx context.Context) error {
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	host := time.NewTicker(hostEvery)
	defer host.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			a.setGuard()
		case <-host.C:
			a.setHost()
		}
	}
}

func (a *Agent) guardStatus() *control.GuardStatus {
	level, note := a.kernel.SocketLevel()
	return &control.GuardStatus{
		Mode: enforce.GuardMode(a.guardMode.Load()).String(), Level: level.String(), Note: note,
		Refused: a.health.Counter("guard_refused").Load(), Reported: a.health.Counter("guard_reported").Load(),
	}
}

// ofHost tells whether a record is the host guard's, and counts it.
func (a *Agent) ofHost(ev *enforce.Event) bool {
	if ev.Rule != verdict.RuleSockets || ev.Cgroup != 0 {
		return false
	}
	if ev.Decision == verdict.WouldDeny {
		a.health.Counter("guard_reported").Add(1)
	} else {
		a.health.Counter("guard_refused").Add(1)
	}
	return true
}
