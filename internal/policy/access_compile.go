package policy

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/verdict"
)

// Access is what the AccessPolicies of a host come to: rules found by who calls and
// what is asked, so that the cost of a decision does not grow with the number of
// rules that are about others. It is immutable and safe for concurrent use. The zero
// value holds no policy.
type Access struct {
	policies []*AccessPolicy
	enforced bool // any of them is in enforce mode
	// Callers are put into classes: all callers of a class are named by the same
	// policies. One caller may be in several: by name, by group, by a glob.
	classes []class
	exact   map[subjectKey][]member
	broad   []member // asked for every caller
	rules   map[ruleKey]*ruleList

	whenErrors atomic.Uint64
	runtimes   sync.Map // of runtimeKey to *RuntimePolicy
}

type class struct {
	policies []*AccessPolicy
	obligers []*AccessPolicy // those in enforce mode with obligations of their own
}

// member puts callers that term matches into a class; a nil term is all of them.
type member struct {
	term  *term
	class uint32
}

type ruleKey struct {
	class  uint32
	action actionID
}

// ruleList holds the rules of one class for one action, by mode.
type ruleList struct {
	forbid, allow [slots]ruleSet
}

type compiledRule struct {
	*AccessRule
	policy *AccessPolicy
	ord    int // place in the total order
	// set is what the rule and its policy set where a request is silent.
	set  Defaults
	obls Obligations // of the rule and of its policy
}

// keyKind is what of a caller a subjectKey is about.
type keyKind uint8

const (
	keyNone keyKind = iota
	keyEveryone
	keyUser
	keyUID
	keyGroup
	keyGID
	keyCN
	keyO
	keySAN
	keyToken
	keyContainer
	keyContainerID
	keyDigest
	keyLabel
)

type subjectKey struct {
	kind keyKind
	id   uint32
	a, b string
}

// term is one entry of a policy's subjects, with what an exact key cannot say.
type term struct {
	kind      keyKind
	glob      string
	lo, hi    uint32
	cert      *CertSelector
	container *CallerContainer
}

// compileAccess builds the index; ps are in total order and valid.
func compileAccess(ps []*AccessPolicy) *Access {
	s := &Access{policies: ps, exact: map[subjectKey][]member{}, rules: map[ruleKey]*ruleList{}}
	b := builder{s: s, plain: map[subjectKey][]int{}, classOf: map[string]uint32{}}
	for i, p := range ps {
		s.enforced = s.enforced || p.Spec.Mode == verdict.ModeEnforce
		b.subjects(i, &p.Spec.Subjects)
	}
	b.finish()
	var byAction []map[actionID][]*compiledRule // by policy
	ord := 0
	for _, p := range ps {
		m := map[actionID][]*compiledRule{}
		for i := range p.Spec.Rules {
			r := &compiledRule{AccessRule: &p.Spec.Rules[i], policy: p, ord: ord}
			ord++
			r.obls = mergeObligations(r.Obligations, p.Spec.Obligations)
			r.set = r.obls.Defaults
			for _, id := range r.actionIDs() {
				m[id] = append(m[id], r)
			}
		}
		byAction = append(byAction, m)
	}
	for c, members := range b.classPolicies {
		for _, i := range members {
			for action, rules := range byAction[i] {
				key := ruleKey{uint32(c), action}
				if s.rules[key] == nil {
					s.rules[key] = &ruleList{}
				}
				s.rules[key].add(rules, ps[i].Spec.Mode)
			}
		}
	}
	return s
}

func (l *ruleList) add(rules []*compiledRule, mode verdict.Mode) {
	for _, r := range rules {
		if r.Effect == EffectForbid {
			l.forbid[mode].add(r)
		} else {
			l.allow[mode].add(r)
		}
	}
}

// actionIDs returns the actions of the rule, each once; anyAction alone for all.
func (r *AccessRule) actionIDs() []actionID {
	var ids []actionID
	for _, a := range r.Actions {
		ids = append(ids, expandAction(a)...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == len(actions) {
		return []actionID{anyAction}
	}
	return ids
}

// scoped reports whether the rule is about some things and not about others.
func (r *AccessRule) scoped() bool { return r.Resources != nil || r.when != nil && r.when.usesResource }

// builder gathers, for each key and term, the policies that name it.
type builder struct {
	s             *Access
	plain         map[subjectKey][]int
	terms         []builtTerm
	classOf       map[string]uint32
	classPolicies [][]int
}

type builtTerm struct {
	key    subjectKey // keyNone: asked for every caller
	term   *term
	policy int
}

func (b *builder) exactly(policy int, k subjectKey) {
	if list := b.plain[k]; len(list) == 0 || list[len(list)-1] != policy {
		b.plain[k] = append(list, policy)
	}
}

func (b *builder) also(policy int, k subjectKey, t *term) {
	b.terms = append(b.terms, builtTerm{k, t, policy})
}

func (b *builder) subjects(i int, s *Subjects) {
	if s.Everyone {
		b.exactly(i, subjectKey{kind: keyEveryone})
	}
	for _, u := range s.Users {
		// root is uid 0, whatever else the host's databases call root.
		if u == "root" {
			b.exactly(i, subjectKey{kind: keyUID})
			continue
		}
		b.name(i, keyUser, u)
	}
	for _, g := range s.Groups {
		b.name(i, keyGroup, g)
	}
	for _, t := range s.Tokens {
		b.name(i, keyToken, t)
	}
	b.ids(i, keyUID, s.UIDs)
	b.ids(i, keyGID, s.GIDs)
	for n := range s.Certificates {
		b.certificate(i, &s.Certificates[n])
	}
	for n := range s.Containers {
		b.container(i, &s.Containers[n])
	}
}

func (b *builder) name(i int, kind keyKind, name string) {
	if isGlob(name) {
		b.also(i, subjectKey{}, &term{kind: kind, glob: name})
		return
	}
	b.exactly(i, subjectKey{kind: kind, a: name})
}

func (b *builder) ids(i int, kind keyKind, ranges []string) {
	for _, r := range ranges {
		lo, hi, _ := parseIDRange(r)
		if lo == hi {
			b.exactly(i, subjectKey{kind: kind, id: lo})
			continue
		}
		b.also(i, subjectKey{}, &term{kind: kind, lo: lo, hi: hi})
	}
}

func (b *builder) certificate(i int, c *CertSelector) {
	var k subjectKey
	switch {
	case c.CN != "" && !isGlob(c.CN):
		k = subjectKey{kind: keyCN, a: c.CN}
	case c.SAN != "" && !isGlob(c.SAN):
		k = subjectKey{kind: keySAN, a: c.SAN}
	case c.O != "" && !isGlob(c.O):
		k = subjectKey{kind: keyO, a: c.O}
	}
	b.also(i, k, &term{kind: keyCN, cert: c})
}

func (b *builder) container(i int, c *CallerContainer) {
	k := subjectKey{kind: keyContainer}
	switch {
	case c.ID != "":
		k = subjectKey{kind: keyContainerID, a: c.ID}
	case len(c.Labels) > 0:
		for label, v := range c.Labels {
			if k.kind != keyLabel || label < k.a {
				k = subjectKey{kind: keyLabel, a: label, b: v}
			}
		}
	case c.ImageDigest != "":
		k = subjectKey{kind: keyDigest, a: c.ImageDigest}
	}
	b.also(i, k, &term{kind: keyContainer, container: c})
}

// finish turns what was gathered into classes.
func (b *builder) finish() {
	for k, policies := range b.plain {
		b.s.exact[k] = append(b.s.exact[k], member{nil, b.class(policies)})
	}
	for _, t := range b.terms {
		m := member{t.term, b.class([]int{t.policy})}
		if t.key.kind == keyNone {
			b.s.broad = append(b.s.broad, m)
		} else {
			b.s.exact[t.key] = append(b.s.exact[t.key], m)
		}
	}
}

func (b *builder) class(policies []int) uint32 {
	var sig []byte
	for _, p := range policies {
		sig = binary.AppendUvarint(sig, uint64(p))
	}
	if c, ok := b.classOf[string(sig)]; ok {
		return c
	}
	c := uint32(len(b.s.classes))
	b.classOf[string(sig)] = c
	b.classPolicies = append(b.classPolicies, policies)
	var cl class
	for _, i := range policies {
		p := b.s.policies[i]
		cl.policies = append(cl.policies, p)
		if p.Spec.Obligations != nil && p.Spec.Mode == verdict.ModeEnforce {
			cl.obligers = append(cl.obligers, p)
		}
	}
	b.s.classes = append(b.s.classes, cl)
	return c
}

// match appends the classes of the caller to ids, and returns it. A class may be
// there twice.
func (s *Access) match(sub *apicall.Subject, ids []uint32) []uint32 {
	if sub.Kind == apicall.Nobody {
		return ids
	}
	ids = s.look(subjectKey{kind: keyEveryone}, sub, ids)
	switch sub.Kind {
	case apicall.User:
		ids = s.look(subjectKey{kind: keyUID, id: sub.UID}, sub, ids)
		ids = s.look(subjectKey{kind: keyGID, id: sub.GID}, sub, ids)
		if sub.Name != "" {
			ids = s.look(subjectKey{kind: keyUser, a: sub.Name}, sub, ids)
		}
		for _, g := range sub.GIDs {
			ids = s.look(subjectKey{kind: keyGID, id: g}, sub, ids)
		}
		for _, g := range sub.Groups {
			ids = s.look(subjectKey{kind: keyGroup, a: g}, sub, ids)
		}
	case apicall.Certificate:
		ids = s.look(subjectKey{kind: keyCN, a: sub.CN}, sub, ids)
		for _, o := range sub.Orgs {
			ids = s.look(subjectKey{kind: keyO, a: o}, sub, ids)
		}
		for _, n := range sub.SANs {
			ids = s.look(subjectKey{kind: keySAN, a: n}, sub, ids)
		}
	case apicall.Token:
		ids = s.look(subjectKey{kind: keyToken, a: sub.Token}, sub, ids)
	case apicall.Container:
		ids = s.look(subjectKey{kind: keyContainer}, sub, ids)
		ids = s.look(subjectKey{kind: keyContainerID, a: sub.ContainerID}, sub, ids)
		ids = s.look(subjectKey{kind: keyDigest, a: digestOf(sub.ImageDigest)}, sub, ids)
		for k, v := range sub.ContainerLabels {
			ids = s.look(subjectKey{kind: keyLabel, a: k, b: v}, sub, ids)
		}
	}
	for _, m := range s.broad {
		if m.term.matches(sub) {
			ids = append(ids, m.class)
		}
	}
	return ids
}

func (s *Access) look(k subjectKey, sub *apicall.Subject, ids []uint32) []uint32 {
	for _, m := range s.exact[k] {
		if m.term == nil || m.term.matches(sub) {
			ids = append(ids, m.class)
		}
	}
	return ids
}

// matches judges the whole of a term: an exact key may have found it by a part.
func (t *term) matches(sub *apicall.Subject) bool {
	user := sub.Kind == apicall.User
	switch t.kind {
	case keyUser:
		return user && matchText(t.glob, sub.Name)
	case keyUID:
		return user && t.lo <= sub.UID && sub.UID <= t.hi
	case keyGroup:
		return user && slices.ContainsFunc(sub.Groups, func(g string) bool { return matchText(t.glob, g) })
	case keyGID:
		in := func(g uint32) bool { return t.lo <= g && g <= t.hi }
		return user && (in(sub.GID) || slices.ContainsFunc(sub.GIDs, in))
	case keyToken:
		return sub.Kind == apicall.Token && matchText(t.glob, sub.Token)
	case keyCN:
		return sub.Kind == apicall.Certificate && t.cert.matches(sub)
	case keyContainer:
		return sub.Kind == apicall.Container && t.container.matches(sub)
	}
	return false
}

func (c *CertSelector) matches(sub *apicall.Subject) bool {
	return (c.CN == "" || matchText(c.CN, sub.CN)) &&
		(c.O == "" || slices.ContainsFunc(sub.Orgs, func(o string) bool { return matchText(c.O, o) })) &&
		(c.SAN == "" || slices.ContainsFunc(sub.SANs, func(n string) bool { return matchText(c.SAN, n) }))
}

func (c *CallerContainer) matches(sub *apicall.Subject) bool {
	return (c.ID == "" || c.ID == sub.ContainerID) &&
		(c.Name == "" || matchText(c.Name, trimSlash(sub.ContainerName))) &&
		(c.ImageDigest == "" || c.ImageDigest == digestOf(sub.ImageDigest)) &&
		hasLabels(sub.ContainerLabels, c.Labels)
}

func trimSlash(name string) string {
	if name != "" && name[0] == '/' {
		return name[1:]
	}
	return name
}
