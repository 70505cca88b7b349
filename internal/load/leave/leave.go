// Package leave sees it through that a unit leaves this node: it asks what places the containers
// (internal/load/place), waits where it is told to, and keeps a journal, so that whoever comes after
// an end halfway goes on.
//
// It owns the journals, files ID.leave.json in the directory of the moves. It says neither what
// should leave nor where it goes. Row: feature.
package leave

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/internal/load/place"
)

// Where says which orchestrator places containers here, and how it is reached.
type Where struct {
	Kind string `json:"kind"` // swarm, kubernetes
	// Engine is this node's; Manager that of a swarm's manager, if it is another.
	Engine  engine.Address `json:"engine"`
	Manager engine.Address `json:"manager,omitzero"`
	Cluster Cluster        `json:"cluster,omitzero"` // of kubernetes
}

// Cluster says which node of which Kubernetes cluster this is, and what may leave besides.
type Cluster struct {
	Kubeconfig         string `json:"kubeconfig,omitempty"` // a file; empty: the service account of the pod
	Node               string `json:"node,omitempty"`
	SoleReplicas       bool   `json:"soleReplicas,omitempty"`
	DespiteDescheduler bool   `json:"despiteDescheduler,omitempty"`
}

// Phase is how far a leave has come, in the words of a move's journal.
type Phase string

// The phases.
const (
	Moving    Phase = "moving"
	Finished  Phase = "finished"
	TakenBack Phase = "taken back"
)

// Journal is what is kept of one leave.
type Journal struct {
	Schema string `json:"schema"`
	ID     string `json:"id"`
	Phase  Phase  `json:"phase"`
	Step   string `json:"step"`
	Error  string `json:"error,omitempty"`
	// NoFault says of one that was taken back that nothing speaks against another try: it was not asked at
	// all, or was interrupted.
	NoFault bool `json:"noFault,omitempty"`

	Name   string        `json:"name"` // of the unit
	Unit   place.Unit    `json:"unit"`
	Where  Where         `json:"where"`
	Within time.Duration `json:"within"` // nanoseconds
	Began  time.Time     `json:"began"`
	Ended  time.Time     `json:"ended,omitzero"`

	History []Entry `json:"history"`
}

// Entry is one line of the history, in the form of a move's: internal/load/carry reads both.
type Entry struct {
	At   time.Time `json:"at"`
	Step string    `json:"step"`
	Text string    `json:"text"`
}

const (
	schema     = "belay.dev/leave/v1"
	suffix     = ".leave.json"
	stepLeave  = "leave"
	maxJournal = 4 << 20
	maxEntries = 200
	keepEnded  = 30 * 24 * time.Hour
	// waitLeast is the least time between two tries where it was told to wait, waitMost that of all of them:
	// who decided that it leaves did so by readings, windows and a policy that hold no longer some time.
	waitLeast = time.Second
	waitMost  = 2 * time.Minute
)

// Options say what a leave works with. All but Now and Progress are required.
type Options struct {
	Dir  string // of the journals
	Open func(context.Context, Where) (p place.Placer, closeIt func(), err error)
	Now  func() time.Time // nil: the machine's
	// Progress takes a line for whoever watches; nil: nobody does.
	Progress func(text string)
}

func (o *Options) fill() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
}

// Find returns the unit that has a container, by its ID, or that is called so.
func Find(us []place.Unit, ref string) (*place.Unit, error) {
	var found []*place.Unit
	for i := range us {
		u := &us[i]
		if u.ID == ref || u.Name == ref || slices.ContainsFunc(u.Containers, func(c string) bool { return len(ref) >= 12 && strings.HasPrefix(c, ref) }) {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%q: %d units on this node have this name or container, want one; belay load leave lists them", ref, len(found))
	}
	return found[0], nil
}

// Begin has the unit with a container leave, under an ID of 16 hexadecimal digits.
//
// Errors: with no journal, nothing was begun.
func Begin(ctx context.Context, o Options, id, container string, at Where, within time.Duration) (*Journal, error) {
	o.fill()
	p, closeIt, err := o.Open(ctx, at)
	if err != nil {
		return nil, err
	}
	defer closeIt()
	us, err := p.Units(ctx)
	if err != nil {
		return nil, err
	}
	u, err := Find(us, container)
	if err != nil {
		return nil, err
	}
	if u.Stays != "" {
		return nil, fmt.Errorf("%s stays: %s", u.Name, u.Stays)
	}
	unlock, err := movesdir.Lock(o.Dir, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	prune(o.Dir, o.Now())
	j := &Journal{Schema: schema, ID: id, Phase: Moving, Step: stepLeave, Name: u.Name, Unit: *u, Where: at, Within: within, Began: o.Now()}
	j.note(o.Now(), "begun")
	if err := j.write(o.Dir); err != nil {
		return nil, err
	}
	return j, o.run(ctx, j, p, true)
}

// Resume goes on with one that has not ended, and does not ask afresh. Now is how its orchestrator is
// reached today, if its kind is set; if only a manager is, that is another than the journal has.
func Resume(ctx context.Context, o Options, id string, now Where) (*Journal, error) {
	o.fill()
	unlock, err := movesdir.Lock(o.Dir, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	j, err := Read(o.Dir, id)
	if err != nil || j.Phase != Moving {
		return j, err
	}
	switch {
	case now.Kind == j.Where.Kind:
		j.Where = now
	case now.Kind != "":
		return j, fmt.Errorf("leave %s is one of %s, and not of %s", id, j.Where.Kind, now.Kind)
	case now.Manager.URL != "":
		j.Where.Manager = now.Manager
	}
	p, closeIt, err := o.Open(ctx, j.Where)
	if errors.Is(err, place.ErrGone) {
		return j, o.end(j, fmt.Errorf("what %s was asked may stand, and nobody is known who could take it back: %w", j.Name, err))
	}
	if err != nil {
		return j, err
	}
	defer closeIt()
	j.note(o.Now(), "goes on")
	return j, o.run(ctx, j, p, false)
}

// run sees it through until it has left, or its time is over.
func (o *Options) run(ctx context.Context, j *Journal, p place.Placer, ask bool) error {
	timed, cancel := context.WithDeadline(ctx, j.Began.Add(j.Within))
	defer cancel()
	waits := o.Now().Add(waitMost)
	for {
		if ask {
			o.Progress(j.Name + " is asked to leave")
		}
		err := p.Leave(timed, j.Unit, ask)
		j.NoFault = errors.Is(err, place.ErrNotAsked) || err != nil && ctx.Err() != nil
		later, wait := errors.AsType[*place.Later](err)
		if wait {
			o.Progress("it has to wait: " + later.Error())
			if n := len(j.History); j.History[n-1].Text != later.Reason {
				j.note(o.Now(), later.Reason)
				if err := j.write(o.Dir); err != nil {
					return err
				}
			}
			after := max(later.After, waitLeast)
			if o.Now().Add(after).Before(waits) {
				select {
				case <-timed.Done():
				case <-time.After(after):
					continue
				}
			}
			j.NoFault = true
			err = fmt.Errorf("it was to wait for longer than it may: %s", later.Reason)
		}
		return o.end(j, err)
	}
}

// end writes down what came of it.
func (o *Options) end(j *Journal, err error) error {
	switch {
	case err == nil:
		j.Phase, j.Error, j.Ended = Finished, "", o.Now()
		j.note(o.Now(), "it has left")
	case errors.Is(err, place.ErrHalfway):
		j.Error = err.Error()
		j.note(o.Now(), "stuck: "+j.Error)
	default:
		j.Phase, j.Error, j.Ended = TakenBack, err.Error(), o.Now()
		j.note(o.Now(), "stuck: "+j.Error)
	}
	return errors.Join(err, j.write(o.Dir))
}

func (j *Journal) note(now time.Time, text string) {
	j.History = append(j.History, Entry{At: now, Step: j.Step, Text: text})
	if n := len(j.History) - maxEntries; n > 0 {
		j.History = slices.Delete(j.History, 1, 1+n)
	}
}

func (j *Journal) write(dir string) error {
	b, err := json.MarshalIndent(j, "", "  ")
	if err == nil {
		err = atomicfile.WriteFile(filepath.Join(dir, j.ID+suffix), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("journal of leave %s: %w", j.ID, err)
	}
	return nil
}

// Read reads a journal.
func Read(dir, id string) (*Journal, error) {
	path := filepath.Join(dir, id+suffix)
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxJournal {
		err = fmt.Errorf("more than %d bytes", maxJournal)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	j := new(Journal)
	if err == nil {
		err = json.Unmarshal(b, j)
	}
	if err == nil && (j.Schema != schema || j.ID != id || j.Unit.ID == "") {
		err = errors.New("it is not of this version of belay")
	}
	if err != nil {
		return nil, fmt.Errorf("journal of leave %s: %w", id, err)
	}
	return j, nil
}

// prune removes what ended long ago. What it cannot remove it leaves to the next.
func prune(dir string, now time.Time) {
	paths, _ := filepath.Glob(filepath.Join(dir, "*"+suffix)) // the pattern is one
	for _, path := range paths {
		id := strings.TrimSuffix(filepath.Base(path), suffix)
		if j, err := Read(dir, id); err == nil && j.Phase != Moving && now.Sub(j.Ended) > keepEnded {
			_ = os.Remove(path)
			_ = os.Remove(filepath.Join(dir, id+".lock"))
		}
	}
}
