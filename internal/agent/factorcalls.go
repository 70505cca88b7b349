package agent

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/factor"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

var _ control.Factor = (*secondFactor)(nil)

// Enrol implements [control.Factor].
func (f *secondFactor) Enrol(_ context.Context, c *control.FactorCaller, q *control.EnrolRequest) (*control.Enrolment, error) {
	uid, err := f.whom(c, q.User)
	if err == nil {
		err = f.mayEnrol(c, uid)
	}
	if err != nil {
		return nil, f.fail(c, uid, err)
	}
	name := userName(uid)
	account := name
	if account == "" {
		account = "uid " + strconv.FormatUint(uint64(uid), 10)
	}
	if host, err := os.Hostname(); err == nil {
		account += "@" + host
	}
	b, err := f.store.Begin(uid, c.UID, f.issuer, account)
	if err != nil {
		return nil, f.fail(c, uid, err)
	}
	return &control.Enrolment{ID: b.ID, UID: uid, User: name, Secret: b.Secret, URI: b.URI, Until: b.Until, Key: f.key()}, nil
}

// mayEnrol refuses who has no name: the numbers of a user's subordinate ids are many, and
// nobody logs in with them.
func (f *secondFactor) mayEnrol(c *control.FactorCaller, uid uint32) error {
	switch {
	case c.UID == 0:
		return nil
	case f.byRoot:
		return refuseFactor("not_allowed", http.StatusForbidden, "only root enrols users here: ask for belay enroll --user %s", strconv.FormatUint(uint64(uid), 10))
	case c.Name == "":
		return refuseFactor("not_allowed", http.StatusForbidden, "uid %d has no name on this host: root can enrol it with belay enroll --user %d", uid, uid)
	}
	return nil
}

// Confirm implements [control.Factor].
func (f *secondFactor) Confirm(_ context.Context, c *control.FactorCaller, q *control.ConfirmRequest) (*control.Enrolled, error) {
	uid, err := f.whom(c, q.User)
	if err != nil {
		return nil, f.fail(c, uid, err)
	}
	recovery, err := f.store.Confirm(uid, c.UID, q.ID, q.Code)
	if err != nil {
		return nil, f.fail(c, uid, err)
	}
	f.count("factor_enrolled")
	f.note(c, verdict.Allowed, "a second factor was enrolled", &journal.Factor{Event: "enrolled", UID: uid})
	return &control.Enrolled{UID: uid, Recovery: recovery, Key: f.key()}, nil
}

// Remove implements [control.Factor].
func (f *secondFactor) Remove(_ context.Context, c *control.FactorCaller, q *control.RemoveRequest) (*control.Removed, error) {
	uid, err := f.whom(c, q.User)
	if err != nil {
		return nil, f.fail(c, uid, err)
	}
	recovery := false
	if !(c.UID == 0 && q.User != "") {
		u, err := f.store.Verify(uid, q.Code, nil)
		if err != nil {
			return nil, f.fail(c, uid, err)
		}
		recovery = u.Recovery
	}
	if err := f.store.Remove(uid); err != nil {
		return nil, f.fail(c, uid, err)
	}
	f.report()
	dropped := f.live.Drop(&uid, nil, f.now())
	f.count("factor_removed")
	f.note(c, verdict.Allowed, "a second factor was removed", &journal.Factor{Event: "removed", UID: uid, Recovery: recovery})
	return &control.Removed{UID: uid, Dropped: len(dropped)}, nil
}

// Elevate implements [control.Factor].
func (f *secondFactor) Elevate(_ context.Context, c *control.FactorCaller, q *control.ElevateRequest) (*control.Elevation, error) {
	e, lasts, err := f.asked(c, q)
	if err != nil {
		return nil, f.fail(c, c.UID, err)
	}
	release := func() {}
	defer func() { release() }()
	// What a container's name stands for is told to nobody who has no code, and no code is
	// used up for what cannot be granted.
	u, err := f.store.Verify(c.UID, q.Code, func() error {
		if q.Target != "" {
			id, name, err := f.container(q.Target)
			if err != nil {
				return refuseFactor("target", http.StatusNotFound, "--target: %w", err)
			}
			e.Target, e.TargetName = string(id), name
		}
		free, err := f.live.Hold(&e, f.now())
		if err == nil {
			release = free
		}
		return err
	})
	if err != nil {
		return nil, f.fail(c, c.UID, err)
	}
	granted, err := f.live.Grant(e, lasts, f.now())
	if err != nil {
		return nil, f.fail(c, c.UID, err)
	}
	if f.store.State(c.UID).Enrolled.IsZero() {
		// The factor was taken away since the code was verified, before what it had given was dropped.
		f.live.Drop(&c.UID, []string{granted.ID}, f.now())
		return nil, f.fail(c, c.UID, factor.ErrNotEnrolled)
	}
	f.count("factor_elevated")
	if u.Recovery {
		f.count("factor_recovery_codes")
	}
	f.note(c, verdict.Allowed, "elevated for "+lasts.String(), &journal.Factor{
		Event: "elevated", UID: c.UID, User: c.Name, Elevation: granted.ID, Actions: granted.Asked, Target: granted.Target,
		Until: granted.Expires.Round(0).UTC(), Recovery: u.Recovery, Refused: u.Refused,
	})
	out := f.describe(&granted, c)
	out.Recovery, out.RecoveryLeft, out.Refused = u.Recovery, u.RecoveryLeft, u.Refused
	return &out, nil
}

// asked reads a request for an elevation, apart from its code and target.
func (f *secondFactor) asked(c *control.FactorCaller, q *control.ElevateRequest) (factor.Elevation, time.Duration, error) {
	e := factor.Elevation{UID: c.UID, Session: c.Session, Asked: q.Actions}
	lasts := q.For
	if lasts == 0 {
		lasts = min(elevateDefault, f.max)
	}
	switch {
	case c.Session == "":
		return e, 0, refuseFactor("session", http.StatusForbidden, "an elevation is for one login session, and yours is not known: %s", c.NoSession)
	case lasts < time.Second:
		return e, 0, refuseFactor("too_long", http.StatusBadRequest, "--for: want a second or more")
	case lasts > f.max:
		return e, 0, refuseFactor("too_long", http.StatusForbidden, "--for: at most %s on this host (belay-agent run --elevate-max)", f.max)
	case len(q.Actions) > maxAskedActions:
		return e, 0, refuseFactor("action", http.StatusBadRequest, "--action: at most %d", maxAskedActions)
	}
	if len(q.Actions) == 0 {
		e.Actions = policy.Actions()
	}
	for _, text := range q.Actions {
		if len(text) > maxAskedActionID {
			return e, 0, refuseFactor("action", http.StatusBadRequest, "--action: too long")
		}
		names, err := policy.ElevationActions(text)
		if err != nil {
			return e, 0, refuseFactor("action", http.StatusBadRequest, "--action: %w", err)
		}
		e.Actions = append(e.Actions, names...)
	}
	slices.Sort(e.Actions)
	e.Actions = slices.Compact(e.Actions)
	return e, lasts, nil
}

// Drop implements [control.Factor].
func (f *secondFactor) Drop(_ context.Context, c *control.FactorCaller, q *control.DropRequest) (*control.Dropped, error) {
	uid, err := f.whom(c, q.User)
	if err != nil {
		return nil, f.fail(c, uid, err)
	}
	whose := &uid
	if c.UID == 0 && q.User == "" && len(q.IDs) > 0 {
		whose = nil // root ends anybody's by its ID
	}
	out := &control.Dropped{Elevations: []control.Elevation{}}
	for _, e := range f.live.Drop(whose, q.IDs, f.now()) {
		f.count("factor_dropped")
		f.note(c, verdict.Allowed, "an elevation was dropped", &journal.Factor{
			Event: "dropped", UID: e.UID, Elevation: e.ID, Actions: e.Asked, Target: e.Target,
		})
		out.Elevations = append(out.Elevations, f.describe(&e, c))
	}
	if len(out.Elevations) < len(q.IDs) {
		return nil, &control.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("%d of %d dropped: the others are not live, or not yours", len(out.Elevations), len(q.IDs))}
	}
	return out, nil
}

// Factors implements [control.Factor].
func (f *secondFactor) Factors(_ context.Context, c *control.FactorCaller) (*control.Factors, error) {
	out := &control.Factors{Session: c.Session, Key: f.key(), Users: []control.FactorUser{}, Elevations: []control.Elevation{}}
	states, whose := f.store.States(), (*uint32)(nil)
	if c.UID != 0 {
		states, whose = []factor.State{f.store.State(c.UID)}, &c.UID
	}
	for _, st := range states {
		if st.Enrolled.IsZero() && st.Unreadable == "" {
			continue
		}
		out.Users = append(out.Users, control.FactorUser{
			UID: st.UID, User: userName(st.UID), Enrolled: st.Enrolled, EnrolledBy: st.EnrolledBy, Recovery: st.Recovery,
			Refused: st.Refused, LockedUntil: st.LockedUntil, Unreadable: st.Unreadable,
		})
	}
	for _, e := range f.live.List(whose, f.now()) {
		out.Elevations = append(out.Elevations, f.describe(&e, c))
	}
	return out, nil
}

func (f *secondFactor) describe(e *factor.Elevation, c *control.FactorCaller) control.Elevation {
	asked := e.Asked
	if len(asked) == 0 {
		asked = []string{"*"}
	}
	return control.Elevation{
		ID: e.ID, UID: e.UID, User: userName(e.UID), Session: e.Session, Actions: asked, Target: e.Target, Name: e.TargetName,
		Granted: e.Granted.Round(0).UTC(), Expires: e.Expires.Round(0).UTC(), Uses: e.Uses, Here: e.UID == c.UID && e.Session == c.Session,
	}
}
