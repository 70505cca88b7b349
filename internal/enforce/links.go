package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"
)

func nextGeneration(dir string) (int, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("make %s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list generations: %w", err)
	}
	last := 0
	for _, d := range entries {
		var n int
		if _, err := fmt.Sscanf(d.Name(), "gen-%d", &n); err == nil && n > last {
			last = n
		}
	}
	return last + 1, nil
}

// partPrefix marks a directory of links that is not complete yet.
const partPrefix = "part-"

func removeParts(dir string) error {
	parts, err := filepath.Glob(filepath.Join(dir, partPrefix+"*"))
	for _, p := range parts {
		err = errors.Join(err, os.RemoveAll(p))
	}
	if err != nil {
		return fmt.Errorf("remove unfinished pins: %w", err)
	}
	return nil
}

// lost returns the names of the hooks whose programs are not attached any more: the pin
// is gone, or the link was detached and its pin left.
func (e *Enforcer) lost() []string {
	e.attachMu.Lock()
	defer e.attachMu.Unlock()
	var out []string
	for _, h := range e.attached {
		if !linked(filepath.Join(e.links, h.program)) {
			out = append(out, h.name)
		}
	}
	return out
}

func linked(pin string) bool {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return false
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return true // the kernel tells nothing of this kind of link; the pin is there
	}
	// Links to cgroups can be detached by anybody who may use bpf(2). They show the
	// cgroup 0 then: kernel/bpf/cgroup.c, bpf_cgroup_link_fill_link_info.
	cg := info.Cgroup()
	return cg == nil || cg.CgroupId != 0
}

// repin mounts the bpffs and pins the maps again where somebody has taken them away:
// links can be pinned nowhere else, and the next agent adopts what is pinned.
func (e *Enforcer) repin() error {
	if err := mountBPFFS(e.opts.PinDir); err != nil {
		return err
	}
	dir := filepath.Join(e.dir, "maps")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	for name, m := range e.maps {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// Unpin makes the map forget where it was pinned.
		if err := errors.Join(m.Unpin(), m.Pin(path)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}
