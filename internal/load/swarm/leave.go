package swarm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	api "github.com/moby/moby/api/types/swarm"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/place"
)

const (
	// placeFor is how long a task may find no node that takes it: it is not served meanwhile.
	placeFor = 20 * time.Second
	// releaseFor bounds the taking back; settleFor the wait for what that itself has Swarm do.
	releaseFor = 2 * time.Minute
	settleFor  = time.Minute
	// laterFor is when a service whose rollout is in progress is looked at again.
	laterFor = 10 * time.Second
)

// Leave implements [place.Placer]. It returns once Swarm says that the update is completed, every
// task that was here runs on another node (where its health check, if it has one, has passed), and
// the service is as it was.
func (s *Swarm) Leave(ctx context.Context, u place.Unit, ask bool) error {
	u.Node = cmp.Or(u.Node, s.node)
	unsure := !ask      // whether a request is on its way that was not answered: one before may have sent it
	asked := false      // whether it was seen
	var stuck time.Time // since when a task finds no node
	if u.Node != s.node {
		return s.giveUp(ctx, u, true, fmt.Errorf("this machine is not the node %s any more", u.Node))
	}
	for {
		svc, spec, tasks, err := s.look(ctx, u.ID)
		switch {
		case errors.Is(err, engine.ErrNotFound):
			return fmt.Errorf("service %s is gone: %w", u.Name, err)
		case err != nil:
			if !asked {
				return s.giveUp(ctx, u, unsure, err)
			}
		case svc.Spec.Labels[LabelLeave] == s.node:
			asked, unsure = true, false
			done, why := judge(svc, tasks, s.node, &stuck, time.Now())
			if done {
				return s.giveUp(ctx, u, false, nil)
			}
			if why != "" {
				return s.giveUp(ctx, u, false, errors.New(why))
			}
		case asked:
			why := "somebody has changed the service meanwhile"
			if r := rollout(svc); r != "" || svc.UpdateStatus != nil && svc.UpdateStatus.State == api.UpdateStateRollbackCompleted {
				why = "Swarm has rolled the service back: " + svc.UpdateStatus.Message
			}
			return s.giveUp(ctx, u, false, errors.New(why))
		case !slices.ContainsFunc(tasks, func(t api.Task) bool { return t.NodeID == s.node && !ended(&t) }):
			return s.giveUp(ctx, u, unsure, nil) // it has left before
		case !ask:
			return s.giveUp(ctx, u, unsure, errors.New("it is not being asked any more, and is not asked again"))
		default:
			if asked, err = s.ask(ctx, u, svc, spec, tasks); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			if !asked {
				return ctx.Err()
			}
			why := "its tasks are not ready on other nodes yet"
			if err != nil && !errors.Is(err, ctx.Err()) {
				why = err.Error()
			}
			return s.giveUp(ctx, u, false, fmt.Errorf("%s: %w", why, ctx.Err()))
		case <-time.After(s.poll):
		}
	}
}

func (s *Swarm) look(ctx context.Context, id string) (*api.Service, json.RawMessage, []api.Task, error) {
	svc, spec, err := s.manager.Service(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	tasks, err := s.manager.Tasks(ctx, map[string][]string{"service": {id}})
	return svc, spec, tasks, err
}

// judge says whether a service that was asked to leave a node has, or why it never will.
func judge(svc *api.Service, tasks []api.Task, node string, stuck *time.Time, now time.Time) (done bool, why string) {
	updating := svc.UpdateStatus != nil && svc.UpdateStatus.State == api.UpdateStateUpdating
	if r := rollout(svc); r != "" && !updating {
		return false, r
	}
	here, slots, ready, homeless := false, map[int]bool{}, map[int]bool{}, ""
	for i := range tasks {
		switch t := &tasks[i]; {
		case t.NodeID == node:
			here = here || !ended(t)
			slots[t.Slot] = true
		case t.Status.State == api.TaskStateRunning && t.DesiredState == api.TaskStateRunning:
			ready[t.Slot] = true
		case t.Status.State == api.TaskStatePending && wanted(t) && t.Status.Err != "":
			homeless = t.Status.Err
		}
	}
	switch {
	case homeless == "":
		*stuck = time.Time{}
	case stuck.IsZero():
		*stuck = now
	case now.Sub(*stuck) >= placeFor:
		return false, "no node takes it: " + homeless
	}
	for slot := range ready {
		delete(slots, slot)
	}
	all := svc.Spec.Mode.Replicated != nil && svc.Spec.Mode.Replicated.Replicas != nil && uint64(len(ready)) >= *svc.Spec.Mode.Replicated.Replicas
	return !here && !updating && (len(slots) == 0 || all), ""
}

// ask gives the service the constraint, if it may leave now; false: somebody else was first to change
// it. The tasks are not older than svc, and the constraint is given to that version alone.
func (s *Swarm) ask(ctx context.Context, u place.Unit, svc *api.Service, spec json.RawMessage, tasks []api.Task) (asked bool, err error) {
	w, err := s.world(ctx)
	if err != nil {
		return false, err
	}
	if by := svc.Spec.Labels[LabelLeave]; by != "" {
		return false, &place.Later{After: laterFor, Reason: "it is being asked to leave another node"}
	}
	if inProgress(svc) {
		return false, &place.Later{After: laterFor, Reason: rollout(svc)}
	}
	for i := range tasks {
		if t := &tasks[i]; t.NodeID == s.node && wanted(t) && t.CreatedAt.After(u.Arrived) && cameByLeave(t, svc) {
			return false, fmt.Errorf("%w: tasks of it have just come from another node that they were asked to leave", place.ErrNotAsked)
		}
	}
	if why := w.stays(svc, s.node); len(why) > 0 {
		return false, errors.New("it may not be asked to leave: " + strings.Join(why, "; "))
	}
	if spec, err = edit(spec, s.node, true); err != nil {
		return false, err
	}
	err = s.manager.UpdateService(ctx, svc.ID, svc.Version.Index, spec)
	switch status, answered := errors.AsType[*engine.StatusError](err); {
	case err == nil:
		return true, nil
	case errors.Is(err, engine.ErrOutOfSequence):
		return false, nil
	case answered && status.Status < 500: // a manager that loses its office says 500, and may have done it
		return false, err
	}
	return false, s.giveUp(ctx, u, true, err)
}

// inProgress reports whether Swarm is at work at a service.
func inProgress(svc *api.Service) bool {
	return svc.UpdateStatus != nil && (svc.UpdateStatus.State == api.UpdateStateUpdating || svc.UpdateStatus.State == api.UpdateStateRollbackStarted)
}

// giveUp takes the constraint back, after a success too, and returns why. If a request may be on its
// way (unsure), it cannot come to anything any more.
func (s *Swarm) giveUp(ctx context.Context, u place.Unit, unsure bool, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseFor)
	defer cancel()
	if err := s.release(ctx, u.ID, u.Node, unsure); err != nil && !errors.Is(err, engine.ErrNotFound) {
		return errors.Join(why, fmt.Errorf("service %s still has the constraint %s, or gets it back by a rollback: %w: %w; by hand, once no update of it is under way, twice: "+
			"docker service update --constraint-rm %s --label-rm %s %s", u.Name, constraintOff(u.Node), place.ErrHalfway, err, constraintOff(u.Node), LabelLeave, u.Name))
	}
	return why
}

// release makes a service what it was before it was asked to leave a node. The constraint is also
// taken out of what a rollback, by hand or by Swarm, would go back to.
func (s *Swarm) release(ctx context.Context, id, node string, unsure bool) error {
	began := time.Now()
	for {
		svc, spec, err := s.manager.Service(ctx, id)
		if err != nil {
			return err
		}
		clean, busy := svc.PreviousSpec == nil || svc.PreviousSpec.Labels[LabelLeave] != node, rollout(svc)
		switch {
		case svc.Spec.Labels[LabelLeave] == node:
			if spec, err = edit(spec, node, false); err != nil {
				return err
			}
			err = s.manager.UpdateService(ctx, id, svc.Version.Index, spec)
			unsure = unsure && err != nil
		case busy == "" && (!clean || unsure):
			// As it is, and so is what was before it; and a request of before is out of sequence.
			err = s.manager.UpdateService(ctx, id, svc.Version.Index, spec)
			unsure = unsure && err != nil
		case clean: // a service is asked when it is not busy: who made it so came after the request
			return nil
		case time.Since(began) > s.settle:
			return errors.New(busy + ", and what was before it has the constraint")
		}
		if err != nil && !errors.Is(err, engine.ErrOutOfSequence) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.poll / 10):
		}
	}
}

// edit adds the constraint and the label to a service's specification, or takes them out. All else
// stays as it was written.
func edit(spec json.RawMessage, node string, on bool) (json.RawMessage, error) {
	root, err := object(spec)
	if err != nil {
		return nil, err
	}
	task, err := object(root["TaskTemplate"])
	if err != nil {
		return nil, err
	}
	placement, err := object(task["Placement"])
	if err != nil {
		return nil, err
	}
	labels, cons := map[string]string{}, []string{}
	if err := errors.Join(decode(root["Labels"], &labels), decode(placement["Constraints"], &cons)); err != nil {
		return nil, err
	}
	if labels == nil {
		labels = map[string]string{}
	}
	if on {
		labels[LabelLeave], cons = node, append(cons, constraintOff(node))
	} else {
		delete(labels, LabelLeave)
		cons = slices.DeleteFunc(cons, func(c string) bool { return c == constraintOff(node) })
	}
	encode(placement, "Constraints", cons, len(cons) > 0)
	encode(task, "Placement", placement, true)
	encode(root, "TaskTemplate", task, true)
	encode(root, "Labels", labels, true)
	return json.Marshal(root)
}

func object(raw json.RawMessage) (map[string]json.RawMessage, error) {
	m := map[string]json.RawMessage{}
	if err := decode(raw, &m); err != nil {
		return nil, err
	}
	if m == nil { // null
		m = map[string]json.RawMessage{}
	}
	return m, nil
}

func decode(raw json.RawMessage, to any) error {
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("read the service's specification: %w", err)
	}
	return nil
}

// encode sets a field, or takes it out.
func encode(m map[string]json.RawMessage, key string, value any, set bool) {
	delete(m, key)
	if set {
		b, err := json.Marshal(value)
		if err != nil {
			panic(fmt.Sprintf("encode %s: %v", key, err)) // strings, and JSON that was read
		}
		m[key] = b
	}
}
