package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/peer"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/telemetry"
	"github.com/belay-project/belay/internal/verdict"
)

const (
	// gateRetry is the time between two tries to open the gate.
	gateRetry = 10 * time.Second
	// gateDrain is how long streams may go on after the agent was told to stop.
	gateDrain = 5 * time.Second
)

// runGate serves the gate until ctx ends, from the sockets that were handed over on, and waits retry between two
// tries. Whatever happens to it, enforcement goes on: it reports to health and tries again.
func (a *Agent) runGate(ctx context.Context, handed []net.Listener, retry time.Duration) {
	for ctx.Err() == nil {
		s, err := a.openGate(handed)
		if err == nil {
			handed = nil // they are the gate's
			err = a.serveGate(ctx, s)
		}
		if err != nil {
			a.health.Counter("gate_shut").Add(1)
			a.health.SetFailed("gate", err.Error())
			a.log.Error("the gate is closed; callers have no way to Docker through it", attr.Error, err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

// handedOver returns the gate's sockets that systemd kept.
func (a *Agent) handedOver() []net.Listener {
	handed, err := proxy.Activated(gateName)
	if err != nil {
		a.log.Error("sockets of systemd", attr.Error, err.Error())
	}
	return handed
}

// leaveGate gives up what an agent before left for its gate: on a socket that systemd holds, callers would wait for ever.
func (a *Agent) leaveGate() {
	handed := a.handedOver()
	for _, l := range handed {
		l.Close()
	}
	if len(handed) > 0 {
		a.forgetGate()
	}
}

// openGate leaves what was handed over to the next try if it fails.
func (a *Agent) openGate(handed []net.Listener) (*proxy.Server, error) {
	o, err := a.gateOptions()
	if err != nil {
		return nil, err
	}
	o.Inherited = handed
	return proxy.Listen(o)
}

func (a *Agent) serveGate(ctx context.Context, s *proxy.Server) error {
	if s.Changed() { // what was handed over is held already
		a.storeGate(s)
	}
	a.health.SetOK("gate")
	a.own.gate.Store(s)
	defer a.own.gate.Store(nil)
	a.log.Info("the gate is open", attr.Socket, a.cfg.GateSocket)
	err := s.Run(ctx)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), gateDrain)
	defer cancel()
	s.Drain(drain)
	s.Close()
	if err != nil { // its place is another's, and nobody would answer on what systemd holds
		a.forgetGate()
	}
	return err
}

// gateOptions reads of the daemon's socket who may call without policies: its group.
func (a *Agent) gateOptions() (proxy.Options, error) {
	upstream, ok := strings.CutPrefix(a.cfg.DockerHost, "unix://")
	if !ok {
		return proxy.Options{}, fmt.Errorf("the gate stands in front of a unix socket, and the engine's address is %s", a.cfg.DockerHost)
	}
	if same(upstream, a.cfg.GateSocket) {
		return proxy.Options{}, fmt.Errorf("the gate's socket %s is the engine's own", upstream)
	}
	mode, err := gateMode(a.cfg.GateMode)
	if err != nil {
		return proxy.Options{}, err
	}
	o := proxy.Options{
		Upstream: upstream, Socket: a.cfg.GateSocket, Mode: mode, Policies: a.gateRules, Workload: gateWorkload{a},
		Recorder: a, Health: a.health, Log: a.log, TLS: a.cfg.GateTLS, Tickets: a.tickets, Binder: a.binder,
		Elevations: &a.elevations, Tokens: a.tokens, Images: a.images, Node: a.nodes.describeJSON, Cordon: a.cordon.why,
	}
	if a.cfg.GateGroup != "" {
		o.GID, err = groupID(a.cfg.GateGroup)
		return o, err
	}
	var st unix.Stat_t
	switch err := unix.Stat(upstream, &st); {
	case err == nil:
		o.GID = int(st.Gid)
	case !errors.Is(err, fs.ErrNotExist):
		return o, fmt.Errorf("look at the engine's socket: %w", err)
	}
	return o, nil
}

// gateMode reads an octal mode; empty is 0660.
func gateMode(s string) (fs.FileMode, error) {
	if s == "" {
		return 0o660, nil
	}
	var m uint32
	if n, err := fmt.Sscanf(s, "%o", &m); err != nil || n != 1 || m > 0o777 {
		return 0, fmt.Errorf("mode of the gate's socket: %q is no octal mode such as 0660", s)
	}
	return fs.FileMode(m), nil
}

func same(a, b string) bool {
	if a == b {
		return true
	}
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// gateRules returns the access policies in force. They are compiled once a set.
func (a *Agent) gateRules() proxy.Rules {
	set := a.policies.current()
	if c := a.rules.Load(); c != nil && c.set == set {
		return c.rules
	}
	c := &gateRuleSet{set: set}
	if set != nil {
		c.rules = proxy.RulesOf(set)
	}
	a.rules.Store(c)
	return c.rules
}

type gateRuleSet struct {
	set   *policy.Set
	rules proxy.Rules
}

// gateWorkload tells the gate which container a caller is in.
type gateWorkload struct{ a *Agent }

// ContainerOf implements [peer.Workload]. The outermost container counts, but for one below it
// that the kernel side knows to have been made from outside: a container may have its cgroup below
// that of another, whose id its creator chose as the parent, and whoever may write below his own
// can give a cgroup any name.
func (w gateWorkload) ContainerOf(path string) (string, bool) {
	return containerOf(path, func(id ident.ContainerID, at string) bool {
		return w.a.kernel != nil && w.a.kernel.IsOwnCgroup(id, at)
	})
}

// containerOf asks own whether the cgroup at a path is the container's that it is named like.
func containerOf(path string, own func(id ident.ContainerID, path string) bool) (string, bool) {
	id, ok := peer.ContainerOf(path)
	if !ok {
		return "", false
	}
	parts := strings.Split(path, "/")
	for i, name := range parts {
		inner, named := ident.CgroupContainer(name)
		if named && string(inner) != id && own(inner, strings.Join(parts[:i+1], "/")) {
			id = string(inner)
		}
	}
	return id, true
}

// Label implements [peer.Labeller].
func (w gateWorkload) Label(pidfd int) (string, bool, error) {
	if w.a.kernel == nil {
		return "", false, nil
	}
	id, ok, err := w.a.kernel.TaskContainer(pidfd)
	if err != nil {
		w.a.health.Counter("caller_label_unread").Add(1)
	}
	return string(id), ok, err
}

// Describe implements [peer.Workload]. Labels are those that the container was created
// with; of the gate's prefix only those that the gate itself has set.
func (w gateWorkload) Describe(sub *apicall.Subject) {
	c, ok := w.a.binder.registry.Get(ident.ContainerID(sub.ContainerID))
	if !ok {
		return
	}
	sub.ContainerName, sub.ImageDigest, sub.ContainerLabels = c.Name, c.ImageDigest, w.a.binder.trustedLabels(c)
}

// Bounds of what of a call goes into a record: callers choose it.
const (
	maxRecordedIDs    = 16
	maxRecordedChecks = 16
	maxRecordedText   = 512
)

// Record implements [proxy.Recorder].
func (a *Agent) Record(ev *proxy.Event) {
	cut := func(s string) string { return s[:min(len(s), maxRecordedText)] }
	call := &journal.API{
		Action: ev.Action, Method: ev.Method, Path: ev.Path, Status: ev.Status, DurationUS: ev.Duration.Microseconds(),
		Cause: ev.Cause, Unmanaged: ev.Unmanaged, PID: ev.Subject.PID, Elevation: ev.Elevation,
	}
	for _, id := range ev.IDs[:min(len(ev.IDs), maxRecordedIDs)] {
		call.Resources = append(call.Resources, cut(id))
	}
	for _, c := range ev.Checks[:min(len(ev.Checks), maxRecordedChecks)] {
		call.Checks = append(call.Checks, cut(c))
	}
	r := &journal.Record{
		BootID: a.host.BootID, Host: a.host.Hostname, Time: ev.Time, Kind: journal.KindAPI,
		Decision: verdict.Decision(ev.Decision), API: call, Message: cut(ev.Reason),
	}
	if _, ok := telemetry.ParseTraceParent(ev.TraceParent); ok {
		call.TraceParent = strings.Clone(ev.TraceParent)
	}
	a.describeCaller(ev.Subject, ev.Peer, r)
	if ev.Policy != "" {
		r.Policy = &journal.Policy{Name: ev.Policy, Revision: ev.Revision, Rule: ev.Rule, Mode: verdict.ModeEnforce.String()}
		if ev.Decision == proxy.WouldDeny {
			r.Policy.Mode = verdict.ModeAudit.String()
		}
	}
	a.journal.Append(r)
}

// describeCaller says who called. peer is who showed a token; nil else.
func (a *Agent) describeCaller(sub, peer *apicall.Subject, r *journal.Record) {
	call := r.API
	switch sub.Kind {
	case apicall.User:
		call.CallerKind, call.Caller, call.UID = "user", sub.Name, new(sub.UID)
	case apicall.Certificate:
		call.CallerKind, call.Caller = "certificate", sub.CN
	case apicall.Token:
		call.CallerKind, call.Caller = "token", sub.Token
		if peer != nil && (peer.Kind == apicall.User || peer.Kind == apicall.Container) {
			call.UID = new(peer.UID) // of the process that showed it
		}
		if peer != nil && peer.Kind == apicall.Container {
			r.Container = &journal.Container{ID: ident.ContainerID(peer.ContainerID), Name: peer.ContainerName, Digest: peer.ImageDigest, Class: "container"}
		}
	case apicall.Container:
		call.CallerKind, call.Caller, call.UID = "container", sub.ContainerName, new(sub.UID)
		r.Container = &journal.Container{ID: ident.ContainerID(sub.ContainerID), Name: sub.ContainerName, Digest: sub.ImageDigest, Class: "container"}
	default:
		call.CallerKind = "nobody"
	}
	if sub.Remote.IsValid() {
		call.Remote = sub.Remote.String()
	}
}
