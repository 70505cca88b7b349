package move

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
)

// A group is several containers that move as one: there is one journal of all, and a step is done for all of them before the
// next one begins. What a single move asks of its source or its copy, a group asks of all: it has data if one has, its sources
// rest if all do, and its copy may have run if one may. So a group goes on, or back, as one.

// members returns the containers that move, in the order in which they start: whoever needs another comes after it.
func (j *Journal) members() []*Member { return append([]*Member{&j.Member}, j.With...) }

// Names returns the names of the containers that move.
func (j *Journal) Names() string {
	var names []string
	for _, m := range j.members() {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

// backTime is how long the way back may take.
func (j *Journal) backTime() time.Duration { return time.Duration(len(j.members())) * backTimeout }

// sourceStopped reports whether a source may have been stopped.
func (j *Journal) sourceStopped() bool {
	return slices.ContainsFunc(j.members(), func(m *Member) bool { return m.SourceStopped })
}

// copyStarted reports whether a copy may have been started.
func (j *Journal) copyStarted() bool {
	return slices.ContainsFunc(j.members(), func(m *Member) bool { return m.TargetStarted })
}

// moves reports whether the container with an ID is one of those that move.
func (j *Journal) moves(id string) bool {
	return slices.ContainsFunc(j.members(), func(m *Member) bool { return m.Container == id })
}

// group returns the containers that move, as they were called.
func (j *Journal) group() (g recreate.Group) {
	for _, m := range j.members() {
		g = append(g, recreate.Peer{ID: m.Container, Name: m.Name})
	}
	return g
}

// copyOf returns the ID of the copy of a container, or "".
func (j *Journal) copyOf(id string) string {
	for _, m := range j.members() {
		if m.Container == id {
			return m.Target
		}
	}
	return ""
}

// each does something for all containers in the order in which they start.
func (r *run) each(do func(m *Member) error) error { return r.inTurn(r.j.members(), do) }

// eachBack does something for all containers in the order in which they stop: whoever needs another before that.
func (r *run) eachBack(do func(m *Member) error) error {
	members := r.j.members()
	slices.Reverse(members)
	return r.inTurn(members, do)
}

func (r *run) inTurn(members []*Member, do func(m *Member) error) error {
	at := string(r.j.Step)
	if r.j.Phase == Back {
		at = "back"
	}
	for _, m := range members {
		err := do(m)
		switch {
		case len(r.j.With) == 0 && err == nil:
			continue
		case len(r.j.With) == 0:
			return err
		case err != nil:
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		r.o.At(at + "/member")
	}
	return nil
}

// tryEach does something for those of the group that are there, for those after one that failed too: what serves is better than
// nothing. It is told of those that failed before, or are not there.
func (r *run) tryEach(there []*Member, do func(m *Member, failed recreate.Group) error) error {
	var failed recreate.Group
	for _, m := range r.j.members() {
		if !slices.Contains(there, m) {
			failed = append(failed, recreate.Peer{ID: m.Container, Name: m.Name})
		}
	}
	var errs []error
	for _, m := range there {
		if err := r.inTurn([]*Member{m}, func(m *Member) error { return do(m, failed) }); err != nil {
			errs = append(errs, err)
			failed = append(failed, recreate.Peer{ID: m.Container, Name: m.Name})
		}
	}
	return errors.Join(errs...)
}

// What tells an engine which container of a member is meant.
func sourceID(m *Member) string { return m.Container }
func copyID(m *Member) string   { return m.Target }

// stopJoiners stops those of a group that run in a namespace of one of them, which is about to be stopped or started: they would
// stay in that of its last run, cut off. They are to be started after it.
func (r *run) stopJoiners(ctx context.Context, e *engine.Engine, id func(*Member) string, of *Member) error {
	if len(r.j.With) == 0 {
		return nil
	}
	owners := recreate.Group{{ID: id(of), Name: of.Name}}
	var joiners []*recreate.Container
	for _, m := range r.j.members() { // in this order, so that owners has those through whom one joins another
		c, err := e.Container(ctx, id(m))
		if errors.Is(err, engine.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(c.Joined(), func(ref string) bool { _, ok := owners.Find(ref); return ok }) {
			continue
		}
		owners = append(owners, recreate.Peer{ID: c.ID, Name: c.ShortName()})
		if c.State.Running {
			joiners = append(joiners, c)
		}
	}
	for _, c := range slices.Backward(joiners) {
		if err := e.Stop(ctx, c.ID, stopSeconds(c)); err != nil {
			return fmt.Errorf("%s, which has its namespace: %w", c.ShortName(), err)
		}
	}
	return nil
}

// cutOff reports whether a container has a namespace of an earlier run of one of those that start before it.
func cutOff(c *recreate.Container, before []*recreate.Container) bool {
	began := func(c *recreate.Container) time.Time {
		at, _ := time.Parse(time.RFC3339Nano, c.State.StartedAt)
		return at
	}
	return slices.ContainsFunc(c.Joined(), func(ref string) bool {
		return slices.ContainsFunc(before, func(o *recreate.Container) bool {
			return recreate.Peer{ID: o.ID, Name: o.ShortName()}.Is(ref) && began(o).After(began(c))
		})
	})
}

// inOrder puts containers into the order in which they start: that in which they were named, but for those that need others, or
// name them by links, which may go round in a circle.
func inOrder(cs []*recreate.Container) ([]*recreate.Container, error) {
	g := groupOf(cs)
	var out []*recreate.Container
	placed := map[string]bool{}
	waits := func(ref string) bool {
		p, ok := g.Find(ref)
		return ok && !placed[p.ID]
	}
	ready := func(c *recreate.Container) bool {
		return !placed[c.ID] && !slices.ContainsFunc(c.Needed(), func(n recreate.Need) bool { return waits(n.Ref) })
	}
	for len(out) < len(cs) {
		i := slices.IndexFunc(cs, func(c *recreate.Container) bool { return ready(c) && !slices.ContainsFunc(c.Named(), waits) })
		if i < 0 {
			i = slices.IndexFunc(cs, ready)
		}
		if i < 0 {
			return nil, errors.New("they need each other in a circle, and none can start first")
		}
		placed[cs[i].ID] = true
		out = append(out, cs[i])
	}
	return out, nil
}

func groupOf(cs []*recreate.Container) (g recreate.Group) {
	for _, c := range cs {
		g = append(g, recreate.Peer{ID: c.ID, Name: c.ShortName()})
	}
	return g
}
