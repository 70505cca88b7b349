package control

import (
	"context"
	"time"
)

// FactorSocketName is the name, in the run directory, of the socket for the second factor.
// Unlike the control socket every user of the host may open it: see [ListenFactor].
const FactorSocketName = "elevate.sock"

// FactorCaller is who asks on the factor socket: a process of the host, never one in a container.
type FactorCaller struct {
	UID  uint32
	Name string // "" if the host has none
	PID  int32
	// Session is the login session; "" if it cannot be known, and NoSession says why.
	Session   string
	NoSession string
}

// Factor is what the factor socket serves; internal/agent implements it. Each method is for
// the caller's own second factor; root may name another user.
type Factor interface {
	Enrol(ctx context.Context, c *FactorCaller, q *EnrolRequest) (*Enrolment, error)
	Confirm(ctx context.Context, c *FactorCaller, q *ConfirmRequest) (*Enrolled, error)
	Remove(ctx context.Context, c *FactorCaller, q *RemoveRequest) (*Removed, error)
	Elevate(ctx context.Context, c *FactorCaller, q *ElevateRequest) (*Elevation, error)
	Drop(ctx context.Context, c *FactorCaller, q *DropRequest) (*Dropped, error)
	Factors(ctx context.Context, c *FactorCaller) (*Factors, error)
}

// EnrolRequest begins an enrolment.
type EnrolRequest struct {
	User string `json:"user,omitempty"` // name or uid, for root; "" is the caller
}

// Enrolment is one that was begun. It is the only time that the secret is shown.
type Enrolment struct {
	ID     string    `json:"id"` // for the confirmation
	UID    uint32    `json:"uid"`
	User   string    `json:"user,omitempty"`
	Secret string    `json:"secret"` // base32; SHA-1, 6 digits, 30 seconds
	URI    string    `json:"uri"`    // otpauth://, for a QR code
	Until  time.Time `json:"until"`  // the first code must be shown before
	Key    string    `json:"key"`    // where the key is from that seals the secret
}

// ConfirmRequest makes an enrolment live.
type ConfirmRequest struct {
	User string `json:"user,omitempty"`
	ID   string `json:"id"`
	Code string `json:"code"`
}

// Enrolled is the answer to the first code.
type Enrolled struct {
	UID      uint32   `json:"uid"`
	Recovery []string `json:"recoveryCodes"` // shown once
	Key      string   `json:"key"`
}

// RemoveRequest takes a second factor away. One's own needs a code; root, who names a user,
// needs none.
type RemoveRequest struct {
	User string `json:"user,omitempty"`
	Code string `json:"code,omitempty"`
}

// Removed is what was taken away.
type Removed struct {
	UID     uint32 `json:"uid"`
	Dropped int    `json:"elevationsDropped"`
}

// ElevateRequest asks for an elevation.
type ElevateRequest struct {
	Code    string        `json:"code"`
	For     time.Duration `json:"for,omitempty"`     // nanoseconds; 0: the agent's default
	Actions []string      `json:"actions,omitempty"` // names, globs or words; none: all
	Target  string        `json:"target,omitempty"`  // a container; "": all things
}

// Elevation is one that is live.
type Elevation struct {
	ID      string    `json:"id"`
	UID     uint32    `json:"uid"`
	User    string    `json:"user,omitempty"`
	Session string    `json:"session"`
	Actions []string  `json:"actions"`
	Target  string    `json:"target,omitempty"` // full id
	Name    string    `json:"targetName,omitempty"`
	Granted time.Time `json:"granted"`
	Expires time.Time `json:"expires"`
	Uses    uint64    `json:"uses"`
	Here    bool      `json:"here"` // it is of the caller's own session
	// Of the code that it was granted for.
	Recovery     bool `json:"recoveryCodeUsed,omitempty"`
	RecoveryLeft int  `json:"recoveryCodesLeft,omitempty"`
	Refused      int  `json:"refusedBefore,omitempty"` // codes since the last that was taken
}

// DropRequest ends elevations; without IDs all of the caller's, and of a user's if root names
// one.
type DropRequest struct {
	IDs  []string `json:"ids,omitempty"`
	User string   `json:"user,omitempty"`
}

// Dropped are those that were ended.
type Dropped struct {
	Elevations []Elevation `json:"elevations"`
}

// Factors is what a caller may know: root of all, others of themselves.
type Factors struct {
	Session    string       `json:"session,omitempty"`
	Key        string       `json:"key"`
	Users      []FactorUser `json:"users"`
	Elevations []Elevation  `json:"elevations"`
}

// FactorUser is the state of one user's second factor.
type FactorUser struct {
	UID         uint32    `json:"uid"`
	User        string    `json:"user,omitempty"`
	Enrolled    time.Time `json:"enrolled,omitzero"`
	EnrolledBy  uint32    `json:"enrolledBy"`
	Recovery    int       `json:"recoveryCodesLeft"`
	Refused     int       `json:"refused"` // codes since the last that was taken
	LockedUntil time.Time `json:"lockedUntil,omitzero"`
	Unreadable  string    `json:"unreadable,omitempty"`
}

// FactorStatus is the second factor in [Status].
type FactorStatus struct {
	Key        string `json:"key,omitempty"` // where the key is from that seals the secrets
	Enrolled   int    `json:"enrolled"`
	Unreadable int    `json:"unreadable,omitempty"`
	Elevations int    `json:"elevations"` // live
	Error      string `json:"error,omitempty"`
}
