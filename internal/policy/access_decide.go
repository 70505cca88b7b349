package policy

import (
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/verdict"
)

// Reasons of decisions that no rule made.
const (
	// ReasonNoPolicy: no AccessPolicy is in enforce mode. The gate lets through what
	// the daemon itself would, and records it.
	ReasonNoPolicy = "no access policy"
	// ReasonNobody: the caller is not known.
	ReasonNobody = "the caller is not known"
	// ReasonUnnamed: there are policies, and none names the caller.
	ReasonUnnamed = "no access policy names the caller"
	// ReasonNoRule: policies name the caller, and none of their rules allows this.
	ReasonNoRule = "no rule allows it"
	// ReasonForbidden: a rule forbids it.
	ReasonForbidden = "the rule forbids it"
	// ReasonChecks: a rule is about it, and the request fails the rule's checks.
	ReasonChecks = "it fails checks"
	// ReasonSecondFactor: within an elevation it would be allowed.
	ReasonSecondFactor = "it needs a second factor"
	// ReasonAction: the action is not one that rules can name.
	ReasonAction = "the action is not known"
)

// AccessDecision is the answer to one call. The zero value denies.
type AccessDecision struct {
	Allowed bool
	// Policy, Revision and Rule say who decided; empty where no rule did.
	Policy, Revision, Rule string
	Reason                 string
	// Checks holds the failed checks that kept the call from being allowed, as
	// "name: why", each once.
	Checks []string
	// NeedSecondFactor: the same call would be allowed within a live elevation.
	NeedSecondFactor bool
	// Audit: the call is allowed, and policies in audit mode would have denied it.
	// Policy, Rule, Reason and Checks are then theirs.
	Audit bool
	// Obligations bind the gate if the call is allowed. Defaults are those of the calls
	// that create containers, empty for others.
	Obligations Obligations
	// Labels must be set on what the call makes, over those of the request. The map must
	// not be changed.
	Labels map[string]string
	// Scope says what of the answer the caller may see, and what a bulk call may touch.
	Scope Scope
}

// Scope narrows a call that is allowed for some things only.
type Scope struct {
	// Filter: [Access.VisibleTo] must be asked for each thing of the answer.
	Filter bool
	// Labels must be added as label filters to a bulk call (prune).
	Labels map[string]string
}

// input is one question to the rules.
type input struct {
	sub       *apicall.Subject
	action    actionID
	call      *apicall.Call // what when sees
	resources []apicall.Resource
	thing     *apicall.Resource // instead of resources: one thing of an answer
	makes     bool              // the call makes a thing that is none of resources: made
	made      apicall.Resource
	facts     *apicall.Facts
	elevated  bool
	now       time.Time
	quiet     bool // a second look: do not count failures again
}

// newInput puts a call to the rules.
func newInput(call *apicall.Call, id actionID, now time.Time) input {
	in := input{
		sub: &call.Subject, action: id, call: call, resources: call.Resources, facts: &call.Facts,
		elevated: call.Elevated, now: now,
	}
	in.makes = traitsOf(id)&traitNew != 0
	for i := range in.resources {
		in.makes = in.makes && !isMade(id, &in.resources[i])
	}
	if in.makes {
		in.made = apicall.Resource{Kind: mainKind(id), Asked: call.Facts.Name}
	}
	return in
}

// Decide answers one call. Forbidding rules win over allowing ones; what no rule
// allows is denied. Policies in audit mode never change the answer.
//
// An internal failure (an expression that cannot be evaluated) denies: see
// [Access.WhenErrors]. Decide does not change call and does not keep it. Safe for
// concurrent use.
func (s *Access) Decide(call *apicall.Call, now time.Time) AccessDecision {
	if call.Subject.Kind == apicall.Nobody {
		return AccessDecision{Reason: ReasonNobody}
	}
	id, known := actionIDs[call.Action]
	if !known {
		return AccessDecision{Reason: ReasonAction}
	}
	if len(s.policies) == 0 {
		return AccessDecision{Allowed: true, Reason: ReasonNoPolicy}
	}
	in := newInput(call, id, now)
	var buf [32]uint32
	ids := s.match(in.sub, buf[:0])
	if !s.enforced {
		return s.auditOnly(&in, ids)
	}
	if !s.anyEnforced(ids) {
		return AccessDecision{Reason: ReasonUnnamed}
	}
	if r := s.forbidding(&in, ids, verdict.ModeEnforce); r != nil {
		return s.denied(&in, ids, r, verdict.ModeEnforce)
	}
	r := s.allowing(&in, ids, verdict.ModeEnforce)
	if r == nil {
		return s.denied(&in, ids, nil, verdict.ModeEnforce)
	}
	d := s.allowed(&in, ids, r)
	if a := s.forbidding(&in, ids, verdict.ModeAudit); a != nil {
		s.wouldDeny(&d, s.denied(&in, ids, a, verdict.ModeAudit))
	}
	return d
}

// auditOnly answers where no policy is enforced: everything passes, and what would
// not is said.
func (s *Access) auditOnly(in *input, ids []uint32) AccessDecision {
	d := AccessDecision{Allowed: true, Reason: ReasonNoPolicy}
	if len(ids) == 0 {
		s.wouldDeny(&d, AccessDecision{Reason: ReasonUnnamed})
		return d
	}
	r := s.forbidding(in, ids, verdict.ModeAudit)
	if r != nil || s.allowing(in, ids, verdict.ModeAudit) == nil {
		s.wouldDeny(&d, s.denied(in, ids, r, verdict.ModeAudit))
	}
	return d
}

func (s *Access) wouldDeny(d *AccessDecision, denial AccessDecision) {
	d.Audit = true
	d.Policy, d.Revision, d.Rule = denial.Policy, denial.Revision, denial.Rule
	d.Reason, d.Checks = denial.Reason, denial.Checks
}

func (s *Access) anyEnforced(ids []uint32) bool {
	for _, c := range ids {
		for _, p := range s.classes[c].policies {
			if p.Spec.Mode == verdict.ModeEnforce {
				return true
			}
		}
	}
	return false
}

// lists returns the rules of a class that may be about the action: those for it, and
// those for all actions. Either may be nil.
func (s *Access) lists(class uint32, action actionID) [2]*ruleList {
	return [2]*ruleList{s.rules[ruleKey{class, action}], s.rules[ruleKey{class, anyAction}]}
}

// forbidding returns the first rule in total order that forbids the call; nil: none.
func (s *Access) forbidding(in *input, ids []uint32, mode verdict.Mode) *compiledRule {
	var first *compiledRule
	var buf [8][]*compiledRule
	for _, c := range ids {
		for _, l := range s.lists(c, in.action) {
			if l == nil {
				continue
			}
			for _, list := range l.forbid[mode].possible(in, buf[:0]) {
				for _, r := range list {
					if first != nil && r.ord >= first.ord {
						break
					}
					if s.forbids(r, in) {
						first = r
					}
				}
			}
		}
	}
	return first
}

// allowing returns the first rule in total order that allows the call; nil: none. For
// calls whose answers are filtered a rule about everything goes first.
func (s *Access) allowing(in *input, ids []uint32, mode verdict.Mode) *compiledRule {
	if in.thing == nil && traitsOf(in.action)&(traitList|traitBulk) != 0 {
		if r := s.firstAllowing(in, ids, mode, true); r != nil {
			return r
		}
	}
	return s.firstAllowing(in, ids, mode, false)
}

func (s *Access) firstAllowing(in *input, ids []uint32, mode verdict.Mode, whole bool) *compiledRule {
	var first *compiledRule
	var buf [8][]*compiledRule
	for _, c := range ids {
		for _, l := range s.lists(c, in.action) {
			if l == nil {
				continue
			}
			lists := append(buf[:0], l.allow[mode].whole)
			if !whole {
				lists = l.allow[mode].possible(in, buf[:0])
			}
			for _, list := range lists {
				for _, r := range list {
					if first != nil && r.ord >= first.ord {
						break
					}
					if s.allows(r, in) {
						first = r
						break
					}
				}
			}
		}
	}
	return first
}

// forbids reports whether r, of effect forbid, forbids the call.
func (s *Access) forbids(r *compiledRule, in *input) bool {
	if r.Require == SecondFactor && in.elevated {
		return false
	}
	if r.Resources != nil && !r.Resources.touches(in) {
		return false
	}
	if len(r.Checks) > 0 && r.firstFailure(in) == nil {
		return false
	}
	return r.when == nil || s.holds(r, in, true)
}

// allows reports whether r, of effect allow, allows the call.
func (s *Access) allows(r *compiledRule, in *input) bool {
	return (r.Require == "" || in.elevated) && s.allowsElevated(r, in)
}

// allowsElevated is allows for a caller with a live elevation.
func (s *Access) allowsElevated(r *compiledRule, in *input) bool {
	return (r.Resources == nil || r.Resources.covers(in)) && r.firstFailure(in) == nil &&
		(r.when == nil || s.holds(r, in, false))
}

// firstFailure returns the first check that the call fails; nil: none. The things of
// an answer are not checked: the call for them was.
func (r *compiledRule) firstFailure(in *input) *Check {
	if in.thing != nil {
		return nil
	}
	ci := checkInput{in.action, in.facts, &r.set}
	for i := range r.Checks {
		if r.Checks[i].fails(ci) != "" {
			return &r.Checks[i]
		}
	}
	return nil
}

// holds evaluates when. On an error it returns onError, and counts it.
func (s *Access) holds(r *compiledRule, in *input, onError bool) bool {
	if r.when.usesResource && in.thing == nil {
		switch t := traitsOf(in.action); {
		case t&traitBulk != 0:
			return onError // nobody knows what it will touch
		case t&traitList != 0 && len(in.resources) == 0:
			return !onError // asked again for each thing of the answer
		}
	}
	v, err := r.when.eval(in)
	if err != nil {
		if !in.quiet {
			s.whenErrors.Add(1)
		}
		return onError
	}
	return v
}

// WhenErrors returns how many times an expression could not be evaluated since the
// policies were loaded: each time the rule forbade, or did not allow.
func (s *Access) WhenErrors() uint64 { return s.whenErrors.Load() }

func (s *Access) allowed(in *input, ids []uint32, r *compiledRule) AccessDecision {
	t := traitsOf(in.action)
	d := AccessDecision{
		Allowed: true, Policy: r.policy.Name, Revision: r.policy.Revision, Rule: r.Name, Reason: "allowed",
		Obligations: r.obls,
	}
	for _, c := range ids {
		for _, p := range s.classes[c].obligers {
			if p != r.policy {
				d.Obligations = mergeObligations(&d.Obligations, p.Spec.Obligations)
			}
		}
	}
	if t&traitCreates == 0 {
		d.Obligations.Defaults = Defaults{}
	}
	if t&traitMakes != 0 {
		d.Labels = labelsToSet(&d.Obligations, in.sub)
	}
	switch {
	case t&traitList != 0:
		d.Scope.Filter = r.scoped() || s.scopedForbid(in.action, ids)
	case t&traitBulk != 0 && r.Resources != nil:
		d.Scope.Labels = r.Resources.filterLabels(in.sub)
	}
	return d
}

func (s *Access) scopedForbid(action actionID, ids []uint32) bool {
	for _, c := range ids {
		for _, l := range s.lists(c, action) {
			if l == nil {
				continue
			}
			if f := &l.forbid[verdict.ModeEnforce]; len(f.whole) < len(f.all) {
				return true
			}
		}
	}
	return false
}

// Grants reports whether any rule could let the caller do an action, whatever the call is about. If
// none can, each such call is denied; if one can, [Access.Decide] tells.
func (s *Access) Grants(sub *apicall.Subject, action string) bool {
	id, known := actionIDs[action]
	if sub.Kind == apicall.Nobody || !known {
		return false
	}
	if !s.enforced {
		return true
	}
	var buf [32]uint32
	for _, c := range s.match(sub, buf[:0]) {
		for _, l := range s.lists(c, id) {
			if l != nil && len(l.allow[verdict.ModeEnforce].all) > 0 {
				return true
			}
		}
	}
	return false
}

// Visible reports whether the caller may see res in the answer to a call of the
// given action, with no elevation: see [Access.VisibleTo].
func (s *Access) Visible(sub *apicall.Subject, action string, res *apicall.Resource) bool {
	return s.visible(&input{sub: sub, action: actionIDs[action], thing: res, facts: &apicall.Facts{}})
}

// VisibleTo reports whether the caller may see res in the answer to call, which was
// allowed with Scope.Filter set.
func (s *Access) VisibleTo(call *apicall.Call, res *apicall.Resource, now time.Time) bool {
	return s.visible(&input{
		sub: &call.Subject, action: actionIDs[call.Action], call: call, thing: res, facts: &call.Facts,
		elevated: call.Elevated, now: now,
	})
}

func (s *Access) visible(in *input) bool {
	if in.sub.Kind == apicall.Nobody || in.action == anyAction {
		return false
	}
	if !s.enforced {
		return true
	}
	var buf [32]uint32
	ids := s.match(in.sub, buf[:0])
	return s.forbidding(in, ids, verdict.ModeEnforce) == nil && s.allowing(in, ids, verdict.ModeEnforce) != nil
}
