package factor

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// maxPerUser bounds the live elevations of one user.
const maxPerUser = 16

// ErrTooMany is returned if a user has too many live elevations.
var ErrTooMany = errors.New("too many elevations are live: drop one")

// Elevation lets one user, in one login session, do some actions to some containers for some
// time.
type Elevation struct {
	ID      string
	UID     uint32
	Session string   // as the gate knows it
	Asked   []string // actions as they were asked for
	Actions []string // sorted
	// Target is the full id of the only container that it is for; "": all things.
	Target     string
	TargetName string
	Granted    time.Time
	Expires    time.Time
	Uses       uint64 // calls that were made under it
}

// live tells whether it has not expired. Granted has a reading of the monotonic clock, so that
// setting the clock back adds nothing; that clock stands still while the machine sleeps, and
// there the wall clock's count ends it.
func (e *Elevation) live(now time.Time) bool {
	return now.Sub(e.Granted) < e.Expires.Sub(e.Granted) && now.Round(0).Before(e.Expires.Round(0)) && !now.Round(0).Before(e.Granted.Round(0).Add(-Period))
}

// Elevations holds the live elevations, in memory. The zero value has none. Safe for
// concurrent use.
type Elevations struct {
	// mu guards what follows.
	mu     sync.RWMutex
	byUser map[uint32][]*Elevation
	held   map[uint32]int // places that were taken for elevations to come
}

// Hold takes a place for an elevation like e, so that a code is not used up for one that
// [Elevations.Grant] would refuse. release gives it back; it is called when e was granted, or
// will not be.
//
// Errors: [ErrTooMany].
func (t *Elevations) Hold(e *Elevation, now time.Time) (release func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	uid := e.UID
	if len(t.beside(e, now))+t.held[uid] >= maxPerUser {
		return nil, fmt.Errorf("%w (%d)", ErrTooMany, maxPerUser)
	}
	if t.held == nil {
		t.held = map[uint32]int{}
	}
	t.held[uid]++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.held[uid]--; t.held[uid] == 0 {
			delete(t.held, uid)
		}
	}), nil
}

// beside returns the live elevations of a user that e would not replace. Callers hold mu.
func (t *Elevations) beside(e *Elevation, now time.Time) []*Elevation {
	return slices.DeleteFunc(t.alive(e.UID, now), func(o *Elevation) bool {
		return o.Session == e.Session && o.Target == e.Target && slices.Equal(o.Actions, e.Actions)
	})
}

// Grant enters an elevation that begins now and returns it with its ID. One of the same
// user and session for the same actions and target is replaced.
//
// Errors: [ErrTooMany].
func (t *Elevations) Grant(e Elevation, lasts time.Duration, now time.Time) (Elevation, error) {
	e.ID = hex.EncodeToString(random(4))
	e.Granted, e.Expires, e.Uses = now, now.Add(lasts), 0
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.beside(&e, now)
	if len(kept) >= maxPerUser {
		return Elevation{}, fmt.Errorf("%w (%d)", ErrTooMany, maxPerUser)
	}
	if t.byUser == nil {
		t.byUser = map[uint32][]*Elevation{}
	}
	t.byUser[e.UID] = append(kept, &e)
	return e, nil
}

// alive returns a copy of a user's list without what has expired. Callers hold mu.
func (t *Elevations) alive(uid uint32, now time.Time) []*Elevation {
	return slices.DeleteFunc(slices.Clone(t.byUser[uid]), func(e *Elevation) bool { return !e.live(now) })
}

// Any tells whether a user has an elevation that may be live. It is cheap: nobody needs to
// know the session of a caller for whom it says no.
func (t *Elevations) Any(uid uint32) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byUser[uid]) > 0
}

// Covering returns the ID of a live elevation for an action on containers, counting its use;
// false: there is none. One that has a target covers only calls about that container and no
// other.
func (t *Elevations) Covering(uid uint32, session, action string, containers []string, now time.Time) (string, bool) {
	if session == "" {
		return "", false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.byUser[uid] {
		if e.Session != session || !e.live(now) || !e.targets(containers) {
			continue
		}
		if _, ok := slices.BinarySearch(e.Actions, action); ok {
			e.Uses++
			return e.ID, true
		}
	}
	t.sweep(uid, now)
	return "", false
}

func (e *Elevation) targets(containers []string) bool {
	if e.Target == "" {
		return true
	}
	return len(containers) > 0 && !slices.ContainsFunc(containers, func(id string) bool { return id != e.Target })
}

// List returns what is live, of one user or of all (nil), by user and time.
func (t *Elevations) List(uid *uint32, now time.Time) []Elevation {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []Elevation{}
	for u := range t.byUser {
		t.sweep(u, now)
		if uid != nil && u != *uid {
			continue
		}
		for _, e := range t.byUser[u] {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, func(a, b Elevation) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), a.Granted.Compare(b.Granted), cmp.Compare(a.ID, b.ID))
	})
	return out
}

func (t *Elevations) sweep(uid uint32, now time.Time) {
	if kept := t.alive(uid, now); len(kept) > 0 {
		t.byUser[uid] = kept
	} else {
		delete(t.byUser, uid)
	}
}

// Drop ends elevations by their IDs, or all of them (none given), of one user or of anybody
// (nil), and returns those that it has ended.
func (t *Elevations) Drop(uid *uint32, ids []string, now time.Time) []Elevation {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []Elevation{}
	for u := range t.byUser {
		t.sweep(u, now)
		if uid != nil && u != *uid {
			continue
		}
		kept := slices.DeleteFunc(t.byUser[u], func(e *Elevation) bool {
			end := len(ids) == 0 || slices.Contains(ids, e.ID)
			if end {
				out = append(out, *e)
			}
			return end
		})
		if t.byUser[u] = kept; len(kept) == 0 {
			delete(t.byUser, u)
		}
	}
	return out
}
