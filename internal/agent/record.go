package agent

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// record takes one kernel event into the journal. It is called from the goroutines that
// drain the rings and waits for no disk and no binding: the journal counts what it cannot take.
func (a *Agent) record(ev *enforce.Event) {
	if ev.Container != "" && a.kernel.IsCanary(ev.Container) {
		return
	}
	if ev.Type == enforce.EventUsed {
		a.uses.told(ev)
		return
	}
	if (ev.Type == enforce.EventStart || ev.Type == enforce.EventGone) && !ev.Build {
		select {
		case a.starts <- startedContainer{*ev}:
		default:
			a.health.Counter("starts_not_bound").Add(1)
		}
	}
	if ev.Script && ev.Decision == verdict.Allowed {
		select {
		case a.scripts <- ev:
		default:
			a.health.Counter("scripts_not_judged").Add(1)
		}
		return
	}
	if !a.own.keeps(ev) {
		return
	}
	r := a.describe(ev)
	if a.own.plain(ev) {
		strip(r)
	}
	a.journal.Append(r)
}

// followScripts looks at scripts that were run, apart from the rings.
func (a *Agent) followScripts(ctx context.Context) error {
	for {
		var ev *enforce.Event
		select {
		case <-ctx.Done():
			return nil
		case ev = <-a.scripts:
		}
		r, dropped := a.describe(ev), false
		judged := *r
		err := a.looks.at(ev.Container, func() { dropped = a.judgeScript(ev, &judged) })
		switch {
		case err != nil:
			a.health.Counter("scripts_not_judged").Add(1)
			if a.cfg.ReportAllowed {
				a.journal.Append(r)
			}
		case dropped || a.cfg.ReportAllowed:
			a.journal.Append(&judged)
		}
	}
}

// describe turns a kernel event into a record.
func (a *Agent) describe(ev *enforce.Event) *journal.Record {
	r := &journal.Record{
		BootID: a.host.BootID, Host: a.host.Hostname, Time: a.booted.wallTime(ev.SinceBoot), Kind: journal.Kind(ev.Type.String()),
		Hook: ev.Hook, Decision: ev.Decision, Backend: a.kernel.Backend(),
	}
	host := a.ofHost(ev)
	if !host {
		r.Container = a.describeContainer(ev)
	}
	if ev.PID != 0 && ev.Type != enforce.EventStart && ev.Type != enforce.EventCreated && ev.Type != enforce.EventGone {
		r.Process = describeProcess(ev)
	}
	if ev.Rule != verdict.RuleNone {
		src, _ := a.kernel.Source(ev)
		if host {
			src.Name = hostPolicy
		}
		r.Policy = &journal.Policy{Name: src.Name, Revision: src.Revision, Rule: ev.Rule.String(), Mode: verdict.ModeEnforce.String()}
		r.Policy.Phase = a.kernel.Phase(ev)
		if ev.Decision == verdict.WouldDeny && !ev.Detected {
			r.Policy.Mode = verdict.ModeAudit.String()
		}
		r.Level = a.levels[ev.Rule].String()
	}
	if ev.Decision == verdict.Denied {
		r.Errno = int(unix.EPERM)
	}
	r.Event = lifeEvents[ev.Type]
	r.Object = describeObject(ev)
	if ev.Script {
		r.Flags = append(r.Flags, journal.FlagScript)
	}
	if a.binder.late.is(ev.Container) {
		r.Flags = append(r.Flags, journal.FlagBoundLate)
	}
	r.Message = message(ev)
	return r
}

var lifeEvents = map[enforce.EventType]string{
	enforce.EventCreated: journal.EventCreated, enforce.EventStart: journal.EventFirstExec, enforce.EventGone: journal.EventGone,
}

func (a *Agent) describeContainer(ev *enforce.Event) *journal.Container {
	c := &journal.Container{ID: ev.Container, CgroupID: ev.Cgroup, Class: "container"}
	if ev.Build {
		c.Class = "build"
	}
	if known, ok := a.binder.registry.Describe(ev.Container); ok {
		c.Name, c.Image, c.Digest, c.Workload, c.Labels = known.Name, known.Image, known.ImageDigest, known.Workload, known.Labels
	}
	return c
}

func describeProcess(ev *enforce.Event) *journal.Process {
	p := &journal.Process{
		PID: ev.PID, TID: ev.TID, StartNS: uint64(ev.StartedSinceBoot), UID: ev.UID, EUID: ev.EUID, GID: ev.GID, EGID: ev.EGID,
		CapEffective: journal.Caps(ev.CapEffective), CapPermitted: journal.Caps(ev.CapPermitted),
		Comm: ev.Comm, Cwd: ev.Cwd, Args: ev.Args, ArgsTruncated: ev.ArgsCut,
	}
	if ev.Exe != "" {
		p.Executable = &journal.Executable{Path: ev.Exe, PathTruncated: ev.PathCut, Layer: journal.LayerUnknown}
		if ev.Type == enforce.EventExec {
			p.Executable.Dev, p.Executable.Ino = journal.KernelDev(ev.ExeDev), ev.ExeIno
			p.Executable.Layer = journal.Layer(ev.Layer)
		}
	}
	p.Ancestors = make([]journal.Ancestor, 0, len(ev.Ancestors))
	for _, x := range ev.Ancestors {
		p.Ancestors = append(p.Ancestors, journal.Ancestor{PID: x.PID, StartNS: uint64(x.StartedSinceBoot), UID: x.UID, Comm: x.Comm})
	}
	return p
}

func describeObject(ev *enforce.Event) *journal.Object {
	switch ev.Type {
	case enforce.EventExec:
		if !ev.Script {
			return nil
		}
		return &journal.Object{Type: "file", Path: ev.Object}
	case enforce.EventMmap, enforce.EventFile:
		return &journal.Object{
			Type: "file", Path: ev.Object, PathTruncated: ev.PathCut,
			Dev: journal.KernelDev(ev.ExeDev), Ino: ev.ExeIno, Layer: journal.Layer(ev.Layer),
		}
	case enforce.EventNet:
		o := &journal.Object{Type: "socket", Port: ev.Remote.Port(), LocalPort: ev.Local.Port(), Protocol: protocol(ev.Protocol)}
		if ev.Rule == verdict.RuleSockets {
			return &journal.Object{
				Type: "socket", Path: ev.Object, PathTruncated: ev.PathCut, Protocol: "unix", Dev: journal.KernelDev(ev.ExeDev), Ino: ev.ExeIno,
			}
		}
		if ev.Remote.IsValid() {
			o.Addr = ev.Remote.Addr().String()
		}
		if ev.Local.IsValid() {
			o.LocalAddr = ev.Local.Addr().String()
		}
		return o
	case enforce.EventBPF:
		return &journal.Object{Type: "bpf"}
	case enforce.EventPrivilege:
		return describePrivilege(ev)
	}
	return nil
}

func describePrivilege(ev *enforce.Event) *journal.Object {
	switch {
	case ev.Capability >= 0:
		name := policy.CapabilityName(ev.Capability)
		if name == "" {
			name = strconv.Itoa(ev.Capability)
		}
		return &journal.Object{Type: "capability", Name: "CAP_" + name}
	case ev.Object != "":
		return &journal.Object{Type: "file", Path: ev.Object, PathTruncated: ev.PathCut, Dev: journal.KernelDev(ev.ExeDev), Ino: ev.ExeIno}
	}
	return nil
}

func protocol(n uint16) string {
	switch n {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(n)
}

func message(ev *enforce.Event) string {
	switch ev.Type {
	case enforce.EventCreated:
		return "container recognised: its cgroup was made"
	case enforce.EventStart:
		return "container armed: its first program is executed"
	case enforce.EventGone:
		return "container gone: its cgroup was removed"
	}
	if ev.Detected {
		return "seen too late to stop"
	}
	return ""
}

// judgeScript looks whether a script whose interpreter was allowed was dropped into the
// container. It is the detect level of exec.drift under the signal backend.
func (a *Agent) judgeScript(ev *enforce.Event, r *journal.Record) bool {
	script, err := enforce.ScriptPath(ev.PID, ev.Object)
	if err != nil {
		a.health.Counter("scripts_not_judged").Add(1)
		return false
	}
	if !path.IsAbs(script) {
		script = path.Join(ev.Cwd, script)
	}
	target, dropped, err := enforce.InWritableLayer(ev.PID, script)
	if err != nil { // it may have ended already: pid 1 has the same root
		for _, c := range a.containers() {
			if c.ID == string(ev.Container) && c.PID != 0 {
				target, dropped, err = enforce.InWritableLayer(c.PID, script)
			}
		}
	}
	if err != nil {
		a.health.Counter("scripts_not_judged").Add(1)
		return false
	}
	if !dropped {
		return false
	}
	eff := a.kernel.Rules(ev)
	if eff == nil {
		eff, _ = a.kernel.PolicyOf(ev.Container) // all its rules
	}
	if eff == nil {
		return false
	}
	for _, mode := range []verdict.Mode{verdict.ModeEnforce, verdict.ModeAudit} {
		rule := eff.Rules[mode][verdict.RuleDrift]
		if rule.Verdict != verdict.Deny {
			continue
		}
		src := eff.Sources[rule.Policy]
		r.Decision, r.Level = verdict.WouldDeny, verdict.Detect.String()
		r.Policy = &journal.Policy{Name: src.Name, Revision: src.Revision, Rule: verdict.RuleDrift.String(), Mode: mode.String(), Phase: a.kernel.Phase(ev)}
		r.Object = &journal.Object{Type: "file", Path: target, Layer: journal.LayerUpper}
		r.Message = "a script written in the container was run; this backend sees it after the fact"
		return true
	}
	return false
}

// lostToCaps counts records about what was allowed that were left out near the agent's own caps.
const lostToCaps = "own_caps"

// reportLosses puts a record into the journal when the kernel side has lost some, or
// some were left out near the agent's own caps.
func (a *Agent) reportLosses(ctx context.Context) error {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	last := map[string]uint64{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now, err := a.kernel.Failures()
		if err != nil {
			a.health.SetDegraded("kernel_state", err.Error()) // not "kernel": that is the canary's
			continue
		}
		a.health.SetOK("kernel_state")
		lost := map[string]uint64{}
		for name, n := range now {
			a.health.Counter("kernel_" + name).Raise(n)
			if n > last[name] && name != "use_scripts" { // a note on use that waits for the next open is no event
				lost[name] = n - last[name]
			}
		}
		last = now
		if n := a.own.leftOut.Swap(0); n > 0 {
			a.health.Counter("records_left_out").Add(n)
			lost[lostToCaps] = n
		}
		if len(lost) > 0 {
			a.journal.Append(&journal.Record{
				BootID: a.host.BootID, Host: a.host.Hostname, Time: time.Now(), Kind: journal.KindLoss, Lost: lost,
				Message: "events without a record since the last such record; docs/failure-codes.md explains the causes",
			})
		}
	}
}
