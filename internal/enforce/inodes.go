package enforce

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// multicall are programs that do many things under many names: one inode, so a rule on
// one of the names would fall on all of them.
var multicall = []string{"busybox", "toybox", "coreutils", "toolbox", "dropbearmulti", "gnu-coreutils"}

// BindInodes binds the exact deny rules of a container's policy to the inodes that they
// name now, so that a hard link or another mount of the same file is denied too. root
// is the container's root directory as this process sees it, such as /proc/PID/root.
//
// It returns what does not hold in this container, one sentence each: a rule on a name
// of a multi-call program, which is not applied.
func (e *Enforcer) BindInodes(id ident.ContainerID, root string) ([]string, error) {
	e.mu.Lock()
	set, ok := e.sets.binds[id]
	if !ok {
		set = e.sets.floor
	}
	rules := e.pathRules(set)
	e.mu.Unlock()
	var problems []string
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root of %s: %w", id.Short(), err)
	}
	defer unix.Close(rootFD)
	for _, sr := range rules {
		r := sr.PathRule
		st, target, err := statIn(rootFD, r.Path)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return problems, fmt.Errorf("resolve %s in %s: %w", r.Path, id.Short(), err)
		}
		if base := filepath.Base(target); base != filepath.Base(r.Path) && isMulticall(base) {
			if p := fmt.Sprintf("exec.deny %s: is the multi-call program %s here and is not applied; deny %s, or list what may run in exec.allow", r.Path, target, target); !slices.Contains(problems, p) {
				problems = append(problems, p)
			}
			continue
		}
		rule := encodePathRule(r)
		rule.AllowBits = 0 // an inode is never allowed by a name it had once
		if err := e.maps["bl_inodes"].Put(kernelBlInodeKey{Ino: st.Ino, Dev: kernelDev(st.Dev), Set: sr.set}, rule); err != nil {
			return problems, fmt.Errorf("bind %s in %s: %w", r.Path, id.Short(), full(err))
		}
	}
	return problems, nil
}

// setRule is a path rule of one set.
type setRule struct {
	policy.PathRule
	set uint32
}

// pathRules returns the exact deny rules of a set, and of those that hold in the container's
// later phases. e.mu is held.
func (e *Enforcer) pathRules(set uint32) []setRule {
	s := e.sets.info[set]
	if s == nil {
		return nil
	}
	var out []setRule
	for _, n := range append([]uint32{set}, s.holds...) {
		s := e.sets.info[n]
		if s == nil || s.eff == nil {
			continue
		}
		for _, r := range s.eff.Paths {
			if r.Kind == policy.PathExact && (r.Verdict[0] == verdict.Deny || r.Verdict[1] == verdict.Deny) {
				out = append(out, setRule{r, n})
			}
		}
	}
	return out
}

func isMulticall(base string) bool {
	for _, m := range multicall {
		if base == m || strings.HasPrefix(base, m+".") {
			return true
		}
	}
	return false
}

// statIn resolves a path as the container would, and returns the file and its own path.
func statIn(root int, path string) (unix.Stat_t, string, error) {
	var st unix.Stat_t
	fd, err := unix.Openat2(root, strings.TrimPrefix(path, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return st, "", err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return st, "", err
	}
	if err := overlayDev(root, fd, &st); err != nil {
		return st, "", err
	}
	// The link text is the host's view of the path; only its last element is used.
	target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return st, "", err
	}
	return st, target, nil
}

// overlayDev sets the device of a file on the root's overlay to the overlay's own. For
// files stat reports that of the layer where the layers lie on several file systems;
// for directories, such as the root, always the overlay's. See
// Documentation/filesystems/overlayfs.rst, "Inode properties".
func overlayDev(root, fd int, st *unix.Stat_t) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != overlayMagic {
		return err
	}
	var mine, roots unix.Statx_t
	for f, to := range map[int]*unix.Statx_t{root: &roots, fd: &mine} {
		if err := unix.Statx(f, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, to); err != nil {
			return err
		}
	}
	if mine.Mnt_id == roots.Mnt_id {
		st.Dev = unix.Mkdev(roots.Dev_major, roots.Dev_minor)
	}
	return nil
}

// ForgetInodes removes the inode rules of a device that is gone: the root of a
// container that has ended.
func (e *Enforcer) ForgetInodes(dev uint32) error {
	if err := deleteWhere(e.maps["bl_inodes"], func(k *kernelBlInodeKey) bool { return k.Dev == dev }); err != nil {
		return fmt.Errorf("forget inodes: %w", err)
	}
	return nil
}

// SetHelpers replaces the host programs that a runtime may execute inside containers
// (exec.runtimeHelpers): they are bound to inodes, never to names. Files that do not
// exist are skipped and returned.
func (e *Enforcer) SetHelpers(paths []string) (absent []string, err error) {
	want := map[kernelBlInodeKey]bool{}
	for _, p := range paths {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			absent = append(absent, p)
			continue
		}
		k := kernelBlInodeKey{Ino: st.Ino, Dev: kernelDev(st.Dev)}
		want[k] = true
		if err := e.maps["bl_helpers"].Put(k, uint32(1)); err != nil {
			return absent, fmt.Errorf("runtime helper %s: %w", p, full(err))
		}
	}
	if err := deleteWhere(e.maps["bl_helpers"], func(k *kernelBlInodeKey) bool { return !want[*k] }); err != nil {
		return absent, fmt.Errorf("remove runtime helpers: %w", err)
	}
	return absent, nil
}
