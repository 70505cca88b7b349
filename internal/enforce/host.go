package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/belay-project/belay/internal/verdict"
)

// HostFiles are files and directories of the host, as this process sees them. All are
// absolute; what does not exist is guarded by its name, and may not be made.
type HostFiles struct {
	// Paths are files and whole directories. Each is bound to its place (directory and name)
	// and, if it exists, to its inode.
	Paths []string
	// Inodes are files that are bound to their inode alone: a program that runs, whatever has
	// become of its name.
	Inodes []string
	// Dirs are directories whose entries keep their names and are not written, without what
	// lies deeper.
	Dirs []string
	// Records are names that files in the subdirectories of Dirs may have.
	Records []string
}

// Host is what the section host of a policy is about.
type Host struct {
	// Agent holds the program of the agent too: processes that run it are guarded. Its BPF
	// objects need no name.
	Agent, Runtimes, EngineConfig HostFiles
}

// hostTable is what becomes of a Host in the kernel.
type hostTable struct {
	devs  map[uint64]uint32
	is    map[kernelBlHostKey]kernelBlHostIs
	names map[kernelBlHostName]uint32
}

// SetHost replaces what is guarded. Files are bound as they are now: call it again when
// they may have changed. The new entries are written before old ones go.
//
// Errors: a full map; what was guarded stays so.
func (e *Enforcer) SetHost(h Host) error {
	e.guardMu.Lock()
	defer e.guardMu.Unlock()
	devs, err := mountDevs()
	if err != nil {
		return err
	}
	t := hostTable{devs: devs, is: map[kernelBlHostKey]kernelBlHostIs{}, names: map[kernelBlHostName]uint32{}}
	for rule, files := range map[verdict.Rule]HostFiles{
		verdict.RuleHostAgent: h.Agent, verdict.RuleHostRuntimes: h.Runtimes, verdict.RuleHostEngine: h.EngineConfig,
	} {
		t.files(hostBit(rule), files)
	}
	if err := e.ownObjects(&t); err != nil {
		return err
	}
	for k, v := range t.is {
		if err := e.maps["bl_hosts"].Put(k, v); err != nil {
			return fmt.Errorf("write the host's guard: %w", full(err))
		}
	}
	for k, v := range t.names {
		if err := e.maps["bl_host_names"].Put(k, v); err != nil {
			return fmt.Errorf("write the host's guard: %w", full(err))
		}
	}
	return errors.Join(
		deleteWhere(e.maps["bl_host_names"], func(k *kernelBlHostName) bool { return t.names[*k] == 0 }),
		deleteWhere(e.maps["bl_hosts"], func(k *kernelBlHostKey) bool { _, ok := t.is[*k]; return !ok }))
}

func hostBit(r verdict.Rule) uint8 { return 1 << (r - verdict.RuleHostAgent) }

func (t *hostTable) files(bit uint8, f HostFiles) {
	for _, p := range f.Paths {
		t.path(bit, p)
	}
	for _, p := range f.Inodes {
		t.self(bit, p)
	}
	for _, d := range f.Dirs {
		if real, err := filepath.EvalSymlinks(d); err == nil {
			d = real
		}
		t.above(bit, d)
		ok := t.mark(bit, d, func(is *kernelBlHostIs) {
			is.Child |= bit
			if len(f.Records) > 0 {
				is.Deeper |= bit
			}
		})
		for _, name := range f.Records {
			if ok {
				t.name(bit, d, name, 1)
			}
		}
	}
}

// path guards a file or directory by its place and its inode, as named and as links lead to it.
func (t *hostTable) path(bit uint8, p string) {
	at := []string{filepath.Clean(p)}
	if real, err := filepath.EvalSymlinks(p); err == nil && real != at[0] {
		at = append(at, real)
	}
	for _, p := range at {
		// Of a directory that is not there its own name is guarded, and so on up.
		dir, base := filepath.Split(p)
		for dir = filepath.Clean(dir); dir != "/"; dir = filepath.Dir(dir) {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			base = filepath.Base(dir)
		}
		t.above(bit, dir)
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			t.above(bit, real)
			dir = real
		}
		if t.mark(bit, dir, func(is *kernelBlHostIs) { is.Names |= bit; is.Above |= bit }) {
			t.name(bit, dir, base, 0)
		}
		t.self(bit, p)
	}
}

// self guards what is there by its inode.
func (t *hostTable) self(bit uint8, p string) {
	t.mark(bit, p, func(is *kernelBlHostIs) {
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			is.Tree |= bit
		} else {
			is.Self |= bit
		}
	})
}

// above keeps the directories down to dir, and the links among them, where they are.
func (t *hostTable) above(bit uint8, dir string) {
	for ; ; dir = filepath.Dir(dir) {
		st, err := os.Lstat(dir)
		switch {
		case err == nil && st.Mode()&fs.ModeSymlink != 0:
			up := filepath.Dir(dir)
			if t.mark(bit, up, func(is *kernelBlHostIs) { is.Names |= bit }) {
				t.name(bit, up, filepath.Base(dir), 0)
			}
		case err == nil:
			t.mark(bit, dir, func(is *kernelBlHostIs) { is.Above |= bit })
		}
		if dir == "/" {
			return
		}
	}
}

// mark changes the entry of a file and of its file system; false: there is no such file.
func (t *hostTable) mark(bit uint8, p string, change func(*kernelBlHostIs)) bool {
	ino, dev, _, err := identify(p, t.devs)
	if err != nil {
		return false
	}
	k := kernelBlHostKey{Ino: ino, Dev: dev}
	is := t.is[k]
	change(&is)
	t.is[k] = is
	t.object(kernelBlHostKey{Dev: dev, Kind: uint32(kernelBlHostKindBL_HOST_FS)}, bit)
	return true
}

func (t *hostTable) object(k kernelBlHostKey, bit uint8) {
	is := t.is[k]
	is.Tree |= bit
	t.is[k] = is
}

func (t *hostTable) name(bit uint8, dir, base string, deeper uint32) {
	ino, dev, _, err := identify(dir, t.devs)
	k := kernelBlHostName{Ino: ino, Dev: dev, Deeper: deeper}
	if err != nil || !setName(k.Name[:], base) {
		return
	}
	t.names[k] |= uint32(bit)
}

// ownObjects guards the maps, links and programs of this enforcer. e.guardMu is held.
func (e *Enforcer) ownObjects(t *hostTable) error {
	e.attachMu.Lock()
	defer e.attachMu.Unlock()
	if e.ownFrom != e.links {
		own, err := e.listOwn()
		if err != nil {
			return err
		}
		e.own, e.ownFrom = own, e.links
	}
	for _, k := range e.own {
		t.object(k, hostBit(verdict.RuleHostAgent))
	}
	return nil
}

// listOwn asks for the ids of what ownObjects guards, which are others after an attachment only.
// e.attachMu is held.
func (e *Enforcer) listOwn() ([]kernelBlHostKey, error) {
	var out []kernelBlHostKey
	add := func(kind kernelBlHostKind, id uint32) {
		out = append(out, kernelBlHostKey{Ino: uint64(id), Kind: uint32(kind)})
	}
	for name, m := range e.maps {
		info, err := m.Info()
		if err != nil {
			return nil, fmt.Errorf("ask for map %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			add(kernelBlHostKindBL_HOST_MAP, uint32(id))
		}
	}
	for _, h := range e.attached {
		l, err := link.LoadPinnedLink(filepath.Join(e.links, h.program), &ebpf.LoadPinOptions{})
		if err != nil {
			continue // the canary's business
		}
		if info, err := l.Info(); err == nil {
			add(kernelBlHostKindBL_HOST_LINK, uint32(info.ID))
			add(kernelBlHostKindBL_HOST_PROG, uint32(info.Program))
		}
		_ = l.Close()
	}
	return out, nil
}

// OwnCgroup returns the directory of this process's cgroup and those above it but the root,
// in the hierarchy that containers are recognised in. Empty: it is in the root.
func (e *Enforcer) OwnCgroup() []string {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || e.root.v1 {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(raw)) {
		rel, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for ; ok && rel != "/" && rel != "." && rel != ""; rel = filepath.Dir(rel) {
			out = append(out, filepath.Join(e.root.dir, rel))
		}
	}
	return out
}
