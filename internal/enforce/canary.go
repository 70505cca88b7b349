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
// The test is of one program. So the links of all others are looked at too, and the
// maps that say what is enforced are compared with what was written.
//
// Errors: [ErrCanary]; [ErrUnsupported] on hosts without cgroup v2.
func (e *Enforcer) Canary() error {
	if lost := e.lost(); len(lost) > 0 {
		return fmt.Errorf("programs were detached: %s: %w", strings.Join(lost, ", "), ErrCanary)
	}
	if err := errors.Join(e.checkSets(), e.checkCgroups()); err != nil {
		return err
	}
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

// checkCgroups looks whether every container's cgroup is known to the kernel side.
//
// Errors: [ErrCanary] if somebody has removed one.
func (e *Enforcer) checkCgroups() error {
	found, err := e.root.scan(e.opts.Scopes)
	if err != nil {
		return err
	}
	for _, f := range found {
		var top uint64
		for try := range 3 { // it is in the tree a moment before it is in the map
			if err = e.maps["bl_cgroups"].Lookup(uint64(f.id), &top); err == nil || !e.cgroupExists(uint64(f.id)) {
				break
			}
			if try == 2 {
				return fmt.Errorf("the container in %s is not known to the kernel side: %w", f.dir, ErrCanary)
			}
			unix.Nanosleep(&unix.Timespec{Nsec: 5_000_000}, nil)
		}
	}
	return nil
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
