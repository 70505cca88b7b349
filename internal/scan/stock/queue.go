package stock

import (
	"slices"
	"time"

	"github.com/belay-project/belay/internal/policy"
)

// Want has an image scanned when its turn comes, if it was not yet, or once more when its scan is old.
// Those in use come first.
func (k *Keeper) Want(id string, inUse bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.states[id]; s != nil {
		s.wanted = true
	}
	k.enqueue(id, levelOf(inUse), retryAfter, false)
}

// levelAgain is added to the level of images whose scan is old: one that was never scanned comes first,
// or a host whose renewals do not end would never scan it.
const levelAgain = 2

// levelOf is which queue an image is in for which nobody waits.
func levelOf(inUse bool) int {
	if inUse {
		return 1
	}
	return 2
}

// Renew has an image scanned again when its turn comes, if another manifest was scanned than the one
// that is here now: an image that is an index keeps its ID when one platform comes in the place of
// another. It does so once for each manifest.
func (k *Keeper) Renew(id, manifest string, inUse bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.states[id]
	if s == nil {
		return
	}
	if !s.Other(manifest) {
		s.sought = "" // what was sought has gone again
		return
	}
	if s.sought == manifest {
		return
	}
	if k.enqueue(id, levelOf(inUse), retryAfter, true) {
		s.renew, s.sought = true, manifest
	}
}

// enqueue reports whether an image is in the queue now; again: though it was scanned before.
// k.mu is held.
func (k *Keeper) enqueue(id string, level int, retry time.Duration, again bool) bool {
	if k.o.Scan == nil || !imageID.MatchString(id) {
		return false
	}
	s := k.states[id]
	if s != nil && (!again && !s.At.IsZero() || s.Err != "" && k.o.Now().Sub(s.ErrAt) < retry) {
		return false
	}
	for l := range k.queue {
		i := slices.Index(k.queue[l], id)
		if i < 0 {
			continue
		}
		if l <= level {
			return true
		}
		k.queue[l] = slices.Delete(k.queue[l], i, i+1)
	}
	if len(k.queue[level]) >= maxQueue {
		k.o.Health.Counter("scans_dropped").Add(1)
		return false
	}
	if s == nil {
		s = &State{ID: id}
		k.states[id] = s
	}
	s.Queued = true
	k.queue[level] = append(k.queue[level], id)
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return true
}

// renewOld has images scanned again whose scan is of another scanner than the one that is here now, and
// those in use or wanted whose scan soon is too old for the policies, the oldest first.
func (k *Keeper) renewOld() {
	age, retry := k.o.MaxAge(), renewRetry
	now, behind := k.now()
	if age > 0 {
		retry = min(retry, max(retryAfter, age/16))
	}
	var due []State
	for _, s := range k.List() {
		old, other := age > 0 && (now.Sub(s.At) > age/2 || !behind && policy.Ahead(s.At, now)), k.o.Scanner != "" && s.by != k.o.Scanner
		if s.At.IsZero() || s.Queued || !old && !other {
			continue
		}
		wanted := k.o.InUse(s.ID) || s.wanted
		if s.gone.IsZero() && other || wanted && now.Sub(s.gone) >= retry {
			due = append(due, s)
		}
	}
	slices.SortStableFunc(due, func(a, b State) int { return a.At.Compare(b.At) })
	for i := range due {
		level := levelAgain + levelOf(k.o.InUse(due[i].ID))
		k.mu.Lock()
		if s := k.states[due[i].ID]; s != nil && !s.Queued && k.enqueue(s.ID, level, retry, true) {
			s.renew = true
		}
		k.mu.Unlock()
	}
}

func (k *Keeper) next(queues int) (id string, level int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for l := range queues {
		for len(k.queue[l]) > 0 {
			id, k.queue[l] = k.queue[l][0], k.queue[l][1:]
			if s := k.states[id]; l > 0 && s != nil && !s.At.IsZero() && !s.renew {
				s.Queued = false // somebody who waited was quicker
				continue
			}
			if l > 0 && k.o.MayIdle != nil && !k.o.MayIdle() {
				k.queue[l] = slices.Insert(k.queue[l], 0, id)
				return "", 0, false
			}
			if s := k.states[id]; s != nil {
				s.renew = false // what comes in its place from here on is another scan's
			}
			return id, l, true
		}
	}
	return "", 0, false
}

// abandon lets those go who wait for scans that will not come.
func (k *Keeper) abandon() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, c := range k.waiting {
		close(c)
		delete(k.waiting, id)
	}
}
