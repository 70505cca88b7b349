package enforce

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// CanaryArg0 is argv[0] of the program that the canary tries to execute: the agent's
// own. A main that finds it there must exit with [CanaryExit] at once.
const CanaryArg0 = "belay-canary"

// CanaryExit is the exit status of a canary that ran although it should not have.
const CanaryExit = 42

// ErrCanary means that an exec which must be denied was not: nothing enforces.
var ErrCanary = errors.New("the canary was not denied")

// canaryPolicy denies everything: it is the zero value.
var canaryPolicy = &policy.Effective{Revision: "canary"}

// canaryTree holds the canary's cgroups on hosts without a scope.
const canaryTree = "belay-canary"

// Canary makes a container of its own, with a policy that denies, and tries to execute
// a program in it as root. It returns nil if that was denied at the level that the
// backend promises.
//
// Errors: [ErrCanary]; [ErrUnsupported] on hosts without cgroup v2.
func (e *Enforcer) Canary() error {
	if e.root.v1 {
		return fmt.Errorf("the canary needs cgroup v2: %w", ErrUnsupported)
	}
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand
	id := ident.ContainerIDFromBytes(raw)
	e.canaries.Store(id, time.Now())
	defer time.AfterFunc(time.Minute, func() { e.canaries.Delete(id) })
	if err := e.Bind(id, canaryPolicy); err != nil {
		return fmt.Errorf("canary: %w", err)
	}
	parent := filepath.Join(e.root.dir, canaryTree)
	if len(e.opts.Scopes) > 0 {
		parent = filepath.Join(e.root.dir, filepath.Join("/", e.opts.Scopes[0]))
	}
	dir := filepath.Join(parent, string(id))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return errors.Join(fmt.Errorf("canary: make a cgroup: %w", err), e.Unbind(id))
	}
	err := errors.Join(e.tryCanary(dir), removeCgroup(dir))
	if len(e.opts.Scopes) == 0 {
		_ = unix.Rmdir(parent) // another agent's canary may be in it
	}
	return errors.Join(err, e.Unbind(id))
}

// IsCanary tells whether a record is of a canary, which is no container of anybody's.
func (e *Enforcer) IsCanary(id ident.ContainerID) bool {
	_, ok := e.canaries.Load(id)
	return ok
}

func (e *Enforcer) tryCanary(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("canary: open its cgroup: %w", err)
	}
	defer unix.Close(fd)
	p, err := os.StartProcess("/proc/self/exe", []string{CanaryArg0}, &os.ProcAttr{
		Env: []string{},
		// Born in the cgroup and in a mount namespace of its own: armed at its exec.
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd, Cloneflags: unix.CLONE_NEWNS},
	})
	if e.backend != verdict.BackendSignal && errors.Is(err, unix.EPERM) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("canary: start: %w", err)
	}
	st, err := p.Wait()
	if err != nil {
		return fmt.Errorf("canary: wait: %w", err)
	}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL && e.backend == verdict.BackendSignal {
		return nil
	}
	return fmt.Errorf("%s: %w", st, ErrCanary)
}

// removeCgroup removes a cgroup whose last task may still be on its way out.
func removeCgroup(dir string) error {
	var err error
	for range 100 {
		if err = unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 2_000_000}, nil)
	}
	return fmt.Errorf("remove %s: %w", dir, err)
}

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
	var rules []policy.PathRule
	if s := e.sets.info[set]; s != nil && s.eff != nil {
		rules = s.eff.Paths
	}
	e.mu.Unlock()
	var problems []string
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root of %s: %w", id.Short(), err)
	}
	defer unix.Close(rootFD)
	for _, r := range rules {
		if r.Kind != policy.PathExact || r.Verdict[0] != verdict.Deny && r.Verdict[1] != verdict.Deny {
			continue
		}
		st, target, err := statIn(rootFD, r.Path)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return problems, fmt.Errorf("resolve %s in %s: %w", r.Path, id.Short(), err)
		}
		if base := filepath.Base(target); base != filepath.Base(r.Path) && isMulticall(base) {
			problems = append(problems, fmt.Sprintf("exec.deny %s: is the multi-call program %s here and is not applied; deny %s, or list what may run in exec.allow", r.Path, target, target))
			continue
		}
		rule := encodePathRule(r)
		rule.AllowBits = 0 // an inode is never allowed by a name it had once
		if err := e.maps["bl_inodes"].Put(kernelBlInodeKey{Ino: st.Ino, Dev: kernelDev(st.Dev), Set: set}, rule); err != nil {
			return problems, fmt.Errorf("bind %s in %s: %w", r.Path, id.Short(), full(err))
		}
	}
	return problems, nil
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
	// The link text is the host's view of the path; only its last element is used.
	target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return st, "", err
	}
	return st, target, nil
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
