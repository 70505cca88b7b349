package enforce

import (
	"slices"

	"github.com/belay-project/belay/internal/policy"
)

// The phases of a record: [Enforcer.Phase].
const (
	PhaseStart = "start"
	PhaseAfter = "after"
)

// putPhased puts a policy into the kernel whose rules do not all hold from a container's start
// on: a set for each combination of them, and the one that is bound, which holds at the start
// and says when which other does. It takes a reference on that, and that on the others.
func (e *Enforcer) putPhased(eff *policy.Effective) (uint32, error) {
	if set, ok := e.sets.byRevision[eff.Revision]; ok {
		e.sets.info[set].refs++
		return set, nil
	}
	first := eff.Phases[0].Quiet
	base, err := e.nextSet()
	if err != nil {
		return 0, err
	}
	known := map[*policy.Effective]uint32{first: base}
	var holds []uint32
	release := func() {
		for _, s := range holds {
			e.drop(s)
		}
	}
	number := func(x *policy.Effective) (uint32, error) {
		if set, ok := known[x]; ok {
			return set, nil
		}
		key, phase := "start:", PhaseStart
		rules := x
		if x == nil { // all of them
			key, phase, rules = "after:", PhaseAfter, eff
		}
		set, err := e.putRules(key+eff.Revision+":"+rules.Revision, rules)
		if err != nil {
			return 0, err
		}
		e.sets.info[set].phase = phase
		known[x] = set
		holds = append(holds, set)
		return set, nil
	}
	var table [phases]kernelBlPhase
	for i := range table {
		p := eff.Phases[min(i, len(eff.Phases)-1)]
		table[i].FromNs = uint64(max(p.From, 0))
		if table[i].Quiet, err = number(p.Quiet); err == nil {
			table[i].Listened, err = number(p.Listened)
		}
		if err != nil {
			release()
			return 0, err
		}
	}
	s := &setInfo{eff: first, whole: eff, key: eff.Revision, phase: PhaseStart, holds: holds, table: table, refs: 1}
	if err := e.enter(base, s); err != nil {
		release()
		return 0, err
	}
	return base, nil
}

// phases is BL_PHASES of bpf/rules.h.
const phases = len(kernelBlPolicy{}.Phases)

// encode returns the kernel's form of a set.
func (s *setInfo) encode(set uint32) kernelBlPolicy {
	p := EncodePolicy(s.eff, set)
	if len(s.holds) > 0 {
		p.Phased, p.Phases = 1, s.table
	}
	return p
}

// holdPhases notes what the sets of an earlier agent name for later phases: they are
// kept as long as the set that names them.
func (e *Enforcer) holdPhases(found map[uint32]kernelBlPolicy) {
	for set, p := range found {
		if p.Phased == 0 {
			continue
		}
		s := e.sets.info[set]
		s.phase, s.table = PhaseStart, p.Phases
		for _, ph := range p.Phases {
			for _, then := range []uint32{ph.Quiet, ph.Listened} {
				if t := e.sets.info[then]; t != nil && then != set && !slices.Contains(s.holds, then) {
					s.holds = append(s.holds, then)
					t.refs++
					t.phase = PhaseStart
				}
			}
		}
	}
	for _, p := range found {
		if t := e.sets.info[p.Phases[phases-1].Listened]; p.Phased != 0 && t != nil {
			t.phase = PhaseAfter
		}
	}
}

// Phase tells in which phase of its container a record was made: [PhaseStart] if some of
// the container's rules did not hold yet, [PhaseAfter] if all of them did, empty if its rules
// have no phases or that is not known any more.
func (e *Enforcer) Phase(ev *Event) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sets.info[ev.Set]; s != nil {
		return s.phase
	}
	return ""
}

// Rules returns the policy that decided what a record is about: that of the container's phase.
// Nil: it was an earlier agent's, or is gone.
func (e *Enforcer) Rules(ev *Event) *policy.Effective {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sets.info[ev.Set]; s != nil {
		return s.eff
	}
	return nil
}
