package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/verdict"
)

// RuntimeFor returns what the checks that a create has passed are worth in the kernel:
// one RuntimePolicy for each AccessPolicy, in total order, to be bound to the
// container by the id that the daemon returns, before it starts. It is empty if no
// check has a counterpart, or if the call is not one that makes containers.
//
// The counterpart of notRoot is exec.asRoot: deny. It holds where the API cannot see:
// a name that the image's /etc/passwd gives the number 0, a setuid program, an exec
// that came another way.
func (s *Access) RuntimeFor(call *apicall.Call, now time.Time) []*RuntimePolicy {
	id := actionIDs[call.Action]
	if traitsOf(id)&traitCreates == 0 || call.Subject.Kind == apicall.Nobody {
		return nil
	}
	in := input{
		sub: &call.Subject, action: id, call: call, resources: call.Resources, facts: &call.Facts,
		elevated: call.Elevated, now: now, quiet: true,
	}
	ids := s.match(in.sub, nil)
	allowed := s.allowing(&in, ids, verdict.ModeEnforce)
	if allowed == nil {
		return nil
	}
	out := map[*AccessPolicy]*RuntimePolicy{}
	for _, r := range s.candidates(&in, ids, verdict.ModeEnforce, true) {
		forbid := r.Effect == EffectForbid && s.about(r, &in) && !(r.Require == SecondFactor && in.elevated)
		if (r == allowed || forbid) && r.inKernel() {
			out[r.policy] = r.runtime()
		}
	}
	var list []*RuntimePolicy
	for _, p := range s.policies {
		if rp := out[p]; rp != nil {
			list = append(list, rp)
		}
	}
	return list
}

// inKernel reports whether one of the rule's checks has a counterpart.
func (r *compiledRule) inKernel() bool {
	return slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Name == "notRoot" && !c.Args.Bools["apiOnly"] })
}

// runtime returns the counterpart of the rule's checks, under the name of its policy.
func (r *compiledRule) runtime() *RuntimePolicy {
	rp := &RuntimePolicy{
		File: r.policy.File, Line: r.Line, Name: r.policy.Name,
		Spec: Spec{
			Mode: verdict.ModeEnforce,
			// Root of a user namespace that the container makes is not the host's.
			Exec: &Exec{Mode: verdict.ModeEnforce, AsRoot: Deny, Nested: Allow},
		},
		lines: map[string]int{"exec.asRoot": r.Line, "exec.nested": r.Line},
	}
	rp.Revision = revisionOf(rp.Canonical())
	return rp
}

// EffectiveWith is Effective with further policies for this container alone, whose
// selectors are not asked: those of [Access.RuntimeFor].
func (s *Set) EffectiveWith(sub Subject, own []*RuntimePolicy) *Effective {
	if len(own) == 0 {
		return s.Effective(sub)
	}
	one := &Set{policies: slices.Concat(s.policies, own)}
	slices.SortStableFunc(one.policies, func(a, b *RuntimePolicy) int {
		return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), cmp.Compare(a.Name, b.Name))
	})
	return one.Effective(sub)
}
