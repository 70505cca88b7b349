package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
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

	late lateness

	// mu guards what follows, and makes one binding at a time. lateness's lock is taken after it.
	mu       sync.Mutex
	problems map[ident.ContainerID][]string           // rules that do not hold in it
	names    map[ident.ContainerID][]string           // names that it has had
	gate     map[ident.ContainerID]*gateBinding       // what the gate has made
	most     int                                      // records of the gate, see maxBindings
	unsynced []string                                 // records of these that may not be on the disk yet
	syncAll  bool                                     // so may any record
	devs     map[ident.ContainerID]uint32             // device of its root, where inodes were bound
	listed   map[string]bool                          // runtimes that have told all they hold
	kept     map[ident.ContainerID]workload.Container // what the state directory is to hold
	dirty    bool
}

// lateness knows of which containers the first binding came after the start. It has a lock of its own: a
// record of each kernel event asks, and must not wait while containers are bound.
type lateness struct {
	mu sync.RWMutex
	of map[ident.ContainerID]bool
}

// get tells whether a container was bound late, and whether it was bound at all.
func (l *lateness) get(id ident.ContainerID) (late, seen bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	late, seen = l.of[id]
	return late, seen
}

func (l *lateness) is(id ident.ContainerID) bool {
	late, _ := l.get(id)
	return late
}

func (l *lateness) set(id ident.ContainerID, late bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[ident.ContainerID]bool{}
	}
	l.of[id] = late
}

func (l *lateness) forget(id ident.ContainerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, id)
}

// maxNames bounds the names that are kept of one container.
const maxNames = 32

// remembered is a container as the state directory keeps it.
type remembered struct {
	Container workload.Container `json:"container"`
	Late      bool               `json:"late,omitempty"`
	Names     []string           `json:"names,omitempty"`
	// Image is what its runtime said of its image; nil: nothing, or it stands at another container.
	Image *rememberedImage `json:"image,omitempty"`
}

func newBinder(a *Agent) *binder {
	return &binder{
		a: a, registry: workload.NewRegistry(), file: a.cfg.knownFile(),
		problems: map[ident.ContainerID][]string{}, listed: map[string]bool{},
		names: map[ident.ContainerID][]string{}, devs: map[ident.ContainerID]uint32{},
		gate: map[ident.ContainerID]*gateBinding{}, most: maxBindings,
		kept: map[ident.ContainerID]workload.Container{},
	}
}

// recall binds what was known when the last agent ended. A file that cannot be read is
// reported, and costs no more than what the runtimes will say again.
func (b *binder) recall() error {
	return errors.Join(b.recallAll(), b.rebind())
}

// recallAll reads all that is remembered, before anything is bound: a container must not lose its gate's
// half, nor be denied its start for what is known of its image.
func (b *binder) recallAll() error {
	err := errors.Join(b.recallGate(), b.recallKnown())
	b.a.images.prepare()
	return err
}

func (b *binder) recallKnown() error {
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
		b.late.set(k.Container.ID, k.Late)
		b.names[k.Container.ID] = k.Names
		b.a.images.recall(k.Container.Runtime, k.Image)
	}
	return nil
}

// remember writes what is known, if it has changed. The disk is waited for without b.mu, which
// the binding of a new container needs. One goroutine calls it.
func (b *binder) remember() error {
	b.mu.Lock()
	if !b.dirty {
		b.mu.Unlock()
		return nil
	}
	known, said := []remembered{}, map[imageKey]bool{}
	for _, c := range b.registry.List() {
		k := remembered{Container: c, Late: b.late.is(c.ID), Names: b.names[c.ID]}
		if key := (imageKey{c.Runtime, c.ImageDigest}); !said[key] {
			said[key], k.Image = true, b.a.images.remembered(key)
		}
		known = append(known, k)
	}
	raw, err := json.Marshal(known)
	b.dirty = false
	b.mu.Unlock()
	if err == nil {
		err = atomicfile.WriteFile(b.file, raw, 0o600)
	}
	if err != nil {
		b.mu.Lock()
		b.dirty = true
		b.mu.Unlock()
		return fmt.Errorf("remember the known containers: %w", err)
	}
	return nil
}

// imageSaid notes that something new was said of an image, which is remembered too.
func (b *binder) imageSaid() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dirty = true
}

// keep writes the known containers a moment after each change, until ctx ends.
func (b *binder) keep(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(b.syncGate(), b.remember())
		case <-t.C:
			if err := errors.Join(b.syncGate(), b.remember()); err != nil {
				b.a.health.SetDegraded("state", err.Error())
			} else {
				b.a.health.SetOK("state")
			}
		}
	}
}

// apply takes in one change from a runtime.
func (b *binder) apply(ch workload.Change) {
	b.a.images.seen(ch)
	if b.take(ch) {
		b.bindRunning()
	}
}

// take binds what a change is about. It returns true if a container that it had bound
// has another policy now.
func (b *binder) take(ch workload.Change) (rebound bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ch.Kind == workload.Resync {
		b.listed[ch.Runtime] = true
		defer b.unbindUnknown()
	}
	for _, c := range b.registry.Apply(ch) {
		id := c.Container.ID
		b.note(c)
		if c.Kind == workload.Removed {
			b.late.forget(id)
			delete(b.names, id)
			delete(b.problems, id)
			b.dropGate(id)
			b.a.images.gone(id)
			if err := b.a.kernel.Unbind(id); err != nil {
				b.a.log.Warn("binding not removed", attr.ContainerID, string(id), attr.Error, err.Error())
			}
			continue
		}
		before, _ := b.a.kernel.PolicyOf(id)
		_ = b.bind(c.Container) // reported there
		after, _ := b.a.kernel.PolicyOf(id)
		rebound = rebound || before != after
	}
	return rebound
}

// note marks what is to be remembered of a change. That a container runs or does not is no
// part of it. b.mu is held.
func (b *binder) note(c workload.Change) {
	id := c.Container.ID
	if c.Kind == workload.Removed {
		if _, ok := b.kept[id]; ok {
			b.dirty = true
		}
		delete(b.kept, id)
		return
	}
	now := c.Container
	now.State = ""
	if old, ok := b.kept[id]; !ok || !old.Equal(now) {
		b.kept[id], b.dirty = now, true
	}
}

// unbindUnknown removes the bindings that an earlier agent made and did not live to
// remember, of containers that no runtime has any more. b.mu is held.
func (b *binder) unbindUnknown() {
	for _, s := range b.a.sources {
		if !b.listed[s.Status().Runtime] {
			return
		}
	}
	b.forgetUnlisted()
	alive, err := b.a.kernel.Containers()
	if err != nil {
		return // the next listing tries again
	}
	for _, id := range b.a.kernel.Bound() {
		key, err := id.Bytes()
		_, known := b.registry.Get(id)
		if err != nil || known || b.gate[id] != nil || b.a.kernel.IsCanary(id) ||
			slices.ContainsFunc(alive, func(c enforce.ContainerState) bool { return c.ID == key }) {
			continue
		}
		if err := b.a.kernel.Unbind(id); err != nil {
			b.a.log.Warn("binding not removed", attr.ContainerID, string(id), attr.Error, err.Error())
		}
	}
}

// rebind gives every known container its policy anew: at the start and after a reload.
func (b *binder) rebind() error {
	b.mu.Lock()
	var errs []error
	for _, c := range b.registry.List() {
		errs = append(errs, b.bind(c))
	}
	errs = append(errs, b.bindUnlisted()...)
	b.mu.Unlock()
	b.bindRunning()
	return errors.Join(errs...)
}

// bindRunning binds path rules to the files of all containers that run: a policy that
// is new to the kernel knows no inode yet.
func (b *binder) bindRunning() {
	list, err := b.a.kernel.Containers()
	if err != nil {
		b.a.health.SetDegraded("policies", "path rules are not bound to inodes: "+err.Error())
		return
	}
	for _, c := range list {
		if c.Started && !c.Build && c.PID != 0 {
			b.bindInodes(ident.ContainerIDFromBytes(c.ID), c.PID)
		}
	}
}

// ended notes that a container's cgroup is gone. A container that ran before its
// policies were bound is bound before its next start.
func (b *binder) ended(id ident.ContainerID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if dev, ok := b.devs[id]; ok {
		delete(b.devs, id)
		if err := b.a.kernel.ForgetInodes(dev); err != nil {
			b.a.log.Warn("inode rules not removed", attr.ContainerID, string(id), attr.Error, err.Error())
		}
	}
	c, ok := b.registry.Get(id)
	if !ok || !b.late.is(id) && !b.a.images.denies(c, b.labels(c)) {
		return
	}
	started, err := b.a.started(id)
	if started {
		return
	}
	if err == nil {
		b.dirty = b.dirty || b.late.is(id)
		b.late.set(id, false)
	}
	_ = b.bind(c) // reported there
}

// bind gives one container its policy. b.mu is held.
func (b *binder) bind(c workload.Container) error {
	if _, seen := b.late.get(c.ID); !seen {
		started, err := b.a.started(c.ID)
		b.late.set(c.ID, started || err != nil) // nothing loosens by what is not known
	}
	if n := b.names[c.ID]; c.Name != "" && !slices.Contains(n, c.Name) && len(n) < maxNames {
		b.names[c.ID] = append(n, c.Name)
	}
	sub := subject(c, b.late.is(c.ID))
	sub.FormerNames, sub.Labels = b.names[c.ID], b.labels(c)
	own := b.own(c)
	if rp := b.a.images.binding(c, sub.Labels); rp != nil {
		own = append(slices.Clone(own), rp)
	}
	eff := b.a.policies.current().EffectiveWith(sub, own)
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
	eff, _ := b.a.kernel.PolicyOf(id)
	if eff == nil || !slices.ContainsFunc(eff.Paths, func(r policy.PathRule) bool { return r.Kind == policy.PathExact }) {
		return
	}
	// Without the lock: the files are the container's, and a file system of its own
	// making may keep us waiting.
	var found []string
	var bound error
	err := b.a.looks.at(id, func() { found, bound = b.a.kernel.BindInodes(id, fmt.Sprintf("/proc/%d/root", pid)) })
	var problems []string
	if err == nil {
		problems, err = found, bound
	} else {
		b.a.health.Counter("inodes_not_bound").Add(1)
		err = fmt.Errorf("path rules are not bound to inodes: %w", err)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // it has ended
	case err != nil:
		problems = append(problems, err.Error())
	}
	dev, known := b.a.kernel.RootDev(id)
	b.mu.Lock()
	defer b.mu.Unlock()
	if known {
		b.devs[id] = dev
	}
	if len(problems) == 0 {
		delete(b.problems, id)
		return
	}
	if slices.Equal(b.problems[id], problems) {
		return // said already
	}
	b.problems[id] = problems
	for _, p := range problems {
		b.a.log.Warn("a rule does not hold in a container", attr.ContainerID, string(id), attr.Reason, p)
	}
}

func (b *binder) notes(id ident.ContainerID) (late bool, problems []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.late.is(id), slices.Clone(b.problems[id])
}

// clientLabels are a container's labels without those of Belay's own prefix: these can
// loosen, and what the runtime says of them a client or the image's author may have made
// up. The gate's own record has those that it set.
func clientLabels(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		if !strings.HasPrefix(k, policy.LabelPrefix) {
			out[k] = v
		}
	}
	return out
}

// subject is what policies select by. A container whose image is not known for certain
// yet never gets a loosening policy.
func subject(c workload.Container, late bool) policy.Subject {
	return policy.Subject{
		ID: c.ID, Known: true, Name: c.Name, Image: c.Image, ImageDigest: c.ImageDigest, ImageDigests: c.ImageDigests,
		Labels: clientLabels(c.Labels), Namespace: c.Namespace, Workload: c.Workload, PodLabels: clientLabels(c.PodLabels), BoundLate: late || c.Partial,
	}
}

// started tells whether the kernel has seen the container's first exec.
//
// Errors: the kernel does not tell.
func (a *Agent) started(id ident.ContainerID) (bool, error) {
	key, err := id.Bytes()
	if err != nil {
		return false, err
	}
	list, err := a.kernel.Containers()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list, func(c enforce.ContainerState) bool { return c.ID == key && c.Started }), nil
}
