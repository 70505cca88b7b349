package enforce

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sync/errgroup"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
)

// Run reads kernel records until ctx ends, then returns nil. emit is called from three
// goroutines, one for each ring, and must not keep the event's slices across a change.
// Denials have a ring of their own, so that a flood of other records cannot push them
// out, and so have the files that containers use ([EventUsed]).
func (e *Enforcer) Run(ctx context.Context, emit func(*Event)) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range []string{"bl_denials", "bl_events", "bl_uses"} {
		g.Go(func() error { return e.readRing(ctx, name, emit) })
	}
	g.Go(func() error { return e.tidy(ctx) })
	g.Go(func() error { return e.followHeld(ctx) })
	return g.Wait()
}

func (e *Enforcer) readRing(ctx context.Context, name string, emit func(*Event)) error {
	r, err := ringbuf.NewReader(e.maps[name])
	if err != nil {
		return fmt.Errorf("open ring %s: %w", name, err)
	}
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	var rec ringbuf.Record
	for {
		switch err := r.ReadInto(&rec); {
		case err == nil:
		case errors.Is(err, os.ErrClosed) && ctx.Err() != nil:
			return nil
		default:
			return fmt.Errorf("read ring %s: %w", name, err)
		}
		ev, err := decodeEvent(rec.RawSample)
		if err != nil {
			e.badRecords.Add(1)
			continue
		}
		emit(ev)
	}
}

// tidy erases policy sets that nothing names any more, and enters the cgroups that the map
// had no room for.
func (e *Enforcer) tidy(ctx context.Context) error {
	t := time.NewTicker(garbageAge)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			e.mu.Lock()
			err := e.collect(now)
			e.mu.Unlock()
			if err != nil {
				e.opts.Log.Warn("old policy sets could not be erased", "error", err.Error())
			}
			if err := e.mendOverflow(); err != nil {
				e.opts.Log.Warn("cgroups that the full map lacks could not be entered", "error", err.Error())
			}
		}
	}
}

// Source returns the policy that a record credits, false if it is not known any more.
func (e *Enforcer) Source(ev *Event) (policy.Source, bool) { return e.source(ev.Set, ev.PolicyIndex) }

// forgetUses has the kernel side tell anew which files containers use: who listened before
// is gone.
func (e *Enforcer) forgetUses() error {
	var key kernelBlUseKey
	var at uint64
	var keys []kernelBlUseKey
	err := wholly(func() error {
		keys = keys[:0]
		it := e.maps["bl_used"].Iterate()
		for it.Next(&key, &at) {
			keys = append(keys, key)
		}
		return it.Err()
	})
	if err != nil {
		return fmt.Errorf("list files in use: %w", err)
	}
	for i := range keys {
		if err := e.maps["bl_used"].Delete(keys[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a file in use: %w", err)
		}
	}
	return nil
}

// Failures returns the internal failures of the kernel side by name, counted since the
// maps were made, and records that could not be decoded. docs/failure-codes.md explains
// each.
func (e *Enforcer) Failures() (map[string]uint64, error) {
	out := map[string]uint64{}
	perCPU := []uint64{}
	for _, c := range codes {
		if err := e.maps["bl_errs"].Lookup(uint32(c.Number), &perCPU); err != nil {
			return nil, fmt.Errorf("read the failure counters: %w", err)
		}
		var n uint64
		for _, v := range perCPU {
			n += v
		}
		if n > 0 {
			out[c.Name] = n
		}
	}
	if n := e.badRecords.Load(); n > 0 {
		out["bad_records"] = n
	}
	if n := e.badLooks.Load(); n > 0 {
		out["bad_looks"] = n
	}
	return out, nil
}

// ContainerState is what the kernel knows of a container.
type ContainerState struct {
	ID      [32]byte
	Cgroup  uint64
	Started bool
	Build   bool
	// StartedSinceBoot is the time of its first exec.
	StartedSinceBoot time.Duration
	Lost             uint64
	PID              uint32 // of pid 1, on the host
	Overlay          bool   // the root is an overlay: drift can be judged
	RootDev          uint32 // device of the root, kernel encoding
	Listened         bool   // it has called listen(2) on a socket of IP
}

// overlayMagic: include/uapi/linux/magic.h, OVERLAYFS_SUPER_MAGIC.
const overlayMagic = 0x794c7630

// Containers lists the containers whose cgroups exist.
//
// Errors: the list cannot be read as a whole.
func (e *Enforcer) Containers() ([]ContainerState, error) {
	var out []ContainerState
	var id uint64
	var c kernelBlContainer
	err := wholly(func() error {
		out = out[:0]
		it := e.maps["bl_containers"].Iterate()
		for it.Next(&id, &c) {
			out = append(out, ContainerState{
				ID: c.Id, Cgroup: id, Started: c.Started == 2, Build: c.Class == uint8(kernelBlClassBL_CLASS_BUILD),
				StartedSinceBoot: time.Duration(c.StartNs), Lost: c.Lost, PID: c.InitTgid, Overlay: c.RootMagic == overlayMagic, RootDev: c.RootDev, Listened: c.Listened != 0,
			})
		}
		return it.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return out, nil
}

// RootDev returns the device of a container's root, false if it is not known or not the
// container's alone.
func (e *Enforcer) RootDev(id ident.ContainerID) (uint32, bool) {
	key, err := id.Bytes()
	if err != nil {
		return 0, false
	}
	list, err := e.Containers()
	if err != nil {
		return 0, false
	}
	for _, c := range list {
		if c.ID == key && c.Started && c.Overlay {
			return c.RootDev, true
		}
	}
	return 0, false
}

// MapFill is how full a map is.
type MapFill struct {
	Name      string
	Used, Max int
}

// filledMaps are those that can run full; what then happens is in bpf/maps.h.
var filledMaps = []string{"bl_cgroups", "bl_containers", "bl_binds", "bl_policies", "bl_paths", "bl_inodes"}

// maxCounted bounds how many entries of one map are counted, at some microseconds each.
const maxCounted = 65536

// MapFill counts the entries of the maps that can run full, up to 65536 each. Maps that
// change meanwhile are counted as nearly as that allows.
func (e *Enforcer) MapFill() []MapFill {
	var out []MapFill
	for _, name := range filledMaps {
		m := e.maps[name]
		if m == nil {
			continue
		}
		f := MapFill{Name: name, Max: int(m.MaxEntries())}
		key, err := m.NextKeyBytes(nil)
		for ; err == nil && key != nil && f.Used < maxCounted; key, err = m.NextKeyBytes(key) {
			f.Used++
		}
		out = append(out, f)
	}
	return out
}
