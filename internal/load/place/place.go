// Package place has load leave this node where somebody else does the placing: Docker Swarm or
// Kubernetes. Belay adds the trigger and the judgement; where a unit goes is theirs.
//
// Row: core. It imports the standard library only.
package place

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Unit is what leaves a node as one.
type Unit struct {
	ID   string `json:"id"`   // what Leave takes: of a Swarm service, of a pod (its UID)
	Name string `json:"name"` // of the service, or namespace/pod
	// Owner is what its successors have in common with it, so that nothing goes back and forth: of a
	// pod its namespace and controller; empty: its name.
	Owner      string   `json:"owner,omitempty"`
	Containers []string `json:"containers"`      // IDs of its containers on this node
	Stays      string   `json:"stays,omitempty"` // why it may not be asked to leave; empty if it may
	// Node is the node that it leaves, as the placer names it: a journal tells by it whose request it was
	// when this machine is another node, or none.
	Node string `json:"node,omitempty"`
	// Arrived is when it came because it was asked to leave another node; zero: it did not, or nobody
	// knows.
	Arrived time.Time `json:"arrived,omitzero"`
}

// Placer is what places containers, seen from one node.
type Placer interface {
	// Units are what it has placed on this node.
	Units(ctx context.Context) ([]Unit, error)
	// Leave asks for a unit to leave, and returns once it is ready elsewhere and gone here. With ask
	// false, after an end halfway, it only goes on with what was asked: if nothing is, it asks for
	// nothing. When ctx ends, or it fails, it takes back what can be.
	//
	// Errors: [*Later], when it was told to wait; [ErrNotAsked]; [ErrHalfway].
	Leave(ctx context.Context, u Unit, ask bool) error
	// Cordon has nothing new be placed here. It is idempotent, and takes back only its own cordon.
	//
	// Errors: [*Later].
	Cordon(ctx context.Context, on bool) error
}

// ErrNotAsked says that nothing was asked for, and that another time it may be.
var ErrNotAsked = errors.New("it was not asked to leave")

// ErrGone says that this machine is no node of an orchestrator any more.
var ErrGone = errors.New("it has left")

// ErrHalfway says that what was asked for stands, and could neither be seen through nor taken back:
// Leave has to be called again.
var ErrHalfway = errors.New("what was asked for could not be taken back")

// Later is the error of a [Placer] that was told to wait: by a budget, or a rollout in progress.
type Later struct {
	After  time.Duration // 0: nobody says how long
	Reason string
}

// Error returns the reason.
func (l *Later) Error() string {
	if l.After > 0 {
		return fmt.Sprintf("%s; try again in %s", l.Reason, l.After)
	}
	return l.Reason
}
