package carry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/policy"
)

// Times.
const (
	tickEvery = 2 * time.Second
	// planEvery is the least time between two plans for one policy, or two looks at what holds
	// a move back: each asks all targets.
	planEvery = 10 * time.Second
	// planSeldom is the most between two plans where the last ones came to nothing.
	planSeldom = 2 * time.Minute
	// staleAfter is when a plan that nobody decides on, or whose moves are held, is given up.
	staleAfter = 24 * time.Hour
	// lookEvery is the time between two looks at what became of moves that are done, and at moves of nobody.
	lookEvery = 20 * time.Second
	// lagTime is how long after a move readings do not know of it for sure: they are of a moment before they are asked for.
	lagTime = plan.AveragedOver + 5*time.Second
	// askTime bounds the making of a state.
	askTime = time.Minute
)

// retries are the waits before a move that stopped halfway is carried on; the last one is used
// again and again, since its container may be stopped until what is in the way is mended.
var retries = []time.Duration{5 * time.Second, 15 * time.Second, 30 * time.Second}

// retryKept is the wait before the source of a move that is done is removed again, and retryKeptLong that after some
// tries: nothing waits for it.
const (
	retryKept     = 10 * time.Minute
	retryKeptLong = 24 * time.Hour
)

// component is its name in health.
const component = "load_moves"

// Options say what a [Carrier] works with. All are required but Now and NoMover.
type Options struct {
	File     string // of the ledger
	StateDir string // of the agent: the movers' journals are below it
	// Policies are the LoadPolicies in force.
	Policies func() []*policy.LoadPolicy
	// Over reports whether the node is over a cap of a policy for as long as that says, and told.
	Over func(policy string) bool
	// State describes this node and the targets of a policy; the history is the carrier's to add.
	// self is this node's name in it.
	State func(ctx context.Context, p *policy.LoadPolicy) (s *plan.State, self string, err error)
	// From is the address of this node's engine, as a mover reaches it.
	From func() string
	// Run runs the mover of a move with arguments, and waits for it, however long that takes: whatever a mover waits for
	// it bounds itself, and the next one would copy a volume from its start again.
	Run func(ctx context.Context, id string, args []string) error
	// NoMover says that Run is not to be called: no move is begun, and those that are under way are left to be
	// carried on by hand.
	NoMover bool
	// Tell takes a note, for the journal and for administrators. It does not block.
	Tell   func(Note)
	Now    func() time.Time // nil: the machine's
	Health *health.Registry
	Log    *slog.Logger
}

// Events of a [Note].
const (
	EventProposed    = "proposed"     // a plan waits for approval
	EventApproved    = "approved"     // by somebody, or by a policy with the action migrate
	EventRefused     = "refused"      // by somebody
	EventWithdrawn   = "withdrawn"    // no longer needed, or too old
	EventNoPlan      = "no-plan"      // the node is over a cap, and no moves would help
	EventMoveStarted = "move-started" // a mover was started
	EventMoved       = "moved"
	EventMoveFailed  = "move-failed" // taken back: the container is here as before
	EventMoveStopped = "move-stopped"
	EventSkipped     = "move-skipped" // a planned move was not started
)

// Note is something that became of a plan or a move.
type Note struct {
	Event     string
	Policy    string // name
	Plan      string // ID of the proposal
	Move      string // ID
	Container string // ID
	Name      string
	// Also says that the same was told of another container of the move: administrators have it.
	Also bool
	To   string
	By   string
	Text string
	Time time.Time
}

// MoverError says how a mover has ended.
type MoverError struct {
	Status int // its exit status
	Text   string
}

// Error returns what it said last.
func (e *MoverError) Error() string { return e.Text }

// statusTarget is a mover's exit status where it has not begun for a reason of the target's.
//
// Source: docs/moving.md.
const statusTarget = 3

// Carrier has plans carried out. Make one with [Open]. Safe for concurrent use.
type Carrier struct {
	o    Options
	wake chan struct{}

	// mu guards what follows. Nothing waits under it but for the disk.
	mu      sync.Mutex
	l       *ledger
	live    map[string]bool      // moves with a mover of this process
	next    map[string]time.Time // by move: when it is carried on
	planned map[string]time.Time // by policy: when targets were asked last
	told    map[string]time.Time // by policy: when it was told that no moves would help
	noPlan  map[string]string    // by policy: why
	looked  time.Time            // the journals of kept moves were read last
	strays  map[string]*stray    // by move
	waits   map[string]wait      // by policy: until it is planned for again
	over    map[string]bool      // journals of moves that have ended and are in no ledger
	inUse   bool                 // health has heard of it
	broken  error                // the ledger cannot be written
}

// Open reads the ledger.
func Open(o Options) (*Carrier, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	l, err := readLedger(o.File)
	if err != nil {
		return nil, err
	}
	return &Carrier{
		o: o, wake: make(chan struct{}, 1), l: l, live: map[string]bool{}, next: map[string]time.Time{}, planned: map[string]time.Time{},
		told: map[string]time.Time{}, noPlan: map[string]string{}, strays: map[string]*stray{}, waits: map[string]wait{}, over: map[string]bool{},
	}, nil
}

// Nudge has the carrier look now: a cap was passed, or a policy has changed.
func (c *Carrier) Nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, then returns nil when the last mover has ended. Movers are ended with
// ctx: they are carried on by the next Run.
func (c *Carrier) Run(ctx context.Context) error {
	var movers sync.WaitGroup
	defer movers.Wait()
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		c.step(ctx, &movers)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-c.wake:
		}
	}
}

// dir is where movers keep their journals.
func (c *Carrier) dir() string { return movesdir.Below(c.o.StateDir) }

// step does what is due.
func (c *Carrier) step(ctx context.Context, movers *sync.WaitGroup) {
	c.carryOn(ctx, movers)
	inForce := map[string]*policy.LoadPolicy{}
	for _, p := range c.o.Policies() {
		if p.Spec.Plans() {
			inForce[p.Name] = p
		}
	}
	c.tidy(inForce)
	for _, p := range inForce {
		c.serve(ctx, p, movers)
	}
	c.report()
}

// serve does what one policy wants.
func (c *Carrier) serve(ctx context.Context, p *policy.LoadPolicy, movers *sync.WaitGroup) {
	over, now := c.o.Over(p.Name), c.o.Now()
	c.mu.Lock()
	open := c.l.open(p.Name)
	var openState string
	if open != nil {
		openState = open.State
	}
	due := now.Sub(c.planned[p.Name]) >= c.pause(p)
	rests, lag := c.rests(p, now), c.l.endedWithin(lagTime, now)
	if !over {
		delete(c.waits, p.Name)
	}
	c.mu.Unlock()
	switch {
	case open != nil && !over && (openState == Waiting || !c.started(open)):
		c.end(open, Withdrawn, "the node is no longer over its caps", now)
	case open != nil && openState == Approved:
		switch {
		case c.settled(open, over, now) || !due:
		case lag:
			c.hold(open, lags)
		default:
			c.advance(ctx, p, open, movers)
		}
	case open != nil || !over || !due || rests || lag:
	default:
		c.propose(ctx, p, movers)
	}
}

// wait is how often in a row a policy could not be planned for.
type wait struct {
	revision string
	n        int
}

// pause returns how long a policy waits between two looks at all targets. Where no moves would help, each look
// waits longer: it loads nodes that are full. mu is held.
func (c *Carrier) pause(p *policy.LoadPolicy) time.Duration {
	d, most := planEvery, max(planEvery, min(planSeldom, p.Spec.CoolDown))
	if w := c.waits[p.Name]; w.revision == p.Revision {
		for range w.n {
			if d *= 3; d >= most {
				return most
			}
		}
	}
	return d
}

// rests reports whether a policy's last plan was refused, or came to nothing, within its cool-down.
func (c *Carrier) rests(p *policy.LoadPolicy, now time.Time) bool {
	for _, q := range slices.Backward(c.l.Proposals) {
		if q.Policy == p.Name {
			nothing := q.State == Done && !slices.ContainsFunc(q.Moves, func(m Planned) bool {
				mv := c.l.move(m.Move)
				return m.Move != "" && (mv == nil || !mv.NotBegun)
			})
			return (q.State == Refused || nothing) && now.Sub(q.Ended) < p.Spec.CoolDown
		}
	}
	return false
}

// state makes a state with the history of moves from here.
func (c *Carrier) state(ctx context.Context, p *policy.LoadPolicy) (*plan.State, string, error) {
	c.mu.Lock()
	c.planned[p.Name] = c.o.Now()
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	s, self, err := c.o.State(ctx, p)
	if err != nil {
		return nil, "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.History = append(s.History, c.l.history(self)...)
	s.Sources = []string{self}
	return s, self, nil
}

// History returns the moves from here, for descriptions of the node.
func (c *Carrier) History(self string) []plan.Past {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.l.history(self)
}

// propose makes a plan, and has it wait, or go ahead.
func (c *Carrier) propose(ctx context.Context, p *policy.LoadPolicy, movers *sync.WaitGroup) {
	s, _, err := c.state(ctx, p)
	var made *plan.Plan
	if err == nil {
		made, err = plan.Make(s)
	}
	now := c.o.Now()
	if err != nil {
		c.noMoves(p, "no plan can be made: "+err.Error(), now)
		return
	}
	n := &made.Nodes[0] // of the one source
	if n.Outcome == plan.NotNeeded || len(n.Moves) == 0 {
		if n.Outcome != plan.NotNeeded {
			c.noMoves(p, "no moves would help: "+n.Reason+stays(n), now)
		}
		return
	}
	q := &Proposal{ID: newID(4), Policy: p.Name, Revision: p.Revision, Made: now, Because: because(n), State: Waiting}
	for _, m := range n.Moves {
		q.Moves = append(q.Moves, Planned{Containers: m.Containers, Names: m.Names, To: m.To, Why: m.Why, Held: m.Held})
	}
	if p.Spec.Does(policy.LoadMigrate) {
		q.State, q.By, q.Decided = Approved, "policy "+p.Name, now
	}
	note := Note{Event: EventProposed, Policy: p.Name, Plan: q.ID, By: q.By, Text: q.text()}
	goes := q.State == Approved
	if goes {
		note.Event = EventApproved
	}
	c.mu.Lock()
	c.l.Proposals = append(c.l.Proposals, q) // from here on somebody may decide on it
	delete(c.noPlan, p.Name)
	delete(c.waits, p.Name)
	err = c.save()
	if err != nil {
		c.l.Proposals = c.l.Proposals[:len(c.l.Proposals)-1]
	}
	c.mu.Unlock()
	if err != nil {
		return
	}
	c.tell(note)
	if goes && !c.o.NoMover { // the next step says so
		c.advanceWith(ctx, p, q, s, movers)
	}
}

// text says a plan in one sentence.
func (q *Proposal) text() string {
	var moves []string
	for i := range q.Moves {
		moves = append(moves, together(q.Moves[i].Names)+" to "+q.Moves[i].To)
	}
	text := "plan " + q.ID + ": move " + strings.Join(moves, ", ") + "; " + q.Because
	if q.State == Waiting {
		text += "; it waits for: belay load approve " + q.ID
	}
	return text
}

func because(n *plan.NodePlan) string {
	var over []string
	for _, o := range n.Over {
		text := o.Name + " is " + o.Now + " of " + o.Cap
		if o.After != "" {
			text += ", then " + o.After
		}
		over = append(over, text)
	}
	return strings.Join(over, "; ") + "; " + n.Reason
}

// stays says of the first containers why they stay.
func stays(n *plan.NodePlan) string {
	const most = 3
	var parts []string
	for i := range n.Containers {
		if v := &n.Containers[i]; v.Decision != plan.Spared && v.Decision != plan.Moves && len(parts) < most {
			parts = append(parts, v.Name+": "+v.Reason)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, "; ") + ")"
}

// noMoves notes that nothing can be done, once in a cool-down.
func (c *Carrier) noMoves(p *policy.LoadPolicy, why string, now time.Time) {
	c.mu.Lock()
	c.noPlan[p.Name] = why
	if w := c.waits[p.Name]; w.revision != p.Revision {
		c.waits[p.Name] = wait{p.Revision, 0}
	} else {
		c.waits[p.Name] = wait{p.Revision, w.n + 1}
	}
	silent := !c.told[p.Name].IsZero() && now.Sub(c.told[p.Name]) < p.Spec.CoolDown
	if !silent {
		c.told[p.Name] = now
	}
	c.mu.Unlock()
	if !silent {
		c.tell(Note{Event: EventNoPlan, Policy: p.Name, Text: "the node stays over its caps: " + why})
	}
}

// started reports whether any move of a proposal was started.
func (c *Carrier) started(q *Proposal) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(q.Moves, func(m Planned) bool { return m.Move != "" })
}

// settled ends an approved proposal of whose moves all is known, and skips what is no longer
// needed.
func (c *Carrier) settled(q *Proposal, over bool, now time.Time) bool {
	c.mu.Lock()
	waits := false
	for i := range q.Moves {
		m := &q.Moves[i]
		switch {
		case m.Move != "":
			if mv := c.l.move(m.Move); mv != nil && mv.underWay() {
				waits = true
			}
		case m.open() && !over:
			m.Skipped = "the node is no longer over its caps"
		case m.open() && now.Sub(q.Decided) > staleAfter:
			m.Skipped = "it was held back for a day: " + m.Held
		case m.open():
			waits = true
		}
	}
	c.mu.Unlock()
	if waits {
		return false
	}
	c.end(q, Done, "", now)
	return true
}

// end ends a proposal.
func (c *Carrier) end(q *Proposal, state, why string, now time.Time) {
	c.mu.Lock()
	q.State, q.Reason, q.Ended = state, why, now
	err := c.save()
	c.mu.Unlock()
	if err == nil && state == Withdrawn {
		c.tell(Note{Event: EventWithdrawn, Policy: q.Policy, Plan: q.ID, Text: "plan " + q.ID + " is withdrawn: " + why})
	}
}

// tidy ends proposals whose policy is gone or another, or that nobody has decided on.
func (c *Carrier) tidy(inForce map[string]*policy.LoadPolicy) {
	now := c.o.Now()
	type ending struct {
		q   *Proposal
		why string
	}
	var ends []ending
	c.mu.Lock()
	for _, q := range c.l.Proposals {
		if !q.Ended.IsZero() {
			continue
		}
		p := inForce[q.Policy]
		switch {
		case p == nil:
			ends = append(ends, ending{q, "its policy is no longer in force"})
		case p.Revision != q.Revision:
			ends = append(ends, ending{q, "its policy was changed"})
		case q.State == Waiting && now.Sub(q.Made) > staleAfter:
			ends = append(ends, ending{q, "nobody has decided on it for a day"})
		}
	}
	c.mu.Unlock()
	for _, e := range ends {
		c.end(e.q, Withdrawn, e.why, now)
	}
}

// save writes the ledger; mu is held. Whoever starts something does not, without it.
func (c *Carrier) save() error {
	c.broken = c.l.write(c.o.File, c.o.Now())
	if c.broken != nil {
		c.o.Health.Counter("load_ledger_failed").Add(1)
		c.o.Log.Error("the ledger of moves cannot be written; no move is started", attr.Error, c.broken.Error())
	}
	return c.broken
}

func (c *Carrier) tell(n Note) {
	n.Time = c.o.Now()
	c.o.Tell(n)
}

// tellOf tells of a move, of each of its containers.
func (c *Carrier) tellOf(m *Move, event, text string) {
	for i, of := range m.members() {
		c.tell(Note{Event: event, Policy: m.Policy, Plan: m.Proposal, Move: m.ID, Container: of.Container, Name: of.Name, Also: i > 0, To: m.To, Text: text})
	}
}

// report keeps health in step.
func (c *Carrier) report() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var stopped []string
	for _, m := range c.l.Moves {
		switch {
		case (m.underWay() || m.Back && m.Outcome == Moved) && m.Tries > 0:
			stopped = append(stopped, fmt.Sprintf("move %s of %s has stopped at %s: %s", m.ID, m.names(), m.Step, m.Error))
		case m.Outcome == Moved && m.Tries > 0:
			stopped = append(stopped, fmt.Sprintf("the kept source of move %s of %s is not removed: %s", m.ID, m.names(), m.Error))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.strays)) {
		if s := c.strays[id]; s.tries > 0 {
			stopped = append(stopped, fmt.Sprintf("move %s of %s, begun by hand, has stopped at %s: %s", id, s.name, s.step, s.err))
		}
	}
	switch {
	case c.broken != nil:
		c.o.Health.SetFailed(component, c.broken.Error())
	case len(stopped) > 0:
		c.o.Health.SetDegraded(component, strings.Join(stopped, "; "))
	case c.inUse || len(c.l.Proposals) > 0:
		c.o.Health.SetOK(component)
	default:
		return // no policy wants anything
	}
	c.inUse = true
}

// Errors of decisions.
var (
	ErrNoPlan  = errors.New("there is no such plan")
	ErrDecided = errors.New("it was decided on before")
)

// Decide approves or refuses a plan that waits.
//
// Errors: [ErrNoPlan]; [ErrDecided]; the ledger cannot be written.
func (c *Carrier) Decide(id string, approve bool, by, reason string) (*Proposal, error) {
	now := c.o.Now()
	c.mu.Lock()
	i := slices.IndexFunc(c.l.Proposals, func(q *Proposal) bool { return q.ID == id })
	if i < 0 {
		c.mu.Unlock()
		return nil, fmt.Errorf("plan %q: %w; see belay load status", id, ErrNoPlan)
	}
	q := c.l.Proposals[i]
	if q.State != Waiting {
		state := q.State
		c.mu.Unlock()
		return nil, fmt.Errorf("plan %s: %w: it is %s", id, ErrDecided, state)
	}
	was := *q
	q.By, q.Decided = by, now
	event, text := EventApproved, "plan "+id+" was approved"
	if q.State = Approved; !approve {
		q.State, q.Reason, q.Ended = Refused, reason, now
		event, text = EventRefused, "plan "+id+" was refused"
		if reason != "" {
			text += ": " + reason
		}
	}
	delete(c.planned, q.Policy) // at once
	if err := c.save(); err != nil {
		*q = was
		c.mu.Unlock()
		return nil, err
	}
	out := *q
	c.mu.Unlock()
	c.tell(Note{Event: event, Policy: q.Policy, Plan: id, By: by, Text: text})
	c.Nudge()
	return &out, nil
}

// Status is what a carrier knows.
type Status struct {
	Proposals []Proposal        `json:"proposals"` // newest first
	Moves     []Move            `json:"moves"`     // newest first
	NoPlan    map[string]string `json:"noPlan"`    // by policy: why the node stays over its caps
}

// shown is how many of each a status has.
const shown = 20

// Status returns the last plans and moves.
func (c *Carrier) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Proposals: []Proposal{}, Moves: []Move{}, NoPlan: map[string]string{}}
	for _, q := range slices.Backward(c.l.Proposals) {
		if len(s.Proposals) < shown || q.Ended.IsZero() {
			p := *q
			p.Moves = slices.Clone(q.Moves)
			s.Proposals = append(s.Proposals, p)
		}
	}
	for _, m := range slices.Backward(c.l.Moves) {
		if len(s.Moves) < shown || m.underWay() {
			s.Moves = append(s.Moves, *m)
		}
	}
	for name, why := range c.noPlan {
		if c.o.Over(name) {
			s.NoPlan[name] = why
		}
	}
	return s
}

func newID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return hex.EncodeToString(b)
}
