package plan

import (
	"cmp"
	"slices"
	"time"
)

// host is a node while a plan is made: its readings, corrected by the moves of which they do
// not know yet, and what the plan has put there so far.
type host struct {
	*Node
	index  int
	caps   *Caps
	has    vector
	use    vector
	limit  vector // what a target must not pass: its cap less the hysteresis
	fill   int64  // the fullest of its resources, in millionths; as of the last order
	placed []*unit
	// refuses says why it takes no container at all, or nothing.
	refuses refusal
	active  int // moves from it or to it, under way or started by this plan
	coming  []string
	names   map[string]bool // of its containers and of those that are coming; made when asked for
	left    int             // moves from it within an hour, or of this plan: see unit.counts
	lags    bool            // what has left it is in its averages still
}

// fleet is all hosts.
type fleet struct {
	s      *State
	index  *index
	hosts  []*host // as in the state
	byName map[string]*host
	// order has those that take containers, the emptiest first, then by name.
	order []*host
	past  map[string][]*Past // by the container's name, the last first
	// closed are the hosts that take no container, by reason.
	closed [len(reasonWords)][]*host
}

func newFleet(s *State) *fleet {
	f := &fleet{s: s, byName: make(map[string]*host, len(s.Nodes)), past: map[string][]*Past{}}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		h := &host{Node: n, index: i, caps: n.Caps, has: n.Has.vector(), use: n.Use.vector()}
		if h.caps == nil {
			h.caps = &s.Caps
		}
		for r := range h.has {
			h.limit[r] = percentOf(h.has[r], h.level(Resource(r), s.Hysteresis))
		}
		f.hosts = append(f.hosts, h)
		f.byName[n.Name] = h
	}
	f.recall()
	f.index = newIndex(f)
	for _, h := range f.hosts {
		h.fill = h.fullest(&h.use)
		if h.refuses = f.closedTo(h); h.refuses.set() {
			f.closed[h.refuses.code] = append(f.closed[h.refuses.code], h)
		} else {
			f.order = append(f.order, h)
		}
	}
	slices.SortFunc(f.order, emptier)
	return f
}

func emptier(a, b *host) int { return cmp.Or(cmp.Compare(a.fill, b.fill), cmp.Compare(a.Name, b.Name)) }

// level is the share in percent to which a node is filled at most by moves. A resource
// without a cap is treated as if its cap were everything.
func (h *host) level(r Resource, hysteresis int) int {
	c := h.caps.of(r)
	if c == 0 {
		c = 100
	}
	return max(c-hysteresis, 0)
}

// fullest returns the greatest share of a resource that would be used.
func (h *host) fullest(use *vector) (most int64) {
	for r, v := range use {
		if v > 0 && h.has[r] > 0 {
			most = max(most, share(v, h.has[r]))
		}
	}
	return most
}

// AveragedOver is how long readings of processors, pressure and disks look back: the former are averages, the latter are not
// read each time.
const AveragedOver = 15 * time.Second

// unread reports whether readings that were made at a time have nothing of a move.
func (p *Past) unread(seen time.Time) bool {
	return !p.Failed && (p.underWay() || p.Ended.After(seen))
}

// lags reports whether averages that were made at a time have something of what has left.
func (p *Past) lags(seen time.Time) bool {
	return !p.Failed && !p.underWay() && p.Ended.After(seen.Add(-AveragedOver))
}

// stillRead returns what a node that was left has of it in readings that were made at a time.
func (p *Past) stillRead(use vector, seen time.Time) vector {
	switch {
	case p.unread(seen):
		return use
	case p.lags(seen):
		return vector{CPU: use[CPU], Disk: use[Disk], Inodes: use[Inodes]}
	}
	return vector{}
}

// recall takes the history into account: moves under way, and those that ended after a reading, count on both sides. Averages
// still have what has left; how much they have of what has come is not known, for copies run before a move ends.
func (f *fleet) recall() {
	s := f.s
	counted := map[string]bool{} // moves under way
	for i := range s.History {
		p := &s.History[i]
		from, to, use := f.byName[p.From], f.byName[p.To], p.Use.vector()
		if c := f.container(p); c != nil && p.underWay() {
			use = most(use, c.Use.vector()) // a history that does not say so makes no room
		}
		f.past[p.Name] = append(f.past[p.Name], p)
		if p.underWay() && (p.Move == "" || !counted[p.Move]) {
			counted[p.Move] = true
			for _, h := range []*host{from, to} {
				if h != nil {
					h.active++
				}
			}
		}
		if from != nil {
			if s.Now.Sub(p.Began) < time.Hour {
				from.left++
			}
			from.lags = from.lags || p.lags(from.Seen)
			gone := p.stillRead(use, from.Seen)
			from.use.sub(&gone)
		}
		if to != nil && p.unread(to.Seen) {
			// What it wrote to its layer stays behind, and of a container that is not here any more that may be all.
			if c := f.container(p); c != nil {
				use[Disk] = max(use[Disk]-c.Storage.LayerBytes, 0)
			} else {
				use[Disk] = 0
			}
			to.use.add(&use)
		}
		if to != nil && p.underWay() {
			to.coming = append(to.coming, p.Name)
		}
	}
	for _, ps := range f.past {
		slices.SortStableFunc(ps, func(a, b *Past) int { return b.Began.Compare(a.Began) })
	}
}

// trail returns the moves of a container that is on a node now, the last first. Containers of
// different nodes may have one name: the way is followed back from where this one is.
func (f *fleet) trail(name, node string) []*Past {
	var out []*Past
	for _, p := range f.past[name] {
		switch {
		case (p.underWay() || p.Failed) && p.From == node:
			out = append(out, p)
		case !p.underWay() && !p.Failed && p.To == node:
			out = append(out, p)
			node = p.From
		}
	}
	return out
}

// pastOf returns the moves of a container that count. Of one that an orchestrator has placed they are
// all from the node: it may have been brought back.
func (f *fleet) pastOf(c *Container, node string) []*Past {
	if c.Placed == nil {
		return f.trail(c.Name, node)
	}
	return slices.DeleteFunc(slices.Clone(f.past[c.Placed.Name]), func(p *Past) bool { return p.From != node })
}

// closedTo says why a host takes no container whatever it is.
func (f *fleet) closedTo(h *host) refusal {
	s := f.s
	switch {
	case !h.Accepts || h.Refuses != "":
		return refusal{code: notTarget, what: h.Refuses}
	case h.Places:
		return refusal{}
	case !h.Enforces:
		return refusal{code: notEnforcing}
	case h.Seen.IsZero() || s.Now.Sub(h.Seen) > s.Limits.MaxAge || h.Seen.Sub(s.Now) > s.Limits.MaxAge:
		return refusal{code: staleReadings}
	case h.Gate.Policies == "":
		return refusal{code: unknownPolicies}
	}
	for _, p := range pressures(&h.Pressure, h.caps) {
		if p.cap > 0 && p.value > p.cap-s.Hysteresis {
			return refusal{code: waits, what: p.name, a: int64(p.value), b: int64(max(p.cap-s.Hysteresis, 0))}
		}
	}
	for r, v := range h.use {
		if v > h.limit[r] && (h.has[r] > 0 || h.caps.of(Resource(r)) > 0) {
			return refusal{code: full, resource: Resource(r), a: v, b: h.limit[r]}
		}
	}
	for i := range s.History {
		if p := &s.History[i]; p.From == h.Name && !p.Failed && s.Now.Sub(latest(p)) < s.Limits.CoolDown {
			return refusal{code: cooling, what: s.Now.Sub(latest(p)).Round(time.Second).String()}
		}
	}
	return refusal{}
}

// latest is the last that is known of a move.
func latest(p *Past) time.Time {
	if p.underWay() {
		return p.Began
	}
	return p.Ended
}

// held says why a container of a node does not move at all now, or nothing.
func (f *fleet) held(c *Container, node string) string {
	for _, p := range f.pastOf(c, node) {
		if p.underWay() {
			return "it is being moved to " + quoted(p.To)
		}
		if past := f.s.Now.Sub(p.Ended); past < f.s.Limits.PerContainer {
			deed := "it was moved "
			if p.Failed {
				deed = "a move of it failed "
			}
			return deed + past.Round(time.Second).String() + " ago, and limits.perContainer is " + f.s.Limits.PerContainer.String()
		}
	}
	if past := f.s.Now.Sub(c.Life.Arrived); !c.Life.Arrived.IsZero() && past < f.s.Limits.PerContainer {
		return "a move brought it here " + past.Round(time.Second).String() + " ago, and limits.perContainer is " + f.s.Limits.PerContainer.String()
	}
	return ""
}

// returns says whether a member would go back where it came from, or where a move of it has
// failed, too soon.
func (f *fleet) returns(u *unit, src, h *host) refusal {
	for _, c := range u.members {
		for _, p := range f.pastOf(c, src.Name) {
			past := f.s.Now.Sub(latest(p))
			if past >= f.s.Limits.NoReturn {
				continue
			}
			if p.Failed && p.To == h.Name {
				return refusal{code: hasFailed, what: c.Name, why: past.Round(time.Second).String()}
			}
			if !p.Failed && p.From == h.Name {
				return refusal{code: comesBack, what: c.Name, why: past.Round(time.Second).String()}
			}
		}
	}
	return refusal{}
}

// commit puts u on h for good.
func (f *fleet) commit(u *unit, h *host) {
	h.use.add(&u.need)
	h.placed = append(h.placed, u)
	i := slices.Index(f.order, h)
	h.fill = h.fullest(&h.use)
	rest := f.order[i+1:]
	j, _ := slices.BinarySearchFunc(rest, h, emptier)
	copy(f.order[i:], rest[:j])
	f.order[i+j] = h
}
