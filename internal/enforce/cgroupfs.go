package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/ident"
)

// cgroupRoot is the hierarchy on which containers are recognised.
type cgroupRoot struct {
	dir string // mount point
	v1  bool   // the pids hierarchy of a host without cgroup v2
}

// findCgroupRoot returns the mount point of the cgroup v2 hierarchy, or, on hosts that
// have none, of the v1 hierarchy that holds the pids controller.
//
// Source: [hostinfo.Host.CgroupMounts].
func findCgroupRoot() (cgroupRoot, error) {
	mounts, err := (hostinfo.Host{}).CgroupMounts()
	if err != nil {
		return cgroupRoot{}, fmt.Errorf("find the cgroup hierarchy: %w", err)
	}
	var pids string
	for _, m := range mounts {
		switch {
		case m.V2:
			return cgroupRoot{dir: m.Dir}, nil
		case m.Has("pids"):
			pids = m.Dir
		}
	}
	if pids != "" {
		return cgroupRoot{dir: pids, v1: true}, nil
	}
	return cgroupRoot{}, fmt.Errorf("no cgroup2 and no v1 pids hierarchy is mounted: %w", fs.ErrNotExist)
}

// cgroupID returns the id of a cgroup directory: its inode number, which since 5.5 is
// the kernfs id (kernel commit 67c0496e87d1).
func cgroupID(dir string) (ident.CgroupID, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	return ident.CgroupID(st.Ino), nil
}

// scopeIDs makes the scope directories that do not exist yet, so that a scope given
// before its dockerd has started holds, and returns the ids.
func (r cgroupRoot) scopeIDs(scopes []string) ([]ident.CgroupID, error) {
	var ids []ident.CgroupID
	for _, s := range scopes {
		dir := filepath.Join(r.dir, filepath.Join("/", s))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("cgroup scope %s: %w", s, err)
		}
		id, err := cgroupID(dir)
		if err != nil {
			return nil, fmt.Errorf("cgroup scope %s: %w", s, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// foundCgroup is a container's cgroup that was there before the agent.
type foundCgroup struct {
	dir   string
	id    ident.CgroupID
	top   ident.CgroupID // of the container; id itself for its own cgroup
	cid   [32]byte
	build bool
}

// scan walks the hierarchy below the scopes (all of it without scopes) and returns the
// cgroups of containers, each container's own before those nested in it.
func (r cgroupRoot) scan(scopes []string) ([]foundCgroup, error) {
	starts := []string{r.dir}
	if len(scopes) > 0 {
		starts = nil
		for _, s := range scopes {
			starts = append(starts, filepath.Join(r.dir, filepath.Join("/", s)))
		}
	}
	var found []foundCgroup
	tops := map[string]foundCgroup{}
	for _, start := range starts {
		err := filepath.WalkDir(start, func(dir string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) { // removed while we look
					return nil
				}
				return err
			}
			if !d.IsDir() || dir == start {
				return nil
			}
			id, err := cgroupID(dir)
			if err != nil {
				return nil //nolint:nilerr // removed while we look: cgroup_rmdir takes it away
			}
			if top, ok := tops[filepath.Dir(dir)]; ok {
				top.dir, top.id = dir, id
				tops[dir] = top
				found = append(found, top)
				return nil
			}
			cid, kind := cgroupName(d.Name(), filepath.Base(filepath.Dir(dir)))
			if kind == cgroupOther {
				return nil
			}
			f := foundCgroup{dir: dir, id: id, top: id, cid: cid, build: kind == cgroupBuild}
			tops[dir] = f
			found = append(found, f)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("walk cgroups below %s: %w", start, err)
		}
	}
	return found, nil
}

type cgroupKind uint8

const (
	cgroupOther cgroupKind = iota
	cgroupContainer
	cgroupBuild
)

// cgroupName tells whose cgroup has this name below a parent of that name. It is the
// Go reference of bpf/pure/cgroup_name.h, where the shapes are listed.
func cgroupName(name, parent string) (id [32]byte, kind cgroupKind) {
	if parent == "buildkit" && len(name) == 25 {
		for _, c := range []byte(name) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
				return id, cgroupOther
			}
		}
		return id, cgroupBuild
	}
	if len(name) > 95 {
		return id, cgroupOther
	}
	cid, _ := ident.CgroupContainer(name)
	id, err := cid.Bytes()
	if err != nil {
		return [32]byte{}, cgroupOther
	}
	return id, cgroupContainer
}
