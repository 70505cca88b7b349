package enforce

import (
	"fmt"
)

// overflow returns how often the map of cgroups was full, and how often it had been when
// every cgroup of a container was last found in it. While they differ, the kernel side
// looks for a container at the ancestors of each cgroup that is not in the map.
func (e *Enforcer) overflow() (times, mended uint64, err error) {
	g := e.maps["bl_globals"]
	if err := g.Lookup(uint32(kernelBlGlobalBL_G_OVERFLOW), &times); err != nil {
		return 0, 0, fmt.Errorf("read how often the cgroup map was full: %w", err)
	}
	if err := g.Lookup(uint32(kernelBlGlobalBL_G_MENDED), &mended); err != nil {
		return 0, 0, fmt.Errorf("read how often the cgroup map was full: %w", err)
	}
	return times, mended, nil
}

// Overflowed tells whether the kernel's map of cgroups has had no room for one of a
// container, so that each cgroup that is not in it costs a walk. The agent enters those that
// were missed when there is room again, at its start and every ten seconds.
func (e *Enforcer) Overflowed() (bool, error) {
	times, mended, err := e.overflow()
	return times != mended, err
}

// overflowSeen notes what an enrolment has found: missed cgroups that the map had no room
// for, when it had been full so many times before the enrolment began. Cgroups that the
// kernel side could not enter meanwhile have raised its number since, and still count.
func (e *Enforcer) overflowSeen(times uint64, missed int) error {
	slot, value := kernelBlGlobalBL_G_MENDED, times
	if missed > 0 {
		mended := uint64(0)
		var err error
		if times, mended, err = e.overflow(); err != nil || times != mended {
			return err
		}
		slot, value = kernelBlGlobalBL_G_OVERFLOW, times+1
	}
	if err := e.maps["bl_globals"].Put(uint32(slot), value); err != nil {
		return fmt.Errorf("note whether the cgroup map is full: %w", err)
	}
	return nil
}

// mendOverflow enters the cgroups that were missed, if any were.
func (e *Enforcer) mendOverflow() error {
	if over, err := e.Overflowed(); err != nil || !over {
		return err
	}
	defer e.dropObject()
	if err := e.enrol(); err != nil {
		return err
	}
	if over, err := e.Overflowed(); err != nil || over {
		return err
	}
	e.opts.Log.Info("the kernel's map of cgroups has room again; it holds every container's")
	return nil
}
