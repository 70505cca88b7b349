package load

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/ident"
)

// hierarchies are where the controllers of cgroups are mounted: on hosts with version 2 all in
// one, on others and on hybrid ones each of version 1 in its own. Pressure is of version 2 only.
type hierarchies struct {
	unified string // of version 2; empty: none
	v1      map[string]string
}

// findHierarchies reads them of <proc>/self/mountinfo. Only whole hierarchies count: what a
// container sees of them is not where other containers are.
//
// Source: [hostinfo.Host.CgroupMounts].
func findHierarchies(proc string) (hierarchies, error) {
	mounts, err := hostinfo.Host{Proc: proc}.CgroupMounts()
	if err != nil {
		return hierarchies{}, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	h := hierarchies{v1: map[string]string{}}
	for _, m := range mounts {
		if m.V2 && h.unified == "" {
			h.unified = m.Dir
		}
		for _, c := range []string{"memory", "cpu", "cpuacct", "pids", "blkio"} {
			if h.v1[c] == "" && m.Has(c) {
				h.v1[c] = m.Dir
			}
		}
	}
	if h.unified == "" && len(h.v1) == 0 {
		return hierarchies{}, errors.New("find the cgroup hierarchies: no whole one is mounted here")
	}
	return h, nil
}

// in returns a file of a cgroup: that of version 1 where the controller is mounted so, else
// that of version 2. Either name empty: there is none of it.
func (h *hierarchies) in(cgroup, controller, v1, v2 string) (path string, isV1 bool) {
	if dir := h.v1[controller]; dir != "" {
		if v1 == "" {
			return "", true
		}
		return filepath.Join(dir, cgroup, v1), true
	}
	if h.unified == "" || v2 == "" {
		return "", false
	}
	return filepath.Join(h.unified, cgroup, v2), false
}

// base is the hierarchy in which containers are looked for. The others have them under the
// same names: a runtime puts a container into all of them.
func (h *hierarchies) base() string {
	for _, dir := range []string{h.unified, h.v1["pids"], h.v1["memory"], h.v1["cpuacct"]} {
		if dir != "" {
			return dir
		}
	}
	return ""
}

// maxDepth bounds the look for containers; Kubernetes has them at five.
const maxDepth = 12

// find looks for the cgroups of containers, each given with its number (or 0), below the given
// cgroups or everywhere, and returns them relative to the hierarchy. A container that has none
// is not in the result.
func (h *hierarchies) find(below []string, want map[ident.ContainerID]uint64) (map[ident.ContainerID]string, error) {
	base := h.base()
	if len(below) == 0 {
		below = []string{"/"}
	}
	found := map[ident.ContainerID]string{}
	for _, b := range below {
		start := filepath.Join(base, b)
		err := filepath.WalkDir(start, func(dir string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) { // removed while we look
					return nil
				}
				return err
			}
			if !d.IsDir() {
				return nil
			}
			rel := strings.TrimPrefix(dir, base)
			if strings.Count(rel, "/") > maxDepth {
				return fs.SkipDir
			}
			id, _ := ident.CgroupContainer(d.Name())
			// A container may make a cgroup below its own that is named as another container's.
			if number, ok := want[id]; ok && found[id] == "" && isCgroup(dir, number) {
				found[id] = rel
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for containers below %s: %w", start, err)
		}
	}
	return found, nil
}

// isCgroup reports whether a directory is the cgroup with that number, which is its inode's
// (kernel commit 67c0496e87d1); 0 is any.
func isCgroup(dir string, number uint64) bool {
	var st unix.Stat_t
	return number == 0 || unix.Stat(dir, &st) == nil && st.Ino == number
}

// procs is the file in which a cgroup's processes are listed.
func (h *hierarchies) procs(cgroup string) string {
	return filepath.Join(h.base(), cgroup, "cgroup.procs")
}
