package carry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// progress is what of a mover's journal is looked at: internal/load/move writes it, or
// internal/load/leave, and they document the words.
type progress struct {
	Schema    string    `json:"schema"`
	ID        string    `json:"id"`
	Name      string    `json:"name"` // of a group the first
	Phase     string    `json:"phase"`
	Step      string    `json:"step"`
	Error     string    `json:"error"`
	NoFault   bool      `json:"noFault"`
	KeepUntil time.Time `json:"keepUntil"`
	History   []struct {
		At   time.Time `json:"at"`
		Step string    `json:"step"`
		Text string    `json:"text"`
	} `json:"history"`
}

// Phases of a mover's journal.
const (
	phaseMoving   = "moving"
	phaseBack     = "going back"
	phaseKept     = "moved"
	phaseFinished = "finished"
	phaseTaken    = "taken back"
)

// What a mover's history says of a step: that it begins, and how what says why it failed begins.
const (
	textBegun    = "begun"
	textGoesBack = "goes back: "
	textStuck    = "stuck: "
)

const (
	moveSchema   = "belay.dev/move/v1"
	groupSchema  = "belay.dev/move-group/v1"
	leaveSchema  = "belay.dev/leave/v1"
	leaveSuffix  = ".leave.json"
	maxMoverFile = 4 << 20
)

// errNeverBegun says that a mover has not even written that it begins.
var errNeverBegun = errors.New("it was never begun")

// readProgress reads how far a move has come.
//
// Errors: [errNeverBegun].
func readProgress(dir, id string) (*progress, error) {
	path, schema := filepath.Join(dir, id+".json"), moveSchema
	if isLeave(dir, id) {
		path, schema = filepath.Join(dir, id+leaveSuffix), leaveSchema
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNeverBegun
	}
	if err != nil {
		return nil, fmt.Errorf("journal of move %s: %w", id, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxMoverFile {
		return nil, fmt.Errorf("journal of move %s: no file of at most %d bytes", id, maxMoverFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("journal of move %s: %w", id, err)
	}
	p := &progress{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("journal of move %s: %w", id, err)
	}
	if p.Schema != schema && (schema != moveSchema || p.Schema != groupSchema) || p.ID != id {
		return nil, fmt.Errorf("journal of move %s: it is not of this version of belay", id)
	}
	return p, nil
}

// isLeave reports whether an ID is of a leave (internal/load/leave), and not of a move.
func isLeave(dir, id string) bool {
	_, err := os.Lstat(filepath.Join(dir, id+leaveSuffix))
	return err == nil
}

// StepBack is the name among [Steps] of the way back, which the mover's journal does not divide.
const StepBack = "back"

// Step is a step of a move, as its mover's journal tells of it.
type Step struct {
	Name       string
	Begin, End time.Time
	Err        error // why it failed
}

// Steps returns the steps of a move that were begun since a time, in their order. One that the journal does not tell
// the end of ends at until: its mover was ended.
//
// Errors: a journal that is not there or cannot be read.
func Steps(dir, id string, since, until time.Time) ([]Step, error) {
	p, err := readProgress(dir, id)
	if err != nil {
		return nil, err
	}
	var out []Step
	open := false
	for _, e := range p.History {
		if e.At.Before(since) {
			continue
		}
		back, goesBack := strings.CutPrefix(e.Text, textGoesBack)
		stuck, isStuck := strings.CutPrefix(e.Text, textStuck)
		if open {
			last := &out[len(out)-1]
			last.End = e.At
			switch {
			case goesBack:
				last.Err = errors.New(back)
			case isStuck:
				last.Err = errors.New(stuck)
			}
		}
		switch open = e.Text == textBegun || goesBack; {
		case goesBack:
			out = append(out, Step{Name: StepBack, Begin: e.At, End: until})
		case open:
			out = append(out, Step{Name: e.Step, Begin: e.At, End: until})
		}
	}
	return out, nil
}
