// Package swarm has services of Docker Swarm leave a node: it says which may be asked to, and asks.
//
// A service is asked by a placement constraint that this node does not meet. Swarm then replaces
// the tasks that are here, in the order, the parallelism and with the checks of the service's own
// update settings, and none of its tasks elsewhere: a constraint alone does not make those outdated
// (IsTaskDirty in swarmkit's manager/orchestrator/task.go). Once they are gone the constraint is
// taken out again, which moves nothing. The label beside it says whose it is, so that whoever comes
// after an end halfway finds it: there is no other state.
//
// It never changes a node while such a constraint stands: Swarm would stop the tasks here at once,
// replaced or not (manager/orchestrator/constraintenforcer).
//
// Row: feature.
package swarm

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	api "github.com/moby/moby/api/types/swarm"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/place"
)

// LabelLeave is a service's label while it is asked to leave a node: the node's ID.
const LabelLeave = "dev.belay.load.leave"

// constraintOff is the constraint that a node does not meet.
func constraintOff(node string) string { return "node.id!=" + node }

// Swarm is a swarm, seen from one of its nodes. Make one with [Open]. It is a [place.Placer].
type Swarm struct {
	node    string // ID of this node; empty: it is in no swarm
	manager *engine.Engine
	poll    time.Duration // between two looks at a rollout
	settle  time.Duration // that a rollout may take that is waited for to take something back
}

var _ place.Placer = (*Swarm)(nil)

// Open asks the engine of this node which node of which swarm it is, and a manager whether that is
// its swarm. Without a manager's address the engine has to be one. One that has left its swarm can
// still take back what it asked for, if it is told a manager.
//
// Errors: [place.ErrGone].
func Open(ctx context.Context, local, manager engine.Address) (*Swarm, error) {
	here, err := engine.Open(ctx, local)
	if err != nil {
		return nil, err
	}
	s := here.Info.Swarm
	left := s.LocalNodeState == api.LocalNodeStateInactive
	if (!left || manager.URL == "") && (s.LocalNodeState != api.LocalNodeStateActive || s.NodeID == "") {
		here.Close()
		err := fmt.Errorf("engine %s: it is in no swarm (%s); fix: docker swarm join, or take orchestrator out of the policy", local.URL, cmp.Or(string(s.LocalNodeState), "unknown"))
		if left {
			err = fmt.Errorf("%w: %w", place.ErrGone, err)
		}
		return nil, err
	}
	if manager.URL == "" {
		if !s.ControlAvailable {
			here.Close()
			return nil, fmt.Errorf("engine %s: it is a worker of its swarm, and only managers answer; fix: name one (orchestrator.swarm.manager, --manager)", local.URL)
		}
		return &Swarm{s.NodeID, here, time.Second, settleFor}, nil
	}
	here.Close()
	m, err := engine.Open(ctx, manager)
	if err != nil {
		return nil, err
	}
	if !m.Info.Swarm.ControlAvailable {
		m.Close()
		return nil, fmt.Errorf("engine %s: it is no manager of a swarm", manager.URL)
	}
	return &Swarm{s.NodeID, m, time.Second, settleFor}, nil
}

// Close closes connections.
func (s *Swarm) Close() { s.manager.Close() }

// Units implements [place.Placer]: a unit is all tasks of one service that are here.
func (s *Swarm) Units(ctx context.Context) ([]place.Unit, error) {
	if s.node == "" {
		return nil, fmt.Errorf("%w: this node is in no swarm; fix: docker swarm join, or take orchestrator out of the policy", place.ErrGone)
	}
	w, err := s.world(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(w.nodes, func(n api.Node) bool { return n.ID == s.node }) {
		return nil, fmt.Errorf("engine %s: the node %s is not of its swarm; fix: name a manager of this node's own", s.manager.Address.URL, s.node)
	}
	byService := map[string]*place.Unit{}
	for i := range w.tasks {
		t := &w.tasks[i]
		if t.NodeID != s.node || t.ServiceID == "" || !wanted(t) {
			continue
		}
		u := byService[t.ServiceID]
		if u == nil {
			u = &place.Unit{ID: t.ServiceID, Name: t.ServiceID, Node: s.node, Containers: []string{}}
			byService[t.ServiceID] = u
			svc := w.service(t.ServiceID)
			if svc == nil {
				u.Stays = "its service is gone"
			} else {
				u.Name, u.Stays = svc.Spec.Name, strings.Join(w.stays(svc, s.node), "; ")
			}
		}
		if c := t.Status.ContainerStatus; c != nil && c.ContainerID != "" {
			u.Containers = append(u.Containers, c.ContainerID)
		}
		if svc := w.service(t.ServiceID); svc != nil && cameByLeave(t, svc) && t.CreatedAt.After(u.Arrived) {
			u.Arrived = t.CreatedAt
		}
	}
	units := []place.Unit{}
	for _, u := range byService {
		slices.Sort(u.Containers)
		units = append(units, *u)
	}
	slices.SortFunc(units, func(a, b place.Unit) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	return units, nil
}

// cameByLeave reports whether a task was made while its service was asked to leave another node:
// it still has that constraint, and its service has not.
func cameByLeave(t *api.Task, svc *api.Service) bool {
	return slices.ContainsFunc(constraints(&t.Spec), func(c string) bool {
		return strings.HasPrefix(c, "node.id!=") && !slices.Contains(constraints(&svc.Spec.TaskTemplate), c)
	})
}

func constraints(t *api.TaskSpec) []string {
	if t.Placement == nil {
		return nil
	}
	return t.Placement.Constraints
}

// world is what a manager says of a swarm.
type world struct {
	nodes    []api.Node
	services []api.Service
	tasks    []api.Task // that are to run
}

func (s *Swarm) world(ctx context.Context) (w *world, err error) {
	w = &world{}
	if w.nodes, err = s.manager.Nodes(ctx); err != nil {
		return nil, err
	}
	if w.services, err = s.manager.Services(ctx); err != nil {
		return nil, err
	}
	w.tasks, err = s.manager.Tasks(ctx, map[string][]string{"desired-state": {"running", "ready"}})
	return w, err
}

func (w *world) service(id string) *api.Service {
	if i := slices.IndexFunc(w.services, func(s api.Service) bool { return s.ID == id }); i >= 0 {
		return &w.services[i]
	}
	return nil
}

// wanted reports whether a task runs, or is to run.
func wanted(t *api.Task) bool {
	return (t.DesiredState == api.TaskStateRunning || t.DesiredState == api.TaskStateReady) && !ended(t)
}

func ended(t *api.Task) bool {
	return slices.Contains([]api.TaskState{api.TaskStateComplete, api.TaskStateShutdown, api.TaskStateFailed, api.TaskStateRejected, api.TaskStateRemove, api.TaskStateOrphaned}, t.Status.State)
}
