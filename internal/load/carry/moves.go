package carry

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/policy"
)

// noMover says why an agent starts no mover.
const noMover = "nothing is moved by this agent (--mover none)"

// lags says why nothing starts for a while after a move.
const lags = "readings do not know of the last move yet"

// advance starts what of an approved proposal may start now, by new readings.
func (c *Carrier) advance(ctx context.Context, p *policy.LoadPolicy, q *Proposal, movers *sync.WaitGroup) {
	if c.o.NoMover {
		c.hold(q, noMover)
		return
	}
	s, _, err := c.state(ctx, p)
	if err != nil {
		c.hold(q, "this node cannot be described: "+err.Error())
		return
	}
	c.advanceWith(ctx, p, q, s, movers)
}

func (c *Carrier) hold(q *Proposal, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range q.Moves {
		if q.Moves[i].open() {
			q.Moves[i].Held = why
		}
	}
}

func (c *Carrier) advanceWith(ctx context.Context, p *policy.LoadPolicy, q *Proposal, s *plan.State, movers *sync.WaitGroup) {
	self := s.Sources[0]
	for i := range q.Moves {
		c.mu.Lock()
		m := q.Moves[i]
		c.mu.Unlock()
		if !m.open() || ctx.Err() != nil {
			continue
		}
		skip, held := verdict(s, self, &m, p.Spec.Orchestrator.None())
		if skip != "" || held != "" {
			c.put(q, i, skip, held)
			continue
		}
		// Whoever takes the policy away stops its moves, those of this very step too.
		if !slices.ContainsFunc(c.o.Policies(), func(o *policy.LoadPolicy) bool { return o.Name == p.Name && o.Revision == p.Revision }) {
			return // the next step says so
		}
		mv, err := c.begin(p, q, i, s, self)
		if err != nil {
			c.put(q, i, "", err.Error())
			continue
		}
		s.History = append(s.History, mv.history(self)...)
		args := c.arguments(p, mv)
		c.tellOf(mv, EventMoveStarted, "moving "+mv.names()+" to "+mv.To)
		c.start(ctx, mv.ID, args, movers)
	}
}

// put notes why a planned move was not started.
func (c *Carrier) put(q *Proposal, i int, skip, held string) {
	c.mu.Lock()
	m := &q.Moves[i]
	m.Held, m.Skipped = held, skip
	var err error
	if skip != "" {
		err = c.save()
	}
	name, to := together(m.Names), m.To
	c.mu.Unlock()
	if skip != "" && err == nil {
		c.tell(Note{Event: EventSkipped, Policy: q.Policy, Plan: q.ID, Name: name, To: to, Text: name + " is not moved to " + to + ": " + skip})
	}
}

// verdict says why a planned move must not be made any more, or not yet, by a new state. Exactly says that
// what moves as one has to be what was planned: an orchestrator knows best what it has placed.
func verdict(s *plan.State, self string, m *Planned, exactly bool) (skip, held string) {
	e, err := plan.Explain(s, self, m.Containers[0])
	if err != nil {
		return err.Error(), ""
	}
	if !e.Movable || len(e.Reasons) > 0 {
		return strings.Join(e.Reasons, "; "), ""
	}
	if exactly && !slices.Equal(e.Members, m.Containers) {
		now := e.Together
		if len(now) == 0 {
			now = []string{e.Name}
		}
		return "what moves as one has changed, by now it is " + together(now), ""
	}
	i := slices.IndexFunc(e.Targets, func(t plan.ExplainedTarget) bool { return t.Target == m.To })
	switch {
	case i < 0:
		return "the target is no longer one of the policy", ""
	case !e.Targets[i].Fits && slices.Contains([]string{"not-a-target", "stale-readings"}, e.Targets[i].Code):
		return "", e.Targets[i].Reason // it cannot be asked, or is cordoned: that passes, and a day ends the plan
	case !e.Targets[i].Fits:
		return "the target does not take it any more: " + e.Targets[i].Reason, ""
	}
	return "", e.Targets[i].Held
}

// begin writes down that a move begins.
func (c *Carrier) begin(p *policy.LoadPolicy, q *Proposal, i int, s *plan.State, self string) (*Move, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &q.Moves[i]
	mv := &Move{ID: newID(8), Proposal: q.ID, Policy: p.Name, To: m.To, Began: c.o.Now()}
	for k, id := range m.Containers {
		member := Member{Container: id, Name: m.Names[k]}
		if ct := containerOf(s, self, id); ct != nil {
			member.Use = ct.Use
			if ct.Placed != nil {
				member.Name = ct.Placed.Name
			}
		}
		switch {
		case k == 0:
			mv.Member = member
		case p.Spec.Orchestrator.None():
			mv.With = append(mv.With, member)
		default: // it is asked for the whole, by one of its containers
			mv.Use = mv.Use.Plus(member.Use)
		}
	}
	c.l.Moves = append(c.l.Moves, mv)
	m.Move, m.Held = mv.ID, ""
	if err := c.save(); err != nil {
		c.l.Moves = c.l.Moves[:len(c.l.Moves)-1]
		m.Move = ""
		return nil, err
	}
	c.live[mv.ID] = true
	return mv, nil
}

// containerOf returns a container of a node, or nil.
func containerOf(s *plan.State, node, id string) *plan.Container {
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Name == node {
			if k := slices.IndexFunc(n.Containers, func(c plan.Container) bool { return c.ID == id }); k >= 0 {
				return &n.Containers[k]
			}
		}
	}
	return nil
}

// arguments are those of the mover.
func (c *Carrier) arguments(p *policy.LoadPolicy, mv *Move) []string {
	if o := &p.Spec.Orchestrator; !o.None() {
		return append([]string{"load", "leave", mv.Container, "--id", mv.ID, "--state-dir", c.o.StateDir, "--within", o.Within.String()}, o.Arguments(c.o.From())...)
	}
	m := &p.Spec.Moves
	i := slices.IndexFunc(p.Spec.Targets, func(t policy.LoadTarget) bool { return t.Name == mv.To })
	t := &p.Spec.Targets[i]
	args := []string{"move"}
	for _, of := range mv.members() {
		args = append(args, of.Container)
	}
	args = append(args, "--id", mv.ID, "--state-dir", c.o.StateDir, "--from", c.o.From(), "--to", t.Engine, "--image", m.Image,
		"--drain", m.Drain.String(), "--healthy", m.Healthy.String(), "--settle", m.Settle.String(), "--keep", m.Keep.String())
	if t.CA != "" {
		args = append(args, "--tlscacert", t.CA, "--tlscert", t.Cert, "--tlskey", t.Key)
	}
	for _, f := range []struct {
		set  bool
		flag string
	}{{m.CopyVolumes, "--copy-volumes"}, {m.LoseLayer, "--lose-layer"}, {m.LoseAttributes, "--lose-attributes"}, {m.SplitNetworks, "--split-networks"}} {
		if f.set {
			args = append(args, f.flag)
		}
	}
	if len(m.Hook) > 0 {
		args = append(args, "--hook", strings.Join(m.Hook, " "))
	}
	return args
}

// start runs a mover, and sees what came of it.
func (c *Carrier) start(ctx context.Context, id string, args []string, movers *sync.WaitGroup) {
	movers.Go(func() {
		err := c.o.Run(ctx, id, args)
		if ctx.Err() != nil {
			return // the next agent looks
		}
		c.ended(id, err)
		c.Nudge()
	})
}

// carryOn goes on with moves that no mover of this process carries out: those of an agent before,
// those that stopped halfway, and kept sources whose time is over.
func (c *Carrier) carryOn(ctx context.Context, movers *sync.WaitGroup) {
	now := c.o.Now()
	c.mu.Lock()
	var due []*Move
	look := now.Sub(c.looked) >= lookEvery // somebody may have taken one back, or finished it
	if look {
		c.looked = now
	}
	for _, m := range c.l.Moves {
		kept := m.Outcome == Moved && (look || !m.KeepUntil.IsZero() && now.After(m.KeepUntil))
		if (m.underWay() || kept) && !c.live[m.ID] && !now.Before(c.next[m.ID]) {
			due = append(due, m)
			c.live[m.ID] = true
		}
	}
	c.mu.Unlock()
	for _, m := range due {
		if c.known(m.ID, nil) {
			continue
		}
		switch {
		case isLocked(c.dir(), m.ID): // somebody carries it on by hand
			c.leave(m, "")
		case c.o.NoMover:
			c.leave(m, noMover+": belay move resume "+m.ID)
		default:
			c.resume(ctx, m.ID, movers)
		}
	}
	if look && !c.o.NoMover {
		c.lookForStrays()
	}
	for _, id := range c.dueStrays(now) {
		if isLocked(c.dir(), id) {
			c.strayEnds(id) // its own mover is at work
			continue
		}
		c.resume(ctx, id, movers)
	}
}

func (c *Carrier) resume(ctx context.Context, id string, movers *sync.WaitGroup) {
	args := []string{"move", "resume", id, "--state-dir", c.o.StateDir}
	if isLeave(c.dir(), id) {
		args = append([]string{"load", "leave", "--resume", id, "--state-dir", c.o.StateDir}, c.orchestratorOf(id)...)
	}
	c.start(ctx, id, args, movers)
}

// orchestratorOf says how what a leave was asked of is reached by its policy as it is now; nothing: as
// its journal says.
func (c *Carrier) orchestratorOf(id string) []string {
	c.mu.Lock()
	m := c.l.move(id)
	c.mu.Unlock()
	if m == nil {
		return nil
	}
	for _, p := range c.o.Policies() {
		if o := &p.Spec.Orchestrator; p.Name == m.Policy && !o.None() {
			return o.Arguments(c.o.From())
		}
	}
	return nil
}

// leave starts no mover for a move for a while; why says what it waits for, if nobody works at it.
func (c *Carrier) leave(m *Move, why string) {
	p, err := readProgress(c.dir(), m.ID)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, m.ID)
	c.next[m.ID] = c.o.Now().Add(lookEvery)
	if err == nil {
		m.Step, m.Back = p.Step, p.Phase == phaseBack
	}
	m.Error, m.Tries = why, 0
	if why != "" {
		m.Tries = 1
	}
}

// known looks whether the journal of a move that no mover works at says how it ended.
func (c *Carrier) known(id string, err error) bool {
	p, rerr := readProgress(c.dir(), id)
	halfway := rerr == nil && (p.Phase == phaseMoving || p.Phase == phaseBack)
	kept := rerr == nil && p.Phase == phaseKept && c.o.Now().After(p.KeepUntil)
	if halfway || kept {
		return false
	}
	c.ended(id, err)
	return true
}

// ended reads what came of a move, when its mover has ended.
func (c *Carrier) ended(id string, err error) {
	p, rerr := readProgress(c.dir(), id)
	c.mu.Lock()
	m := c.l.move(id)
	delete(c.live, id)
	if m == nil {
		c.strayEnded(id, p, rerr, err)
		c.mu.Unlock()
		return
	}
	before := *m
	event, text := c.judge(m, p, rerr, err)
	if !reflect.DeepEqual(before, *m) {
		_ = c.save() // the journal of the mover says the same to the next look
	}
	c.mu.Unlock()
	if event != "" {
		c.tellOf(m, event, text)
	}
}

// judge sets what a move is by its journal, and returns what is to be told of it; mu is held.
func (c *Carrier) judge(m *Move, p *progress, rerr, err error) (event, text string) {
	now := c.o.Now()
	if p != nil {
		m.Step, m.KeepUntil, m.Back = p.Step, p.KeepUntil, p.Phase == phaseBack
	}
	end := func(outcome, ev, said string) {
		if was := m.Outcome; was != outcome {
			m.Outcome, m.Tries = outcome, 0
			if m.Ended.IsZero() {
				m.Ended = now
			}
			if was == "" {
				event, text = ev, said
			}
		}
		delete(c.next, m.ID)
	}
	switch {
	case errors.Is(rerr, errNeverBegun) && !m.underWay(): // somebody has removed the journal: nothing is kept
		end(Finished, "", "")
	case errors.Is(rerr, errNeverBegun):
		m.Error = errNeverBegun.Error()
		if err != nil {
			m.Error = err.Error()
		}
		mover, ok := errors.AsType[*MoverError](err)
		m.NotBegun = !ok || mover.Status != statusTarget
		end(Failed, EventMoveFailed, m.names()+" was not moved to "+m.To+": "+m.Error)
	case rerr == nil && p.Phase == phaseTaken:
		m.Error = p.Error
		if m.underWay() {
			m.NotBegun = p.NoFault
			end(Failed, EventMoveFailed, "the move of "+m.names()+" to "+m.To+" failed at "+m.Step+" and was taken back: "+m.Error)
			return event, text
		}
		end(TakenBack, "", "")
	case rerr == nil && p.Phase == phaseKept:
		m.Error = ""
		end(Moved, EventMoved, m.names()+" was moved to "+m.To+"; its source is kept, stopped, until "+p.KeepUntil.UTC().Format(time.DateTime))
		if now.After(p.KeepUntil) && err != nil { // its removal failed
			c.again(m, err)
		}
	case rerr == nil && p.Phase == phaseFinished:
		end(Finished, EventMoved, m.names()+" was moved to "+m.To)
	default:
		if err == nil {
			err = rerr
		}
		c.again(m, err)
		if m.underWay() && m.Tries == 1 {
			event, text = EventMoveStopped, fmt.Sprintf("the move of %s to %s has stopped at %s, and will be carried on or taken back: %s", m.names(), m.To, m.Step, m.Error)
		}
	}
	return event, text
}

// again has a move be carried on after a while; mu is held.
func (c *Carrier) again(m *Move, err error) {
	m.Error = "its mover has ended"
	if err != nil {
		m.Error = err.Error()
	}
	wait := retries[min(m.Tries, len(retries)-1)]
	if !m.underWay() && !m.Back {
		wait = retryKept
		if m.Tries >= len(retries) {
			wait = retryKeptLong
		}
	}
	c.next[m.ID] = c.o.Now().Add(wait)
	m.Tries++
	c.stopped(m.Tries, m.Error)
}

// stopped counts a move that stopped halfway, and writes of the first tries.
func (c *Carrier) stopped(tries int, why string) {
	c.o.Health.Counter("load_moves_stopped").Add(1)
	if tries <= len(retries) || tries%100 == 0 {
		c.o.Log.Warn("a move has stopped halfway, and will be carried on", attr.Error, why)
	}
}
