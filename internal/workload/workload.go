// Package workload knows who runs where: it follows container runtimes (Docker
// Engine, containerd) and tells which container has which name, image, image
// digest and labels, so that policies can select containers the kernel knows by
// ID only.
//
// It owns the table of known containers ([Registry]), the connection to each
// runtime and the caches of what runtimes said about images. It never decides
// anything, never starts, stops or changes a container, and never trusts what it
// reads: names and labels are chosen by whoever may create a container, so sizes
// are bounded and what was left out is counted. Losing a runtime loses metadata,
// not enforcement.
//
// Row: adapters. It imports ident, and the clients of moby and containerd.
package workload

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/ident"
)

// Runtime names, as found in [Container].Runtime and [Change].Runtime.
const (
	RuntimeDocker     = "docker"
	RuntimeContainerd = "containerd"
)

// State is where a container is in its life.
type State string

// The states. A paused container is running; one that waits for its restart
// policy is stopped.
const (
	StateCreated State = "created" // exists, was never started
	StateRunning State = "running" // has an init process
	StateStopped State = "stopped" // was started, has no process, can be started again
	StateRemoved State = "removed" // the runtime has destroyed it; its ID is never used again
)

// Container is what a runtime says about one container. Values are passed by
// copy, but the maps and slices are shared: treat them as read-only.
type Container struct {
	ID   ident.ContainerID
	Name string // as the runtime shows it, without Docker's leading slash; in Kubernetes namespace/pod/container

	// Image is the reference the container was created from, as its creator wrote it
	// ("nginx:1.29", "registry/x/y@sha256:..."). It says nothing about content.
	Image string
	// ImageDigest identifies the content of the image: "sha256:" and 64 hex digits, or
	// empty where it is not known for certain. For Docker it is the image ID (that of the image's
	// config in the classic image store, that of its index or manifest in the containerd
	// store); for containerd the digest of the image's target.
	ImageDigest string
	// ImageDigests holds every digest by which this host knows the image, ImageDigest
	// included: image ID, manifest, and those of registries ("docker image inspect",
	// RepoDigests). Sorted, at most maxDigests.
	ImageDigests []string

	Labels    map[string]string
	Namespace string            // Kubernetes namespace; empty outside Kubernetes
	PodLabels map[string]string // labels of the pod; nil outside Kubernetes
	Workload  string            // what the pod is of, "deployment/web"; empty if it does not say

	Runtime string    // [RuntimeDocker] or [RuntimeContainerd]
	State   State     // see [State]
	Created time.Time // to the second for Docker

	// Partial reports that a lookup is still under way or failed: Image may be an ID in place of the
	// reference, ImageDigests or Labels may be missing. Another change follows. Never
	// weaken a binding on a partial container.
	Partial bool
	// Cut is the number of labels and fields left out because they were too large. A
	// selector that does not match a container with Cut > 0 might have matched.
	Cut int
}

// Equal reports whether a and b say the same.
func (c Container) Equal(o Container) bool {
	return c.ID == o.ID && c.Name == o.Name && c.Image == o.Image && c.ImageDigest == o.ImageDigest &&
		c.Namespace == o.Namespace && c.Workload == o.Workload && c.Runtime == o.Runtime && c.State == o.State &&
		c.Created.Equal(o.Created) && c.Partial == o.Partial && c.Cut == o.Cut &&
		slices.Equal(c.ImageDigests, o.ImageDigests) &&
		maps.Equal(c.Labels, o.Labels) && maps.Equal(c.PodLabels, o.PodLabels)
}

// Kind says what a [Change] reports.
type Kind uint8

// The kinds of changes.
const (
	// Upsert: Container is new or has changed.
	Upsert Kind = iota + 1
	// Removed: Container was destroyed. Only its ID is sure to be set: the runtime may have
	// created and destroyed it while nobody listened.
	Removed
	// Resync: Containers is everything the runtime knows. What the receiver knows of
	// this runtime and does not find there is gone.
	Resync
	// Disconnected: the runtime cannot be reached (Err). What is known stays valid
	// until the next Resync.
	Disconnected
)

// String returns upsert, removed, resync or disconnected.
func (k Kind) String() string {
	switch k {
	case Upsert:
		return "upsert"
	case Removed:
		return "removed"
	case Resync:
		return "resync"
	case Disconnected:
		return "disconnected"
	}
	return "unknown"
}

// Change is one step in the life of the containers of a runtime.
type Change struct {
	Kind       Kind
	Runtime    string
	Cause      string      // what made it known: create, start, stop, rename, destroy, update, list, detail
	Container  Container   // Upsert, Removed
	Containers []Container // Resync, sorted by ID
	Err        error       // Disconnected
}

// Source follows one runtime.
type Source interface {
	// Run follows the runtime until ctx ends, then returns nil. It emits a Resync once
	// connected and after each reconnect, then changes as they happen, and never
	// gives up. emit is called from one goroutine at a time and should be quick: while
	// it runs, changes wait in a bounded queue whose overflow costs a full listing.
	Run(ctx context.Context, emit func(Change)) error
	// Status returns the state of the connection. Safe for concurrent use.
	Status() Status
}

// Status is the state of a [Source].
type Status struct {
	Runtime   string
	Endpoint  string
	Version   string // of the API (Docker) or the daemon (containerd); empty before the first connection
	Connected bool
	Since     time.Time // of the last change of Connected
	Err       error     // why it is not connected, or why the last listing was incomplete

	Reconnects     uint64 // connections made after the first
	Resyncs        uint64 // full listings emitted
	EventsDropped  uint64 // events that did not fit the queue (a full listing made good for them)
	LookupsFailed  uint64 // questions about one container or image the runtime did not answer in time
	InvalidIDs     uint64 // containers left out because their ID is not 64 hex digits, once per listing
	FieldsCut      uint64 // labels and fields left out because they were too large
	DetailsSkipped uint64 // answers that came too late to matter
}
