package plan

import (
	"cmp"
	"slices"
)

// Bounds of the work for one node. They are counts and no times, so that plans do not differ
// between a busy machine and an idle one.
const (
	maxSteps  = 4096   // sets of units looked at, beyond the greedy one
	maxTrials = 20_000 // targets tried by going back, when the best target for each leaves one without
	maxBest   = 32     // targets compared for one unit, the emptiest first
	maxAsked  = 64     // targets asked for their reasons to refuse a unit that nobody takes
)

// candidate is a unit that may leave and has a target that would take it alone.
type candidate struct {
	*unit
	moved int64 // share of the node that leaves with it, for the resources in want
	suit  []suitability
	busy  []uint64 // see [index.busy]
}

// suitability is what [fleet.suits] has said of a target.
type suitability uint8

const (
	unasked suitability = iota
	suitable
	unsuitable
)

// cost is what a set of units takes, the most important first.
type cost struct {
	containers, stateful, priority int
	bytes, moved                   int64
}

func (c cost) plus(u *candidate) cost {
	return cost{c.containers + len(u.members), c.stateful + u.stateful, c.priority + u.priority, c.bytes + u.bytes, c.moved + u.moved}
}

func (c cost) compare(o cost) int {
	return cmp.Or(cmp.Compare(c.containers, o.containers), cmp.Compare(c.stateful, o.stateful), cmp.Compare(c.priority, o.priority),
		cmp.Compare(c.bytes, o.bytes), cmp.Compare(c.moved, o.moved))
}

// search looks for the cheapest set of candidates that covers what is wanted.
type search struct {
	f     *fleet
	src   *host
	cands []*candidate // those that bring most first
	want  vector
	// most are, by resource and number of containers, what so many can bring at most.
	most          [resources][]int64
	steps, trials int

	set   []*candidate // while looking
	found []*candidate // the best so far
	on    []*host      // where they go, parallel to found
	cost  cost
}

// run returns whether a set was found, and whether no smaller one exists.
func (s *search) run() (found, proven bool) {
	s.rank()
	s.greedy()
	last := 0
	for _, c := range s.cands {
		last += len(c.members)
	}
	if s.found != nil {
		last = s.cost.containers
	}
	for n := s.atLeast(last); n <= last; n++ {
		s.look(0, n, s.want, cost{})
		if s.steps > maxSteps || s.trials > maxTrials {
			return s.found != nil, false
		}
		if s.found != nil && s.cost.containers <= n {
			break
		}
	}
	return s.found != nil, true
}

// rank orders the candidates and finds out what so many containers can bring.
func (s *search) rank() {
	for _, c := range s.cands {
		for r, v := range s.want {
			if v > 0 {
				c.moved += share(c.use[r], s.src.has[r])
			}
		}
	}
	slices.SortStableFunc(s.cands, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(s.gain(b, &s.want), s.gain(a, &s.want)), cost{}.plus(a).compare(cost{}.plus(b)), a.byName(b.unit))
	})
	for r, v := range s.want {
		if v == 0 {
			continue
		}
		by := slices.Clone(s.cands)
		each := func(c *candidate) int64 { n := int64(len(c.members)); return (c.use[r] + n - 1) / n }
		slices.SortStableFunc(by, func(a, b *candidate) int { return cmp.Compare(each(b), each(a)) })
		sum := []int64{0}
		for _, c := range by {
			for range c.members {
				sum = append(sum, min(sum[len(sum)-1]+each(c), 1<<60))
			}
		}
		s.most[r] = sum
	}
}

// gain is how much of what is wanted a container of c brings, in millionths.
func (s *search) gain(c *candidate, want *vector) (sum int64) {
	for r, v := range want {
		if v > 0 {
			sum += share(min(c.use[r], v), s.want[r])
		}
	}
	return sum / int64(len(c.members))
}

// atLeast returns the least number of containers that could do, or more than last.
func (s *search) atLeast(last int) int {
	n := 1
	for ; n <= last; n++ {
		if s.enough(n, &s.want) {
			break
		}
	}
	return n
}

// enough says whether n containers could bring what is wanted.
func (s *search) enough(n int, want *vector) bool {
	for r, v := range want {
		if v > 0 && v > s.most[r][min(n, len(s.most[r])-1)] {
			return false
		}
	}
	return true
}

// greedy takes what brings most again and again, and then leaves out what was not needed.
func (s *search) greedy() {
	want, rest := s.want, slices.Clone(s.cands)
	var set []*candidate
	var on []*host
	for want != (vector{}) && len(rest) > 0 {
		best := 0
		for i, c := range rest {
			if s.gain(c, &want) > s.gain(rest[best], &want) {
				best = i
			}
		}
		c := rest[best]
		if rest = slices.Delete(rest, best, best+1); s.gain(c, &want) == 0 {
			break
		}
		if h := s.best(c); h != nil {
			h.put(c.unit)
			set, on = append(set, c), append(on, h)
			want.sub(&c.use)
		}
	}
	for i := len(on) - 1; i >= 0; i-- {
		on[i].take(set[i].unit)
	}
	if want != (vector{}) {
		return
	}
	for i := len(set) - 1; i >= 0; i-- {
		left := s.want
		for j, c := range set {
			if j != i {
				left.sub(&c.use)
			}
		}
		if left == (vector{}) {
			set, on = slices.Delete(set, i, i+1), slices.Delete(on, i, i+1)
		}
	}
	s.keep(set, on)
}

func (s *search) keep(set []*candidate, on []*host) {
	s.found, s.on, s.cost = slices.Clone(set), slices.Clone(on), cost{}
	for _, c := range set {
		s.cost = s.cost.plus(c)
	}
}

// look tries all sets of at most n more containers, of the candidates from i on.
func (s *search) look(i, n int, want vector, paid cost) {
	if s.steps++; s.steps > maxSteps || s.trials > maxTrials {
		return
	}
	if s.found != nil && paid.compare(s.cost) >= 0 {
		return // costs only grow
	}
	if want == (vector{}) {
		if on := s.assign(); on != nil {
			s.keep(s.set, on)
		}
		return
	}
	if !s.enough(n, &want) {
		return
	}
	for j := i; j < len(s.cands); j++ {
		c := s.cands[j]
		if len(c.members) > n {
			continue
		}
		left := want
		left.sub(&c.use)
		s.set = append(s.set, c)
		s.look(j+1, n-len(c.members), left, paid.plus(c))
		s.set = s.set[:len(s.set)-1]
		if s.steps > maxSteps || s.trials > maxTrials {
			return
		}
	}
}

// assign finds a target for each of the set, or returns nil.
func (s *search) assign() []*host {
	order := make([]int, len(s.set)) // the largest first: it has least choice
	for i := range order {
		order[i] = i
	}
	size := func(i int) int64 { return s.src.fullest(&s.set[i].need) }
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(size(b), size(a)) })
	on := make([]*host, len(s.set))
	ok := true
	for _, i := range order {
		if on[i] = s.best(s.set[i]); on[i] == nil {
			ok = false
			break
		}
		on[i].put(s.set[i].unit)
	}
	for k := len(order) - 1; k >= 0; k-- {
		if h := on[order[k]]; h != nil {
			h.take(s.set[order[k]].unit)
		}
	}
	if ok || len(order) > 1 && s.goBack(order, on) {
		return on
	}
	return nil
}

// goBack tries all targets for all of the set, until its trials are used up.
func (s *search) goBack(order []int, on []*host) bool {
	if len(order) == 0 {
		return true
	}
	c := s.set[order[0]]
	for _, h := range s.f.order {
		if s.trials++; s.trials > maxTrials {
			return false
		}
		if !s.takes(h, c) {
			continue
		}
		h.put(c.unit)
		on[order[0]] = h
		ok := s.goBack(order[1:], on)
		h.take(c.unit)
		if ok {
			return true
		}
	}
	return false
}

// takes says whether h takes c now.
func (s *search) takes(h *host, c *candidate) bool {
	// What is cheap to ask, and for ports often the reason, first.
	if c.suit[h.index] == unsuitable || c.busy != nil && c.busy[h.index/64]&(1<<(h.index%64)) != 0 {
		return false
	}
	if h.room(c.unit).set() || h.collides(c.unit).set() {
		return false
	}
	if c.suit[h.index] == unasked {
		c.suit[h.index] = suitable
		if s.f.suits(c.unit, s.src, h).set() {
			c.suit[h.index] = unsuitable
		}
	}
	return c.suit[h.index] == suitable
}

// best returns the target that is left the emptiest, or nil.
func (s *search) best(c *candidate) *host {
	var best *host
	least, seen := int64(0), 0
	for _, h := range s.f.order {
		if best != nil && (h.fill > least || seen >= maxBest) {
			break // the others are fuller before than it is after
		}
		if !s.takes(h, c) {
			continue
		}
		seen++
		after := h.use
		after.add(&c.need)
		if full := h.fullest(&after); best == nil || full < least {
			best, least = h, full
		}
	}
	return best
}

// put and take are for trying: the order of targets stays as it was.
func (h *host) put(u *unit) {
	h.use.add(&u.need)
	h.placed = append(h.placed, u)
}

func (h *host) take(u *unit) {
	h.use.sub(&u.need)
	h.placed = slices.DeleteFunc(h.placed, func(o *unit) bool { return o == u })
}
