package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Outcome is what a plan comes to for one node.
type Outcome uint8

// The outcomes. The zero value moves nothing.
const (
	Refused   Outcome = iota // it is over a cap, and no moves would bring it below
	NotNeeded                // it is over no cap
	Relieved                 // the moves bring it below its caps by the hysteresis
	Partly                   // the moves bring it below its caps, by less than the hysteresis
)

var outcomeNames = [...]string{"refused", "not-needed", "relieved", "partly"}

// String returns the word of JSON.
func (o Outcome) String() string {
	if int(o) >= len(outcomeNames) {
		return "unknown"
	}
	return outcomeNames[o]
}

// MarshalText is for JSON.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Decision is what is decided of one container. The zero value: it stays.
type Decision uint8

// The decisions.
const (
	Unmovable Decision = iota // it cannot be moved
	Held                      // it was moved lately, is being moved, or its group is larger than a limit
	NoTarget                  // no target takes it
	Spared                    // it could be moved, and others do
	Moves                     // it is moved
)

var decisionNames = [...]string{"unmovable", "held", "no-target", "spared", "moves"}

// String returns the word of JSON.
func (d Decision) String() string {
	if int(d) >= len(decisionNames) {
		return "unknown"
	}
	return decisionNames[d]
}

// MarshalText is for JSON.
func (d Decision) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Plan is what [Make] returns.
type Plan struct {
	Nodes []NodePlan `json:"nodes"` // the fullest first
	// LeftOut are verdicts on targets beyond [MaxVerdicts].
	LeftOut int `json:"leftOut,omitempty"`
}

// NodePlan is the plan for one node.
type NodePlan struct {
	Node    string   `json:"node"`
	Outcome Outcome  `json:"outcome"`
	Reason  string   `json:"reason"`
	Over    []Excess `json:"over,omitempty"`
	Moves   []Move   `json:"moves"`
	// Proven says that no smaller set of containers would do, which was tried. Without it the
	// search had come to its bounds.
	Proven bool `json:"proven"`
	// Containers are all of the node, by name.
	Containers []Verdict `json:"containers"`
}

// Excess is one reading over its cap.
type Excess struct {
	Name  string `json:"name"` // as the cap is called
	Now   string `json:"now"`  // in percent
	Cap   string `json:"cap"`
	After string `json:"after,omitempty"` // with all moves made; empty for pressure, of which nobody knows
}

// Move is one container, or a group, that goes to one target.
type Move struct {
	Containers []string `json:"containers"` // IDs, in the order of their names
	Names      []string `json:"names"`
	To         string   `json:"to"`
	Why        string   `json:"why"`
	// Held says why it must not start now; empty: it may.
	Held string `json:"held,omitempty"`
}

// Verdict is what was decided of a container, and why.
type Verdict struct {
	Container string          `json:"container"`
	Name      string          `json:"name"`
	Decision  Decision        `json:"decision"`
	Reason    string          `json:"reason"`
	Targets   []TargetVerdict `json:"targets,omitempty"` // by name; with [State.Reasons]
}

// TargetVerdict is what a target was to a container, when the plan was complete.
type TargetVerdict struct {
	Target string `json:"target"`
	Chosen bool   `json:"chosen,omitempty"`
	Fits   bool   `json:"fits"`
	Code   string `json:"code"` // of the reason, for programs
	Reason string `json:"reason"`
}

// MaxVerdicts bounds the verdicts on targets in one plan.
const MaxVerdicts = 200_000

// pressureStep is the share in percent of what a node uses that leaves when tasks wait and no
// resource is over its cap: how much would end the waiting, no reading says.
const pressureStep = 10

// Make plans. It returns an error only for a state that cannot be meant: see [State.Check].
//
// For each node over a cap it looks for the set of units (containers that move as one) of the
// fewest containers that brings the node below its caps by the hysteresis; among those, the
// one with the fewest to copy data for, the lowest priority, the least to copy and the least
// to move. Each goes to the target that is left the emptiest. The work for a node is bounded:
// where the bounds end the search, the set is the one that taking the largest again and again
// gave, or a better one, and [NodePlan.Proven] is false.
//
// It does not change s, and is safe for concurrent use.
func Make(s *State) (*Plan, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	f := newFleet(s)
	p := &Plan{}
	var srcs []*source
	for _, h := range f.hosts {
		if len(s.Sources) > 0 && !slices.Contains(s.Sources, h.Name) {
			continue
		}
		if src := f.source(h); len(src.over) > 0 || len(s.Sources) > 0 {
			srcs = append(srcs, src)
		}
	}
	slices.SortStableFunc(srcs, func(a, b *source) int {
		return cmp.Or(cmp.Compare(b.excess, a.excess), cmp.Compare(a.Name, b.Name))
	})
	closed, verdicts := s.closed(), 0
	for _, src := range srcs {
		n := src.plan(closed)
		if s.Reasons && len(src.over) > 0 {
			more, left := src.explain(&n, MaxVerdicts-verdicts)
			verdicts += more
			p.LeftOut += left
		}
		p.Nodes = append(p.Nodes, n)
	}
	return p, nil
}

// source is a node to relieve.
type source struct {
	*host
	f      *fleet
	over   []Excess
	excess int64  // the most by which a reading is over its cap, in millionths of the cap
	goal   vector // what has to leave to be below the caps by the hysteresis
	least  vector // what has to leave to be below the caps
	units  []*unit
	cands  []*candidate
	// verdicts by container of the node
	verdicts []Verdict
}

func (f *fleet) source(h *host) *source {
	src := &source{host: h, f: f}
	for r, v := range h.use {
		c := h.caps.of(Resource(r))
		limit := percentOf(h.has[r], c)
		if c == 0 || h.has[r] == 0 || v <= limit {
			continue
		}
		src.excess = max(src.excess, share(v-limit, limit))
		src.goal[r], src.least[r] = v-h.limit[r], v-limit
		src.over = append(src.over, Excess{Name: Resource(r).String(), Now: percentText(v, h.has[r]), Cap: fmt.Sprintf("%d%%", c)})
	}
	for _, p := range pressures(&h.Pressure, h.caps) {
		if p.cap == 0 || p.value <= p.cap {
			continue
		}
		src.excess = max(src.excess, share(int64(p.value-p.cap), int64(p.cap)))
		src.over = append(src.over, Excess{Name: p.name, Now: fmt.Sprintf("%d%%", p.value), Cap: fmt.Sprintf("%d%%", p.cap)})
		if p.relievable && src.goal[p.of] == 0 && !h.lags {
			step := max(percentOf(h.use[p.of], pressureStep), 1)
			src.goal[p.of], src.least[p.of] = step, step
		}
	}
	return src
}

// plan decides for the node.
func (src *source) plan(closed string) NodePlan {
	n := NodePlan{Node: src.Name, Over: src.over, Moves: []Move{}, Containers: []Verdict{}}
	if len(src.over) == 0 && !src.stale() {
		n.Outcome, n.Reason, n.Proven = NotNeeded, "it is over no cap", true
		return n
	}
	src.sort()
	switch {
	case src.stale():
		n.Reason, n.Proven = "its readings are too old, or from the future", true
	case src.goal == vector{} && src.lags:
		n.Reason, n.Proven = "only pressure is over its cap, and what has just left the node is in that reading still", true
	case src.goal == vector{}:
		n.Reason, n.Proven = "only psi.io is over its cap, and which containers make others wait for storage is not known", true
	default:
		src.decide(&n, closed)
	}
	if n.Outcome == Refused {
		for i := range src.verdicts {
			if src.verdicts[i].Decision == Spared {
				src.verdicts[i].Reason = "it could leave, and the node would stay full: " + n.Reason
			}
		}
	}
	n.Containers = append(n.Containers, src.verdicts...)
	src.cands = nil // each knows of every target
	slices.SortStableFunc(n.Containers, func(a, b Verdict) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Container, b.Container))
	})
	return n
}

func (src *source) stale() bool {
	age, most := src.f.s.Now.Sub(src.Seen), src.f.s.Limits.MaxAge
	return src.Seen.IsZero() || age > most || -age > most
}

// sort tells the units that may leave from those that stay.
func (src *source) sort() {
	s := src.f.s
	src.units = unitsOf(src.Containers, s.Rules)
	src.verdicts = make([]Verdict, len(src.Containers))
	look := &search{f: src.f, src: src.host}
	for _, u := range src.units {
		d, why := Unmovable, ""
		var c *candidate
		if !u.stays() {
			if d, why = Held, src.f.heldUnit(u, src.Name); why == "" {
				c = &candidate{unit: u, suit: make([]suitability, len(src.f.hosts)), busy: src.f.index.busy(u, len(src.f.hosts))}
				d, why = Spared, "others bring the node below its caps"
				if !slices.ContainsFunc(src.f.order, func(h *host) bool { return look.takes(h, c) }) {
					d, why = NoTarget, src.f.nowhere(u, src.host)
					c = nil
				}
			}
		}
		if c != nil {
			src.cands = append(src.cands, c)
		}
		for i, m := range u.members {
			v := Verdict{Container: m.ID, Name: m.Name, Decision: d, Reason: why}
			if d == Unmovable {
				v.Reason = u.why(i)
			}
			src.verdicts[u.at[i]] = v
		}
	}
}

// heldUnit says why a unit does not move now, or nothing.
func (f *fleet) heldUnit(u *unit, node string) string {
	for _, c := range u.members {
		if why := f.held(c, node); why != "" {
			if len(u.members) > 1 {
				return quoted(c.Name) + ", with which it moves together: " + why
			}
			return why
		}
	}
	if n := u.counts(); n > 1 && n > f.s.Limits.PerHour {
		return fmt.Sprintf("%d containers move together (%s), and limits.perHour is %d", n, u.names(), f.s.Limits.PerHour)
	}
	return ""
}

// nowhere counts the reasons of the targets: of all that take no container, and of the
// [maxAsked] emptiest of the others.
func (f *fleet) nowhere(u *unit, src *host) string {
	counts, first := [len(reasonWords)]int{}, [len(reasonWords)]string{}
	for code, hs := range f.closed {
		counts[code] = len(hs)
		if src.refuses.code == reason(code) && src.refuses.set() {
			counts[code]--
		}
		if i := slices.IndexFunc(hs, func(h *host) bool { return h != src }); i >= 0 {
			first[code] = quoted(hs[i].Name) + ": " + hs[i].refuses.String()
		}
	}
	for _, h := range f.order[:min(len(f.order), maxAsked)] {
		if h == src {
			continue
		}
		r := f.verdict(u, src, h)
		if counts[r.code]++; counts[r.code] == 1 {
			first[r.code] = quoted(h.Name) + ": " + r.String()
		}
	}
	var parts []string
	for code, n := range counts {
		switch {
		case n == 1:
			parts = append(parts, first[code])
		case n > 1:
			parts = append(parts, fmt.Sprintf("%s (and %d alike)", first[code], n-1))
		}
	}
	if len(parts) == 0 {
		return "there is no other node"
	}
	if len(f.order) > maxAsked {
		parts = append(parts, fmt.Sprintf("and %d nodes more", len(f.order)-maxAsked))
	}
	return "no target takes it; " + strings.Join(parts, "; ")
}

// verdict is what h is to u now.
func (f *fleet) verdict(u *unit, src, h *host) refusal {
	if r := f.suits(u, src, h); r.set() {
		return r
	}
	if r := h.room(u); r.set() {
		return r
	}
	return h.collides(u)
}

// decide looks for moves, first to the goal and then to the caps.
func (src *source) decide(n *NodePlan, closed string) {
	for _, try := range []struct {
		want    vector
		outcome Outcome
		reason  string
	}{
		{src.goal, Relieved, "the moves bring it below its caps by the hysteresis"},
		{src.least, Partly, "the moves bring it below its caps, and there are none that bring it below them by the hysteresis"},
	} {
		if n.Reason = src.short(&try.want); n.Reason != "" {
			n.Proven = true
			continue
		}
		look := &search{f: src.f, src: src.host, cands: slices.Clone(src.cands), want: try.want}
		var found bool
		if found, n.Proven = look.run(); found {
			n.Outcome, n.Reason = try.outcome, try.reason
			src.carry(n, look, closed)
			return
		}
		n.Reason = "the targets have no room for as many as would have to leave"
	}
}

// short says that all that could leave is not enough, or nothing.
func (src *source) short(want *vector) string {
	var all vector
	for _, c := range src.cands {
		all.add(&c.use)
	}
	if len(src.cands) == 0 {
		return "none of its containers can leave"
	}
	for r, v := range want {
		if v > all[r] {
			return fmt.Sprintf("%s would have to leave, and the containers that can use %s together", Resource(r).text(v), Resource(r).text(all[r]))
		}
	}
	return ""
}

// carry puts the chosen units on their targets and says which may start.
func (src *source) carry(n *NodePlan, found *search, closed string) {
	order := make([]int, len(found.found))
	for i := range order {
		order[i] = i
	}
	// What brings most goes first: if the rest has to wait, least is left to do.
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := found.found[a], found.found[b]
		return cmp.Or(cmp.Compare(y.moved, x.moved), x.byName(y.unit))
	})
	after := src.use
	for _, i := range order {
		u, h := found.found[i], found.on[i]
		src.f.commit(u.unit, h)
		after.sub(&u.use)
		m := Move{To: h.Name, Why: src.because(u.unit, h), Held: src.hold(u.unit, h, closed)}
		if m.Held == "" {
			src.active++
			h.active++
			src.left += u.counts()
		}
		for k, c := range u.members {
			m.Containers, m.Names = append(m.Containers, c.ID), append(m.Names, c.Name)
			src.verdicts[u.at[k]].Decision = Moves
			src.verdicts[u.at[k]].Reason = m.Why
		}
		n.Moves = append(n.Moves, m)
	}
	for i := range n.Over {
		for r := range after {
			if n.Over[i].Name == Resource(r).String() {
				n.Over[i].After = percentText(after[r], src.has[r])
			}
		}
	}
}

func (src *source) because(u *unit, h *host) string {
	var parts []string
	for r, v := range src.goal {
		if v > 0 {
			parts = append(parts, Resource(r).text(u.use[r])+" of "+Resource(r).String())
		}
	}
	if h.Places {
		s := fmt.Sprintf("it takes %s along, and %s says where it goes", strings.Join(parts, ", "), quoted(h.Name))
		if len(u.members) > 1 {
			s = "together (" + u.names() + "): " + s
		}
		return s
	}
	s := fmt.Sprintf("it takes %s along, and %s is left the emptiest of the targets that take it, %s full at most",
		strings.Join(parts, ", "), quoted(h.Name), percentText(h.fullest(&h.use), whole))
	if len(u.members) > 1 {
		s = "together (" + u.names() + "): " + s
	}
	return s
}

// hold says why a move must not start now, or nothing.
func (src *source) hold(u *unit, h *host, closed string) string {
	l := &src.f.s.Limits
	switch {
	case closed != "":
		return closed
	case src.active >= l.AtOnce:
		return fmt.Sprintf("%d under way or before it from this node, and limits.atOnce is %d", src.active, l.AtOnce)
	case h.active >= l.AtOnce:
		return fmt.Sprintf("%d under way or before it at %s, and limits.atOnce is %d", h.active, quoted(h.Name), l.AtOnce)
	case src.left+u.counts() > l.PerHour:
		return fmt.Sprintf("%d left the node within an hour, and limits.perHour is %d", src.left, l.PerHour)
	}
	return ""
}

// explain adds the verdicts on targets, at most room of them.
func (src *source) explain(n *NodePlan, room int) (made, leftOut int) {
	to := map[string]string{}
	for _, m := range n.Moves {
		for _, id := range m.Containers {
			to[id] = m.To
		}
	}
	hosts := slices.Clone(src.f.hosts)
	slices.SortFunc(hosts, func(a, b *host) int { return cmp.Compare(a.Name, b.Name) })
	of := map[string]*unit{}
	for _, u := range src.units {
		for _, c := range u.members {
			of[c.ID] = u
		}
	}
	for i := range n.Containers {
		v := &n.Containers[i]
		if v.Decision == Unmovable || v.Decision == Held {
			continue
		}
		for _, h := range hosts {
			if h == src.host {
				continue
			}
			if made >= room {
				leftOut++
				continue
			}
			made++
			v.Targets = append(v.Targets, src.target(of[v.Container], h, to[v.Container]))
		}
	}
	return made, leftOut
}

func (src *source) target(u *unit, h *host, chosen string) TargetVerdict {
	if h.Name == chosen {
		return TargetVerdict{Target: h.Name, Chosen: true, Fits: true, Code: "chosen", Reason: "chosen: it is left the emptiest"}
	}
	r := src.f.verdict(u, src.host, h)
	t := TargetVerdict{Target: h.Name, Fits: !r.set(), Code: reasonWords[r.code], Reason: r.String()}
	if t.Fits && chosen != "" {
		t.Reason = "it would take it, and " + quoted(chosen) + " is emptier"
	}
	return t
}
