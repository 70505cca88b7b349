package policy

import (
	"slices"
	"time"

	"github.com/belay-project/belay/internal/verdict"
)

// setting is what one policy says about one rule that is not a list of paths.
type setting struct {
	rule   verdict.Rule
	mode   verdict.Mode
	value  Value // Unset: only options of the rule
	opts   options
	to     []SSHDest    // flattened, with value To
	caps   Capabilities // of privileges.capabilities
	field  string       // its place in the document
	line   int          // of field
	policy uint16       // index in Effective.Sources; set when merged
	// implied: memfd that follows drift. It tightens as any other, and never loosens.
	implied bool
}

// options of exec.asRoot and exec.drift; Unset means deny.
type options struct {
	nested, volumes, metadata Value
	startFor                  time.Duration
}

// settings returns what the policy says, in the order of the rules.
func (p *RuntimePolicy) settings() []setting {
	var out []setting
	add := func(s setting) {
		if s.value != Unset || s.opts != (options{}) {
			s.line = p.lines[s.field]
			out = append(out, s)
		}
	}
	if e := p.Spec.Exec; e != nil {
		m := e.Mode
		add(setting{
			rule: verdict.RuleAsRoot, mode: m, value: e.AsRoot, field: "exec.asRoot",
			opts: options{nested: e.Nested, startFor: e.StartFor},
		})
		add(setting{rule: verdict.RuleFileCaps, mode: m, value: e.FileCaps, field: "exec.fileCaps"})
		add(setting{
			rule: verdict.RuleDrift, mode: m, value: e.Drift, field: "exec.drift",
			opts: options{volumes: e.Volumes, metadata: e.MetadataOnly},
		})
		if e.Memfd != Unset {
			add(setting{rule: verdict.RuleMemfd, mode: m, value: e.Memfd, field: "exec.memfd"})
		} else {
			add(setting{rule: verdict.RuleMemfd, mode: m, value: e.Drift, field: "exec.drift", implied: true})
		}
	}
	if h := p.Spec.SSH; h != nil {
		add(setting{rule: verdict.RuleSSHServer, mode: h.Mode, value: h.Server, field: "ssh.server"})
		client := setting{rule: verdict.RuleSSHClient, mode: h.Mode, value: h.Client, field: "ssh.client"}
		if h.Client == To {
			client.to = flatten(h.To)
		}
		add(client)
		add(setting{rule: verdict.RuleSSHKeys, mode: h.Mode, value: h.Keys, field: "ssh.keys"})
	}
	if s := p.Spec.Privileges; s != nil {
		for _, f := range s.settings() {
			add(f)
		}
	}
	if s := p.Spec.Network; s != nil {
		for _, f := range s.settings() {
			add(f)
		}
	}
	if s := p.Spec.Host; s != nil {
		for _, f := range s.settings() {
			add(f)
		}
	}
	if g := p.Spec.Guard; g != nil {
		add(setting{rule: verdict.RuleBPF, mode: g.Mode, value: g.BPF, field: "guard.bpf"})
		add(setting{rule: verdict.RuleSockets, mode: g.Mode, value: g.Sockets, field: "guard.sockets"})
	}
	return out
}

// strictness orders the values of rules and options; the larger wins.
func strictness(v Value) int {
	switch v {
	case Allow:
		return 0
	case DenyAfterStart, To, ReadOnly, Own, Programs:
		return 1
	}
	return 2 // deny; an option that is not set denies too
}

func stricter(a, b Value) Value {
	if strictness(a) >= strictness(b) {
		return a
	}
	return b
}

// merged is one rule of one mode while it is put together.
type merged struct {
	setting
	set    bool
	losers []setting // settings that did not win, for Explain
	// replaced holds what loosening policies put aside, in the order of events.
	replaced []setting
}

// strictest merges the settings of one rule and mode; they come in total order.
func strictest(list []setting) merged {
	m := merged{setting: setting{value: Allow}}
	for _, s := range list {
		switch {
		case s.value == Unset:
			// An option of a rule that this policy does not set: only loosens.
		case !m.set || strictness(s.value) > strictness(m.value):
			if m.set {
				m.losers = append(m.losers, m.setting)
			}
			m.setting, m.set = s, true
		default:
			m.losers = append(m.losers, s)
		}
	}
	if m.value == Allow {
		return m
	}
	first := true
	for _, s := range list {
		if s.value == Unset || s.value == Allow {
			continue
		}
		m.opts = m.opts.stricter(s.opts)
		m.caps |= s.caps
		if m.value == To && s.value == To {
			if first {
				m.to, first = s.to, false
			} else {
				m.to = intersectDests(m.to, s.to)
			}
		}
	}
	return m
}

func (o options) stricter(b options) options {
	o.nested = stricter(o.nested, b.nested)
	o.volumes = stricter(o.volumes, b.volumes)
	o.metadata = stricter(o.metadata, b.metadata)
	if o.startFor == 0 || b.startFor != 0 && b.startFor < o.startFor {
		o.startFor = b.startFor
	}
	return o
}

// loosen applies the explicit values of one loosening policy. weakerOnly is for the
// audit mode and a policy that enforces: what that policy allows is not reported
// either, and what it denies is not its to report there.
func (m *merged) loosen(s setting, weakerOnly bool) {
	if s.implied {
		return
	}
	replace := s.value != Unset
	if weakerOnly && replace {
		same := s.value == m.value && (s.value == To || s.value == DenyAfterStart)
		replace = m.set && (strictness(s.value) < strictness(m.value) || same)
	}
	if replace {
		if m.set && (m.policy != s.policy || m.implied) {
			m.replaced = append(m.replaced, m.setting)
		}
		opts := m.opts
		m.setting, m.set = s, true
		m.opts = opts
		m.opts.startFor = s.opts.startFor
	}
	pick := func(have *Value, v Value) {
		if v != Unset && (!weakerOnly || strictness(v) < strictness(*have)) {
			*have = v
		}
	}
	pick(&m.opts.nested, s.opts.nested)
	pick(&m.opts.volumes, s.opts.volumes)
	pick(&m.opts.metadata, s.opts.metadata)
}

// rule compiles the merged value.
func (m *merged) rule() Rule {
	if m.value == Allow {
		return Rule{Verdict: verdict.Allow}
	}
	r := Rule{Verdict: verdict.Deny, Policy: m.policy}
	set := func(bit uint8, on bool) {
		if on {
			r.Opt |= bit
		}
	}
	switch m.setting.rule {
	case verdict.RuleAsRoot:
		set(OptAfterStart, m.value == DenyAfterStart)
		set(OptNestedAllow, m.opts.nested == Allow)
	case verdict.RuleMemfd:
		set(OptPrograms, m.value == Programs)
	case verdict.RuleDrift:
		set(OptVolumesRO, m.opts.volumes == ReadOnly)
		set(OptVolumes, m.opts.volumes == Allow)
		set(OptMetadata, m.opts.metadata == Allow)
	case verdict.RulePtrace:
		set(OptPtraceOwn, m.value == Own)
	case verdict.RuleSSHClient:
		set(OptSSHTo, m.value == To && len(m.to) > 0)
	}
	return r
}

// selected is one policy that selects the subject.
type selected struct {
	*RuntimePolicy
	index  uint16
	loosen bool
}

// Floor returns the policy of a container about which nothing is known yet: what the
// policies without a selector come to.
func (s *Set) Floor() *Effective { return s.Effective(Subject{}) }

// Effective returns what the policies that select sub come to.
//
// All of them are merged first: for each rule and mode the strictest value wins, for
// each option the strictest of the policies that turn the rule on, and the first
// policy in total order among the strictest is credited. Then the explicit values of
// loosening policies replace what is there, in ascending order, so that the one of
// the highest priority has the last word. Path lists are never loosened.
//
// Policies with a phase are among them; what holds in a container before all of them do
// is in [Effective.Phases], merged in the same way from those that hold by then.
func (s *Set) Effective(sub Subject) *Effective {
	e := s.merge(sub)
	if sub.Class == ClassContainer {
		e.setPhases(s.phases(&sub))
	}
	return e
}

// merge is Effective without regard to phases.
func (s *Set) merge(sub Subject) *Effective {
	e := &Effective{}
	sel := s.selects(&sub, e)
	builtIn := uint16(len(e.Sources))
	e.Sources = append(e.Sources, Source{Name: BuiltIn, Revision: revisionOf([]byte(BuiltIn)), Mode: verdict.ModeEnforce})
	e.OnError = onError(sel)

	var all [slots][verdict.NumRules][]setting
	for _, p := range sel {
		for _, st := range p.settings() {
			st.policy = p.index
			all[st.mode][st.rule] = append(all[st.mode][st.rule], st)
		}
	}
	guard := &all[verdict.ModeEnforce][verdict.RuleBPF]
	*guard = append(*guard, setting{rule: verdict.RuleBPF, value: Deny, policy: builtIn})

	var paths *pathMerger
	var files *fileMerger
	var network *netMerger
	if sub.Class == ClassContainer {
		paths = mergePaths(e, sel)
		files = mergeFiles(e, sel)
		network = mergeNetwork(e, sel)
		e.RuntimeHelpers = helpers(sel)
	}
	for m := range slots {
		for _, r := range verdict.Rules() {
			if r == verdict.RuleFiles && sub.Class != ClassBuild {
				e.Rules[m][r] = files.rule(verdict.Mode(m))
				e.explainFiles(verdict.Mode(m), files)
				continue
			}
			if r >= verdict.RuleEgress && r <= verdict.RuleListen && sub.Class != ClassBuild {
				e.Rules[m][r] = network.rule(verdict.Mode(m), r)
				e.explainNetwork(verdict.Mode(m), r, network)
				continue
			}
			e.mergeRule(verdict.Mode(m), r, &all, sel, sub.Class, paths)
		}
	}
	e.setRevision()
	return e
}

// mergeRule puts one rule of one mode together and notes how.
func (e *Effective) mergeRule(mode verdict.Mode, r verdict.Rule, all *[slots][verdict.NumRules][]setting,
	sel []selected, class Class, paths *pathMerger,
) {
	switch {
	case class == ClassBuild && !guards(r):
		e.Rules[mode][r] = Rule{Verdict: verdict.Allow}
		e.explainBuild(mode, r)
		return
	case r == verdict.RulePathDeny || r == verdict.RulePathAllow:
		e.Rules[mode][r] = Rule{Verdict: verdict.Allow}
		if owners := paths.owners(mode, r); len(owners) > 0 {
			e.Rules[mode][r] = Rule{Verdict: verdict.Deny, Policy: owners[0].index}
		}
		e.explainPaths(mode, r, paths.owners(mode, r))
		return
	}
	m := strictest(all[mode][r])
	m.setting.rule = r
	for _, p := range slices.Backward(sel) {
		if !p.loosen {
			continue
		}
		for from := range slots {
			fromMode := verdict.Mode(from)
			if fromMode != mode && fromMode != verdict.ModeEnforce {
				continue
			}
			for _, st := range all[from][r] {
				if st.policy == p.index {
					m.loosen(st, fromMode != mode)
				}
			}
		}
	}
	e.Rules[mode][r] = m.rule()
	if r == verdict.RuleAsRoot && m.value == DenyAfterStart {
		e.StartFor[mode] = m.opts.startFor
	}
	if m.value == To && len(m.to) > 0 {
		e.SSHTo[mode] = m.to
	}
	if m.value == Deny {
		e.Capabilities[mode] |= m.caps
	}
	e.explainRule(mode, &m)
}

// selects returns the policies for sub in total order and lists them in e.
func (s *Set) selects(sub *Subject, e *Effective) []selected {
	var out []selected
	for _, p := range s.policies {
		if !p.Spec.Selector.matches(sub) {
			continue
		}
		src := Source{
			Name: p.Name, Revision: p.Revision, Mode: p.Spec.Mode, File: p.File, Line: p.Line,
			Loosen: p.Spec.Loosen, Phase: p.Spec.Phase,
		}
		if p.Spec.Loosen && sub.BoundLate {
			src.Ignored = "bound late: the container ran before its policies were bound, so this policy only tightens"
		}
		out = append(out, selected{p, uint16(len(e.Sources)), p.Spec.Loosen && src.Ignored == ""})
		e.Sources = append(e.Sources, src)
	}
	return out
}

// onError decides the verdict at an internal failure. It allows only if a policy says
// so that may (one without a selector, or a loosening one) and none wants a denial:
// by saying it, or by enforcing anything without a word on the matter.
func onError(sel []selected) verdict.Verdict {
	allow, deny := false, false
	for _, p := range sel {
		switch p.Spec.OnError {
		case Allow:
			// One that may not loosen here counts as silent.
			if p.Spec.Selector.empty() || p.loosen {
				allow = true
			} else if p.enforces() {
				deny = true
			}
		case Deny:
			deny = true
		default:
			deny = deny || p.enforces()
		}
	}
	for _, p := range slices.Backward(sel) {
		if p.loosen && p.Spec.OnError != Unset {
			allow, deny = p.Spec.OnError == Allow, p.Spec.OnError == Deny
		}
	}
	if allow && !deny {
		return verdict.Allow
	}
	return verdict.Deny
}

// helpers returns the runtime helpers of the policies that may loosen drift.
func helpers(sel []selected) []string {
	var out []string
	for _, p := range sel {
		if p.Spec.Exec != nil && (p.loosen || p.Spec.Selector.empty()) {
			out = append(out, p.Spec.Exec.RuntimeHelpers...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
