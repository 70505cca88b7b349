package load

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
)

// sampleContainers reads what every container has, after a look at which there are.
func (w *Watcher) sampleContainers(now time.Time) {
	w.listed = now
	err := w.refresh(now)
	failed := 0
	for _, c := range w.list {
		if serr := c.sample(w.at(now), w.buf[:]); serr != nil && !c.removed(&w.h) {
			failed++
			err = cmp.Or(err, serr)
		}
	}
	if failed > 0 {
		w.o.Health.Counter("load_unreadable").Add(uint64(failed)) //nolint:gosec // a count
		err = fmt.Errorf("%d of %d containers: %w", failed, len(w.list), err)
	}
	w.listErr = err
	if err != nil && failed == 0 {
		w.o.Health.Counter("load_unreadable").Add(1)
	}
	event := w.listing.step(now, rule{percent: 100, coolDown: w.policies[0].Spec.CoolDown}, 0, err)
	if event == "" {
		return
	}
	for _, p := range w.policies {
		a := &Alert{Event: event, Policy: p.Name, Revision: p.Revision, Cap: "containers", Time: now, Since: w.listing.lastBlind}
		if err != nil {
			a.Since, a.Error = w.listing.failing, err.Error()
		}
		w.tell(a, p)
	}
}

// refresh makes the list be that of the containers that there are. One that is listed and
// has no cgroup is being made or removed; for a minute that is no error.
func (w *Watcher) refresh(now time.Time) error {
	if w.hErr != nil {
		return w.hErr
	}
	subjects, err := w.o.Containers()
	if err != nil {
		return fmt.Errorf("list the containers: %w", err)
	}
	there := make(map[ident.ContainerID]bool, len(subjects))
	missing := map[ident.ContainerID]uint64{}
	for i := range subjects {
		s := &subjects[i]
		there[s.ID] = true
		c := w.containers[s.ID]
		if c != nil && c.removed(&w.h) { // it was started anew, in another cgroup of its name
			w.forget(c, now)
			c = nil
		}
		if c == nil {
			missing[s.ID] = s.Cgroup
		} else {
			c.Subject = *s
		}
	}
	for id, c := range w.containers {
		if !there[id] {
			w.forget(c, now)
		}
	}
	err = w.findNew(subjects, missing, now)
	w.list = w.list[:0]
	for _, c := range w.containers {
		w.list = append(w.list, c)
		w.lookAt(c, now)
	}
	slices.SortFunc(w.list, func(a, b *container) int { return cmp.Compare(a.ID, b.ID) })
	return err
}

// findNew opens containers that were not watched yet. All cgroups are walked through where one is
// new, and each limitsEvery for those that were not found.
func (w *Watcher) findNew(subjects []Subject, missing map[ident.ContainerID]uint64, now time.Time) error {
	maps.DeleteFunc(w.lost, func(id ident.ContainerID, _ time.Time) bool { _, still := missing[id]; return !still })
	look := now.Sub(w.looked) >= limitsEvery
	for id := range missing {
		if _, known := w.lost[id]; !known {
			w.lost[id], look = now, true
		}
	}
	if len(missing) == 0 || !look {
		return w.lostError(now)
	}
	w.looked = now
	found, err := w.h.find(w.o.Scopes, missing)
	if err != nil {
		return err
	}
	for _, s := range subjects {
		cgroup := found[s.ID]
		if cgroup == "" {
			continue
		}
		once := w.open < numFiles
		c := newContainer(s, cgroup, &w.h, once)
		if !once {
			w.open -= numFiles
		} else {
			w.o.Health.Counter("load_files_not_kept").Add(1)
		}
		c.once = once
		w.containers[s.ID] = c
		delete(w.lost, s.ID)
	}
	return w.lostError(now)
}

// lostError tells of containers that have had no cgroup for so long that they are not watched.
func (w *Watcher) lostError(now time.Time) error {
	n := 0
	for _, since := range w.lost {
		if now.Sub(since) >= limitsEvery {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d containers have no cgroup below %s", n, w.h.base())
}

// lookAt reads of a container what changes rarely.
func (w *Watcher) lookAt(c *container, now time.Time) {
	c.openNet(&w.h, w.o.Proc, c.once)
	if now.Sub(c.limitsAt) >= limitsEvery {
		c.limitsAt = now
		c.readLimits(&w.h, w.buf[:])
	}
}

// forget closes a container, and says so of caps that it was told to be over.
func (w *Watcher) forget(c *container, now time.Time) {
	c.close()
	if !c.once {
		w.open += numFiles
	}
	delete(w.containers, c.ID)
	for k, m := range c.states {
		if m.told {
			s := c.Subject
			w.tell(&Alert{Event: EventDropped, Policy: k.policy, Cap: k.cap, Time: now, Since: m.since, Container: &s}, w.named(k.policy))
		}
	}
}

func (w *Watcher) named(name string) *policy.LoadPolicy {
	for _, p := range w.policies {
		if p.Name == name {
			return p
		}
	}
	return nil
}
