package policy

import (
	"slices"

	"github.com/belay-project/belay/internal/verdict"
)

// pathMerger collects the path lists of the policies that select one container.
type pathMerger struct {
	rules map[Pattern]*PathRule
	deny  [slots][]selected // policies with a deny list, in total order
	allow [slots][]selected // policies with an allow list, in total order
}

func (m *pathMerger) owners(mode verdict.Mode, r verdict.Rule) []selected {
	if r == verdict.RulePathAllow {
		return m.allow[mode]
	}
	return m.deny[mode]
}

func (m *pathMerger) rule(p Pattern) *PathRule {
	r := m.rules[p]
	if r == nil {
		// The zero verdict denies: a pattern that is only on allow lists must not.
		r = &PathRule{Kind: p.Kind, Path: p.Path, Verdict: [slots]verdict.Verdict{verdict.Allow, verdict.Allow}}
		m.rules[p] = r
	}
	return r
}

// mergePaths fills Paths, AllowNeed and AllowPolicy of e.
func mergePaths(e *Effective, sel []selected) *pathMerger {
	m := &pathMerger{rules: map[Pattern]*PathRule{}}
	for _, p := range sel {
		x := p.Spec.Exec
		if x == nil {
			continue
		}
		if len(x.Deny) > 0 {
			m.deny[x.Mode] = append(m.deny[x.Mode], p)
		}
		if len(x.Allow) > 0 {
			m.allow[x.Mode] = append(m.allow[x.Mode], p)
		}
		for _, pat := range withAliases(x.Deny) {
			// Policies come in total order: the first to deny is credited.
			if r := m.rule(pat); r.Verdict[x.Mode] != verdict.Deny {
				r.Verdict[x.Mode], r.Policy[x.Mode] = verdict.Deny, p.index
			}
		}
	}
	for i, list := range allowLists(m) {
		e.AllowPolicy = append(e.AllowPolicy, list.policy)
		e.AllowNeed[list.mode] |= 1 << i
		for _, pat := range list.patterns {
			m.rule(pat).AllowBits |= 1 << i
		}
	}
	for _, r := range m.rules {
		e.Paths = append(e.Paths, *r)
	}
	slices.SortFunc(e.Paths, func(a, b PathRule) int {
		return comparePatterns(Pattern{a.Kind, a.Path}, Pattern{b.Kind, b.Path})
	})
	return m
}

// allowList is one bit of AllowNeed.
type allowList struct {
	policy   uint16
	mode     verdict.Mode
	patterns []Pattern
}

// allowLists returns the allow lists in the total order of their policies, at most
// [MaxAllowLists]. A file must be on every list, so lists beyond what the kernel has
// bits for are intersected into one; the first of them is credited.
func allowLists(m *pathMerger) []allowList {
	perMode := MaxAllowLists
	if len(m.allow[0])+len(m.allow[1]) > MaxAllowLists {
		perMode = MaxAllowLists / slots
	}
	var out []allowList
	for mode := range slots {
		for i, p := range m.allow[mode] {
			list := allowList{p.index, verdict.Mode(mode), withAliases(p.Spec.Exec.Allow)}
			if i < perMode {
				out = append(out, list)
				continue
			}
			last := &out[len(out)-1]
			last.patterns = intersect(last.patterns, list.patterns)
		}
	}
	slices.SortFunc(out, func(a, b allowList) int { return int(a.policy) - int(b.policy) })
	return out
}
