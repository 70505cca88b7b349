package enforce

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// Memory returns how many bytes the kernel counts for the maps and programs of an agent that runs as a process. An agent
// holds no descriptors of its programs, whose links are pinned: they are those that use its maps.
//
// Source: bpf_map_memory_usage and "memlock" of bpf_prog_show_fdinfo; a program's machine code is beside that.
func Memory(pid int) (uint64, error) {
	maps, err := mapsOf(pid)
	if err != nil {
		return 0, err
	}
	var sum uint64
	used := maps
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("list BPF programs: %w", err)
		}
		size, ids, err := programMemory(id)
		if err != nil {
			return 0, err
		}
		if slices.ContainsFunc(ids, func(id ebpf.MapID) bool { return slices.Contains(maps, id) }) {
			sum += size
			used = append(used, ids...)
		}
	}
	slices.Sort(used)
	for _, id := range slices.Compact(used) {
		size, err := mapMemory(id)
		if err != nil {
			return 0, err
		}
		sum += size
	}
	return sum, nil
}

// mapsOf returns the maps of which a process holds a descriptor.
func mapsOf(pid int) ([]ebpf.MapID, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return nil, err
	}
	var ids []ebpf.MapID
	for _, f := range files {
		text, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			value, ok := strings.CutPrefix(line, "map_id:")
			if !ok {
				continue
			}
			id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			ids = append(ids, ebpf.MapID(id))
		}
	}
	return ids, nil
}

// programMemory returns what a program takes, and the maps that it uses; nothing of one that is gone.
func programMemory(id ebpf.ProgramID) (uint64, []ebpf.MapID, error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("BPF program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return 0, nil, fmt.Errorf("BPF program %d: %w", id, err)
	}
	maps, _ := info.MapIDs()
	pages, _ := info.Memlock()
	code, err := info.JitedSize()
	if err != nil {
		return 0, nil, fmt.Errorf("BPF program %d: %w", id, err)
	}
	return pages + uint64(code), maps, nil
}

func mapMemory(id ebpf.MapID) (uint64, error) {
	m, err := ebpf.NewMapFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("BPF map %d: %w", id, err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("BPF map %d: %w", id, err)
	}
	size, _ := info.Memlock()
	return size, nil
}
