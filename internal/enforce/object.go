package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// object returns the BPF object, which it reads if it is not there: with the constants, once they
// are known. Callers must not change it.
func (e *Enforcer) object() (*ebpf.CollectionSpec, error) {
	e.specMu.Lock()
	defer e.specMu.Unlock()
	if e.spec != nil {
		return e.spec, nil
	}
	spec, err := loadKernel()
	if err != nil {
		return nil, fmt.Errorf("read the BPF object: %w", err)
	}
	if e.opts.MaxCgroups > 0 {
		spec.Maps["bl_cgroups"].MaxEntries = e.opts.MaxCgroups
	}
	if e.opts.MaxContainers > 0 {
		spec.Maps["bl_containers"].MaxEntries = e.opts.MaxContainers
	}
	if err := setConstants(spec, e.constants); err != nil {
		return nil, err
	}
	e.spec = spec
	return spec, nil
}

// dropObject gives back the memory of the object, once programs are loaded.
func (e *Enforcer) dropObject() {
	e.specMu.Lock()
	defer e.specMu.Unlock()
	e.spec = nil
}

func setConstants(spec *ebpf.CollectionSpec, constants map[string]any) error {
	for name, value := range constants {
		v, ok := spec.Variables[name]
		if !ok {
			return fmt.Errorf("the BPF object has no constant %s", name)
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set constant %s: %w", name, err)
		}
	}
	return nil
}

// loadProgram loads one program of the object, which uses the maps given. The caller closes it.
func loadProgram(spec *ebpf.CollectionSpec, name string, maps map[string]*ebpf.Map, cache *btf.Cache) (*ebpf.Program, error) {
	prog := spec.Programs[name]
	if prog == nil {
		return nil, fmt.Errorf("the BPF object has no program %s", name)
	}
	one := &ebpf.CollectionSpec{
		Maps: map[string]*ebpf.MapSpec{}, Programs: map[string]*ebpf.ProgramSpec{name: prog.Copy()},
		Variables: spec.Variables, Types: spec.Types, ByteOrder: spec.ByteOrder,
	}
	for n, m := range spec.Maps {
		if !perLoad(n) || n[0] == '.' || maps[n] != nil {
			one.Maps[n] = m.Copy()
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: maps, Cache: cache})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	defer coll.Close() // its copies of the maps' descriptors, which the program does not need
	return coll.DetachProgram(name), nil
}

// Denying returns the names of the loaded programs of Belay, of any agent, that deny in a hook: of the
// backends lsm and modret. The kernel keeps them for some time after the last reference is gone.
func Denying() ([]string, error) {
	var names []string
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return names, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list BPF programs: %w", err)
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since
		}
		if err != nil {
			return nil, fmt.Errorf("open BPF program %d: %w", id, err)
		}
		info, err := p.Info()
		if err := errors.Join(err, p.Close()); err != nil {
			return nil, fmt.Errorf("read BPF program %d: %w", id, err)
		}
		if strings.HasPrefix(info.Name, "bl_lsm_") || strings.HasPrefix(info.Name, "bl_mod_") {
			names = append(names, info.Name)
		}
	}
}
