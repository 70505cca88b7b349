package policy

import (
	"slices"

	"github.com/belay-project/belay/internal/apicall"
)

// ruleSet holds rules of one effect. Each of its lists is in total order.
type ruleSet struct {
	all   []*compiledRule
	whole []*compiledRule // those about everything, not about some things
	// named finds rules that are about things of certain names only; rest holds the
	// others. A caller may have thousands of rules that differ in the name alone.
	named map[string][]*compiledRule
	rest  []*compiledRule
}

func (s *ruleSet) add(r *compiledRule) {
	s.all = append(s.all, r)
	if !r.scoped() {
		s.whole = append(s.whole, r)
	}
	if r.Resources == nil || len(r.Resources.Names) == 0 || slices.ContainsFunc(r.Resources.Names, isGlob) {
		s.rest = append(s.rest, r)
		return
	}
	if s.named == nil {
		s.named = map[string][]*compiledRule{}
	}
	for _, n := range r.Resources.Names {
		s.named[n] = append(s.named[n], r)
	}
}

// possible appends to lists those that have every rule which can be about the call,
// and returns it. A rule may be in two of them.
func (s *ruleSet) possible(in *input, lists [][]*compiledRule) [][]*compiledRule {
	if len(s.named) == 0 || !in.goesByName() {
		return append(lists, s.all)
	}
	lists = append(lists, s.rest)
	if in.thing != nil {
		return s.byName(in.thing, lists)
	}
	for i := range in.resources {
		lists = s.byName(&in.resources[i], lists)
	}
	return lists
}

// byName looks under every name that [ResourceSelector.hasName] compares.
func (s *ruleSet) byName(r *apicall.Resource, lists [][]*compiledRule) [][]*compiledRule {
	look := func(name string) {
		if found := s.named[name]; len(found) > 0 {
			lists = append(lists, found)
		}
	}
	for _, n := range r.Names {
		look(trimSlash(n))
	}
	if r.ID != "" {
		look(r.ID)
	}
	look(trimSlash(r.Asked))
	return lists
}

// goesByName reports whether a rule with names must name one of the call's things to
// be about it. That is not so where things go along whose names are not asked, and
// where the call names none.
func (in *input) goesByName() bool {
	if in.thing != nil {
		return true
	}
	if len(in.resources) == 0 || traitsOf(in.action)&(traitList|traitBulk|traitNew|traitCreates) != 0 {
		return false
	}
	for i := range in.resources {
		if isSide(in.action, &in.resources[i]) {
			return false
		}
	}
	return true
}
