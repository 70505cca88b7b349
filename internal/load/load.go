// Package load watches how full the node is: it samples CPU, memory, tasks, disks, inodes,
// network and pressure (PSI) of the node and of each container, holds them against the caps
// of the LoadPolicies, and tells when one is passed, by which containers, and since when.
//
// A [Watcher] owns the samples, the state of each cap and the open files they are read from.
// It moves nothing and decides nothing about containers; what cannot be read is counted
// and an alert of its own. Delivery of alerts to a webhook and to an email program is a
// [Notifier]'s. Row: feature.
package load

import (
	"slices"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
)

// Resource is something that a cap can be on, in the order of [policy.CapNames].
type Resource uint8

// The resources.
const (
	CPU Resource = iota
	Memory
	PIDs
	Disk
	Inodes
	PSICPU
	PSIMemory
	PSIIO
	numResources
)

var resourceNames = policy.CapNames()

// String returns the name that LoadPolicies use.
func (r Resource) String() string { return resourceNames[r] }

// resourceOf returns the resource that a LoadPolicy names; it was validated there.
func resourceOf(name string) Resource { return Resource(slices.Index(resourceNames, name)) } //nolint:gosec // of a short list

// psiKinds are the kinds of pressure.
var psiKinds = [numPSI]string{"cpu", "memory", "io"}

const numPSI = 3

// Subject is a container to watch.
type Subject struct {
	ID    ident.ContainerID
	Name  string // empty while the runtime has not told it
	Image string
	// Cgroup is the number of its cgroup in the hierarchy of version 2, or, without one, in that
	// of pids; 0: not known.
	Cgroup uint64
}

// Events of an [Alert].
const (
	EventOver       = "over"       // a reading was over its cap for as long as the policy says
	EventRelieved   = "relieved"   // it is below the cap less the hysteresis, for as long
	EventUnreadable = "unreadable" // it cannot be read, so nobody knows
	EventReadable   = "readable"   // it can be read again
	EventDropped    = "dropped"    // over when the policy's cap, or the container, went away
)

// Alert is something that an administrator is told.
type Alert struct {
	Event    string
	Policy   string // name
	Revision string
	Cap      string // of policy.CapNames; "containers" if their list cannot be read
	Time     time.Time
	Since    time.Time // from when on it was so
	Percent  float64   // the reading; of an unreadable one 0
	Limit    int       // the cap, in percent
	// Where is the file system or the cgroup that the reading is of; empty: the whole node.
	Where string
	// Container is set where a container is held against a limit of its own.
	Container *Subject
	// Causes are the containers that grew most, first the one that grew by most.
	Causes []Cause
	Error  string // why it cannot be read
	// Message is the text of an alert that is about moves or the cordon; empty: the fields above
	// say it.
	Message string
}

// Cause is a container's part in a reading.
type Cause struct {
	Subject
	// Now and Grew are in Unit: bytes, tasks, cpus, bytes/s, or share (of time, 0 to 1).
	Now, Grew float64
	Unit      string
	Since     time.Time // the growth began; zero: it did not grow
}

// reading is what a resource is at a moment.
type reading struct {
	percent float64
	of      uint64 // what the node has of it, of disks alone
	where   string
	err     error
}
