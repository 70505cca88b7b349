package carry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/load/plan"
)

// States of a [Proposal].
const (
	Waiting   = "waiting"   // for approval
	Approved  = "approved"  // its moves are carried out
	Refused   = "refused"   // by somebody
	Withdrawn = "withdrawn" // it is no longer needed, or too old
	Done      = "done"      // of all its moves is known what came of them
)

// Proposal is a plan that was made for a node over a cap.
type Proposal struct {
	ID       string    `json:"id"`
	Policy   string    `json:"policy"`
	Revision string    `json:"revision"` // of the policy that it was made by
	Made     time.Time `json:"made"`
	Because  string    `json:"because"` // which caps are passed, and what comes of the moves
	State    string    `json:"state"`
	By       string    `json:"by,omitempty"` // who approved or refused it
	Decided  time.Time `json:"decided,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Reason   string    `json:"reason,omitempty"` // why it was refused or withdrawn
	Moves    []Planned `json:"moves"`
}

// Planned is one move of a proposal.
type Planned struct {
	Containers []string `json:"containers"` // IDs
	Names      []string `json:"names"`
	To         string   `json:"to"`
	Why        string   `json:"why"`
	// Move is the ID of the move once it was started. Skipped says why it will not be; Held why
	// it was not so far.
	Move    string `json:"move,omitempty"`
	Skipped string `json:"skipped,omitempty"`
	Held    string `json:"held,omitempty"`
}

func (p *Planned) open() bool { return p.Move == "" && p.Skipped == "" }

// Outcomes of a [Move]; none while it is under way.
const (
	Moved     = "moved"
	Failed    = "failed"     // it was taken back, or never begun
	TakenBack = "taken back" // by somebody, after it had been done
	Finished  = "finished"   // moved, and its source was removed
)

// Move is one move that was started from here: of a container, or of several as one.
type Move struct {
	ID       string `json:"id"` // that of its journal
	Proposal string `json:"proposal"`
	Policy   string `json:"policy"`
	Member
	// With are the others that move as one with it. An agent of an earlier version leaves them out: it takes
	// the move for one of the first container, and carries on the journal, which has them all.
	With    []Member  `json:"with,omitempty"`
	To      string    `json:"to"` // the target's name
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended,omitzero"`
	Outcome string    `json:"outcome,omitempty"`
	Step    string    `json:"step,omitempty"` // the last that is known
	Error   string    `json:"error,omitempty"`
	// NotBegun says that a failed move was not begun, for no reason of the target's, or was interrupted.
	NotBegun bool `json:"notBegun,omitempty"`
	// Back says that it is being taken back, which it also can be once it is done.
	Back      bool      `json:"back,omitempty"`
	Tries     int       `json:"tries,omitempty"` // to carry it on, after the first
	KeepUntil time.Time `json:"keepUntil,omitzero"`
}

// Member is a container that moves, or what an orchestrator has leave as one.
type Member struct {
	Container string       `json:"container"` // ID
	Name      string       `json:"name"`
	Use       plan.Amounts `json:"use"`
}

func (m *Move) underWay() bool { return m.Outcome == "" }

func (m *Move) members() []Member { return append([]Member{m.Member}, m.With...) }

// names are for people.
func (m *Move) names() string {
	var names []string
	for _, c := range m.members() {
		names = append(names, c.Name)
	}
	return together(names)
}

// together writes the names of what moves as one.
func together(names []string) string { return strings.Join(names, " + ") }

// history is what a planner wants to know of the move.
func (m *Move) history(self string) (out []plan.Past) {
	for _, c := range m.members() {
		out = append(out, plan.Past{
			Move: m.ID, Name: c.Name, From: self, To: m.To, Began: m.Began, Ended: m.Ended, Failed: m.Outcome == Failed, Use: c.Use,
		})
	}
	return out
}

// ledger is the file.
type ledger struct {
	Schema    string      `json:"schema"`
	Proposals []*Proposal `json:"proposals"` // oldest first
	Moves     []*Move     `json:"moves"`     // oldest first
}

const (
	ledgerSchema = "belay.dev/load-ledger/v1"
	maxLedger    = 16 << 20
	// keptFor is how long what has ended is remembered: longer than any limit looks back.
	keptFor      = 8 * 24 * time.Hour
	maxProposals = 200
	maxMoves     = 5000
)

func readLedger(file string) (*ledger, error) {
	l := &ledger{Schema: ledgerSchema}
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ledger of moves: %w", err)
	}
	if info.Size() > maxLedger {
		return nil, fmt.Errorf("ledger of moves %s: more than %d bytes", file, maxLedger)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ledger of moves: %w", err)
	}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("ledger of moves %s: %w", file, err)
	}
	if l.Schema != ledgerSchema || slices.Contains(l.Proposals, nil) || slices.Contains(l.Moves, nil) {
		return nil, fmt.Errorf("ledger of moves %s: it is not of this version of belay", file)
	}
	return l, nil
}

// write puts the ledger on the disk, without what is too old to matter.
func (l *ledger) write(file string, now time.Time) error {
	old := func(t time.Time) bool { return !t.IsZero() && now.Sub(t) > keptFor }
	l.Proposals = slices.DeleteFunc(l.Proposals, func(p *Proposal) bool { return old(p.Ended) })
	if n := len(l.Proposals) - maxProposals; n > 0 {
		l.Proposals = slices.DeleteFunc(l.Proposals, func(p *Proposal) bool { n--; return n >= 0 && !p.Ended.IsZero() })
	}
	l.Moves = slices.DeleteFunc(l.Moves, func(m *Move) bool { return old(m.Ended) && m.Outcome != Moved })
	if n := len(l.Moves) - maxMoves; n > 0 {
		l.Moves = slices.DeleteFunc(l.Moves, func(m *Move) bool { n--; return n >= 0 && !m.underWay() })
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("ledger of moves: %w", err)
	}
	if err := atomicfile.WriteFile(file, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("ledger of moves: %w", err)
	}
	return nil
}

// open returns the proposal of a policy that has not ended, or nil.
func (l *ledger) open(policy string) *Proposal {
	for _, p := range l.Proposals {
		if p.Policy == policy && p.Ended.IsZero() {
			return p
		}
	}
	return nil
}

func (l *ledger) move(id string) *Move {
	for _, m := range l.Moves {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// endedWithin reports whether a move was done no longer ago than d. One that the clock, set back since, has in the future was not.
func (l *ledger) endedWithin(d time.Duration, now time.Time) bool {
	return slices.ContainsFunc(l.Moves, func(m *Move) bool {
		return m.Outcome != Failed && m.Ended.After(now.Add(-d)) && !m.Ended.After(now)
	})
}

// history is what a planner wants to know of the moves from here.
func (l *ledger) history(self string) []plan.Past {
	var out []plan.Past
	for _, m := range l.Moves {
		if m.Outcome == TakenBack || m.NotBegun {
			continue
		}
		out = append(out, m.history(self)...)
	}
	return out
}
