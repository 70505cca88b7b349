package factor

import (
	"errors"
	"time"
)

const (
	// freeFails is how many wrong codes cost no delay.
	freeFails = 3
	// firstDelay follows the next one; each further one doubles it, up to maxDelay.
	firstDelay = 30 * time.Second
	maxDelay   = 8 * time.Hour
	// maxFails bounds what is counted: the delay has been the longest for long.
	maxFails = 1000
)

// delay returns how long after so many wrong codes none is looked at. An attacker who never
// stops has three tries in a day, each with a chance of three in a million.
func delay(fails int) time.Duration {
	if fails <= freeFails {
		return 0
	}
	d := firstDelay
	for range fails - freeFails - 1 {
		if d *= 2; d >= maxDelay {
			return maxDelay
		}
	}
	return d
}

// Use is what a taken code was.
type Use struct {
	Recovery     bool // it was a recovery code
	RecoveryLeft int
	// Refused counts codes that were refused since the last that was taken: others may
	// have tried.
	Refused int
}

// Verify takes a code of a user, a one-time password or a recovery code, and uses it up.
// then is asked between the two, when the code is known to be right; its error is returned
// and leaves the code unused. It must not call the store.
//
// That a code was used, or wrong, is on the disk before the answer: a restart forgets
// neither. If it cannot be written the code is refused.
//
// Errors: [ErrNotEnrolled], [ErrUnreadable], [ErrWrong], [ErrUsed], *[LockedError].
func (s *Store) Verify(uid uint32, code string, then func() error) (Use, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, err := s.get(uid)
	if err != nil {
		return Use{}, err
	}
	now := s.now()
	if now.Before(old.LockedUntil) {
		return Use{}, &LockedError{Until: old.LockedUntil}
	}
	r := old.clone()
	u, err := r.take(code, now)
	switch {
	case errors.Is(err, ErrWrong):
		r.Refused++
		r.Fails = min(r.Fails+1, maxFails)
		if d := delay(r.Fails); d > 0 {
			r.LockedUntil = now.Add(d).UTC().Round(0)
		}
		if werr := s.put(r); werr != nil {
			return Use{}, werr
		}
		return Use{}, ErrWrong
	case err != nil:
		return Use{}, err
	}
	if then != nil {
		if err := then(); err != nil {
			return Use{}, err
		}
	}
	// Half of them stay: who guesses between the logins of another gets no fresh start.
	u.Refused = old.Refused
	r.Fails, r.Refused, r.LockedUntil = old.Fails/2, 0, time.Time{}
	if err := s.put(r); err != nil {
		return Use{}, err
	}
	return u, nil
}

// take uses a code up, in memory.
func (r *record) take(code string, now time.Time) (Use, error) {
	if isCode(code) {
		at, ok := matchStep(r.Secret, code, now)
		switch {
		case !ok:
			return Use{}, ErrWrong
		case at <= r.LastStep:
			return Use{}, ErrUsed
		}
		r.LastStep = at
		return Use{RecoveryLeft: len(r.Recovery)}, nil
	}
	i := matchRecovery(r.Salt, r.Recovery, code)
	if i < 0 {
		return Use{}, ErrWrong
	}
	r.Recovery = append(r.Recovery[:i:i], r.Recovery[i+1:]...)
	return Use{Recovery: true, RecoveryLeft: len(r.Recovery)}, nil
}
