package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
	"github.com/belay-project/belay/internal/workload"
)

// Status implements [control.Agent].
func (a *Agent) Status(context.Context) (*control.Status, error) {
	failures, err := a.kernel.Failures()
	if err != nil {
		return nil, err
	}
	s := &control.Status{
		Version: a.cfg.Version, PID: os.Getpid(), Started: a.since, Host: a.host.Hostname, Kernel: a.host.KernelRelease,
		BootID: a.host.BootID, Backend: string(a.kernel.Backend()), Adopted: a.kernel.Adopted(), Scopes: a.cfg.Scopes,
		Levels: a.levelList(), Policies: a.policies.status(), Containers: len(a.containers()),
		Failures: failures, Journal: a.journal.Stats(), Health: a.health.Snapshot(),
	}
	for _, b := range a.kernel.Probed() {
		s.Backends = append(s.Backends, control.BackendStatus{Name: string(b.Backend), Usable: b.Usable, Why: b.Why})
	}
	for _, src := range a.sources {
		st := src.Status()
		line := control.SourceStatus{Name: st.Runtime, Address: st.Endpoint, Connected: st.Connected, Since: st.Since}
		if st.Err != nil {
			line.Error = st.Err.Error()
		}
		s.Sources = append(s.Sources, line)
	}
	canary := a.lastCanary()
	s.Canary = &canary
	s.Factor = a.factorStatus()
	s.Guard = a.guardStatus()
	s.Outputs = a.outputStatus()
	s.ScannerError = a.images.scannerErr
	s.Enforcing, s.Why = a.enforcing()
	return s, nil
}

// enforcing answers for `belay status`: the canary was denied and the policies are loaded, be they none.
func (a *Agent) enforcing() (bool, string) {
	for _, name := range []string{"kernel", "policies"} {
		if c, _ := a.health.Component(name); c.State == health.Failed {
			return false, name + ": " + c.Reason
		}
	}
	return true, ""
}

// policed answers for the metric that alerts go by: it enforces, and there is a policy to enforce. Root may take
// the last one away, which is no failure of the agent's, and is not to pass unseen. Policies on the node's load deny
// nothing.
func (a *Agent) policed() bool {
	ok, _ := a.enforcing()
	all := a.policies.current()
	return ok && all.Len() > len(all.LoadPolicies())
}

func (a *Agent) levelList() []control.Level {
	var out []control.Level
	for _, l := range a.kernel.Levels() {
		out = append(out, control.Level{Rule: l.Name, Level: l.Text, Note: l.Note})
	}
	return out
}

// containers joins what the kernel knows with what the runtimes say.
func (a *Agent) containers() []control.Container {
	states, err := a.kernel.Containers()
	if err != nil {
		a.health.SetDegraded("kernel_state", err.Error())
		return nil
	}
	a.health.SetOK("kernel_state")
	var out []control.Container
	for _, st := range states {
		id := ident.ContainerID(hex.EncodeToString(st.ID[:]))
		if !st.Build && a.kernel.IsCanary(id) {
			continue
		}
		out = append(out, a.container(id, st))
	}
	slices.SortFunc(out, func(x, y control.Container) int {
		return strings.Compare(x.Name+x.ID, y.Name+y.ID)
	})
	return out
}

func (a *Agent) container(id ident.ContainerID, st enforce.ContainerState) control.Container {
	c := control.Container{ID: string(id), Cgroup: st.Cgroup, PID: st.PID, Build: st.Build, Lost: st.Lost, Policy: "floor"}
	if st.Started {
		c.Armed = a.booted.wallTime(st.StartedSinceBoot)
	}
	if known, ok := a.binder.registry.Get(id); ok {
		c.Name, c.Image, c.ImageDigest, c.Runtime = known.Name, known.Image, known.ImageDigest, known.Runtime
	}
	eff, own := a.kernel.PolicyOf(id)
	if own {
		c.Policy = "own"
	}
	if st.Build {
		c.ID, c.Policy, eff = "", "build", buildPolicy(a.policies.current())
	}
	c.Policies, c.Mode = summary(eff)
	c.BPFAllowed = eff != nil && eff.Rules[verdict.ModeEnforce][verdict.RuleBPF].Verdict == verdict.Allow
	if eff != nil && len(eff.Phases) > 0 && st.Started {
		c.Phase, c.PhaseEnds = enforce.PhaseAfter, c.Armed.Add(eff.PhasesEnd())
		if eff.At(time.Since(c.Armed), st.Listened) != eff {
			c.Phase = enforce.PhaseStart
		}
	}
	c.BoundLate, c.Problems = a.binder.notes(id)
	if !st.Build {
		c.Binding = a.binder.binding(id)
	}
	if st.Started && !st.Overlay && usesDrift(eff) {
		c.Problems = append(c.Problems, "exec.drift: unsupported: the storage of this container is no overlay, so image and written files look alike")
	}
	return c
}

func usesDrift(eff *policy.Effective) bool {
	return eff != nil && (eff.Rules[0][verdict.RuleDrift].Verdict == verdict.Deny || eff.Rules[1][verdict.RuleDrift].Verdict == verdict.Deny)
}

// summary names the policies of an effective policy, and the mode they come to.
func summary(eff *policy.Effective) (names []string, mode string) {
	if eff == nil {
		return nil, "unknown"
	}
	modes := map[verdict.Mode]bool{}
	for _, s := range eff.Sources {
		if s.Name == policy.BuiltIn {
			continue
		}
		names = append(names, s.Name)
		modes[s.Mode] = true
	}
	switch {
	case len(modes) == 0:
		return names, "none"
	case len(modes) == 2:
		return names, "mixed"
	case modes[verdict.ModeAudit]:
		return names, verdict.ModeAudit.String()
	}
	return names, verdict.ModeEnforce.String()
}

// Containers implements [control.Agent].
func (a *Agent) Containers(context.Context) ([]control.Container, error) { return a.containers(), nil }

// Explain implements [control.Agent].
func (a *Agent) Explain(_ context.Context, ref string) (*control.Explanation, error) {
	id, err := a.resolve(ref)
	if err != nil {
		return nil, err
	}
	key, err := id.Bytes()
	if err != nil {
		return nil, err
	}
	st := enforce.ContainerState{ID: key}
	states, err := a.kernel.Containers()
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		if s.ID == key {
			st = s
		}
	}
	eff, _ := a.kernel.PolicyOf(id)
	if eff == nil {
		return nil, fmt.Errorf("the policy of %s was set by an earlier agent and is not known yet", ref)
	}
	return &control.Explanation{Container: a.container(id, st), Revision: eff.Revision, Lines: eff.Explain(), Levels: a.levelList()}, nil
}

// resolve finds a container by what a user calls it: the runtimes' names first, then
// the start of an ID that only the kernel knows.
func (a *Agent) resolve(ref string) (ident.ContainerID, error) {
	c, err := a.binder.registry.Lookup(ref)
	if err == nil {
		return c.ID, nil
	}
	var hits []ident.ContainerID
	for _, k := range a.containers() {
		if ref != "" && strings.HasPrefix(k.ID, ref) {
			hits = append(hits, ident.ContainerID(k.ID))
		}
	}
	if len(hits) == 1 {
		return hits[0], nil
	}
	switch {
	case errors.Is(err, workload.ErrAmbiguous) || len(hits) > 1:
		return "", fmt.Errorf("%q: %w", ref, control.ErrAmbiguous)
	case errors.Is(err, workload.ErrNotFound):
		return "", fmt.Errorf("%q: %w", ref, control.ErrNotFound)
	}
	return "", err
}

// Events implements [control.Agent].
func (a *Agent) Events(ctx context.Context, q journal.ReadOptions, emit func(*journal.Record) error) error {
	// A disk that is full must not hide the records that are on it. The failure is in
	// the journal's own figures.
	_ = a.journal.Flush()
	return journal.Read(ctx, a.records, q, emit)
}

var (
	_ control.Agent        = (*Agent)(nil)
	_ control.CanaryRunner = (*Agent)(nil)
)
