package carry

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stray is a move that was begun by hand and has stopped halfway: its mover has died.
type stray struct {
	name, step, err string
	tries           int
	due             time.Time
}

// lookForStrays takes moves in the directory that are in no ledger and have not ended: whoever began one by hand
// may be gone with its mover, and its container may be stopped.
func (c *Carrier) lookForStrays() {
	entries, err := os.ReadDir(c.dir())
	if err != nil {
		return // no directory, no moves; movers say more
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	there := map[string]bool{}
	defer func() { maps.DeleteFunc(c.over, func(id string, _ bool) bool { return !there[id] }) }() // movers remove old ones
	for _, e := range entries {
		id, ok := strings.CutSuffix(strings.Replace(e.Name(), leaveSuffix, ".json", 1), ".json")
		there[id] = ok
		if !ok || len(id) != 16 || c.l.move(id) != nil || c.over[id] || c.strays[id] != nil {
			continue
		}
		p, err := readProgress(c.dir(), id)
		switch {
		case err != nil:
		case p.Phase == phaseFinished || p.Phase == phaseTaken:
			c.over[id] = true
		case p.Phase == phaseMoving || p.Phase == phaseBack:
			c.strays[id] = &stray{name: p.Name, step: p.Step}
		}
	}
}

// dueStrays returns the strays to carry on, and takes them.
func (c *Carrier) dueStrays(now time.Time) (due []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.strays {
		if !c.live[id] && !now.Before(s.due) {
			due = append(due, id)
			c.live[id] = true
		}
	}
	slices.Sort(due)
	return due
}

func (c *Carrier) strayEnds(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, id)
	delete(c.strays, id)
}

// strayEnded reads what came of a try to carry a stray on; mu is held.
func (c *Carrier) strayEnded(id string, p *progress, rerr, err error) {
	s := c.strays[id]
	if s == nil {
		return
	}
	if errors.Is(rerr, errNeverBegun) || rerr == nil && p.Phase != phaseMoving && p.Phase != phaseBack { // or somebody has removed its journal
		delete(c.strays, id)
		return
	}
	if err == nil {
		err = rerr
	}
	s.err = "its mover has ended"
	if err != nil {
		s.err = err.Error()
	}
	if p != nil {
		s.step = p.Step
	}
	s.due = c.o.Now().Add(retries[min(s.tries, len(retries)-1)])
	s.tries++
	c.stopped(s.tries, s.err)
}

// isLocked reports whether a mover is at work at a move: it holds a lock on the file beside its journal.
func isLocked(dir, id string) bool {
	f, err := os.OpenFile(filepath.Join(dir, id+".lock"), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false // the next mover says what is the matter
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
