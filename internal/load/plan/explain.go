package plan

import (
	"cmp"
	"fmt"
	"slices"
)

// Explanation says why one container can be moved or not, and where to.
type Explanation struct {
	Container string `json:"container"`
	Name      string `json:"name"`
	Node      string `json:"node"`
	Movable   bool   `json:"movable"` // it, and all that move with it, can be moved at all
	// Reasons are why it cannot be moved at all, or not now.
	Reasons []string `json:"reasons"`
	// Together are the names of all that move as one, if that is more than the container.
	Together []string `json:"together,omitempty"`
	// Members are the IDs of all that move as one, the container among them, in the order of their names.
	Members  []string `json:"members"`
	Stateful bool     `json:"stateful"` // data has to be copied, with it stopped
	// Targets are all other nodes, by name. Held says why a move to it must not start now.
	Targets []ExplainedTarget `json:"targets"`
}

// ExplainedTarget is a target's verdict.
type ExplainedTarget struct {
	TargetVerdict
	Held string `json:"held,omitempty"`
}

// Explain says of one container of a node, given by ID or name, whether it can be moved, and
// what each other node is to it, whether the node is full or not.
//
// Errors: those of [State.Check]; a node or a container that the state does not have.
func Explain(s *State, node, container string) (*Explanation, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	f := newFleet(s)
	h := f.byName[node]
	if h == nil {
		return nil, fmt.Errorf("there is no node %s", quoted(node))
	}
	src := f.source(h)
	u, i, err := unitOf(h.Containers, s.Rules, container)
	if err != nil {
		return nil, err
	}
	c := u.members[i]
	e := &Explanation{Container: c.ID, Name: c.Name, Node: node, Movable: !u.stays(), Reasons: slices.Clone(u.refused[i]), Stateful: u.stateful > 0, Targets: []ExplainedTarget{}}
	for _, m := range u.members {
		e.Members = append(e.Members, m.ID)
		if len(u.members) > 1 {
			e.Together = append(e.Together, m.Name)
		}
	}
	switch {
	case u.stays() && len(e.Reasons) == 0:
		e.Reasons = append(e.Reasons, u.why(i))
	case !u.stays():
		if why := f.heldUnit(u, node); why != "" {
			e.Reasons = append(e.Reasons, why)
		}
	}
	if e.Reasons == nil {
		e.Reasons = []string{}
	}
	closed := s.closed()
	for _, t := range f.hosts {
		if t == h {
			continue
		}
		v := ExplainedTarget{TargetVerdict: src.target(u, t, "")}
		if v.Fits {
			v.Held = src.hold(u, t, closed)
		}
		e.Targets = append(e.Targets, v)
	}
	slices.SortFunc(e.Targets, func(a, b ExplainedTarget) int { return cmp.Compare(a.Target, b.Target) })
	return e, nil
}

// unitOf finds the unit that a container is in, and where in it.
func unitOf(cs []Container, r Rules, ref string) (*unit, int, error) {
	at, ok := find(cs, byReference(cs), ref)
	if !ok {
		return nil, 0, fmt.Errorf("there is no container %s, or several that begin so", quoted(ref))
	}
	for _, u := range unitsOf(cs, r) {
		if i := slices.Index(u.at, at); i >= 0 {
			return u, i, nil
		}
	}
	return nil, 0, fmt.Errorf("there is no container %s", quoted(ref))
}
