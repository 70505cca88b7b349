package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/workload"
)

// binder gives each known container its policy. What it knows survives the agent and a
// reboot, so that a container which starts before its runtime answers has its own
// policy all the same.
type binder struct {
	a        *Agent
	registry *workload.Registry
	file     string

	// mu guards what follows, and makes one binding at a time.
	mu       sync.Mutex
	late     map[ident.ContainerID]bool     // first bound after its start
	problems map[ident.ContainerID][]string // rules that do not hold in it
	dirty    bool
}

// remembered is a container as the state directory keeps it.
type remembered struct {
	Container workload.Container `json:"container"`
	Late      bool               `json:"late,omitempty"`
}

func newBinder(a *Agent) *binder {
	return &binder{
		a: a, registry: workload.NewRegistry(), file: a.cfg.knownFile(),
		late: map[ident.ContainerID]bool{}, problems: map[ident.ContainerID][]string{},
	}
}

// recall binds what was known when the last agent ended. A file that cannot be read is
// reported, and costs no more than what the runtimes will say again.
func (b *binder) recall() error {
	raw, err := os.ReadFile(b.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("recall the known containers: %w", err)
	}
	var known []remembered
	if err := json.Unmarshal(raw, &known); err != nil {
		return fmt.Errorf("recall the known containers from %s: %w", b.file, err)
	}
	for _, k := range known {
		if _, err := ident.ParseContainerID(string(k.Container.ID)); err != nil {
			continue
		}
		b.registry.Apply(workload.Change{Kind: workload.Upsert, Runtime: k.Container.Runtime, Cause: "recalled", Container: k.Container})
		b.late[k.Container.ID] = k.Late
	}
	return b.rebind()
}

// remember writes what is known, if it has changed.
func (b *binder) remember() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.dirty {
		return nil
	}
	known := []remembered{}
	for _, c := range b.registry.List() {
		known = append(known, remembered{c, b.late[c.ID]})
	}
	raw, err := json.Marshal(known)
	if err != nil {
		return fmt.Errorf("remember the known containers: %w", err)
	}
	if err := atomicfile.WriteFile(b.file, raw, 0o600); err != nil {
		return fmt.Errorf("remember the known containers: %w", err)
	}
	b.dirty = false
	return nil
}

// keep writes the known containers a moment after each change, until ctx ends.
func (b *binder) keep(ctx context.Context) error {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return b.remember()
		case <-t.C:
			if err := b.remember(); err != nil {
				b.a.health.SetDegraded("state", err.Error())
			} else {
				b.a.health.SetOK("state")
			}
		}
	}
}

// apply takes in one change from a runtime.
func (b *binder) apply(ch workload.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.registry.Apply(ch) {
		b.dirty = true
		id := c.Container.ID
		if c.Kind == workload.Removed {
			delete(b.late, id)
			delete(b.problems, id)
			if err := b.a.kernel.Unbind(id); err != nil {
				b.a.log.Warn("binding not removed", attr.ContainerID, string(id), attr.Error, err.Error())
			}
			continue
		}
		b.bind(c.Container)
	}
}

// rebind gives every known container its policy anew: at the start and after a reload.
func (b *binder) rebind() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, c := range b.registry.List() {
		errs = append(errs, b.bind(c))
	}
	return errors.Join(errs...)
}

// bind gives one container its policy. b.mu is held.
func (b *binder) bind(c workload.Container) error {
	if _, seen := b.late[c.ID]; !seen {
		b.late[c.ID] = b.a.started(c.ID)
	}
	eff := b.a.policies.current().Effective(subject(c, b.late[c.ID]))
	var err error
	if eff.Revision == b.a.policies.current().Floor().Revision {
		err = b.a.kernel.Unbind(c.ID)
	} else {
		err = b.a.kernel.Bind(c.ID, eff)
	}
	if err != nil {
		b.a.health.SetDegraded("policies", fmt.Sprintf("container %s keeps its former policy: %v", c.ID.Short(), err))
		b.a.log.Error("policy not bound; the former one holds", attr.ContainerID, string(c.ID), attr.Error, err.Error())
	}
	return err
}

// bindInodes binds path rules to the files of a container that has started.
func (b *binder) bindInodes(id ident.ContainerID, pid uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	problems, err := b.a.kernel.BindInodes(id, fmt.Sprintf("/proc/%d/root", pid))
	switch {
	case errors.Is(err, fs.ErrNotExist): // it has ended
	case err != nil:
		problems = append(problems, err.Error())
	}
	if len(problems) == 0 {
		delete(b.problems, id)
		return
	}
	b.problems[id] = problems
	for _, p := range problems {
		b.a.log.Warn("a rule does not hold in a container", attr.ContainerID, string(id), attr.Reason, p)
	}
}

func (b *binder) notes(id ident.ContainerID) (late bool, problems []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.late[id], slices.Clone(b.problems[id])
}

// subject is what policies select by. A container whose image is not known for certain
// yet never gets a loosening policy.
func subject(c workload.Container, late bool) policy.Subject {
	return policy.Subject{
		ID: c.ID, Known: true, Name: c.Name, Image: c.Image, ImageDigest: c.ImageDigest, ImageDigests: c.ImageDigests, Labels: c.Labels,
		Namespace: c.Namespace, PodLabels: c.PodLabels, BoundLate: late || c.Partial,
	}
}

// started tells whether the kernel has seen the container's first exec.
func (a *Agent) started(id ident.ContainerID) bool {
	key, err := id.Bytes()
	if err != nil {
		return true
	}
	list, err := a.kernel.Containers()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(list, func(c enforce.ContainerState) bool { return c.ID == key && c.Started })
}
