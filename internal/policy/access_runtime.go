package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/verdict"
)

// BindingLabel is on every container that the gate let through for checks which the
// kernel is to hold too. Its value names what is owed, see [Owed]: where the record of
// the binding is lost, the label still tightens.
const BindingLabel = LabelPrefix + "runtime"

// counterpart is what a check is worth in the kernel.
type counterpart struct {
	check string
	field string // such as "exec.asRoot": what [BindingLabel] says
	set   func(*Spec)
	has   func(*Spec) bool
	// unless tells whether the check let a call pass that the kernel would not; nil: never.
	unless func(*apicall.Facts) bool
}

// counterparts are the checks that the sections of a RuntimePolicy can say too, in the order in
// which they are owed. What a check refuses and no section can express (mounts, namespaces,
// capabilities) has none, and neither has noNewPrivileges: a program with file capabilities runs
// under it, without them, and exec.fileCaps would not let it run.
var counterparts = []counterpart{
	{
		// Root of a user namespace that the container makes is not the host's.
		check: "notRoot", field: "exec.asRoot",
		set: func(s *Spec) { e := s.exec(); e.AsRoot, e.Nested = Deny, Allow },
		has: func(s *Spec) bool { return s.Exec != nil && s.Exec.AsRoot == Deny },
	},
	{
		// What is in the writable layer of a read-only root was put there around it. Volumes
		// and tmpfs are no part of the root.
		check: "readOnlyRoot", field: "exec.drift",
		set: func(s *Spec) {
			e := s.exec()
			e.Drift, e.Volumes, e.MetadataOnly, e.Memfd = Deny, Allow, Allow, Allow
		},
		has: func(s *Spec) bool { return s.Exec != nil && s.Exec.Drift == Deny },
	},
	{
		// What is at a mount's source when the daemon mounts it, or later, may be another thing
		// than what was judged.
		check: "noSocketMounts", field: "guard.sockets",
		set: func(s *Spec) { s.Guard = &Guard{Mode: s.Mode, Sockets: Deny} },
		has: func(s *Spec) bool { return s.Guard != nil && s.Guard.Sockets == Deny },
		unless: func(f *apicall.Facts) bool {
			return slices.ContainsFunc(f.HostMounts, func(m apicall.HostMount) bool {
				return !m.GateSocket && socketMount(&m, &Args{}) != ""
			})
		},
	},
}

// exec returns the section, which it makes if there is none, in the policy's mode.
func (s *Spec) exec() *Exec {
	if s.Exec == nil {
		s.Exec = &Exec{Mode: s.Mode}
	}
	return s.Exec
}

// inKernel returns what the check is worth for a call that it let pass; nil: nothing.
func (c *Check) inKernel(f *apicall.Facts) *counterpart {
	if c.Args.Bools["apiOnly"] {
		return nil
	}
	for i := range counterparts {
		if k := &counterparts[i]; k.check == c.Name && (k.unless == nil || !k.unless(f)) {
			return k
		}
	}
	return nil
}

// RuntimeFor returns what the checks that a create has passed are worth in the kernel:
// one RuntimePolicy for each AccessPolicy, in total order and in that policy's mode, to
// be bound to the container by the id that the daemon returns, before it starts. It is
// empty if no check has a counterpart, or if the call is not one that makes containers.
//
// The counterpart of notRoot is exec.asRoot: deny, that of readOnlyRoot exec.drift: deny, that of
// noSocketMounts guard.sockets: deny. They hold where the API cannot see: a name that the image's
// /etc/passwd gives the number 0, a setuid program, an exec that came another way, a socket that
// comes to a mounted directory later. noSocketMounts has none for a call that mounts a socket
// which its allow lists.
//
// Callers must not change what they get: later calls get the same policies.
func (s *Access) RuntimeFor(call *apicall.Call, now time.Time) []*RuntimePolicy {
	id := actionIDs[call.Action]
	if traitsOf(id)&traitCreates == 0 || call.Subject.Kind == apicall.Nobody {
		return nil
	}
	in := newInput(call, id, now)
	in.quiet = true
	ids := s.match(in.sub, nil)
	out := map[*AccessPolicy]worth{}
	for _, mode := range []verdict.Mode{verdict.ModeEnforce, verdict.ModeAudit} {
		if mode == verdict.ModeEnforce && !s.enforced {
			continue
		}
		var allowed *compiledRule
		if mode == verdict.ModeEnforce || !s.enforced {
			allowed = s.allowing(&in, ids, mode)
		}
		if mode == verdict.ModeEnforce && allowed == nil {
			return nil
		}
		for _, r := range s.candidates(&in, ids, mode, true) {
			forbid := r.Effect == EffectForbid && s.about(r, &in) && !(r.Require == SecondFactor && in.elevated)
			if r == allowed || forbid {
				r.addRuntime(&call.Facts, out)
			}
		}
	}
	var list []*RuntimePolicy
	for _, p := range s.policies {
		if w := out[p]; len(w.checks) > 0 {
			list = append(list, s.runtimeOf(p, w))
		}
	}
	return list
}

// worth is what the checks of one AccessPolicy's rules are worth.
type worth struct {
	line   int    // of the first of these rules
	checks string // names, sorted, with a comma after each
}

// addRuntime adds the rule's checks that have counterparts to what its policy has in out.
func (r *compiledRule) addRuntime(f *apicall.Facts, out map[*AccessPolicy]worth) {
	for i := range r.Checks {
		k := r.Checks[i].inKernel(f)
		if k == nil {
			continue
		}
		name := k.check
		w := out[r.policy]
		if w.checks == "" {
			w.line = r.Line
		}
		switch {
		case strings.Contains(w.checks, name+","):
		case w.checks < name:
			w.checks += name + ","
		default:
			w.checks = name + "," + w.checks
		}
		out[r.policy] = w
	}
}

// runtimeKey is what a policy of [Access.RuntimeFor] depends on.
type runtimeKey struct {
	policy *AccessPolicy
	worth
}

// runtimeOf returns the policy, under the name of p. They are few, one for each combination of
// checks in a rule, and to write one in its normal form takes longer than to judge a create.
func (s *Access) runtimeOf(p *AccessPolicy, w worth) *RuntimePolicy {
	key := runtimeKey{p, w}
	if rp, ok := s.runtimes.Load(key); ok {
		return rp.(*RuntimePolicy)
	}
	rp := &RuntimePolicy{File: p.File, Line: w.line, Name: p.Name, Spec: Spec{Mode: p.Spec.Mode}}
	rp.linesAt(w.line)
	names := strings.Split(w.checks, ",")
	for i := range counterparts {
		if k := &counterparts[i]; slices.Contains(names, k.check) {
			k.set(&rp.Spec)
		}
	}
	rp.canonical = rp.Canonical()
	rp.Revision = revisionOf(rp.canonical)
	first, _ := s.runtimes.LoadOrStore(key, rp)
	return first.(*RuntimePolicy)
}

// linesAt says that all that the policy sets is written in one line.
func (p *RuntimePolicy) linesAt(line int) {
	p.lines = map[string]int{}
	for _, f := range []string{"asRoot", "nested", "drift", "volumes", "metadataOnly", "memfd"} {
		p.lines["exec."+f] = line
	}
	p.lines["guard.sockets"] = line
}

// RestoreRuntime reads the [RuntimePolicy.Canonical] of what [Access.RuntimeFor] gave,
// of a rule that began in the given line of a file.
//
// Errors: as [ParseAll]; one if it is not one RuntimePolicy without a selector.
func RestoreRuntime(file string, line int, canonical []byte) (*RuntimePolicy, error) {
	docs, err := ParseAll(file, canonical)
	if err != nil {
		return nil, fmt.Errorf("kept runtime policy: %w", err)
	}
	if len(docs.Runtime) != 1 || docs.Len() != 1 || !docs.Runtime[0].Spec.Selector.empty() || docs.Runtime[0].Spec.Loosen {
		return nil, errors.New("kept runtime policy: not one that a check has made")
	}
	rp := docs.Runtime[0]
	rp.Line = line
	rp.linesAt(line)
	return rp, nil
}

// Owed names what must be bound for the container to start, for [BindingLabel]:
// "exec.asRoot,exec.drift". It is empty if only policies that audit have anything bound.
func Owed(own []*RuntimePolicy) string {
	var words []string
	for i := range counterparts {
		k := &counterparts[i]
		if slices.ContainsFunc(own, func(p *RuntimePolicy) bool { return p.Spec.Mode == verdict.ModeEnforce && k.has(&p.Spec) }) {
			words = append(words, k.field)
		}
	}
	return strings.Join(words, ",")
}

// RuntimeOwed returns what a container with this value of [BindingLabel] gets where the
// record of its binding is lost; nil if the value names nothing. Whoever can set the
// label can only tighten by it.
func RuntimeOwed(label string) *RuntimePolicy {
	rp := &RuntimePolicy{Name: "lost-binding", Spec: Spec{Mode: verdict.ModeEnforce}}
	words := strings.Split(label, ",")
	some := false
	for i := range counterparts {
		if k := &counterparts[i]; slices.Contains(words, k.field) {
			k.set(&rp.Spec)
			some = true
		}
	}
	if !some {
		return nil
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
