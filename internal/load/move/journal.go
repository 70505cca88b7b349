package move

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/movesdir"
)

// Phase is which way a move goes.
type Phase string

// The phases.
const (
	Forward    Phase = "moving"
	Back       Phase = "going back"
	Kept       Phase = "moved" // the source is kept, stopped
	Finished   Phase = "finished"
	RolledBack Phase = "taken back"
)

// Step is one step of a move.
type Step string

// The steps. Those in brackets in [Steps] are of one kind of move alone.
const (
	StepLease      Step = "lease"
	StepImage      Step = "image"
	StepNetworks   Step = "networks"
	StepVolumes    Step = "volumes"
	StepCreate     Step = "create"
	StepStopSource Step = "stop-source"
	StepCopy       Step = "copy"
	StepStart      Step = "start"
	StepHealthy    Step = "healthy"
	StepHandOver   Step = "hand-over"
	StepDrain      Step = "drain"
	StepKeep       Step = "keep"
	StepCommit     Step = "commit"
)

// Steps returns the steps of a move in their order. A container with data stops before its copy
// starts; one without goes on until the copy has its traffic.
func Steps(stateful bool) []Step {
	if stateful {
		return []Step{StepLease, StepImage, StepNetworks, StepVolumes, StepCreate, StepStopSource, StepCopy, StepStart, StepHealthy, StepHandOver, StepKeep, StepCommit}
	}
	return []Step{StepLease, StepImage, StepNetworks, StepCreate, StepStart, StepHealthy, StepHandOver, StepDrain, StepStopSource, StepKeep, StepCommit}
}

// Journal is what is kept of one move. It has no environment value of the container, but
// arguments of the hook and names: its file is root's alone.
type Journal struct {
	Schema string `json:"schema"`
	ID     string `json:"id"`
	Phase  Phase  `json:"phase"`
	// Step is being done: those before it are done, it may be in part.
	Step  Step      `json:"step"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended,omitzero"`
	Error string    `json:"error,omitempty"`

	// Member is the container that moves; of a group the first in the order in which they start, and With are the others.
	Member
	With []*Member `json:"with,omitempty"`

	From engine.Address `json:"from"`
	To   engine.Address `json:"to"`
	// FromEngine and ToEngine are the engines' own IDs.
	FromEngine string   `json:"fromEngine"`
	ToEngine   string   `json:"toEngine"`
	Settings   Settings `json:"settings"`
	// Stateful says that it has data, or one of a group has: then none of them starts there before all have stopped here.
	Stateful bool `json:"stateful"`

	// HandedOver is true from before the deed: it may have been done.
	HandedOver bool `json:"handedOver,omitempty"`
	// CopyUnasked says that a move that was done is taken back without having asked the target whether the copy was moved on.
	CopyUnasked bool `json:"copyUnasked,omitempty"`
	// TargetGone is the operator's word that the target never runs the copy again: see [Allow].
	TargetGone bool `json:"targetGone,omitempty"`

	Networks []string        `json:"networks,omitempty"` // that this move makes on the target
	Volumes  []JournalVolume `json:"volumes,omitempty"`

	KeepUntil time.Time `json:"keepUntil,omitzero"`
	// LeftBehind are things that were kept on purpose, in words.
	LeftBehind []string `json:"leftBehind,omitempty"`
	History    []Entry  `json:"history"`
}

// Member is what is kept of one container that moves.
type Member struct {
	Container string `json:"container"` // ID on the source
	Name      string `json:"name"`
	// Restart is the restart policy that the source had.
	Restart container.RestartPolicy `json:"restart"`
	// What follows is true from before the deed: it may have been done.
	SourceStopped bool   `json:"sourceStopped,omitempty"`
	TargetStarted bool   `json:"targetStarted,omitempty"`
	Target        string `json:"target,omitempty"` // the container's ID there
	// StoppedAt is when the source stopped, by its engine: a source that ran again has another.
	StoppedAt string `json:"stoppedAt,omitempty"`

	plan *Plan // what the copy is made from, read from the source by each process; nil on the way back
}

// JournalVolume is what is kept of one volume.
type JournalVolume struct {
	Name   string `json:"name"`
	Digest string `json:"digest,omitempty"` // of what both sides have, once they were compared
	// Bytes is what was sent: of a volume that was read on this host what is in its files, else the engine's whole archive.
	Bytes int64 `json:"bytes,omitempty"`
}

// Entry is one line of a move's history. Its text is "begun" where its step begins, and begins with "goes back: " or
// "stuck: " where something has failed: internal/load/carry reads these words.
type Entry struct {
	At   time.Time `json:"at"`
	Step Step      `json:"step,omitempty"`
	Text string    `json:"text,omitempty"`
}

// Forms of the file; another is refused. That of a group is one that whoever knows of no groups does not take for a move of its
// first container alone.
const (
	journalSchema = "belay.dev/move/v1"
	groupSchema   = "belay.dev/move-group/v1"
)

// maxJournal bounds what is read: a history has some tens of lines for each try.
const maxJournal = 4 << 20

func newJournal(p *Plan, from, to engine.Address, s Settings, now time.Time) *Journal {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	j := &Journal{
		Schema: journalSchema, ID: hex.EncodeToString(b[:]), Phase: Forward, Began: now, From: from, To: to, Settings: s,
	}
	for i, p := range p.all() {
		m := &Member{Container: p.Recipe.ID, Name: p.Recipe.Name, Restart: p.Recipe.Restart, plan: p}
		if i == 0 {
			j.Member = *m
		} else {
			j.With, j.Schema = append(j.With, m), groupSchema
		}
		j.Stateful = j.Stateful || p.Recipe.Stateful()
		for _, v := range p.Recipe.Volumes {
			if !slices.ContainsFunc(j.Volumes, func(x JournalVolume) bool { return x.Name == v.Name }) {
				j.Volumes = append(j.Volumes, JournalVolume{Name: v.Name})
			}
		}
	}
	j.Step = Steps(j.Stateful)[0]
	return j
}

// noReturn reports whether going back could lose what the target wrote.
func (j *Journal) noReturn() bool {
	steps := Steps(j.Stateful)
	return j.Stateful && j.copyStarted() && (j.Phase == Kept || slices.Index(steps, j.Step) >= slices.Index(steps, StepHandOver))
}

// onTheWayBack is added to the number of a step that is taken back.
const onTheWayBack = 0x100

// trace is the trace context of what a step asks of the engines, by which the journal of the agent on the target tells
// of the steps that ask something there: the trace is the move's ID twice, the span the number of the step in [Steps], from 1.
//
// Source: https://www.w3.org/TR/trace-context/, version 00.
func (j *Journal) trace() string {
	n := slices.Index(Steps(j.Stateful), j.Step) + 1
	if j.Phase == Back {
		n += onTheWayBack
	}
	return fmt.Sprintf("00-%s%s-%016x-01", j.ID, j.ID, n)
}

// keptName is the name of a source that was moved.
func (j *Journal) keptName(m *Member) string { return m.Name + keptMark + j.ID[:8] }

const keptMark = "-moved-"

// Bounds of a history, which grows with each try: a journal that is too long to be read could be neither
// carried on nor taken back.
const (
	firstEntries = 20
	lastEntries  = 200
	maxText      = 1 << 10
)

func (j *Journal) note(now time.Time, text string) {
	j.History = append(j.History, Entry{At: now, Step: j.Step, Text: cut(text)})
	if n := len(j.History) - firstEntries - lastEntries; n > 0 {
		j.History = slices.Delete(j.History, firstEntries, firstEntries+n)
	}
}

func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// write puts the journal on the disk. Nothing is done on an engine that it does not tell of.
func (j *Journal) write(dir string) error {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("journal of move %s: %w", j.ID, err)
	}
	if err := atomicfile.WriteFile(filepath.Join(dir, j.ID+".json"), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("journal of move %s: %w", j.ID, err)
	}
	return nil
}

func readJournal(dir, id string) (*Journal, error) {
	if !movesdir.ValidID(id) {
		return nil, fmt.Errorf("%q is no ID of a move: see belay move list", id)
	}
	path := filepath.Join(dir, id+".json")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no move %s: see belay move list", id)
	}
	if err != nil {
		return nil, fmt.Errorf("journal of move %s: %w", id, err)
	}
	if info.Size() > maxJournal {
		return nil, fmt.Errorf("journal of move %s: more than %d bytes", id, maxJournal)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("journal of move %s: %w", id, err)
	}
	return parseJournal(id, b)
}

func parseJournal(id string, b []byte) (*Journal, error) {
	j := new(Journal)
	if err := json.Unmarshal(b, j); err != nil {
		return nil, fmt.Errorf("journal of move %s: %w", id, err)
	}
	schema := journalSchema
	if len(j.With) > 0 {
		schema = groupSchema
	}
	bad := func(m *Member) bool { return m == nil || len(m.Container) < 12 || m.Name == "" }
	if j.Schema != schema || j.ID != id || !slices.Contains(Steps(j.Stateful), j.Step) || slices.ContainsFunc(j.members(), bad) {
		return nil, fmt.Errorf("journal of move %s: it is not of this version of belay", id)
	}
	return j, nil
}

// List returns all journals of a directory, newest first. One that cannot be read is an error
// beside the others.
func List(dir string) ([]*Journal, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list moves: %w", err)
	}
	if err := movesdir.Trusted(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no directory, no moves
	} else if err != nil {
		return nil, err
	}
	var out []*Journal
	var errs []error
	for _, n := range names {
		id := strings.TrimSuffix(filepath.Base(n), ".json")
		if !movesdir.ValidID(id) {
			continue
		}
		j, err := readJournal(dir, id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, j)
	}
	slices.SortFunc(out, func(a, b *Journal) int { return b.Began.Compare(a.Began) })
	return out, errors.Join(errs...)
}
