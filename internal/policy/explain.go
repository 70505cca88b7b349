package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/verdict"
)

// Line is one line of an explanation: what one rule is in one mode, and why.
type Line struct {
	Rule   verdict.Rule
	Mode   verdict.Mode
	Value  string // as in a policy, with the options in force
	Policy string // who is credited; empty if no policy sets the rule
	File   string
	Line   int // of the value in File; 0 if there is no file
	Why    string
}

// Explain says for each rule what it is and why: which policy set it, and which
// others lost. Each rule has a line for every mode in which a policy sets it, or
// one line that says that none does.
func (e *Effective) Explain() []Line {
	var out []Line
	for _, r := range verdict.Rules() {
		var unset Line
		found := false
		for _, l := range e.lines {
			switch {
			case l.Rule != r:
			case l.Policy != "":
				l.Why += e.phaseOf(l)
				out, found = append(out, l), true
			case l.Mode == verdict.ModeEnforce:
				unset = l
			}
		}
		if !found {
			out = append(out, unset)
		}
	}
	return out
}

// phaseOf says from when on a line holds, if not from the container's start on, and what does
// until then.
func (e *Effective) phaseOf(l Line) string {
	if len(e.Phases) == 0 || e.Phases[0].Quiet == nil {
		return ""
	}
	first := string(Allow)
	for _, was := range e.Phases[0].Quiet.lines {
		switch {
		case was.Rule != l.Rule || was.Mode != l.Mode || was.Policy == "":
		case was.Policy == l.Policy && was.Value == l.Value:
			return ""
		default:
			first = was.Value + " (" + was.Policy + ")"
		}
	}
	for _, s := range e.Sources {
		if s.Name == l.Policy && s.Phase != (Phase{}) {
			return "; " + s.Phase.String() + "; until then " + first
		}
	}
	return "; at the start " + first
}

func (e *Effective) explainBuild(mode verdict.Mode, r verdict.Rule) {
	e.lines = append(e.lines, Line{
		Rule: r, Mode: mode, Value: string(Allow),
		Why: "a build step: only the guards apply",
	})
}

func (e *Effective) explainRule(mode verdict.Mode, m *merged) {
	l := Line{Rule: m.setting.rule, Mode: mode, Value: string(Allow), Why: "no policy sets it"}
	if m.set {
		src := e.Sources[m.policy]
		l.Value, l.Policy, l.File, l.Line = m.String(), src.Name, src.File, m.line
		l.Why = e.why(m)
	}
	e.lines = append(e.lines, l)
}

// why tells how a value came about.
func (e *Effective) why(m *merged) string {
	var parts []string
	if len(m.replaced) > 0 {
		parts = append(parts, "loosens "+e.list(m.replaced))
	}
	var weaker, same []setting
	for _, s := range m.losers {
		switch {
		case s.policy == m.policy || len(m.replaced) > 0 && strictness(s.value) > strictness(m.value):
			// Put aside together with what beat it; named once is enough.
		case s.value == m.value:
			same = append(same, s)
		default:
			weaker = append(weaker, s)
		}
	}
	if len(weaker) > 0 {
		parts = append(parts, "stricter than "+e.list(weaker))
	}
	if len(same) > 0 {
		parts = append(parts, "first of equals, before "+e.list(same))
	}
	if m.value == To && len(same) > 0 && len(m.replaced) == 0 {
		parts = append(parts, "only destinations that all of them name")
	}
	if m.value == To && len(m.to) == 0 {
		parts = append(parts, "no destination is named by all, so none is allowed")
	}
	if m.implied {
		parts = append(parts, "follows exec.drift")
	}
	if len(parts) == 0 {
		return "the only policy that sets it"
	}
	return strings.Join(parts, "; ")
}

func (e *Effective) list(ss []setting) string {
	out := make([]string, len(ss))
	for i, s := range ss {
		src := e.Sources[s.policy]
		out[i] = fmt.Sprintf("%s: %s", src.Name, s.value)
		if src.File != "" {
			out[i] += fmt.Sprintf(" (%s:%d)", src.File, s.line)
		}
	}
	return strings.Join(out, ", ")
}

// String returns the value with its options, as a person would write it.
func (m *merged) String() string {
	opt := func(v Value) string {
		if v == Unset {
			v = Deny
		}
		return string(v)
	}
	if m.value == Allow {
		return string(Allow)
	}
	switch m.setting.rule {
	case verdict.RuleAsRoot:
		if m.value == DenyAfterStart {
			return fmt.Sprintf("denyAfterStart (startFor: %s, nested: %s)", m.opts.startFor, opt(m.opts.nested))
		}
		return fmt.Sprintf("deny (nested: %s)", opt(m.opts.nested))
	case verdict.RuleDrift:
		return fmt.Sprintf("deny (volumes: %s, metadataOnly: %s)", opt(m.opts.volumes), opt(m.opts.metadata))
	case verdict.RuleCapabilities:
		return "deny " + someOf(m.caps.Names())
	case verdict.RuleSSHClient:
		if m.value == To {
			return "to " + someOf(destStrings(m.to))
		}
	}
	return string(m.value)
}

func (e *Effective) explainPaths(mode verdict.Mode, r verdict.Rule, owners []selected) {
	l := Line{Rule: r, Mode: mode, Value: string(Allow), Why: "no policy sets it"}
	for i, p := range owners {
		list, field, why := p.Spec.Exec.Deny, "exec.deny", "any of them is denied, whichever policy lists it"
		if r == verdict.RulePathAllow {
			list, field, why = p.Spec.Exec.Allow, "exec.allow", "a file must be on this list"
			if len(owners) > 1 {
				why = fmt.Sprintf("a file must be on all %d lists; this is number %d", len(owners), i+1)
			}
		}
		l = Line{
			Rule: r, Mode: mode, Value: someOf(patternStrings(list)), Policy: p.Name, File: p.File,
			Line: p.lines[field], Why: why,
		}
		e.lines = append(e.lines, l)
	}
	if len(owners) == 0 {
		e.lines = append(e.lines, l)
	}
}

// someOf writes a list for one line of a terminal.
func someOf(s []string) string {
	const most = 6
	switch {
	case len(s) == 0:
		return "nothing"
	case len(s) > most:
		return strings.Join(s[:most], ", ") + " and " + strconv.Itoa(len(s)-most) + " more"
	}
	return strings.Join(s, ", ")
}
