package journal

import "time"

// Factor is something that happened to a user's second factor, of [KindFactor]. A call that
// was made under an elevation is of [KindAPI] and names the elevation.
type Factor struct {
	Event     string    `json:"event"` // enrolled, removed, elevated, dropped, refused
	UID       uint32    `json:"uid"`   // whose second factor
	User      string    `json:"user,omitempty"`
	CallerUID uint32    `json:"callerUid"` // who asked: the same, or root
	PID       int32     `json:"pid,omitempty"`
	Session   string    `json:"session,omitempty"`   // the caller's login session
	Elevation string    `json:"elevation,omitempty"` // ID
	Actions   []string  `json:"actions,omitempty"`   // as asked for; of an elevation
	Target    string    `json:"target,omitempty"`    // full ID of the only container; empty: all things
	Until     time.Time `json:"until,omitzero"`
	Recovery  bool      `json:"recovery,omitempty"` // a recovery code was used
	Cause     string    `json:"cause,omitempty"`    // stable word for a refusal: wrong, used, locked, not_enrolled, unreadable, container, unknown, session, too_long, target, action, too_many, enrolled, not_begun, not_allowed, internal
	Refused   int       `json:"refused,omitempty"`  // codes refused since the last that was taken
}
