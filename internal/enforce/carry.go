package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
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
	old, ok, err := e.oldMap(dir, name)
	if err != nil || !ok {
		return err
	}
	defer old.Close()
	key, value := make([]byte, old.KeySize()), make([]byte, old.ValueSize())
	unnoted := name == "bl_containers" && !notesListens(dir)
	it := old.Iterate()
	for it.Next(&key, &value) {
		if unnoted && value[unsafe.Offsetof(kernelBlContainer{}.Started)] == containerStarted {
			value[unsafe.Offsetof(kernelBlContainer{}.Listened)] = 1
		}
		if err := e.maps[name].Update(key, value, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return err
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return err
	}
	return nil
}

// containerStarted is bl_container.started of one whose first program runs.
const containerStarted = 2

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
		old, ok, err := e.oldMap(dir, "bl_tasks")
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		with := maps.Clone(e.maps)
		with[oldLabels] = old
		if err := errors.Join(e.walkTasks(carryProgram, with), old.Close()); err != nil {
			return fmt.Errorf("carry over labels: %w", err)
		}
	}
	return nil
}

// oldMap opens a pinned map of another layout, if its own entries have the shape that they
// have now.
func (e *Enforcer) oldMap(dir, name string) (m *ebpf.Map, same bool, err error) {
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
		return nil, false, m.Close()
	}
	return m, true, nil
}
