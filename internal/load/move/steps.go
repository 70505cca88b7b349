package move

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
)

// forward does the steps from the journal's on. If one fails, the move is taken back, unless the
// target has taken over.
func (r *run) forward(ctx context.Context) error {
	steps := Steps(r.j.Stateful)
	for _, s := range steps[slices.Index(steps, r.j.Step):] {
		if err := r.step(ctx, s); err != nil {
			return r.failed(ctx, err)
		}
	}
	return r.commit()
}

func (r *run) step(ctx context.Context, s Step) error {
	r.j.Step = s
	r.mark()
	r.j.note(r.o.Now(), "begun")
	if err := r.save(); err != nil {
		return err
	}
	r.o.Progress(Event{Step: s, Text: s.text(r.j)})
	r.o.At(string(s) + "/begin")
	do := map[Step]func(context.Context) error{
		StepLease: r.takeSources, StepImage: r.bringImages, StepNetworks: r.makeNetworks, StepVolumes: r.makeVolumes, StepCreate: r.create,
		StepStopSource: r.stopSources, StepCopy: r.copyVolumes, StepStart: r.start, StepHealthy: r.healthy, StepHandOver: r.handOver,
		StepDrain: r.drain, StepKeep: r.keep, StepCommit: r.setRestart,
	}[s]
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	if err := do(ctx); err != nil {
		return err
	}
	// One writer: from the copy's start on the source has to rest. Without data it has to once it was stopped.
	err := r.each(func(m *Member) error {
		if r.j.Stateful && r.j.copyStarted() || !r.j.Stateful && m.StoppedAt != "" {
			return r.sourceRests(ctx, m)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.o.At(string(s) + "/end")
	return nil
}

// text says what a step does.
func (s Step) text(j *Journal) string {
	var kept []string
	switch s {
	case StepLease:
		return "take the lease on " + j.Names()
	case StepImage:
		return "bring the image"
	case StepNetworks:
		return "make its networks"
	case StepVolumes:
		return "make its volumes"
	case StepCreate:
		return "create it on the target, and compare"
	case StepStopSource:
		return "stop the source"
	case StepCopy:
		return "copy its volumes, and compare"
	case StepStart:
		return "start it on the target"
	case StepHealthy:
		return "wait until it is healthy there"
	case StepHandOver:
		return "hand over"
	case StepDrain:
		return fmt.Sprintf("let the source drain for %s", j.Settings.Drain)
	case StepKeep:
		for _, m := range j.members() {
			kept = append(kept, j.keptName(m))
		}
		return "keep the source as " + strings.Join(kept, ", ")
	}
	return "give the target its restart policy"
}

// failed takes a move back, or says why it stays where it is.
func (r *run) failed(ctx context.Context, err error) error {
	if errors.Is(err, errJournal) && r.j.Stateful {
		err = r.serveMeanwhile(ctx, err) // without data the copy serves
	}
	if errors.Is(err, errJournal) || r.j.noReturn() {
		r.j.Error = cut(err.Error())
		r.j.note(r.o.Now(), "stuck: "+err.Error())
		_ = r.j.write(r.o.Dir) // what failed is the message; the step is there already
		return &StuckError{ID: r.j.ID, Step: r.j.Step, Err: err}
	}
	return r.back(ctx, err)
}

// errJournal is for a journal that is no longer the truth: nothing is done without it.
var errJournal = errors.New("the journal cannot be written")

// serveMeanwhile starts a stopped source again though the journal cannot say so, as when the disk is full, if no
// copy with data may run: whoever carries the move on finds it running, and goes back.
func (r *run) serveMeanwhile(ctx context.Context, cause error) error {
	if !r.j.sourceStopped() || r.j.Stateful && r.j.copyStarted() {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if !r.j.Stateful && r.j.HandedOver && r.copyThere(ctx) {
		return cause
	}
	err := r.tryEach(r.j.members(), func(m *Member, failed recreate.Group) error {
		if !m.SourceStopped {
			return nil
		}
		return r.startSource(ctx, m, failed)
	})
	if err != nil {
		return errors.Join(cause, fmt.Errorf("source: it is stopped: %w", err))
	}
	return fmt.Errorf("%w; the source was started again meanwhile", cause)
}

// startSource starts a source again, if those serve whose namespaces it has, and gives it its restart policy.
func (r *run) startSource(ctx context.Context, m *Member, failed recreate.Group) error {
	c, err := r.from.Container(ctx, m.Container)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	for _, ref := range c.Joined() {
		if owner, ok := failed.Find(ref); ok {
			return fmt.Errorf("%s, whose namespace it has, does not serve", owner.Name)
		}
	}
	if !c.State.Running {
		if err := r.stopJoiners(ctx, r.from, sourceID, m); err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
	if err := errors.Join(r.from.Start(ctx, m.Container), r.from.SetRestart(ctx, m.Container, m.Restart)); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	return nil
}

// copyThere reports whether the copy serves, as far as its engine says.
func (r *run) copyThere(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, lostAfter)
	defer cancel()
	return r.each(func(m *Member) error { return r.copyServes(ctx, m) }) == nil
}

// save writes the journal between the deeds of a step.
func (r *run) save() error {
	if err := r.j.write(r.o.Dir); err != nil {
		return fmt.Errorf("%w: %w", errJournal, err)
	}
	return nil
}

func leaseName(container string) string { return "belay-move-lease-" + container[:12] }

// lease takes the container for this move, for movers on other machines too: engines make a
// volume once, and tell all others by its labels whose it is.
func (r *run) lease(ctx context.Context, m *Member) error {
	if err := r.leaseOf(ctx, r.from, m.Container); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	return nil
}

// leaseCopy takes the copy too: from its start on another mover could move it on, to where this one
// would not look for it.
func (r *run) leaseCopy(ctx context.Context, m *Member) error {
	if err := r.leaseOf(ctx, r.to, m.Target); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	return nil
}

func (r *run) leaseOf(ctx context.Context, e *engine.Engine, container string) error {
	name := leaseName(container)
	v, err := e.CreateVolume(ctx, volume.CreateRequest{Name: name, Driver: "local", Labels: map[string]string{recreate.LabelMove: r.j.ID}})
	if err != nil {
		return err
	}
	if by := v.Labels[recreate.LabelMove]; by != r.j.ID {
		return fmt.Errorf("%w, by move %s; belay move list, or if no machine knows of it: docker volume rm %s", ErrLeased, by, name)
	}
	return nil
}

// takeSources takes the leases, and looks at the sources again: a move that had one until now may
// have left its source stopped, and its copy runs.
func (r *run) takeSources(ctx context.Context) error {
	err := r.each(func(m *Member) error {
		if err := r.lease(ctx, m); err != nil {
			return err
		}
		c, err := r.from.Container(ctx, m.Container)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if !c.State.Running || c.State.Paused || c.ShortName() != m.Name {
			return fmt.Errorf("source: it is %q, %s, and may run elsewhere by now: %w", c.ShortName(), c.State.Status, errChanged)
		}
		m.Restart = c.HostConfig.RestartPolicy // that of a source which another move was stopping is not its own
		return nil
	})
	if err != nil {
		return err
	}
	return r.save()
}

func (r *run) bringImages(ctx context.Context) error {
	return r.each(func(m *Member) error { return r.bringImage(ctx, m.plan) })
}

// errChanged is for a source that is not what it was when the move was planned.
var errChanged = errors.New("it has changed since it was looked at")

// unchanged fails if there is a reason against the move that was none when it was planned: others that
// need the source, files in its own layer.
func (r *run) unchanged(ctx context.Context, m *Member) error {
	c, err := r.from.Container(ctx, m.Container)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	why, err := r.others(ctx, c, r.j.Settings, r.j.group())
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if len(why) > 0 {
		return fmt.Errorf("source: %w: %s", errChanged, why[0])
	}
	return r.keptLayer(ctx, c)
}

func (r *run) keptLayer(ctx context.Context, c *recreate.Container) error {
	if r.j.Settings.LoseLayer {
		return nil
	}
	why, err := r.layer(ctx, c)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if len(why) > 0 {
		return fmt.Errorf("source: %w: %s", errChanged, why[0])
	}
	return nil
}

// alone fails if a container that does not move has one of the volumes: it may write while they are copied. It is
// one request, since nothing serves meanwhile.
func (r *run) alone(ctx context.Context) error {
	list, err := r.from.Containers(ctx, nil)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	for i := range list {
		c := &list[i]
		if r.j.moves(c.ID) || c.Labels[recreate.LabelMove] == r.j.ID {
			continue
		}
		for _, m := range c.Mounts {
			if m.Name != "" && slices.ContainsFunc(r.j.Volumes, func(v JournalVolume) bool { return v.Name == m.Name }) {
				return fmt.Errorf("source: %w: %q has its volume %q too", errChanged, strings.Join(c.Names, " "), m.Name)
			}
		}
	}
	return nil
}

// release gives the leases back that are ours.
func (r *run) release(ctx context.Context) error {
	if err := r.releaseCopies(ctx); err != nil {
		return err
	}
	return r.releaseSources(ctx)
}

func (r *run) releaseCopies(ctx context.Context) error {
	return r.each(func(m *Member) error {
		if err := r.releaseOf(ctx, r.to, m.Target); err != nil {
			return fmt.Errorf("target: %w", err)
		}
		return nil
	})
}

func (r *run) releaseSources(ctx context.Context) error {
	return r.each(func(m *Member) error {
		if err := r.releaseOf(ctx, r.from, m.Container); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		return nil
	})
}

func (r *run) releaseOf(ctx context.Context, e *engine.Engine, container string) error {
	if container == "" {
		return nil
	}
	v, err := e.Volume(ctx, leaseName(container))
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.Labels[recreate.LabelMove] != r.j.ID {
		return nil
	}
	return e.RemoveVolume(ctx, leaseName(container))
}

// makeNetworks makes those that the target lacks.
func (r *run) makeNetworks(ctx context.Context) error {
	var names []string
	for _, m := range r.j.members() {
		names = append(names, m.plan.Networks...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		reason, err := r.networkFits(ctx, name)
		if err != nil {
			return err
		}
		if reason != "" {
			return errors.New("the target: " + reason)
		}
		switch _, err := r.to.Network(ctx, name); {
		case err == nil:
			continue
		case !errors.Is(err, engine.ErrNotFound):
			return fmt.Errorf("target: %w", err)
		}
		src, err := r.from.Network(ctx, name)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if !slices.Contains(r.j.Networks, name) {
			r.j.Networks = append(r.j.Networks, name)
		}
		if err := r.save(); err != nil {
			return err
		}
		if _, err := r.to.CreateNetwork(ctx, r.networkRequest(src)); err != nil {
			return fmt.Errorf("target: %w; fix: docker network create %s there, with addresses that are free", err, name)
		}
	}
	return nil
}

func (r *run) networkRequest(src *network.Inspect) network.CreateRequest {
	labels, _ := recreate.OwnLabels(src.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[recreate.LabelMove] = r.j.ID
	req := network.CreateRequest{
		Name: src.Name, Driver: src.Driver, Internal: src.Internal, Attachable: src.Attachable, Options: recreate.NetworkOptions(src.Options), Labels: labels,
		EnableIPv6: &src.EnableIPv6, IPAM: &network.IPAM{Driver: src.IPAM.Driver, Config: src.IPAM.Config},
	}
	if name := src.Options["com.docker.network.bridge.name"]; name != "" {
		req.Options["com.docker.network.bridge.name"] = name
	}
	if r.from.API >= 47 && r.to.API >= 47 { // older ones do not say, and have it always
		req.EnableIPv4 = &src.EnableIPv4
	}
	return req
}

func (r *run) makeVolumes(ctx context.Context) error {
	for i := range r.j.Volumes {
		name := r.j.Volumes[i].Name
		src, err := r.from.Volume(ctx, name)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		labels, _ := recreate.OwnLabels(src.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels[recreate.LabelMove] = r.j.ID
		v, err := r.to.CreateVolume(ctx, volume.CreateRequest{Name: name, Driver: "local", Labels: labels})
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		if v.Labels[recreate.LabelMove] != r.j.ID {
			return fmt.Errorf("the target has a volume called %q already", name)
		}
		if _, _, err := r.helpers(ctx, name); err != nil { // whoever refuses them does so while the source serves
			return err
		}
	}
	return nil
}

// create makes the containers on the target, and compares what the target made of them.
func (r *run) create(ctx context.Context) error {
	// Those that are there were made before this process began, they may be without their networks. They
	// have never started.
	err := r.eachBack(func(m *Member) error {
		old, err := r.findTarget(ctx, m)
		if err != nil || old == "" {
			return err
		}
		if err := r.to.Remove(ctx, old); err != nil {
			return fmt.Errorf("target: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.each(func(m *Member) error { return r.createOne(ctx, m) })
}

func (r *run) createOne(ctx context.Context, m *Member) error {
	ref, err := r.imageRef(ctx, m.plan)
	if err != nil {
		return err
	}
	recipe, err := m.plan.Recipe.On(r.j.group(), r.j.copyOf)
	if err != nil {
		return err
	}
	made, err := r.to.Create(ctx, m.Name, r.request(recipe, ref), recipe.Primary())
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	r.o.At(string(StepCreate) + "/made")
	m.Target = made
	if err := r.save(); err != nil {
		return err
	}
	c, err := r.to.Container(ctx, made)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	img, err := r.to.Image(ctx, c.Image)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if !recreate.SameImage(m.plan.Image, img) {
		return errors.New("target: the container has another image there")
	}
	got := recreate.Of(c, img, r.to.Host())
	if d := recreate.Differences(recipe, got); len(d) > 0 {
		return fmt.Errorf("target: it would not be the same container there, the engine takes %s otherwise", strings.Join(d, ", "))
	}
	return bound(recipe, got)
}

// request returns the request that makes a container on the target, from an image that the
// target calls ref.
func (r *run) request(recipe *recreate.Recipe, ref string) container.CreateRequest {
	req := recipe.Request
	cfg := *req.Config
	cfg.Image = ref
	cfg.Labels = map[string]string{recreate.LabelMove: r.j.ID, recreate.LabelOrigin: recipe.ID}
	maps.Copy(cfg.Labels, req.Labels)
	cfg.Labels[recreate.LabelHelper] = "" // whatever the image says: it is none
	req.Config = &cfg
	return req
}

// bindingLabel is what the gate writes on a container to which it has bound kernel rules.
const bindingLabel = recreate.GateLabels + "runtime"

// bound holds a container to the kernel rules that the source's gate has bound to it: only the
// target's gate can bind them there.
func bound(want, got *recreate.Recipe) error {
	none := func(s string) string {
		if s == "none" {
			return "" // the gate's word for nothing
		}
		return s
	}
	if none(want.Bound[bindingLabel]) == none(got.Bound[bindingLabel]) {
		return nil
	}
	return fmt.Errorf("target: the gate here has bound RuntimePolicies to it (%q), and there it has %q; fix: name the target's gate in --to, with the same policies",
		want.Bound[bindingLabel], got.Bound[bindingLabel])
}

// findTarget returns the ID of the copy that this move has made on the target, or "".
func (r *run) findTarget(ctx context.Context, m *Member) (string, error) {
	list, err := r.ours(ctx, r.to)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	for i := range list {
		if list[i].Labels[recreate.LabelHelper] == "" && list[i].Labels[recreate.LabelOrigin] == m.Container {
			return list[i].ID, nil
		}
	}
	return "", nil
}

// ours returns the containers that this move has made on an engine.
func (r *run) ours(ctx context.Context, e *engine.Engine) ([]container.Summary, error) {
	list, err := e.Containers(ctx, map[string][]string{"label": {recreate.LabelMove + "=" + r.j.ID}})
	// Whatever the engine makes of filters: what is not ours is not touched.
	return slices.DeleteFunc(list, func(c container.Summary) bool { return c.Labels[recreate.LabelMove] != r.j.ID }), err
}

// stopSources stops the sources for good: one has no restart policy before it stops. None stops while anything speaks against
// the move of another.
func (r *run) stopSources(ctx context.Context) error {
	err := r.each(func(m *Member) error {
		if err := r.lease(ctx, m); err != nil {
			return err
		}
		if err := r.unchanged(ctx, m); err != nil {
			return err
		}
		if !r.j.Stateful {
			return r.copyServes(ctx, m)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.eachBack(func(m *Member) error { return r.stopSource(ctx, m) }); err != nil {
		return err
	}
	// They may have written as they stopped.
	return errors.Join(r.alone(ctx), r.each(func(m *Member) error {
		if r.j.Settings.LoseLayer {
			return nil
		}
		c, err := r.from.Container(ctx, m.Container)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		return r.keptLayer(ctx, c)
	}))
}

func (r *run) stopSource(ctx context.Context, m *Member) error {
	was := m.SourceStopped
	m.SourceStopped = true
	if err := r.save(); err != nil {
		m.SourceStopped = was
		return err
	}
	if err := r.from.SetRestart(ctx, m.Container, container.RestartPolicy{Name: container.RestartPolicyDisabled}); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	r.o.At(string(StepStopSource) + "/policy")
	if err := r.from.Stop(ctx, m.Container, m.plan.Recipe.StopSeconds); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	c, err := r.from.Container(ctx, m.Container)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if c.State.Running || c.State.Restarting {
		return errors.New("source: it runs on after it was stopped")
	}
	m.StoppedAt = c.State.FinishedAt
	return r.save()
}

// copyServes fails unless the copy runs: a target that was lost since the hand-over is no reason to stop the
// source.
func (r *run) copyServes(ctx context.Context, m *Member) error {
	c, err := r.to.Container(ctx, m.Target)
	switch {
	case err != nil:
		return fmt.Errorf("target: %w", err)
	case !c.State.Running:
		return fmt.Errorf("target: it has ended with status %d", c.State.ExitCode)
	case c.State.Health != nil && c.State.Health.Status == container.Unhealthy:
		return errors.New("target: its health check fails")
	}
	return nil
}

func (r *run) sourcesRest(ctx context.Context) error {
	return r.each(func(m *Member) error { return r.sourceRests(ctx, m) })
}

// sourceRests fails if the source runs, or has run since it was stopped.
func (r *run) sourceRests(ctx context.Context, m *Member) error {
	c, err := r.from.Container(ctx, m.Container)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if c.State.Running || c.State.Restarting || c.State.Paused || c.State.FinishedAt != m.StoppedAt {
		return errors.New("source: somebody has started it again since it was stopped")
	}
	return nil
}

// start starts the copies, each once those before it are healthy by their own checks: it may need them.
func (r *run) start(ctx context.Context) error {
	var before *Member
	return r.each(func(m *Member) error {
		if before != nil && before.plan.Recipe.Check {
			if err := await(ctx, r.to, before.Target, true, &r.j.Settings, time.Now()); err != nil {
				return fmt.Errorf("target: %s, which starts before it: %w", before.Name, err)
			}
		}
		before = m
		return r.startCopy(ctx, m)
	})
}

// startCopy starts a copy. If there is data it starts only while all sources rest.
func (r *run) startCopy(ctx context.Context, m *Member) error {
	if err := r.lease(ctx, m); err != nil {
		return err
	}
	if err := r.leaseCopy(ctx, m); err != nil {
		return err
	}
	if r.j.Stateful {
		if err := r.sourcesRest(ctx); err != nil {
			return err
		}
	}
	was := m.TargetStarted
	m.TargetStarted = true
	if err := r.save(); err != nil {
		m.TargetStarted = was
		return err
	}
	c, err := r.to.Container(ctx, m.Target)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if !c.State.Running {
		if err := r.stopJoiners(ctx, r.to, copyID, m); err != nil {
			return fmt.Errorf("target: %w", err)
		}
	}
	if err := r.to.Start(ctx, m.Target); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	return nil
}

// healthy waits until the copies are healthy by their own checks, or have run for a while.
func (r *run) healthy(ctx context.Context) error {
	began := time.Now()
	err := r.each(func(m *Member) error {
		if err := await(ctx, r.to, m.Target, m.plan.Recipe.Check, &r.j.Settings, began); err != nil {
			return fmt.Errorf("target: %w", err)
		}
		return nil
	})
	if err != nil || len(r.j.With) == 0 {
		return err
	}
	return r.each(func(m *Member) error { return r.copyServes(ctx, m) }) // one may have ended while another was waited for
}

// await waits until a container that has been started at began is healthy.
func await(ctx context.Context, e *engine.Engine, id string, check bool, s *Settings, began time.Time) error {
	limit, settle := s.Healthy, s.Settle
	if limit == 0 {
		limit = defaultHealthy
	}
	if settle == 0 {
		settle = defaultSettle
	}
	for {
		c, err := e.Container(ctx, id)
		if err != nil {
			return err
		}
		switch st := c.State; {
		case !st.Running:
			return fmt.Errorf("it has ended with status %d: docker logs says why", st.ExitCode)
		case st.Health != nil && st.Health.Status == container.Unhealthy:
			return errors.New("its health check fails")
		case check && st.Health != nil && st.Health.Status == container.Healthy, !check && time.Since(began) >= settle:
			return nil
		}
		waited := time.Since(began)
		if waited >= max(limit, settle) {
			return fmt.Errorf("it is not healthy after %s", limit)
		}
		if err := pause(ctx, nextLook(check, waited, settle)); err != nil {
			return err
		}
	}
}

// nextLook returns how long to wait before a copy is looked at again: no longer than it has to run, if it only has to run.
func nextLook(check bool, waited, settle time.Duration) time.Duration {
	const every = 200 * time.Millisecond
	if check {
		return every
	}
	return min(every, max(0, settle-waited))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("interrupted: %w", ctx.Err())
	case <-t.C:
		return nil
	}
}

// drain leaves the source to those whom it still serves.
func (r *run) drain(ctx context.Context) error { return pause(ctx, r.j.Settings.Drain) }

// keep gives the stopped sources names that tell what they are, so that their names are free. What reached their volumes goes
// now and no sooner: until the copies serve, each request is time in which nobody does.
func (r *run) keep(ctx context.Context) error {
	err := r.each(func(m *Member) error {
		c, err := r.from.Container(ctx, m.Container)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if c.ShortName() == r.j.keptName(m) {
			return nil
		}
		if err := r.from.Rename(ctx, m.Container, r.j.keptName(m)); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		return nil
	})
	return err
}

// setRestart gives the copies the restart policies that the sources had, if they still run. Only then goes what reached their
// volumes: an engine that does not let it go keeps no copy from its policy.
func (r *run) setRestart(ctx context.Context) error {
	if err := r.each(func(m *Member) error { return r.setRestartOf(ctx, m) }); err != nil {
		return err
	}
	if r.j.Stateful {
		if err := errors.Join(r.cleanSource(ctx), r.cleanTargetHelpers(ctx)); err != nil {
			return err
		}
	}
	return r.release(ctx)
}

func (r *run) setRestartOf(ctx context.Context, m *Member) error {
	c, err := r.to.Container(ctx, m.Target)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if c.ShortName() != m.Name && !c.State.Running {
		return nil // it has been moved on since the leases were given back
	}
	if !c.State.Running {
		if !r.j.Stateful {
			return fmt.Errorf("target: it has ended with status %d", c.State.ExitCode)
		}
		if err := r.startCopy(ctx, m); err != nil {
			return err
		}
	}
	if err := r.to.SetRestart(ctx, m.Target, m.Restart); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	return nil
}

// commit ends a move: from here on its source is only kept.
func (r *run) commit() error {
	now := r.o.Now()
	r.j.Phase, r.j.Ended, r.j.Error, r.j.KeepUntil = Kept, now, "", now.Add(r.j.Settings.Keep)
	r.j.note(now, "moved")
	if err := r.save(); err != nil {
		return &StuckError{ID: r.j.ID, Step: r.j.Step, Err: err}
	}
	r.o.At("kept")
	if r.j.Settings.Keep > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.j.backTime())
	defer cancel()
	return r.finish(ctx)
}

// finish removes the sources of a move that is done, if they rest. Their volumes stay.
func (r *run) finish(ctx context.Context) error {
	var kept []*Member
	err := r.eachBack(func(m *Member) error {
		c, err := r.from.Container(ctx, m.Container)
		switch {
		case errors.Is(err, engine.ErrNotFound):
			return nil
		case err != nil:
			return fmt.Errorf("source: %w", err)
		case c.State.Running || c.ShortName() != r.j.keptName(m):
			return fmt.Errorf("source: %q is not removed: it runs or has another name than this move gave it", c.ShortName())
		}
		kept = append(kept, m)
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range kept {
		if err := r.from.Remove(ctx, m.Container); err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
	_ = r.releaseCopies(ctx) // of an abort that could not write its journal; the target need not answer
	for _, v := range r.j.Volumes {
		r.leave("source: volume " + v.Name)
	}
	r.j.Phase = Finished
	r.j.note(r.o.Now(), "the source is removed")
	return r.save()
}
