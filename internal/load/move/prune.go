package move

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/load/movesdir"
)

// What is kept of moves that have ended.
const (
	keepEnded = 30 * 24 * time.Hour
	maxEnded  = 1000
	// leastEnded is kept of them all the same: whoever watches a move has seen by then how it ended.
	leastEnded = 24 * time.Hour
)

// prune removes the journals and locks of moves that have ended and are older than [keepEnded], or more than [maxEnded].
// What it cannot remove it leaves to the next move: no move fails for that. A move that is under way, or keeps its
// source, is left however old it is.
func prune(dir string, now time.Time) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	ages := map[string]time.Duration{} // by ID: since what is there of a move was written last
	for _, e := range entries {
		id, kind, _ := strings.Cut(e.Name(), ".")
		info, err := e.Info()
		if !movesdir.ValidID(id) || kind != "json" && kind != "lock" || err != nil || !info.Mode().IsRegular() {
			continue
		}
		age := now.Sub(info.ModTime())
		if was, ok := ages[id]; !ok || age < was {
			ages[id] = age
		}
	}
	byAge := make([]string, 0, len(ages))
	for id := range ages {
		byAge = append(byAge, id)
	}
	slices.SortFunc(byAge, func(a, b string) int { return int(max(-1, min(1, ages[a]-ages[b]))) })
	for i, id := range byAge {
		if ages[id] > keepEnded || i >= maxEnded && ages[id] > leastEnded {
			pruneOne(dir, id)
		}
	}
}

// pruneOne removes a move if it has ended. It holds its lock: nobody carries it on meanwhile, and whoever waits for
// the lock finds no journal. IDs are not used twice.
func pruneOne(dir, id string) {
	unlock, err := movesdir.Lock(dir, id)
	if err != nil {
		return // somebody is at it
	}
	defer unlock()
	_, err = os.Lstat(filepath.Join(dir, id+".json"))
	if !errors.Is(err, fs.ErrNotExist) { // else a mover died before it had written anything
		j, err := readJournal(dir, id)
		if err != nil || j.Phase != Finished && j.Phase != RolledBack {
			return
		}
		if os.Remove(filepath.Join(dir, id+".json")) != nil {
			return
		}
	}
	_ = os.Remove(filepath.Join(dir, id+".lock")) // with the journal gone the next move tries again
}
