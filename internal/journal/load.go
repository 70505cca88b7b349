package journal

import "time"

// Load is something that became known of how full the node is, of [KindLoad]. Where a container
// is held against a limit of its own, that is Record.Container.
type Load struct {
	Event   string    `json:"event"`             // over, relieved, unreadable, readable, dropped
	Cap     string    `json:"cap"`               // cpu, memory, pids, disk, inodes, psi.cpu, psi.memory, psi.io; containers
	Since   time.Time `json:"since,omitzero"`    // from when on it was so
	Percent float64   `json:"percent,omitempty"` // the reading
	Limit   int       `json:"limit,omitempty"`   // the cap, in percent
	Where   string    `json:"where,omitempty"`   // file system or cgroup that the reading is of; empty: the node
	Error   string    `json:"error,omitempty"`   // why it cannot be read
	// Causes are the containers that grew most, at most 5.
	Causes []LoadCause `json:"causes,omitempty"`
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
