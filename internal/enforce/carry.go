package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What bl_carry_labels reads: the bl_tasks of an agent whose maps had another layout.
const (
	oldLabels    = "bl_tasks_old"
	carryProgram = "bl_carry_labels"
)

// layouts lists the directories of pins of other layouts than this agent's.
func (e *Enforcer) layouts() ([]string, error) {
	entries, err := os.ReadDir(e.opts.PinDir)
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var out []string
	for _, d := range entries {
		if d.IsDir() && strings.HasPrefix(d.Name(), "abi-") && d.Name() != filepath.Base(e.dir) {
			out = append(out, filepath.Join(e.opts.PinDir, d.Name()))
		}
	}
	return out, nil
}

// carryContainers copies the cgroups and containers that an agent of another layout had
// recognised: what a container was at its first exec cannot be read from /proc later. A
// map whose own entries have changed shape is left, and its containers are enrolled anew.
//
// Errors: [ErrFull] if not all containers have room. Cgroups that have none are left to enrol,
// which notes that they are missing.
func (e *Enforcer) carryContainers() error {
	dirs, err := e.layouts()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		for _, name := range []string{"bl_containers", "bl_cgroups"} {
			if err := e.carryMap(dir, name); err != nil {
				return fmt.Errorf("carry over %s: %w", name, err)
			}
		}
	}
	return nil
}

func (e *Enforcer) carryMap(dir, name string) error {
	old, there, err := e.oldMap(dir, name)
	if err != nil || !there {
		return err
	}
	if old == nil {
		if name == "bl_containers" {
			return e.enrolStates()
		}
		return nil
	}
	defer old.Close()
	if name == "bl_containers" {
		noted := notesListens(dir)
		return wholly(func() error { return e.carryStates(old, noted) })
	}
	return wholly(func() error { return e.carryEntries(old, name) })
}

// carryEntries copies those entries of a map that it does not hold already.
func (e *Enforcer) carryEntries(old *ebpf.Map, name string) error {
	key, value := make([]byte, old.KeySize()), make([]byte, old.ValueSize())
	it := old.Iterate()
	for it.Next(&key, &value) {
		err := e.maps[name].Update(key, value, ebpf.UpdateNoExist)
		if errors.Is(err, unix.E2BIG) {
			return nil
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return err
		}
	}
	return it.Err()
}

// carryStates copies what containers are. noted: their listens were noted.
func (e *Enforcer) carryStates(old *ebpf.Map, noted bool) error {
	states := e.maps["bl_containers"]
	var id uint64
	var was, is kernelBlContainer
	it := old.Iterate()
	for it.Next(&id, &was) {
		if !noted && was.Started == containerStarted {
			was.Listened = 1
		}
		err := states.Lookup(id, &is)
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			err = states.Update(id, was, ebpf.UpdateNoExist)
		case err == nil && olderState(&was, &is):
			was.Listened |= is.Listened
			was.MountedAfter |= is.MountedAfter
			was.Moved |= is.Moved
			was.Admin |= is.Admin
			err = states.Update(id, was, ebpf.UpdateExist)
		}
		if errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("there is room for %d containers and more run: the earlier agent's programs stay in force; end containers, or start the earlier version again: %w", states.MaxEntries(), ErrFull)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return it.Err()
}

// olderState tells whether what an earlier agent's programs know of a container has happened, while
// these programs, which came later, have not seen it or take a later exec for the container's first.
func olderState(was, is *kernelBlContainer) bool {
	switch {
	case was.Started != containerStarted || is.Started == containerStarting:
		return false
	case is.Started != containerStarted:
		return true
	}
	return is.StartNs > was.StartNs+sameStart || was.Listened > is.Listened || was.MountedAfter > is.MountedAfter || was.Moved > is.Moved || was.Admin > is.Admin
}

// sameStart is within what two agents' programs note of one exec.
const sameStart = uint64(time.Millisecond)

// discard removes this layout's pins, if no programs of it were ever attached.
func (e *Enforcer) discard() error {
	links, err := filepath.Glob(filepath.Join(e.dir, "links", "gen-*"))
	if err != nil || len(links) > 0 {
		return err
	}
	if err := os.RemoveAll(e.dir); err != nil {
		return fmt.Errorf("remove unused pins: %w", err)
	}
	return nil
}

// bl_container.started of one whose first exec is being noted, and of one whose first program runs.
const (
	containerStarting = 1
	containerStarted  = 2
)

// notesListens tells whether an agent of another layout noted what its containers listen on. One
// that did not may have containers that have, and the start of all of them counts as over.
func notesListens(dir string) bool {
	noted, err := filepath.Glob(filepath.Join(dir, "links", "*", "bl_*_note_listen"))
	return err == nil && len(noted) > 0
}

// carryLabels copies the labels of tasks, so that one which has left its container's
// cgroup stays the container's.
func (e *Enforcer) carryLabels() error {
	dirs, err := e.layouts()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		old, _, err := e.oldMap(dir, "bl_tasks")
		if err != nil {
			return err
		}
		if old == nil {
			continue
		}
		with := maps.Clone(e.maps)
		with[oldLabels] = old
		if err := errors.Join(e.walkTasks(carryProgram, with, nil), old.Close()); err != nil {
			return fmt.Errorf("carry over labels: %w", err)
		}
	}
	return nil
}

// oldMap opens a pinned map of another layout. m is nil if there is none, or if its own entries
// had another shape than they have now.
func (e *Enforcer) oldMap(dir, name string) (m *ebpf.Map, there bool, err error) {
	m, err = ebpf.LoadPinnedMap(filepath.Join(dir, "maps", name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // it did not get so far
	}
	if err != nil {
		return nil, false, fmt.Errorf("open pinned map %s: %w", name, err)
	}
	now := e.maps[name]
	if m.Type() != now.Type() || m.KeySize() != now.KeySize() || m.ValueSize() != now.ValueSize() {
		e.opts.Log.Warn("not carried over: its entries have another shape now", "map", name)
		return nil, true, m.Close()
	}
	return m, true, nil
}
