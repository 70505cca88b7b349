package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/verdict"
)

// maxFailedChecks bounds what one decision says of failed checks.
const maxFailedChecks = 32

// denied says why: r is the rule that forbids, or nil if none allows.
func (s *Access) denied(in *input, ids []uint32, r *compiledRule, mode verdict.Mode) AccessDecision {
	probe := *in
	probe.quiet = true
	var d AccessDecision
	if r != nil {
		d = AccessDecision{Policy: r.policy.Name, Revision: r.policy.Revision, Rule: r.Name}
		d.Reason, d.Checks = ReasonForbidden, r.failures(&probe, nil)
	} else {
		d = s.notAllowed(&probe, ids, mode)
	}
	if !in.elevated {
		probe.elevated = true
		d.NeedSecondFactor = s.forbidding(&probe, ids, mode) == nil && s.allowing(&probe, ids, mode) != nil
		if d.NeedSecondFactor {
			d.Reason = ReasonSecondFactor
		}
	}
	return d
}

// notAllowed names the first rule that would allow the call but for its checks or a
// second factor, and all checks that failed.
func (s *Access) notAllowed(in *input, ids []uint32, mode verdict.Mode) AccessDecision {
	d := AccessDecision{Reason: ReasonNoRule}
	var nearest *compiledRule
	for _, r := range s.candidates(in, ids, mode, false) {
		if r.Effect != EffectAllow || !s.about(r, in) || len(d.Checks) >= maxFailedChecks {
			continue
		}
		if nearest == nil {
			nearest = r
		}
		d.Checks = r.failures(in, d.Checks)
	}
	if nearest != nil {
		d.Policy, d.Revision, d.Rule = nearest.policy.Name, nearest.policy.Revision, nearest.Name
		d.Reason = ReasonChecks
	}
	return d
}

// about reports whether the resources and the when of a rule hold, whatever its
// checks say.
func (s *Access) about(r *compiledRule, in *input) bool {
	forbid := r.Effect == EffectForbid
	if r.Resources != nil {
		if forbid && !r.Resources.touches(in) || !forbid && !r.Resources.covers(in) {
			return false
		}
	}
	return r.when == nil || s.holds(r, in, forbid)
}

// failures appends each failed check of the rule to list, as "name: why".
func (r *compiledRule) failures(in *input, list []string) []string {
	ci := checkInput{in.action, in.facts, &r.set}
	for i := range r.Checks {
		if why := r.Checks[i].fails(ci); why != "" {
			line := r.Checks[i].Name + ": " + why
			if !slices.Contains(list, line) && len(list) < maxFailedChecks {
				list = append(list, line)
			}
		}
	}
	return list
}

// candidates returns the rules for the action, each once, in total order; not all of
// them but those that can be about the call if all is false.
func (s *Access) candidates(in *input, ids []uint32, mode verdict.Mode, all bool) []*compiledRule {
	var out []*compiledRule
	for _, c := range ids {
		for _, l := range s.lists(c, in.action) {
			if l == nil {
				continue
			}
			for _, set := range []*ruleSet{&l.forbid[mode], &l.allow[mode]} {
				if all {
					out = append(out, set.all...)
					continue
				}
				for _, list := range set.possible(in, nil) {
					out = append(out, list...)
				}
			}
		}
	}
	return sortedSet(out, func(a, b *compiledRule) int { return a.ord - b.ord })
}

// AccessTrace is how a decision came about.
type AccessTrace struct {
	Decision AccessDecision
	// Policies names those that name the caller, in total order.
	Policies []string
	Rules    []RuleTrace // those for the action, in total order
}

// RuleTrace is what one rule had to say to a call.
type RuleTrace struct {
	Policy string
	Rule   string
	File   string
	Line   int
	Effect Effect
	Mode   verdict.Mode
	// Applies: the rule allowed, or forbade, the call.
	Applies bool
	// Decided: it is the rule that the decision names.
	Decided bool
	// Why says what kept the rule from applying; empty if it applies.
	Why string
	// Failed holds every check that the call fails, as "name: why".
	Failed []string
}

// Explain is Decide, and tells what every rule for the action had to say.
func (s *Access) Explain(call *apicall.Call, now time.Time) AccessTrace {
	t := AccessTrace{Decision: s.Decide(call, now)}
	id, known := actionIDs[call.Action]
	if !known {
		return t
	}
	in := newInput(call, id, now)
	in.quiet = true
	ids := s.match(in.sub, nil)
	for _, p := range s.policies {
		if slices.ContainsFunc(ids, func(c uint32) bool { return slices.Contains(s.classes[c].policies, p) }) {
			t.Policies = append(t.Policies, p.Name)
		}
	}
	rules := append(s.candidates(&in, ids, verdict.ModeEnforce, true), s.candidates(&in, ids, verdict.ModeAudit, true)...)
	slices.SortStableFunc(rules, func(a, b *compiledRule) int { return a.ord - b.ord })
	for _, r := range rules {
		rt := RuleTrace{
			Policy: r.policy.Name, Rule: r.Name, File: r.policy.File, Line: r.Line, Effect: r.Effect, Mode: r.policy.Spec.Mode,
			Failed: r.failures(&in, nil),
			// A refused call may name a rule that only came near to allowing it.
			Decided: r.policy.Name == t.Decision.Policy && r.Name == t.Decision.Rule,
		}
		rt.Applies = r.Effect == EffectForbid && s.forbids(r, &in) || r.Effect == EffectAllow && s.allows(r, &in)
		if !rt.Applies {
			rt.Why = s.whyNot(r, &in, rt.Failed)
		}
		t.Rules = append(t.Rules, rt)
	}
	return t
}

// whyNot says what kept r from applying.
func (s *Access) whyNot(r *compiledRule, in *input, failed []string) string {
	forbid := r.Effect == EffectForbid
	var why []string
	if r.Resources != nil && (forbid && !r.Resources.touches(in) || !forbid && !r.Resources.covers(in)) {
		why = append(why, "it is about other resources")
	}
	switch {
	case forbid && len(r.Checks) > 0 && len(failed) == 0:
		why = append(why, "all its checks pass")
	case !forbid && len(failed) == 1:
		why = append(why, "a check fails")
	case !forbid && len(failed) > 1:
		why = append(why, "checks fail")
	}
	if r.when != nil {
		if v, err := r.when.eval(in); err != nil {
			why = append(why, "its when cannot be evaluated: "+short(err.Error()))
		} else if !v {
			why = append(why, "its when is false")
		}
	}
	switch {
	case r.Require == SecondFactor && !forbid && !in.elevated:
		why = append(why, "it needs a second factor")
	case r.Require == SecondFactor && forbid && in.elevated:
		why = append(why, "a second factor was given")
	}
	return strings.Join(why, "; ")
}
