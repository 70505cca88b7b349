package inventory

import (
	"fmt"
	"strings"
	"time"
)

// What was observed of a package: its State.
const (
	InUse      = "in-use"   // a file of it was executed, mapped or held open
	NotSeen    = "not-seen" // none of its files was, as often as was looked
	UseUnknown = "unknown"  // nobody looked, or looking shows nothing of such packages
)

// Bounds of a [Use].
const (
	MaxUseFiles     = 4  // files that are named
	MaxUseEndpoints = 16 // of either list
)

// Use is what was observed of a package in running containers. It is a fact about what was
// looked at, when; that nothing was seen is no proof that nothing is used. The zero value is:
// unknown.
type Use struct {
	State string `json:"state"` // [InUse], [NotSeen], [UseUnknown]; empty is the last
	// Since is when looking began and Until when it was last done, Looks how often.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Looks int       `json:"looks,omitempty"`
	// Executed, Mapped and Opened are when a file of it was last seen so; zero: never.
	Executed time.Time `json:"executed,omitzero"`
	Mapped   time.Time `json:"mapped,omitzero"`
	Opened   time.Time `json:"opened,omitzero"`
	// Files are some of those files, from the container's root, without a leading slash.
	Files []string `json:"files,omitempty"`
	// Listening are sockets that processes with a file of it listen on: "tcp 0.0.0.0:443",
	// Reachable those of them that a published port leads to: "tcp 0.0.0.0:8443->443".
	Listening []string `json:"listening,omitempty"`
	Reachable []string `json:"reachable,omitempty"`
	// SocketsKnown says that sockets were looked at, PortsKnown that published ports were.
	SocketsKnown bool `json:"socketsKnown,omitempty"`
	PortsKnown   bool `json:"portsKnown,omitempty"`
}

// InUse reports whether a file of the package is used; known is false if nobody can say.
func (u *Use) InUse() (yes, known bool) {
	return u.State == InUse, u.State == InUse || u.State == NotSeen
}

// IsListening reports whether a process with a file of the package listens on a socket.
func (u *Use) IsListening() (yes, known bool) {
	if len(u.Listening) > 0 {
		return true, true
	}
	return false, u.State == NotSeen || u.State == InUse && u.SocketsKnown
}

// IsReachable reports whether a published port leads to such a socket.
func (u *Use) IsReachable() (yes, known bool) {
	if len(u.Reachable) > 0 {
		return true, true
	}
	yes, known = u.IsListening()
	return false, known && (!yes || u.PortsKnown)
}

// Rank orders by use: 0 reachable, 1 in use, 2 unknown, 3 not seen.
func (u *Use) Rank() int {
	yes, known := u.InUse()
	switch {
	case len(u.Reachable) > 0:
		return 0
	case yes:
		return 1
	case !known:
		return 2
	}
	return 3
}

// String is "executed, listening on tcp 0.0.0.0:443, reachable", "not loaded as observed since
// 2026-03-01 12:00 UTC", or nothing where it is unknown.
func (u *Use) String() string {
	switch u.State {
	case NotSeen:
		return "not loaded as observed since " + u.Since.UTC().Format("2006-01-02 15:04") + " UTC"
	case InUse:
	default:
		return ""
	}
	var parts []string
	for _, w := range []struct {
		at   time.Time
		word string
	}{{u.Executed, "executed"}, {u.Mapped, "mapped"}, {u.Opened, "opened"}} {
		if !w.at.IsZero() {
			parts = append(parts, w.word)
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "in use")
	}
	for _, w := range []struct {
		list []string
		word string
	}{{u.Listening, "listening on "}, {u.Reachable, "published as "}} {
		if n := len(w.list); n > 0 {
			text := w.word + w.list[0]
			if n > 1 {
				text += fmt.Sprintf(" and %d more", n-1)
			}
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, ", ")
}
