package move

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
)

// back takes a move back: the source serves as before, and what the move made on the target is
// gone. It goes on when ctx has ended, for a while: an interrupt is a reason to go back.
//
// It returns a [*BackError] with cause once it is done, and a [*StuckError] where it could not
// be. A source with data is started only when the copy is known not to run.
func (r *run) back(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.j.backTime())
	defer cancel()
	failedAt := r.j.Step
	r.j.Phase, r.j.Error = Back, cut(cause.Error())
	r.mark()
	r.j.note(r.o.Now(), "goes back: "+cause.Error())
	if err := r.save(); err != nil {
		return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Err: errors.Join(r.serveMeanwhile(ctx, err), cause)}
	}
	r.o.At("back/begin")
	if err := r.copyRan(ctx); err != nil {
		return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Err: errors.Join(err, cause)}
	}
	switch there, err := r.sources(ctx); {
	case err == nil && len(there) < len(r.j.members()):
		return r.withoutSource(ctx, failedAt, there)
	case err != nil:
		return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Err: errors.Join(err, cause)}
	}
	order := []func(context.Context) error{r.restoreSources, r.removeTarget}
	if r.j.Stateful && r.j.copyStarted() {
		order = []func(context.Context) error{r.removeTarget, r.restoreSources}
	}
	order = append(order, r.cleanTarget, r.cleanSource, r.release)
	if r.j.TargetGone && r.silent {
		order = []func(context.Context) error{r.restoreSources, r.leaveTarget, r.cleanSource, r.releaseSources}
	}
	if err := r.endBack(ctx, failedAt, RolledBack, "taken back", order); err != nil {
		return err
	}
	r.o.At("back/end")
	return &BackError{ID: r.j.ID, Step: failedAt, Err: cause}
}

// endBack does what is left to do, and ends the move.
func (r *run) endBack(ctx context.Context, failedAt Step, phase Phase, text string, todo []func(context.Context) error) error {
	for _, do := range todo {
		if err := do(ctx); err != nil {
			r.j.note(r.o.Now(), "stuck: "+err.Error())
			_ = r.j.write(r.o.Dir) // the phase is there already
			serves := phase == RolledBack && !r.j.sourceStopped() && !r.j.HandedOver
			return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Serves: serves, Lost: r.silent, Err: err}
		}
		r.o.At("back/step")
	}
	r.j.Phase, r.j.Ended = phase, r.o.Now()
	r.j.note(r.j.Ended, text)
	if err := r.save(); err != nil {
		return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Err: err}
	}
	return nil
}

var errSourceGone = errors.New("somebody has removed the source")

// sources returns those that move of which the source is there.
func (r *run) sources(ctx context.Context) (there []*Member, err error) {
	err = r.each(func(m *Member) error {
		_, err := r.from.Container(ctx, m.Container)
		switch {
		case err == nil:
			there = append(there, m)
		case !errors.Is(err, engine.ErrNotFound):
			return fmt.Errorf("source: %w", err)
		}
		return nil
	})
	return there, err
}

// withoutSource ends a move whose source somebody has removed, or of a group at least one. Then the copy is the last of its
// container: one that runs takes over, and one that does not is left for somebody to decide on, unless it never ran and the
// source did until it was removed. A group takes over if all its copies run. If none has ever run it goes back to the sources that
// are there, whatever becomes of the copy of the one that is not.
func (r *run) withoutSource(ctx context.Context, failedAt Step, there []*Member) error {
	type todo = []func(context.Context) error
	stuck := func(err error) error {
		return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Lost: r.silent, Err: fmt.Errorf("%w%w", errSourceGone, err)}
	}
	restore := func(ctx context.Context) error { return r.restore(ctx, there) }
	if r.j.TargetGone && r.silent {
		if err := r.endBack(ctx, failedAt, RolledBack, errSourceGone.Error()+", and the target is gone", todo{restore, r.leaveTarget, r.cleanSource, r.releaseSources}); err != nil {
			return err
		}
		return &GoneError{ID: r.j.ID, Step: failedAt, Target: true, Others: len(there) > 0}
	}
	gone := slices.DeleteFunc(r.j.members(), func(m *Member) bool { return slices.Contains(there, m) })
	serve := len(there) > 0 && !r.j.copyStarted() // nothing is lost with copies that have never run
	if serve {
		if err := restore(ctx); err != nil {
			return stuck(fmt.Errorf(", and the others do not all serve again: %w; fix: what is in the way, or docker rm here those that do not", err))
		}
	}
	all, last, err := r.copiesRun(ctx, gone)
	switch {
	case err != nil:
		return stuck(fmt.Errorf("; %w", err))
	case all:
		if err := r.inTurn(gone, func(m *Member) error { return r.noSuccessor(ctx, m) }); err != nil {
			return stuck(fmt.Errorf(", but the copy does not take over: %w", err))
		}
		leave := func(ctx context.Context) error { return r.leaveSources(ctx, there) }
		do := todo{r.takeOver, leave, r.cleanTargetHelpers, r.cleanSource, r.release}
		if r.j.Stateful { // whatever runs beside the copies would write too
			do = todo{leave, r.takeOver, r.cleanTargetHelpers, r.cleanSource, r.release}
		}
		if err := r.endBack(ctx, failedAt, Finished, errSourceGone.Error()+": the copy has taken over", do); err != nil {
			return err
		}
	case last != "" && serve:
		return stuck(fmt.Errorf(", the others serve again, and the copy %q on the target, which has never run, is the last of its container; fix: docker rm it there, once it may be lost", last))
	case last != "" && len(r.j.With) > 0:
		return stuck(fmt.Errorf(", not all copies of the group run on the target, and %q there is the last of its container or has run and written; fix: docker restart %s there, in this order, or docker rm those that may be lost", last, strings.ReplaceAll(r.j.Names(), ",", "")))
	case last != "":
		return stuck(fmt.Errorf(", and its copy %q on the target, which does not run, is the last of it; fix: docker start or docker rm it there", last))
	default:
		if err := r.endBack(ctx, failedAt, RolledBack, errSourceGone.Error()+", and no copy has its place", todo{r.removeTarget, restore, r.cleanTarget, r.cleanSource, r.release}); err != nil {
			return err
		}
	}
	return &GoneError{ID: r.j.ID, Step: failedAt, Copy: all, Others: !all && len(there) > 0}
}

// copiesRun reports whether all copies run, none cut off from another, and names one that must not be removed. It is the last of its
// container, whose source is gone, and has run, or the source did not run any more when it was removed; or it has run and written.
func (r *run) copiesRun(ctx context.Context, gone []*Member) (all bool, last string, err error) {
	all = true
	var before []*recreate.Container
	err = r.each(func(m *Member) error {
		id, err := r.findTarget(ctx, m)
		if err != nil || id == "" {
			all = false
			return err
		}
		c, err := r.to.Container(ctx, id)
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		m.Target = id
		all = all && c.State.Running && !cutOff(c, before)
		before = append(before, c)
		if slices.Contains(gone, m) && (m.SourceStopped || started(c)) || r.j.Stateful && started(c) {
			last = c.ShortName()
		}
		return nil
	})
	return all, last, err
}

// leaveSources has the sources that are there rest, stopped: the copies take over, and those of the group that are gone cannot
// be brought back.
func (r *run) leaveSources(ctx context.Context, there []*Member) error {
	slices.Reverse(there)
	return r.inTurn(there, func(m *Member) error {
		c, err := r.from.Container(ctx, m.Container)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if r.j.Stateful {
			if err := r.sourceRests(ctx, m); err != nil {
				return fmt.Errorf("%w; fix: docker rm -f %s here, with what it has written since, and the copies take over", err, c.ShortName())
			}
		}
		if c.State.Running {
			m.SourceStopped = true
			if err := r.save(); err != nil {
				return err
			}
			if err := errors.Join(r.from.SetRestart(ctx, m.Container, noRestart), r.from.Stop(ctx, m.Container, stopSeconds(c))); err != nil {
				return fmt.Errorf("source: %w", err)
			}
		}
		r.leave("source: container " + c.ShortName() + ", stopped: its copy has taken over with the group")
		return nil
	})
}

// noSuccessor fails if the source was not only removed but made again, as compose does: then that one
// serves, and the copy would be a second.
func (r *run) noSuccessor(ctx context.Context, m *Member) error {
	c, err := r.from.Container(ctx, m.Name)
	switch {
	case errors.Is(err, engine.ErrNotFound):
	case err != nil:
		return fmt.Errorf("source: %w", err)
	case c.ShortName() == m.Name: // and not one whose ID begins like that
		return fmt.Errorf("source: another container called %q has its place; fix: remove that one, or the copy on the target", m.Name)
	}
	if !r.j.Stateful {
		return nil
	}
	if err := r.alone(ctx); err != nil {
		return fmt.Errorf("%w; fix: remove that one, or the copy on the target", err)
	}
	return nil
}

// takeOver gives the copies the traffic and the restart policies, as the rest of the move would have.
func (r *run) takeOver(ctx context.Context) error {
	if err := r.handOver(ctx); err != nil {
		return err
	}
	return r.each(func(m *Member) error {
		if err := r.to.SetRestart(ctx, m.Target, m.Restart); err != nil {
			return fmt.Errorf("target: %w", err)
		}
		return nil
	})
}

func (r *run) cleanTargetHelpers(ctx context.Context) error {
	return r.removeHelpers(ctx, r.to, "target")
}

// lostAfter is how long a target is waited for while the source waits to serve again.
const lostAfter = 20 * time.Second

// copyRan goes by the target, and not by the journal alone: somebody else may have started the copy,
// and has then written to its volumes. A target that does not answer is asked later, before anything
// there is removed.
func (r *run) copyRan(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, lostAfter)
	defer cancel()
	ran := false
	for _, m := range r.j.members() {
		if m.TargetStarted || m.Target == "" {
			continue
		}
		if c, err := r.to.Container(short, m.Target); err == nil && started(c) {
			m.TargetStarted, ran = true, true
		}
	}
	if !ran {
		return nil
	}
	return r.save()
}

// started reports whether a container has ever run.
func started(c *recreate.Container) bool {
	at, err := time.Parse(time.RFC3339Nano, c.State.StartedAt)
	return c.State.StartedAt != "" && (err != nil || at.Year() > 1)
}

// restoreSources gives the sources their names, their restart policies and their traffic again.
func (r *run) restoreSources(ctx context.Context) error { return r.restore(ctx, r.j.members()) }

// restore does so with those sources that are there, each once those before it are healthy by their own checks, as far as that comes
// to be: it may need them.
func (r *run) restore(ctx context.Context, there []*Member) error {
	if len(there) == 0 {
		return nil
	}
	var before *Member
	err := r.tryEach(there, func(m *Member, failed recreate.Group) error {
		if before != nil && m.SourceStopped {
			r.giveTime(ctx, before)
		}
		err := r.serveAgain(ctx, m, failed)
		if err == nil {
			before = m
		}
		return err
	})
	if err != nil {
		return err
	}
	if r.j.HandedOver {
		if err := r.takeTraffic(ctx, there); err != nil {
			return err
		}
	}
	if err := r.sourcesRun(ctx, there); err != nil {
		return err
	}
	for _, m := range there {
		m.SourceStopped = false // whatever becomes of it from here on is not this move's
	}
	return r.save()
}

// giveTime waits until a source is healthy, if it has a health check.
func (r *run) giveTime(ctx context.Context, m *Member) {
	ctx, cancel := context.WithTimeout(ctx, defaultHealthy)
	defer cancel()
	check, err := r.checked(ctx, m)
	if err == nil && check {
		err = await(ctx, r.from, m.Container, true, &r.j.Settings, time.Now())
	}
	if err != nil {
		r.j.note(r.o.Now(), "the source "+m.Name+" is not waited for any longer: "+err.Error())
	}
}

// checked reports whether a source has a health check.
func (r *run) checked(ctx context.Context, m *Member) (bool, error) {
	c, err := r.from.Container(ctx, m.Container)
	if err != nil {
		return false, err
	}
	img, err := r.from.Image(ctx, c.Image)
	if err != nil {
		return false, err
	}
	return recreate.Of(c, img, r.from.Host()).Check, nil
}

// sourcesRun fails if one that was started again has ended, and names it: it is not as it was.
func (r *run) sourcesRun(ctx context.Context, there []*Member) error {
	var errs []error
	for _, m := range there {
		if !m.SourceStopped {
			continue
		}
		c, err := r.from.Container(ctx, m.Container)
		if err == nil && !c.State.Running {
			err = fmt.Errorf("%s has ended with status %d since it was started again: docker logs says why; if it may be lost: docker rm %s", m.Name, c.State.ExitCode, m.Name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("source: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (r *run) serveAgain(ctx context.Context, m *Member, failed recreate.Group) error {
	c, err := r.from.Container(ctx, m.Container)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if m.SourceStopped {
		// Another move may have taken it since: then it runs elsewhere.
		if name := c.ShortName(); name != m.Name && name != r.j.keptName(m) {
			return fmt.Errorf("source: it is called %q now, and may run elsewhere; if it does not: docker start %s", name, name)
		}
		if err := r.lease(ctx, m); err != nil {
			return err
		}
	}
	if c.ShortName() == r.j.keptName(m) {
		if err := r.from.Rename(ctx, m.Container, m.Name); err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
	if !m.SourceStopped {
		return nil
	}
	r.o.Progress(Event{Step: r.j.Step, Back: true, Text: "start the source " + m.Name + " again"})
	if m.StoppedAt == "" {
		// A stop may be under way still: one that is interrupted goes on in the engine, and
		// would end what is started now.
		if err := r.stopJoiners(ctx, r.from, sourceID, m); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if err := r.from.Stop(ctx, m.Container, stopSeconds(c)); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if c, err = r.from.Container(ctx, m.Container); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		m.StoppedAt = c.State.FinishedAt // the next try does not stop what this one starts
		if err := r.save(); err != nil {
			return err
		}
	}
	return r.startSource(ctx, m, failed)
}

// takeTraffic brings the sources their traffic again, once those are healthy that were stopped.
func (r *run) takeTraffic(ctx context.Context, there []*Member) error {
	began := time.Now()
	err := r.inTurn(there, func(m *Member) error {
		if !m.SourceStopped {
			return nil
		}
		check, err := r.checked(ctx, m)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if err := await(ctx, r.from, m.Container, check, &r.j.Settings, began); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.hook(ctx, handBack); err != nil {
		return err
	}
	r.j.HandedOver = false
	if err := r.save(); err != nil {
		return err
	}
	if r.j.Stateful {
		return nil
	}
	return r.drain(ctx) // of the copy, which still runs
}

// stopSeconds is how long a container has to stop.
func stopSeconds(c *recreate.Container) int {
	if t := c.Config.StopTimeout; t != nil {
		return *t
	}
	return 10 // the engine's default
}

// removeTarget stops and removes the containers that this move made on the target.
func (r *run) removeTarget(ctx context.Context) error {
	list, err := r.ours(ctx, r.to)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	err = r.each(func(m *Member) error {
		on, err := r.movedOn(ctx, m)
		if on {
			list = slices.DeleteFunc(list, func(c container.Summary) bool { return c.ID == m.Target })
		}
		return err
	})
	if err != nil {
		return err
	}
	started := func(c container.Summary) int { // in which order; helpers are in none
		return slices.IndexFunc(r.j.members(), func(m *Member) bool { return c.Labels[recreate.LabelOrigin] == m.Container })
	}
	slices.SortStableFunc(list, func(a, b container.Summary) int { return started(b) - started(a) })
	r.o.Progress(Event{Step: r.j.Step, Back: true, Text: "remove the copy from the target"})
	for i := range list {
		id := list[i].ID
		if list[i].Labels[recreate.LabelHelper] == "" {
			c, err := r.to.Container(ctx, id)
			if errors.Is(err, engine.ErrNotFound) {
				continue
			}
			if err != nil {
				return fmt.Errorf("target: %w", err)
			}
			if err := r.to.SetRestart(ctx, id, noRestart); err != nil {
				return fmt.Errorf("target: %w", err)
			}
			if err := r.to.Stop(ctx, id, stopSeconds(c)); err != nil && !errors.Is(err, engine.ErrNotFound) {
				return fmt.Errorf("target: %w", err)
			}
		}
		if err := r.to.Remove(ctx, id); err != nil {
			return fmt.Errorf("target: %w", err)
		}
	}
	return nil
}

// movedOn asks what an abort of a move that was done could not ask of a target that did not answer: whether the
// copy was moved on since. One that was is another move's to keep. While a source with data is stopped it stays so.
func (r *run) movedOn(ctx context.Context, m *Member) (bool, error) {
	if !r.j.CopyUnasked {
		return false, nil
	}
	if err := r.leaseCopy(ctx, m); err != nil {
		return false, fmt.Errorf("its copy is being moved on: %w", err)
	}
	if r.j.TargetGone {
		if _, err := r.to.Container(ctx, m.Target); errors.Is(err, engine.ErrNotFound) {
			return false, nil // the operator vouches for it
		}
	}
	err := r.copyIsThere(ctx, m)
	switch {
	case err == nil:
		return false, nil
	case !errors.Is(err, errMovedOn), r.j.Stateful && r.j.sourceStopped():
		return false, err
	}
	r.leave("target: the copy of " + m.Name + ", if it is there: it was moved on, so an instance may run elsewhere beside the source: remove it there, or move it back")
	return true, nil
}

// leaveTarget says what stays on a target that is gone.
func (r *run) leaveTarget(context.Context) error {
	for _, m := range r.j.members() {
		what := "target: container " + m.Name + ", with its restart policy: should that host ever come back, docker rm -f " + m.Name + " there before it has a network"
		if m.Target == "" {
			what = "target: whatever bears the label " + recreate.LabelMove + "=" + r.j.ID
		}
		r.leave(what)
	}
	if r.j.Stateful {
		r.leave("target: containers with the label " + recreate.LabelMove + "=" + r.j.ID + ", which reach its volumes and never started: docker rm them there")
	}
	for i := range r.j.Volumes {
		r.leave("target: volume " + r.j.Volumes[i].Name + ", with what the copy may have written")
	}
	return nil
}

// cleanTarget removes networks and volumes that this move made on the target. A network that
// others have joined stays, and so does a volume that the copy may have written to.
func (r *run) cleanTarget(ctx context.Context) error {
	for _, name := range r.j.Networks {
		n, err := r.to.Network(ctx, name)
		if errors.Is(err, engine.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		if n.Labels[recreate.LabelMove] != r.j.ID {
			continue
		}
		if len(n.Containers) > 0 {
			r.leave("target: network " + name + ", which others have joined")
			continue
		}
		if err := r.to.RemoveNetwork(ctx, n.ID); err != nil {
			return fmt.Errorf("target: %w", err)
		}
	}
	for i := range r.j.Volumes {
		name := r.j.Volumes[i].Name
		v, err := r.to.Volume(ctx, name)
		if errors.Is(err, engine.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		switch {
		case v.Labels[recreate.LabelMove] != r.j.ID:
		case r.j.sourceStopped(): // nobody knows whether the source's volumes were removed with it
			r.leave("target: volume " + name + ", a copy of the removed source's; if nothing needs that: docker volume rm there")
		case r.j.copyStarted():
			r.leave("target: volume " + name + ", to which the copy may have written; if nothing needs that: docker volume rm there")
		default:
			if err := r.to.RemoveVolume(ctx, name); err != nil {
				return fmt.Errorf("target: %w", err)
			}
		}
	}
	return nil
}

func (r *run) leave(what string) {
	if !slices.Contains(r.j.LeftBehind, what) { // by a try before
		r.j.LeftBehind = append(r.j.LeftBehind, what)
	}
}

// cleanSource removes the helpers that read volumes.
func (r *run) cleanSource(ctx context.Context) error { return r.removeHelpers(ctx, r.from, "source") }

func (r *run) removeHelpers(ctx context.Context, e *engine.Engine, side string) error {
	list, err := r.ours(ctx, e)
	if err != nil {
		return fmt.Errorf("%s: %w", side, err)
	}
	for i := range list {
		if list[i].Labels[recreate.LabelHelper] == "" {
			continue
		}
		if err := e.Remove(ctx, list[i].ID); err != nil {
			return fmt.Errorf("%s: %w", side, err)
		}
	}
	return nil
}
