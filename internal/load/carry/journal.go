package carry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// progress is what of a mover's journal is looked at: internal/load/move writes it, and documents
// the words.
type progress struct {
	Schema    string    `json:"schema"`
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Phase     string    `json:"phase"`
	Step      string    `json:"step"`
	Error     string    `json:"error"`
	KeepUntil time.Time `json:"keepUntil"`
}

// Phases of a mover's journal.
const (
	phaseMoving   = "moving"
	phaseBack     = "going back"
	phaseKept     = "moved"
	phaseFinished = "finished"
	phaseTaken    = "taken back"
)

const (
	moveSchema   = "belay.dev/move/v1"
	maxMoverFile = 4 << 20
)

// errNeverBegun says that a mover has not even written that it begins.
var errNeverBegun = errors.New("it was never begun")

// readProgress reads how far a move has come.
//
// Errors: [errNeverBegun].
func readProgress(dir, id string) (*progress, error) {
	path := filepath.Join(dir, id+".json")
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
	if p.Schema != moveSchema || p.ID != id {
		return nil, fmt.Errorf("journal of move %s: it is not of this version of belay", id)
	}
	return p, nil
}
