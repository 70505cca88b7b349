package journal

import "time"

// Load is something that became known of how full the node is, of [KindLoad]. Where a container
// is held against a limit of its own, that is Record.Container.
type Load struct {
	// Event is over, relieved, unreadable, readable, dropped; of moves proposed, approved, refused,
	// withdrawn, no-plan, move-started, moved, move-failed, move-stopped, move-skipped; cordoned,
	// uncordoned.
	Event   string    `json:"event"`
	Cap     string    `json:"cap"`               // cpu, memory, pids, disk, inodes, psi.cpu, psi.memory, psi.io; containers; moves, cordon
	Since   time.Time `json:"since,omitzero"`    // from when on it was so
	Percent float64   `json:"percent,omitempty"` // the reading
	Limit   int       `json:"limit,omitempty"`   // the cap, in percent
	Where   string    `json:"where,omitempty"`   // file system or cgroup that the reading is of; empty: the node
	Error   string    `json:"error,omitempty"`   // why it cannot be read
	// Causes are the containers that grew most, at most 5.
	Causes []LoadCause `json:"causes,omitempty"`
	Plan   string      `json:"plan,omitempty"` // ID of a plan
	Move   string      `json:"move,omitempty"` // ID of a move, as belay move list has it
	To     string      `json:"to,omitempty"`   // name of the target
	By     string      `json:"by,omitempty"`   // who approved, refused, cordoned
}

// LoadCause is a container's part in a reading.
type LoadCause struct {
	ID    string    `json:"id"`
	Name  string    `json:"name,omitempty"`
	Image string    `json:"image,omitempty"`
	Now   float64   `json:"now"`
	Grew  float64   `json:"grew"`
	Unit  string    `json:"unit"`           // of both: bytes, tasks, cpus, bytes/s, share
	Since time.Time `json:"since,omitzero"` // the growth began
}
