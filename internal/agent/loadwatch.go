package agent

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/sandbox/spawn"
	"github.com/belay-project/belay/internal/telemetry"
)

// openLoad makes the watcher and what delivers its alerts. Neither does anything yet.
func (a *Agent) openLoad() {
	a.notifier = load.NewNotifier(load.NotifyOptions{Host: a.host.Hostname, Run: spawn.Command, Health: a.health, Log: a.log})
	disks := []string{"/", a.cfg.StateDir}
	if a.cfg.DockerHost != "none" {
		disks = append(disks, a.cfg.DockerRoot)
	}
	a.watcher = load.New(load.Options{
		Containers: a.loadSubjects, Tell: a.tellLoad, Scopes: a.cfg.Scopes, Disks: disks, Health: a.health, Log: a.log,
	})
}

// loadSubjects lists the containers that the kernel side knows, but for builds' steps, whose
// cgroups have no IDs, and the canary.
func (a *Agent) loadSubjects() ([]load.Subject, error) {
	states, err := a.kernel.Containers()
	if err != nil {
		return nil, err
	}
	var out []load.Subject
	for _, st := range states {
		id := ident.ContainerID(hex.EncodeToString(st.ID[:]))
		if st.Build || a.kernel.IsCanary(id) {
			continue
		}
		s := load.Subject{ID: id, Cgroup: st.Cgroup}
		if known, ok := a.binder.registry.Get(id); ok {
			s.Name, s.Image = known.Name, known.Image
		}
		out = append(out, s)
	}
	return out, nil
}

// tellLoad puts an alert into the journal, and has it delivered.
func (a *Agent) tellLoad(al *load.Alert, p *policy.LoadPolicy) {
	a.journal.Append(a.loadRecord(al))
	a.notifier.Offer(al, p)
	if a.carrier != nil && al.Container == nil && (al.Event == load.EventOver || al.Event == load.EventRelieved) {
		a.carrier.Nudge()
	}
}

// maxLoadError bounds what the kernel, or a path, makes of an error in a record.
const maxLoadError = 512

func (a *Agent) loadRecord(al *load.Alert) *journal.Record {
	l := &journal.Load{
		Event: al.Event, Cap: al.Cap, Since: al.Since, Percent: al.Percent, Limit: al.Limit, Where: al.Where,
		Error: al.Error[:min(len(al.Error), maxLoadError)],
	}
	for i := range al.Causes {
		c := &al.Causes[i]
		l.Causes = append(l.Causes, journal.LoadCause{
			ID: string(c.ID), Name: c.Name, Image: c.Image, Now: c.Now, Grew: c.Grew, Unit: c.Unit, Since: c.Since,
		})
	}
	r := &journal.Record{BootID: a.host.BootID, Host: a.host.Hostname, Time: al.Time, Kind: journal.KindLoad, Load: l, Message: al.Text()}
	if al.Container != nil {
		r.Container = &journal.Container{ID: al.Container.ID, Name: al.Container.Name, Image: al.Container.Image, Class: "container"}
	}
	if al.Policy != "" { // else somebody has done it by hand
		r.Policy = &journal.Policy{Name: al.Policy, Revision: al.Revision, Rule: "caps." + al.Cap, Mode: "audit"}
	}
	if al.Message != "" && r.Policy != nil {
		r.Policy.Rule = "actions"
	}
	return r
}

// Load implements [control.LoadWatcher].
func (a *Agent) Load(context.Context) (*control.LoadStatus, error) {
	s := a.watcher.Status()
	return loadStatus(&s), nil
}

func loadStatus(s *load.Status) *control.LoadStatus {
	out := &control.LoadStatus{
		Watching: s.Watching, Sampled: s.Sampled, PressureTriggers: s.Triggers, MemoryBytes: s.Memory, NetworkBytes: s.Network,
		Caps: []control.LoadCap{}, Containers: []control.LoadOf{}, Error: s.Error,
	}
	for i := range s.Caps {
		c := &s.Caps[i]
		cp := control.LoadCap{
			Policy: c.Policy, Cap: c.Cap, Limit: c.Limit, Hysteresis: c.Hysteresis, ForSeconds: c.For.Seconds(), State: c.State, Since: c.Since,
			Told: c.Told, HeldBack: c.HeldBack, Where: c.Where, Error: c.Error,
		}
		if c.Known {
			cp.Percent = new(c.Percent)
		}
		out.Caps = append(out.Caps, cp)
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		of := control.LoadOf{
			ID: string(c.ID), Name: c.Name, Image: c.Image, CPUs: c.CPUs, CPUQuota: c.CPUQuota, MemoryBytes: c.Memory, MemoryMax: c.MemoryMax,
			PIDs: c.PIDs, PIDsMax: c.PIDsMax, WrittenBytes: c.Written, Pressure: map[string]float64{}, Over: c.Over, Error: c.Error,
		}
		if c.HasNet {
			of.NetworkBytes = new(c.Network)
		}
		for j, kind := range []string{"cpu", "memory", "io"} {
			if c.PSI[j] >= 0 {
				of.Pressure[kind] = c.PSI[j]
			}
		}
		out.Containers = append(out.Containers, of)
	}
	return out
}

// loadLevels are the caps, for metrics.
func (a *Agent) loadLevels() []telemetry.LoadLevel {
	var out []telemetry.LoadLevel
	for _, c := range a.watcher.Status().Caps {
		out = append(out, telemetry.LoadLevel{Policy: c.Policy, Cap: c.Cap, Known: c.Known, Percent: c.Percent, Limit: c.Limit, Over: c.State == "over"})
	}
	return out
}

// loadMode says what a LoadPolicy does, where other policies have a mode.
func loadMode(p *policy.LoadPolicy) string {
	acts := make([]string, 0, len(p.Spec.Actions))
	for _, act := range p.Spec.Actions {
		acts = append(acts, string(act))
	}
	slices.Sort(acts)
	return strings.Join(acts, ",")
}

// lacksRight says why a caller may not set a LoadPolicy; empty: it may. The email program and the
// hook run as root, and containers go to targets with their environment, so root of the host alone
// chooses them.
func lacksRight(who *control.Caller, p *policy.LoadPolicy) string {
	switch {
	case isHostRoot(&who.Subject):
		return ""
	case p.Spec.Alerts.EmailCommand != "":
		return "alerts.email.command is run as root, so only root of the host may set it; fix: have root apply the policy, or use alerts.webhook"
	case p.Spec.Plans():
		return "containers go to its targets with their environment values, so only root of the host may set it; fix: have root apply the policy"
	}
	return ""
}
