package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxPhases bounds the different lengths of phases in one set: BL_PHASES of bpf/rules.h,
// less the entry for the start. A test reads it from there.
const MaxPhases = 4

// DefaultWithin is the deadline of a phase that ends with the first listen.
const DefaultWithin = time.Minute

// maxPhase bounds the length of a phase.
const maxPhase = time.Hour

// afterFirstListen is the value of phase.after that is no duration.
const afterFirstListen = "firstListen"

// Phase says from when on a policy holds in a container. The zero value: from its start on.
type Phase struct {
	// FirstListen: it holds once a process of the container has called listen(2) on a
	// socket of IP.
	FirstListen bool
	// Within is the time since the container's first exec after which it holds whatever
	// has happened; 0 in the zero value only.
	Within time.Duration
}

// String says when the phase begins, empty for the zero value.
func (p Phase) String() string {
	switch {
	case p == Phase{}:
		return ""
	case p.FirstListen:
		return fmt.Sprintf("from the first listen on, at the latest %s after the start", p.Within)
	}
	return fmt.Sprintf("from %s after the start on", p.Within)
}

// holds reports whether the policy holds in a container of that age.
func (p Phase) holds(age time.Duration, listened bool) bool {
	return age >= p.Within || listened && p.FirstListen
}

// PhaseRules is what holds in a container from an age on, until the next entry.
type PhaseRules struct {
	From time.Duration // since its first exec
	// Quiet holds while it has not listened, Listened since it has. Nil: all its rules do.
	Quiet, Listened *Effective
}

// At returns the rules that hold in a container of that age. It is the reference of
// bl_phase_set in bpf/task.h.
func (e *Effective) At(age time.Duration, listened bool) *Effective {
	now := e
	for _, p := range e.Phases {
		if age < p.From {
			break
		}
		if now = p.Quiet; listened {
			now = p.Listened
		}
		if now == nil {
			now = e
		}
	}
	return now
}

// PhasesEnd returns the age of a container at which all its rules hold, whatever it has done.
func (e *Effective) PhasesEnd() time.Duration {
	if len(e.Phases) == 0 {
		return 0
	}
	return e.Phases[len(e.Phases)-1].From
}

// phases works out what holds before all policies that select sub do; nothing if all of
// them hold from the start on.
func (s *Set) phases(sub *Subject) []PhaseRules {
	var sel []*RuntimePolicy
	lengths := []time.Duration{0}
	for _, p := range s.policies {
		if p.Spec.Selector.matches(sub) {
			sel = append(sel, p)
			lengths = append(lengths, p.Spec.Phase.Within)
		}
	}
	slices.Sort(lengths)
	lengths = slices.Compact(lengths)
	if len(lengths) == 1 {
		return nil
	}
	if len(lengths) > MaxPhases+1 { // Set refuses it; what comes later would hold sooner
		lengths = lengths[:MaxPhases+1]
	}
	last := lengths[len(lengths)-1]
	known := map[string]*Effective{}
	at := func(age time.Duration, listened bool) *Effective {
		mask, all := make([]byte, len(sel)), true
		for i, p := range sel {
			phase := p.Spec.Phase
			phase.Within = min(phase.Within, last)
			if mask[i] = '1'; !phase.holds(age, listened) {
				mask[i], all = '0', false
			}
		}
		if all {
			return nil
		}
		if known[string(mask)] == nil {
			var some Set
			for i, p := range sel {
				if mask[i] == '1' {
					some.policies = append(some.policies, p)
				}
			}
			known[string(mask)] = some.merge(*sub)
		}
		return known[string(mask)]
	}
	out := make([]PhaseRules, len(lengths))
	for i, from := range lengths {
		out[i] = PhaseRules{From: from, Quiet: at(from, false), Listened: at(from, true)}
	}
	return out
}

// setPhases makes the revision that of the phases too.
func (e *Effective) setPhases(phases []PhaseRules) {
	if len(phases) == 0 {
		return
	}
	e.Phases = phases
	type entry struct {
		From            time.Duration
		Quiet, Listened string
	}
	revision := func(x *Effective) string {
		if x == nil {
			return ""
		}
		return x.Revision
	}
	list := make([]entry, len(phases))
	for i, p := range phases {
		list[i] = entry{p.From, revision(p.Quiet), revision(p.Listened)}
	}
	b, err := json.Marshal(struct {
		All    string
		Phases []entry
	}{e.Revision, list})
	if err != nil {
		panic(fmt.Sprintf("encode phases: %v", err)) // numbers and strings only
	}
	e.Revision = effectiveRevision(b)
}

// checkPhases refuses more different lengths than the kernel side has entries for.
func checkPhases(ps []*RuntimePolicy) Errors {
	var lengths []time.Duration
	for _, p := range ps {
		w := p.Spec.Phase.Within
		if w == 0 || slices.Contains(lengths, w) {
			continue
		}
		if lengths = append(lengths, w); len(lengths) > MaxPhases {
			return Errors{{
				File: p.File, Line: cmp.Or(p.lines["phase"], p.Line),
				Msg: fmt.Sprintf("phases of more than %d different lengths in one set", MaxPhases),
				Fix: fmt.Sprintf("give this one the length of another, such as %s", lengths[0]),
			}}
		}
	}
	return nil
}

func (d *decoder) phase(n *yaml.Node, at string, p *Phase) {
	within := false
	d.object(n, at, []field{
		{"after", true, func(n *yaml.Node, at string) {
			if p.FirstListen = n.Kind == yaml.ScalarNode && n.Value == afterFirstListen; !p.FirstListen {
				before := len(d.errs)
				if d.duration(&p.Within, time.Second, maxPhase)(n, at); len(d.errs) > before {
					last := d.errs[len(d.errs)-1]
					last.Fix = cmp.Or(last.Fix, "write a shorter one") + "; or " + afterFirstListen
				}
			}
		}},
		{"within", false, func(n *yaml.Node, at string) {
			within = true
			d.duration(&p.Within, time.Second, maxPhase)(n, at)
		}},
	})
	if within && !p.FirstListen {
		d.fail(n, "delete it, or write after: "+afterFirstListen, "%s.within has no effect: it is the deadline of after: %s", at, afterFirstListen)
	}
	if p.FirstListen && p.Within == 0 {
		p.Within = DefaultWithin
	}
}

// validatePhase refuses what a phase would make a trap.
func (d *decoder) validatePhase(s *Spec) {
	switch {
	case s.Phase == Phase{}:
	case s.Loosen:
		d.failAt("spec.phase", "delete it, or move the rules to a policy without loosen",
			"a loosening policy has no phase: it would allow more after the start than during it")
	case s.Guard != nil:
		d.failAt("spec.phase", "move guard to a policy without a phase",
			"guard has no phase: what is connected to an engine's socket during the start would stay connected")
	case s.Host != nil:
		d.failAt("spec.phase", "move host to a policy without a phase", "host has no phase: what is changed during the start would stay changed")
	case s.OnError == Allow:
		d.failAt("spec.phase", "move onError to a policy without a phase", "onError: allow has no phase")
	}
}

type canonPhase struct {
	After  string `yaml:"after"`
	Within string `yaml:"within,omitempty"`
}

func (p Phase) canonical() *canonPhase {
	switch {
	case p == Phase{}:
		return nil
	case p.FirstListen:
		return &canonPhase{After: afterFirstListen, Within: p.Within.String()}
	}
	return &canonPhase{After: p.Within.String()}
}
