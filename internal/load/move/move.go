// Package move moves one container, or several as one, from one Docker engine to another, step by step, so that at
// every moment there is exactly one copy that may write, or an intact source to go back to.
//
// It owns a directory with a journal for each move: a file that is replaced whole and on the
// disk before each step begins. A step can be done twice; a move whose process died is carried
// on ([Resume]) or taken back ([Abort]). On the engines, things that a move made bear its ID in
// a label, and nothing without it is ever removed, but for the source at the very end. Journals
// and messages hold no environment value: what a container is made from is read from the source
// again, each time. No volume of the source is ever removed, and none of the target that may
// have been written to.
//
// Row: feature.
package move

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/internal/load/recreate"
)

// Settings are what the operator chose for one move. They are kept in its journal.
type Settings struct {
	recreate.Rules
	// SplitNetworks allows to leave the other containers of a network that is on one host alone.
	SplitNetworks bool `json:"splitNetworks,omitempty"`
	// Image says how the image comes to the target: "auto" (pulled by digest, else streamed),
	// "pull" or "stream".
	Image string `json:"image,omitempty"`
	// Hook is a program of the host and its first arguments: it takes the traffic to the target,
	// or back. Empty: none.
	Hook []string `json:"hook,omitempty"`
	// Drain is how long a stateless source goes on after the hand-over.
	Drain time.Duration `json:"drainNanoseconds,omitempty"`
	// Healthy is how long the target may take to be healthy; 0: five minutes.
	Healthy time.Duration `json:"healthyNanoseconds,omitempty"`
	// Settle is how long a container without a health check has to run to be taken for healthy;
	// 0: ten seconds.
	Settle time.Duration `json:"settleNanoseconds,omitempty"`
	// Keep is how long the stopped source is kept; 0: it is removed at the end of the move.
	Keep time.Duration `json:"keepNanoseconds,omitempty"`
}

// Options say how moves are carried out on this machine.
type Options struct {
	// Dir is the directory of the journals.
	Dir string
	// RunHook runs a hook; nil: hooks are refused.
	RunHook func(ctx context.Context, path string, args []string, input []byte, timeout time.Duration) error
	// SSH runs ssh; nil: targets over SSH are refused.
	SSH engine.SSH
	// Progress is told of each step, and of bytes while some are copied; nil: nobody is.
	Progress func(Event)
	// At is called before and after each step, with the step and "/begin" or "/end", after the
	// journal has it. It is for tests, which end the process there; nil: nothing.
	At func(point string)
	// ID is that of the move that is begun, 16 hexadecimal digits, so that whoever starts a mover
	// knows its journal; empty: a random one.
	ID string
	// Now is the clock; nil: the machine's.
	Now func() time.Time

	// Of these tests have others.
	owner     int           // of the directories in which the engine here has volumes: root
	proc      string        // "": /proc
	streamEnd time.Duration // is how long the rest of a stream, its padding, may take once the target is content; 0: a minute
}

// Event is progress: a step that begins, or bytes of it.
type Event struct {
	Step        Step
	Text        string
	Bytes       int64 // of a volume as [JournalVolume] counts them
	Total       int64 // 0: not known
	Back        bool  // the move is being taken back
	CopiedBytes bool  // Bytes and Total are meant
}

// Defaults.
const (
	defaultHealthy = 5 * time.Minute
	defaultSettle  = 10 * time.Second
	hookTimeout    = 2 * time.Minute
	backTimeout    = 15 * time.Minute // for each container
)

// Errors that callers tell apart.
var (
	ErrBusy     = movesdir.ErrBusy
	ErrLeased   = errors.New("the container is being moved already")
	ErrNoReturn = errors.New("the target has taken over, and may have written")
	// ErrTargetLost is for a copy with data that may run and write where nobody can ask.
	ErrTargetLost = errors.New("the target does not answer, and the copy may run there and write")
)

// RefusedError says why a move is not even begun.
type RefusedError struct {
	Container string
	Refusals  []recreate.Refusal
	Target    bool // at least one is the target's
}

// Error returns all reasons, a line each.
func (e *RefusedError) Error() string {
	text := e.Container + " is not moved:"
	for _, r := range e.Refusals {
		text += "\n  " + r.String()
	}
	return text
}

// TargetError says that it is the target that could not be asked, or answered otherwise than it should.
type TargetError struct{ Err error }

// Error says what.
func (e *TargetError) Error() string { return "target: " + e.Err.Error() }

// Unwrap returns what.
func (e *TargetError) Unwrap() error { return e.Err }

// ByTarget reports whether err, with which a move was not begun, is for a reason of the target's: another target may take
// the container.
func ByTarget(err error) bool {
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return refused.Target
	}
	_, ok := errors.AsType[*TargetError](err)
	return ok
}

// BackError says that a move failed and was taken back: the source is as it was.
type BackError struct {
	ID   string
	Step Step
	Err  error
}

// Error says what failed.
func (e *BackError) Error() string {
	return fmt.Sprintf("move %s failed at %s and was taken back, the source is as it was: %v", e.ID, e.Step, e.Err)
}

// Unwrap returns what failed.
func (e *BackError) Unwrap() error { return e.Err }

// GoneError says that a move has ended because somebody has removed the source meanwhile.
type GoneError struct {
	ID     string
	Step   Step
	Copy   bool // the copy runs, and has taken over
	Target bool // the target is gone too
	Others bool // the others of its group serve again
}

// Error says what became of the copy.
func (e *GoneError) Error() string {
	what := "there was no copy that had run"
	switch {
	case e.Target:
		what = "the target is gone too, and the container with it"
	case e.Copy:
		what = "the copy on the target is the only one left, runs, and stays"
	}
	if e.Others {
		what += "; the others of its group serve again"
	}
	return fmt.Sprintf("move %s ended at %s: %v; %s", e.ID, e.Step, errSourceGone, what)
}

// StuckError says that a move has stopped halfway, and what is to be done.
type StuckError struct {
	ID     string
	Step   Step
	Back   bool
	Serves bool // the source runs: what is left to do is on the target
	Lost   bool // nothing answers for the target
	Err    error
}

// Error says what failed and what can be done.
func (e *StuckError) Error() string {
	what, then := "carried on", "belay move resume "+e.ID+", or belay move abort "+e.ID
	if e.Back {
		what, then = "taken back", "belay move abort "+e.ID
	}
	if e.Back && e.Lost {
		then += "; if the target is gone for good: belay move abort --target-gone " + e.ID
	}
	if e.Serves {
		what = "taken back altogether, though the source serves,"
	}
	return fmt.Sprintf("move %s cannot be %s at %s: %v; when that is mended: %s", e.ID, what, e.Step, e.Err, then)
}

// Unwrap returns what failed.
func (e *StuckError) Unwrap() error { return e.Err }

// Mover carries out moves. Its methods may be called by one goroutine at a time.
type Mover struct {
	o Options
}

// New returns a mover. It does no I/O.
func New(o Options) *Mover {
	if o.Progress == nil {
		o.Progress = func(Event) {}
	}
	if o.At == nil {
		o.At = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.proc == "" {
		o.proc = "/proc"
	}
	if o.streamEnd == 0 {
		o.streamEnd = time.Minute
	}
	return &Mover{o: o}
}

// Look says what moving a container would take, with others as one or alone, and changes nothing.
//
// Errors: [*RefusedError]; those of the engines.
func (m *Mover) Look(ctx context.Context, container string, from, to engine.Address, s Settings, with ...string) (*Plan, error) {
	r, err := m.open(ctx, from, to)
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.look(ctx, append([]string{container}, with...), s, "")
}

// Move moves a container, with others as one or alone, and returns the journal of it. When it fails it takes back what it
// did; when ctx ends, too. Containers that move as one start in the order in which they are named, but for those that need others.
//
// Errors: [*RefusedError] if nothing was begun; [*BackError]; [*StuckError]; [*GoneError].
func (m *Mover) Move(ctx context.Context, container string, from, to engine.Address, s Settings, with ...string) (*Journal, error) {
	if err := s.check(m.o); err != nil {
		return nil, err
	}
	r, err := m.open(ctx, from, to)
	if err != nil {
		return nil, err
	}
	defer r.close()
	p, err := r.look(ctx, append([]string{container}, with...), s, "")
	if err != nil {
		return nil, err
	}
	j := newJournal(p, from, to, s, m.o.Now())
	if m.o.ID != "" {
		j.ID = m.o.ID
	}
	j.FromEngine, j.ToEngine = r.from.Info.ID, r.to.Info.ID
	unlock, err := movesdir.Lock(m.o.Dir, j.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Lstat(filepath.Join(m.o.Dir, j.ID+".json")); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("move %s: it has begun before: %w", j.ID, ErrBusy)
	}
	prune(m.o.Dir, m.o.Now())
	r.j = j
	for _, n := range p.Notes {
		j.note(m.o.Now(), "note: "+n)
		m.o.Progress(Event{Step: j.Step, Text: "note: " + n})
	}
	return j, r.forward(ctx)
}

// Check fails for settings that no move can have.
func (s *Settings) Check() error {
	switch {
	case s.Image != "" && s.Image != "auto" && s.Image != "pull" && s.Image != "stream":
		return fmt.Errorf("image %q: want auto, pull or stream", s.Image)
	case s.Drain < 0 || s.Healthy < 0 || s.Settle < 0 || s.Keep < 0:
		return errors.New("times are not negative")
	}
	return nil
}

func (s *Settings) check(o Options) error {
	if len(s.Hook) > 0 && o.RunHook == nil {
		return errors.New("hooks are not run here")
	}
	return s.Check()
}

// Resume carries a move on, in the direction that it had; or back, if the target does not answer and no
// copy with data can run there.
//
// Errors: [ErrBusy]; an unknown ID; those of [Mover.Move].
func (m *Mover) Resume(ctx context.Context, id string) (*Journal, error) {
	r, done, err := m.reopen(ctx, id, false)
	if err != nil {
		return nil, err
	}
	defer done()
	switch r.j.Phase {
	case Forward:
		if there, err := r.sources(ctx); err == nil && len(there) < len(r.j.members()) {
			return r.j, r.back(ctx, errSourceGone)
		}
		if r.lost != nil {
			return r.j, r.back(ctx, r.lost)
		}
		if err = r.again(ctx); err != nil {
			return r.j, &StuckError{ID: id, Step: r.j.Step, Err: err}
		}
		return r.j, r.forward(ctx)
	case Back:
		return r.j, r.back(ctx, errors.New(r.j.Error))
	case Kept:
		if now := m.o.Now(); now.Before(r.j.KeepUntil) {
			return r.j, fmt.Errorf("move %s is done; its source is kept until %s", id, r.j.KeepUntil.Format(time.DateTime))
		}
		if err := r.each(func(m *Member) error { return r.copyRuns(ctx, m) }); err != nil {
			return r.j, err
		}
		return r.j, r.finish(ctx)
	}
	return r.j, fmt.Errorf("move %s has ended: %s", id, r.j.Phase)
}

// copyRuns fails if the copy of a move that is done does not run: the kept source may be the last of the
// container.
func (r *run) copyRuns(ctx context.Context, m *Member) error {
	c, err := r.to.Container(ctx, m.Target)
	switch {
	case errors.Is(err, engine.ErrNotFound):
		err = errors.New("its copy is no longer on the target")
	case err == nil && strings.HasPrefix(c.ShortName(), m.Name+keptMark):
		return nil // another move has moved it on, and keeps it: the container runs elsewhere
	case err == nil && !c.State.Running:
		err = fmt.Errorf("its copy %q does not run on the target", c.ShortName())
	}
	if err != nil {
		return fmt.Errorf("move %s: the kept source is not removed, it may be all that is left: %w; fix: belay move finish %s removes it all the same, belay move abort goes back to it", r.j.ID, err, r.j.ID)
	}
	return nil
}

// Allow is what the operator accepts of an abort. The zero value accepts nothing.
type Allow struct {
	// LoseWrites goes back although the copy has taken over: what it wrote is not in the source.
	LoseWrites bool
	// TargetGone is the operator's word that the target, which does not answer, never runs the copy again. Nothing else
	// rules out two writers then, and nothing on the target is stopped or removed.
	TargetGone bool
}

// Abort takes a move back. One that is done, or at which a stateful target has taken over, it takes back only with
// LoseWrites, since what the target wrote stays there; and one whose copy with data may run on a target that does not
// answer, only with TargetGone.
//
// Errors: [ErrNoReturn]; [ErrTargetLost]; [ErrBusy]; [*StuckError] if it cannot be taken back now.
func (m *Mover) Abort(ctx context.Context, id string, may Allow) (*Journal, error) {
	r, done, err := m.reopen(ctx, id, true)
	if err != nil {
		return nil, err
	}
	defer done()
	switch r.j.Phase {
	case Finished, RolledBack:
		return r.j, fmt.Errorf("move %s has ended: %s", id, r.j.Phase)
	case Forward, Kept:
		if r.j.noReturn() && !may.LoseWrites {
			return r.j, fmt.Errorf("move %s: %w; fix: belay move resume %s, and move it back; or belay move abort --lose-writes %s", id, ErrNoReturn, id, id)
		}
	}
	if may.TargetGone && r.lost == nil {
		return r.j, fmt.Errorf("move %s: the target answers, so it is not gone; fix: belay move abort without --target-gone", id)
	}
	if may.TargetGone && !r.silent {
		return r.j, fmt.Errorf("move %s: --target-gone is for a target that does not answer at all: %w", id, r.lost)
	}
	if r.j.Phase == Kept {
		if err := r.abortKept(ctx, may); err != nil {
			return r.j, err
		}
	}
	r.j.TargetGone = r.j.TargetGone || may.TargetGone
	err = r.back(ctx, errors.New("the operator has taken it back"))
	if back := new(BackError); errors.As(err, &back) {
		err = nil // that is what was asked for
	}
	return r.j, err
}

// abortKept makes sure that the copy of a move that is done is still this move's to remove. Without data the source
// need not wait for a target that does not answer: it is asked when it does, see [run.movedOn].
func (r *run) abortKept(ctx context.Context, may Allow) error {
	id := r.j.ID
	if r.lost != nil {
		switch {
		case r.j.Stateful && !r.silent:
			return fmt.Errorf("move %s: the copy may run and write: %w; when that is mended: belay move abort --lose-writes %s", id, r.lost, id)
		case r.j.Stateful && !may.TargetGone:
			return fmt.Errorf("move %s: %w: %w; fix: again when it answers; or, if it is gone for good: belay move abort --lose-writes --target-gone %s", id, ErrTargetLost, r.lost, id)
		}
		r.j.CopyUnasked = true
		return nil
	}
	if err := r.save(); err != nil {
		return fmt.Errorf("move %s: %w", id, err) // nothing has changed yet
	}
	if err := r.each(func(m *Member) error { return r.leaseCopy(ctx, m) }); err != nil {
		return errors.Join(fmt.Errorf("move %s: its copy is being moved on: %w", id, err), r.releaseCopies(ctx))
	}
	if err := r.each(func(m *Member) error { return r.copyIsThere(ctx, m) }); err != nil {
		return errors.Join(err, r.releaseCopies(ctx))
	}
	return nil
}

// errMovedOn is for a copy that may run elsewhere by now.
var errMovedOn = errors.New("it was moved on")

// copyIsThere fails if the copy of a move that is done has gone on elsewhere: with the source
// there would be two.
func (r *run) copyIsThere(ctx context.Context, m *Member) error {
	c, err := r.to.Container(ctx, m.Target)
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return fmt.Errorf("move %s: its copy is no longer on the target, and may run elsewhere (%w); if it does not: docker start %s", r.j.ID, errMovedOn, r.j.keptName(m))
	case err != nil:
		return fmt.Errorf("target: %w", err)
	case c.ShortName() != m.Name:
		return fmt.Errorf("move %s: its copy is called %q now: %w, and is to be moved back from there", r.j.ID, c.ShortName(), errMovedOn)
	}
	return nil
}

// Finish removes the kept source of a move before its time. Its volumes stay.
func (m *Mover) Finish(ctx context.Context, id string) (*Journal, error) {
	r, done, err := m.reopen(ctx, id, true)
	if err != nil {
		return nil, err
	}
	defer done()
	if r.j.Phase != Kept {
		return r.j, fmt.Errorf("move %s keeps no source: it is %s", id, r.j.Phase)
	}
	return r.j, r.finish(ctx)
}

// run is one move in this process.
type run struct {
	o        Options
	from, to *engine.Engine
	j        *Journal
	lost     error // why the target cannot be asked, where going back needs no answer
	silent   bool  // and nothing answers for it: it may be gone
}

// open opens both engines, at the same time. If it is the target that does not answer, it returns what it has
// with the error.
func (m *Mover) open(ctx context.Context, from, to engine.Address) (*run, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var b *engine.Engine
	var lost error
	var wg sync.WaitGroup
	wg.Go(func() { b, lost = engine.OpenSSH(ctx, to, m.o.SSH) })
	a, err := engine.Open(ctx, from)
	if err != nil {
		cancel() // whatever the target says, nothing begins
	}
	wg.Wait()
	switch {
	case err != nil:
		if lost == nil {
			b.Close()
		}
		return nil, fmt.Errorf("source: %w", err)
	case lost != nil:
		a.Close()
		return &run{o: m.o, from: a}, &TargetError{lost}
	}
	return &run{o: m.o, from: a, to: b}, nil
}

func (r *run) close() {
	r.from.Close()
	r.to.Close()
}

// mark has all that is asked of the engines from now on bear the move and its step.
func (r *run) mark() {
	r.from.SetTrace(r.j.trace())
	r.to.SetTrace(r.j.trace())
}

// reopen locks a move and opens its engines, which must be those that it began with. To go back
// the target need not answer.
func (m *Mover) reopen(ctx context.Context, id string, back bool) (*run, func(), error) {
	unlock, err := movesdir.Lock(m.o.Dir, id)
	if err != nil {
		return nil, nil, err
	}
	j, err := readJournal(m.o.Dir, id)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	r, err := m.open(ctx, j.From, j.To)
	// Without the target the source can still be restored, if no copy with data can run there.
	alone := back || j.Phase == Back || j.Phase == Forward && !(j.Stateful && j.copyStarted())
	if err != nil && r != nil && alone {
		r.lost, r.silent = err, engine.MayBeGone(err)
		r.to, err = engine.Unreachable(j.To, err), nil
		r.to.Info.ID = j.ToEngine
	}
	if err != nil {
		unlock()
		return nil, nil, &StuckError{ID: id, Step: j.Step, Back: j.Phase == Back, Err: err}
	}
	r.j = j
	r.mark()
	done := func() { r.close(); unlock() }
	if alone {
		r.rebuilt(ctx)
	}
	if r.from.Info.ID != j.FromEngine || r.to.Info.ID != j.ToEngine {
		done()
		return nil, nil, fmt.Errorf("move %s: another engine answers at %s or %s than when it began", id, j.From.URL, j.To.URL)
	}
	return r, done, nil
}

// rebuilt has a target of which another engine answers count as lost: its host was made anew at the same address. One
// that has the copy, or cannot say so, is the old one with another ID.
func (r *run) rebuilt(ctx context.Context) {
	if r.to.Info.ID == r.j.ToEngine {
		return
	}
	for _, m := range r.j.members() {
		if m.Target == "" {
			continue
		}
		if _, err := r.to.Container(ctx, m.Target); !errors.Is(err, engine.ErrNotFound) {
			return
		}
	}
	r.to.Close()
	r.lost, r.silent = &TargetError{errRebuilt}, true
	r.to = engine.Unreachable(r.j.To, r.lost)
	r.to.Info.ID = r.j.ToEngine
	r.mark()
}

var errRebuilt = errors.New("another engine answers there: the one that this move began with is gone")
