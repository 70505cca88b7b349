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
	field string // of exec, such as "asRoot"
	set   func(*Exec)
}

// counterparts are the checks that the sections of a RuntimePolicy can say too, by name.
// What a check refuses and no section can express (mounts, namespaces, capabilities) has
// none, and neither has noNewPrivileges: a program with file capabilities runs under it,
// without them, and exec.fileCaps would not let it run.
var counterparts = map[string]counterpart{
	// Root of a user namespace that the container makes is not the host's.
	"notRoot": {"asRoot", func(e *Exec) { e.AsRoot, e.Nested = Deny, Allow }},
	// What is in the writable layer of a read-only root was put there around it. Volumes
	// and tmpfs are no part of the root.
	"readOnlyRoot": {"drift", func(e *Exec) { e.Drift, e.Volumes, e.MetadataOnly, e.Memfd = Deny, Allow, Allow, Allow }},
}

func (c *Check) inKernel() (counterpart, bool) {
	k, ok := counterparts[c.Name]
	return k, ok && !c.Args.Bools["apiOnly"]
}

// RuntimeFor returns what the checks that a create has passed are worth in the kernel:
// one RuntimePolicy for each AccessPolicy, in total order and in that policy's mode, to
// be bound to the container by the id that the daemon returns, before it starts. It is
// empty if no check has a counterpart, or if the call is not one that makes containers.
//
// The counterpart of notRoot is exec.asRoot: deny, that of readOnlyRoot exec.drift: deny.
// They hold where the API cannot see: a name that the image's /etc/passwd gives the
// number 0, a setuid program, an exec that came another way.
//
// Callers must not change what they get: later calls get the same policies.
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
				r.addRuntime(out)
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
func (r *compiledRule) addRuntime(out map[*AccessPolicy]worth) {
	for i := range r.Checks {
		name := r.Checks[i].Name
		if _, ok := r.Checks[i].inKernel(); !ok {
			continue
		}
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
	mode := p.Spec.Mode
	rp := &RuntimePolicy{File: p.File, Line: w.line, Name: p.Name, Spec: Spec{Mode: mode, Exec: &Exec{Mode: mode}}}
	rp.linesAt(w.line)
	for name := range strings.SplitSeq(strings.TrimSuffix(w.checks, ","), ",") {
		counterparts[name].set(rp.Spec.Exec)
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
	for _, name := range []string{"notRoot", "readOnlyRoot"} {
		k, want := counterparts[name], Exec{}
		k.set(&want)
		for _, p := range own {
			e := p.Spec.Exec
			if p.Spec.Mode == verdict.ModeEnforce && e != nil && (want.AsRoot == Deny && e.AsRoot == Deny || want.Drift == Deny && e.Drift == Deny) {
				words = append(words, "exec."+k.field)
				break
			}
		}
	}
	return strings.Join(words, ",")
}

// RuntimeOwed returns what a container with this value of [BindingLabel] gets where the
// record of its binding is lost; nil if the value names nothing. Whoever can set the
// label can only tighten by it.
func RuntimeOwed(label string) *RuntimePolicy {
	rp := &RuntimePolicy{Name: "lost-binding", Spec: Spec{Mode: verdict.ModeEnforce, Exec: &Exec{Mode: verdict.ModeEnforce}}}
	some := false
	for w := range strings.SplitSeq(label, ",") {
		for _, k := range counterparts {
			if w == "exec."+k.field {
				k.set(rp.Spec.Exec)
				some = true
			}
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
