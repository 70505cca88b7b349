package enforce

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/verdict"
)

// Descriptors that a container opened before its rules came were never judged. When the rules of a container that runs
// have changed, the kernel side looks at every descriptor there is; while some container holds one that its rules
// deny, programs judge each read and write by a descriptor, and what is sent and received below IP.

const (
	// heldProgram and ringsProgram are run by the agent itself, for every descriptor and every task, and never
	// attached.
	heldProgram  = "bl_find_held"
	ringsProgram = "bl_find_rings"
	// heldAgainEvery is the time between two looks at containers that hold such descriptors.
	heldAgainEvery = time.Minute
	// heldAfter is how long changes are gathered before descriptors are looked at.
	heldAfter = 200 * time.Millisecond
	// heldIdle is how many times as long as a look took none follows, and heldRest how long at most: where containers
	// are bound all the time, looking takes a twentieth of a processor, or what a look in 10 s takes.
	heldIdle = 20
	heldRest = 10 * time.Second
	// phasesEvery is the time between two looks at which phase containers are in.
	phasesEvery = 5 * time.Second
)

// changes are what has happened to rules since descriptors were looked at. Times are since boot.
type changes struct {
	bound map[[32]byte]time.Duration // by container
	floor time.Duration              // of those without a binding
}

func (c *changes) none() bool { return len(c.bound) == 0 && c.floor == 0 }

// take adds what another says, which is older.
func (c *changes) take(o changes) {
	for id, at := range o.bound {
		if c.bound == nil {
			c.bound = map[[32]byte]time.Duration{}
		}
		c.bound[id] = max(c.bound[id], at)
	}
	c.floor = max(c.floor, o.floor)
}

// sinceBoot is now, as the kernel side tells it.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// rulesChanged notes that the rules of a container are others from now on, or with none those of all without a
// binding. e.mu is held.
func (e *Enforcer) rulesChanged(id *[32]byte) {
	if id == nil {
		e.changed.floor = sinceBoot()
	} else {
		e.changed.take(changes{bound: map[[32]byte]time.Duration{*id: sinceBoot()}})
	}
	select {
	case e.look <- struct{}{}:
	default:
	}
}

// followHeld looks at descriptors when rules have changed, until ctx ends.
func (e *Enforcer) followHeld(ctx context.Context) error {
	phases, again := time.NewTicker(phasesEvery), time.NewTicker(heldAgainEvery)
	defer phases.Stop()
	defer again.Stop()
	for {
		look := e.LookBack
		select {
		case <-ctx.Done():
			return nil
		case <-e.look:
			pause(ctx, heldAfter)
		case <-phases.C:
			look = e.lookAtPhases
		case <-again.C:
			look = e.lookAgain
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := look(); err != nil {
			e.badLooks.Add(1)
			e.opts.Log.Warn("descriptors that containers opened before their rules could not be looked at; it is tried again", "error", err.Error())
		}
		e.heldMu.Lock()
		rest := e.rest
		e.rest = 0
		e.heldMu.Unlock()
		pause(ctx, rest)
	}
}

// pause waits for a time, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// LookBack finds what containers hold open against rules that came later than the descriptors, if rules have
// changed since the last time, and has it judged from then on. [Enforcer.Run] does so soon after each change.
func (e *Enforcer) LookBack() error {
	e.heldMu.Lock()
	defer e.heldMu.Unlock()
	e.mu.Lock()
	c := e.changed
	e.changed = changes{}
	e.mu.Unlock()
	late, err := e.late(c)
	switch {
	case err != nil:
	case late:
		err = e.lookAtDescriptors()
	default:
		err = e.settle(0, nil)
	}
	if err != nil {
		e.mu.Lock()
		e.changed.take(c)
		e.mu.Unlock()
	}
	return err
}

// late tells whether any change came to a container that ran.
func (e *Enforcer) late(c changes) (bool, error) {
	if c.none() {
		return false, nil
	}
	list, err := e.Containers()
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asksOfHeld() && slices.ContainsFunc(list, func(s ContainerState) bool {
		at := c.bound[s.ID]
		if _, own := e.sets.binds[ident.ContainerIDFromBytes(s.ID)]; !own {
			at = c.floor
		}
		return s.Started && s.StartedSinceBoot < at
	}), nil
}

// asksOfHeld tells whether any policy says something on what descriptors can do. e.mu is held.
func (e *Enforcer) asksOfHeld() bool {
	if e.backend == verdict.BackendSignal { // acts by descriptors are not seen
		return false
	}
	for _, s := range e.sets.info {
		if s.eff == nil || len(s.eff.Files) > 0 { // an earlier agent's, or one that does
			return true
		}
		for _, rules := range s.eff.Rules {
			if rules[verdict.RulePacketSockets].Verdict != verdict.Allow {
				return true
			}
		}
	}
	return false
}

// lookAtPhases looks back when some container has come into another phase.
func (e *Enforcer) lookAtPhases() error {
	e.heldMu.Lock()
	defer e.heldMu.Unlock()
	list, err := e.Containers()
	if err != nil {
		return err
	}
	now := sinceBoot()
	in := map[uint64]uint32{}
	e.mu.Lock()
	moved := false
	for _, s := range list {
		set, own := e.sets.binds[ident.ContainerIDFromBytes(s.ID)]
		if !own {
			set = e.sets.floor
		}
		info := e.sets.info[set]
		if !s.Started || info == nil || len(info.holds) == 0 {
			continue
		}
		first := set
		for _, p := range info.table {
			if uint64(now-s.StartedSinceBoot) < p.FromNs {
				continue
			}
			if set = p.Quiet; s.Listened {
				set = p.Listened
			}
		}
		in[s.Cgroup] = set
		was, known := e.phases[s.Cgroup]
		if !known {
			was = first
		}
		moved = moved || was != set
	}
	moved = moved && e.asksOfHeld()
	e.mu.Unlock()
	if moved {
		if err := e.lookAtDescriptors(); err != nil {
			return err
		}
	}
	e.phases = in
	return nil
}

// lookAgain looks again while some container holds descriptors that its rules deny, and where a look has failed.
func (e *Enforcer) lookAgain() error {
	if err := e.LookBack(); err != nil {
		return err
	}
	e.heldMu.Lock()
	defer e.heldMu.Unlock()
	if what, err := e.held(); err != nil || what == 0 {
		return err
	}
	return e.lookAtDescriptors()
}

// lookAtDescriptors finds who holds what its rules deny, and has the program attached that judges them as long as
// somebody does. e.heldMu is held. A container counts as one until two looks have not found it, since what it holds can be
// on its way from one process to another while they are walked.
func (e *Enforcer) lookAtDescriptors() error {
	defer e.dropObject()
	defer func(began time.Time) { e.rest = min(heldIdle*time.Since(began), heldRest) }(time.Now())
	var round uint64
	globals := e.maps["bl_globals"]
	if err := globals.Lookup(uint32(kernelBlGlobalBL_G_ROUND), &round); err != nil {
		return fmt.Errorf("read the number of looks: %w", err)
	}
	round++
	if err := globals.Put(uint32(kernelBlGlobalBL_G_ROUND), round); err != nil {
		return fmt.Errorf("write the number of looks: %w", err)
	}
	cache := btf.NewCache()
	for _, program := range []string{heldProgram, ringsProgram} {
		if err := e.walkTasks(program, e.maps, cache); err != nil {
			return err
		}
	}
	return e.settle(round, cache)
}

// settle forgets who was not found in this round nor in the one before it, or is gone, and has reads and writes by
// descriptors judged or not.
func (e *Enforcer) settle(round uint64, cache *btf.Cache) error {
	var gone []uint64
	var cgroup uint64
	var h kernelBlHolder
	var c kernelBlContainer
	err := wholly(func() error {
		gone = gone[:0]
		it := e.maps["bl_holders"].Iterate()
		for it.Next(&cgroup, &h) {
			if h.Round+1 < round || errors.Is(e.maps["bl_containers"].Lookup(cgroup, &c), ebpf.ErrKeyNotExist) {
				gone = append(gone, cgroup)
			}
		}
		return it.Err()
	})
	if err != nil {
		return fmt.Errorf("list who holds descriptors: %w", err)
	}
	for _, cgroup := range gone {
		if err := e.maps["bl_holders"].Delete(cgroup); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget who held descriptors: %w", err)
		}
	}
	held, err := e.held()
	if err != nil {
		return err
	}
	return e.judgeHeld(held, cache)
}

// held tells of what kinds the descriptors are that containers hold and their rules deny.
func (e *Enforcer) held() (what kernelBlHeld, err error) {
	var cgroup uint64
	var h kernelBlHolder
	err = wholly(func() error {
		it := e.maps["bl_holders"].Iterate()
		for it.Next(&cgroup, &h) {
			what |= kernelBlHeld(h.What)
		}
		return it.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("list who holds descriptors: %w", err)
	}
	return what, nil
}

// judgeHeld attaches the programs that judge what is done by descriptors of some kinds, and takes others away.
func (e *Enforcer) judgeHeld(what kernelBlHeld, cache *btf.Cache) error {
	e.guardMu.Lock() // of what is guarded as the enforcer's own
	defer e.guardMu.Unlock()
	e.attachMu.Lock()
	defer e.attachMu.Unlock()
	defer e.dropObject()
	for _, h := range hooks {
		if h.held == 0 || !h.in(e.backend) {
			continue
		}
		on := h.held&what != 0
		at := slices.IndexFunc(e.attached, func(a hook) bool { return a.program == h.program })
		switch {
		case on == (at >= 0):
		case on:
			prog, err := e.load(h, cache)
			if err == nil {
				err = e.attachOne(h, e.links, prog)
			}
			if err != nil {
				return fmt.Errorf("hook %s: %w", h.name, err)
			}
			e.attached, e.ownFrom = append(e.attached, h), ""
			e.opts.Log.Info("a container holds descriptors that its rules deny: what is done by them is judged until it does not", "hook", h.name)
		default:
			if err := os.Remove(filepath.Join(e.links, h.program)); err != nil {
				return fmt.Errorf("take hook %s away: %w", h.name, err)
			}
			e.attached = slices.Delete(e.attached, at, at+1)
		}
	}
	return nil
}
