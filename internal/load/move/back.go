package move

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backTimeout)
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
	switch err := r.sourceThere(ctx); {
	case errors.Is(err, errSourceGone):
		return r.withoutSource(ctx, failedAt)
	case err != nil:
		return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Err: errors.Join(err, cause)}
	}
	order := []func(context.Context) error{r.restoreSource, r.removeTarget}
	if r.j.Stateful && r.j.TargetStarted {
		order = []func(context.Context) error{r.removeTarget, r.restoreSource}
	}
	order = append(order, r.cleanTarget, r.cleanSource, r.release)
	if r.j.TargetGone && r.silent {
		order = []func(context.Context) error{r.restoreSource, r.leaveTarget, r.cleanSource, r.releaseSource}
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
			serves := phase == RolledBack && !r.j.SourceStopped && !r.j.HandedOver
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

// sourceThere fails if there is no source to go back to.
func (r *run) sourceThere(ctx context.Context) error {
	_, err := r.from.Container(ctx, r.j.Container)
	if errors.Is(err, engine.ErrNotFound) {
		return errSourceGone
	}
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	return nil
}

// withoutSource ends a move whose source somebody has removed. Then the copy is the last of the container: one
// that runs takes over, and one that does not is left for somebody to decide on, unless it never ran and the
// source did until it was removed.
func (r *run) withoutSource(ctx context.Context, failedAt Step) error {
	if r.j.TargetGone && r.silent {
		if err := r.endBack(ctx, failedAt, RolledBack, errSourceGone.Error()+", and the target is gone", []func(context.Context) error{r.leaveTarget, r.cleanSource, r.releaseSource}); err != nil {
			return err
		}
		return &GoneError{ID: r.j.ID, Step: failedAt, Target: true}
	}
	id, err := r.findTarget(ctx)
	if err != nil {
		return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Lost: r.silent, Err: errors.Join(errSourceGone, err)}
	}
	var c *recreate.Container
	if id != "" {
		if c, err = r.to.Container(ctx, id); err != nil {
			return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Err: fmt.Errorf("%w; target: %w", errSourceGone, err)}
		}
	}
	gone := func() error { return &GoneError{ID: r.j.ID, Step: failedAt, Copy: c != nil && c.State.Running} }
	switch {
	case c != nil && c.State.Running:
		if err := r.noSuccessor(ctx); err != nil {
			return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Err: fmt.Errorf("%w, but the copy does not take over: %w", errSourceGone, err)}
		}
		r.j.Target = id
		if err := r.endBack(ctx, failedAt, Finished, errSourceGone.Error()+": the copy has taken over", []func(context.Context) error{r.takeOver, r.cleanTargetHelpers, r.cleanSource, r.release}); err != nil {
			return err
		}
		return gone()
	case c != nil && (r.j.SourceStopped || started(c)):
		return &StuckError{ID: r.j.ID, Step: failedAt, Back: true, Err: fmt.Errorf("%w, and its copy %q on the target, which does not run, is the last of it; fix: docker start or docker rm it there", errSourceGone, c.ShortName())}
	}
	if err := r.endBack(ctx, failedAt, RolledBack, errSourceGone.Error()+", and no copy has its place", []func(context.Context) error{r.removeTarget, r.cleanTarget, r.cleanSource, r.release}); err != nil {
		return err
	}
	return gone()
}

// noSuccessor fails if the source was not only removed but made again, as compose does: then that one
// serves, and the copy would be a second.
func (r *run) noSuccessor(ctx context.Context) error {
	c, err := r.from.Container(ctx, r.j.Name)
	switch {
	case errors.Is(err, engine.ErrNotFound):
	case err != nil:
		return fmt.Errorf("source: %w", err)
	case c.ShortName() == r.j.Name: // and not one whose ID begins like that
		return fmt.Errorf("source: another container called %q has its place; fix: remove that one, or the copy on the target", r.j.Name)
	}
	if !r.j.Stateful {
		return nil
	}
	if err := r.alone(ctx); err != nil {
		return fmt.Errorf("%w; fix: remove that one, or the copy on the target", err)
	}
	return nil
}

// takeOver gives the copy the traffic and the restart policy, as the rest of the move would have.
func (r *run) takeOver(ctx context.Context) error {
	if err := r.handOver(ctx); err != nil {
		return err
	}
	if err := r.to.SetRestart(ctx, r.j.Target, r.j.Restart); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	return nil
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
	if r.j.TargetStarted || r.j.Target == "" {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, lostAfter)
	defer cancel()
	c, err := r.to.Container(short, r.j.Target)
	if err != nil || !started(c) {
		return nil
	}
	r.j.TargetStarted = true
	return r.save()
}

// started reports whether a container has ever run.
func started(c *recreate.Container) bool {
	at, err := time.Parse(time.RFC3339Nano, c.State.StartedAt)
	return c.State.StartedAt != "" && (err != nil || at.Year() > 1)
}

// restoreSource gives the source its name, its restart policy and its traffic again.
func (r *run) restoreSource(ctx context.Context) error {
	if err := r.serveAgain(ctx); err != nil {
		return err
	}
	r.j.SourceStopped = false // whatever becomes of it from here on is not this move's
	return r.save()
}

func (r *run) serveAgain(ctx context.Context) error {
	c, err := r.from.Container(ctx, r.j.Container)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if r.j.SourceStopped {
		// Another move may have taken it since: then it runs elsewhere.
		if name := c.ShortName(); name != r.j.Name && name != r.j.keptName() {
			return fmt.Errorf("source: it is called %q now, and may run elsewhere; if it does not: docker start %s", name, name)
		}
		if err := r.lease(ctx); err != nil {
			return err
		}
	}
	if c.ShortName() == r.j.keptName() {
		if err := r.from.Rename(ctx, r.j.Container, r.j.Name); err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
	if r.j.SourceStopped {
		r.o.Progress(Event{Step: r.j.Step, Back: true, Text: "start the source again"})
		if r.j.StoppedAt == "" {
			// A stop may be under way still: one that is interrupted goes on in the engine, and
			// would end what is started now.
			if err := r.from.Stop(ctx, r.j.Container, stopSeconds(c)); err != nil {
				return fmt.Errorf("source: %w", err)
			}
			if c, err = r.from.Container(ctx, r.j.Container); err != nil {
				return fmt.Errorf("source: %w", err)
			}
			r.j.StoppedAt = c.State.FinishedAt // the next try does not stop what this one starts
			if err := r.save(); err != nil {
				return err
			}
		}
		if err := r.from.Start(ctx, r.j.Container); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if err := r.from.SetRestart(ctx, r.j.Container, r.j.Restart); err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
	if !r.j.HandedOver {
		return nil
	}
	if r.j.SourceStopped {
		img, err := r.from.Image(ctx, c.Image)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if err := await(ctx, r.from, r.j.Container, recreate.Of(c, img, r.from.Host()).Check, &r.j.Settings); err != nil {
			return fmt.Errorf("source: %w", err)
		}
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
	if on, err := r.movedOn(ctx); err != nil {
		return err
	} else if on {
		list = slices.DeleteFunc(list, func(c container.Summary) bool { return c.ID == r.j.Target })
	}
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
func (r *run) movedOn(ctx context.Context) (bool, error) {
	if !r.j.CopyUnasked {
		return false, nil
	}
	if err := r.leaseCopy(ctx); err != nil {
		return false, fmt.Errorf("its copy is being moved on: %w", err)
	}
	if r.j.TargetGone {
		if _, err := r.to.Container(ctx, r.j.Target); errors.Is(err, engine.ErrNotFound) {
			return false, nil // the operator vouches for it
		}
	}
	err := r.copyIsThere(ctx)
	switch {
	case err == nil:
		return false, nil
	case !errors.Is(err, errMovedOn), r.j.Stateful && r.j.SourceStopped:
		return false, err
	}
	r.leave("target: the copy, if it is there: it was moved on, so an instance may run elsewhere beside the source: remove it there, or move it back")
	return true, nil
}

// leaveTarget says what stays on a target that is gone.
func (r *run) leaveTarget(context.Context) error {
	what := "target: container " + r.j.Name + ", with its restart policy: should that host ever come back, docker rm -f " + r.j.Name + " there before it has a network"
	if r.j.Target == "" {
		what = "target: whatever bears the label " + recreate.LabelMove + "=" + r.j.ID
	}
	r.leave(what)
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
		case r.j.SourceStopped: // nobody knows whether the source's volumes were removed with it
			r.leave("target: volume " + name + ", a copy of the removed source's; if nothing needs that: docker volume rm there")
		case r.j.TargetStarted:
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
