package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// runChild is the container's first process, from its birth in the host's mount
// namespace to the exec of CMD. It returns only on failure.
func runChild() error {
	return childMain(func(f *runFlags) *statusError {
		if err := setup(f); err != nil {
			return &statusError{exitSetup, err.Error()}
		}
		p := &program{}
		mask, err := capMask(f.CapAdd)
		if err == nil {
			err = p.addCreds(f.UID, f.GID, mask, !f.Detach)
		}
		if err == nil {
			err = p.addExec(f.Args, environ(f.ID, f.Env))
		}
		if err != nil {
			return &statusError{exitSetup, err.Error()}
		}
		return p.failure(p.run())
	})
}

// childMain says that its exec is over, reads what to do from fdConfig, which the parent writes
// once this process is in the cgroup, and reports a failure on fdStatus.
func childMain[T any](do func(*T) *statusError) error {
	// What the caller left open must not reach into the container either.
	if err := unix.CloseRange(fdConfig, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	if err := writeReport(report{Ready: true}); err != nil {
		return err
	}
	in := os.NewFile(fdConfig, "config")
	config := new(T)
	if err := json.NewDecoder(in).Decode(config); err != nil {
		return fmt.Errorf("this command is started by ctr itself: %w", err)
	}
	_ = in.Close()
	if se := do(config); se != nil {
		if err := writeReport(report{Status: se.status, Msg: se.msg}); err != nil {
			return err
		}
		return &statusError{status: se.status}
	}
	return nil
}

func writeReport(r report) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fdStatus, data); err != nil {
		return fmt.Errorf("report to the parent: %w", err)
	}
	return nil
}

func environ(id string, extra []string) []string {
	return append([]string{"PATH=" + defaultPath, "HOME=/", "HOSTNAME=" + id[:12]}, extra...)
}

// setup makes the container's mount namespace and root file system, and enters them.
func setup(f *runFlags) error {
	if f.UTS == "own" { // else it is the host's
		if err := unix.Sethostname([]byte(f.ID[:12])); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if f.Net == "none" {
		if err := loopback(); err != nil {
			return err
		}
	}
	leaked := unix.AT_FDCWD
	if f.Leak != "" { // of the host's mounts, which this process leaves
		var err error
		if leaked, err = unix.Open(f.Leak, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("leak %s: %w", f.Leak, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	binds, err := openBinds(f.Binds)
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	dir := filepath.Join(f.State, f.ID)
	merged := filepath.Join(dir, "merged")
	if err := mountOverlay(f.Rootfs, filepath.Join(dir, "layers"), merged, f.Upper); err != nil {
		return err
	}
	if err := mountBasics(merged); err != nil {
		return err
	}
	for _, b := range binds {
		if err := mountBind(b, merged); err != nil {
			return err
		}
	}
	for _, s := range f.Tmpfs {
		dst, noexec := strings.CutSuffix(s, ":noexec")
		flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
		if noexec {
			flags |= unix.MS_NOEXEC
		}
		if err := mount("tmpfs", filepath.Join(merged, dst), "tmpfs", flags, "mode=1777"); err != nil {
			return err
		}
	}
	if err := pivot(merged); err != nil || f.Leak == "" {
		return err
	}
	return unix.Fchdir(leaked)
}

// openBinds parses volumes. A shared one is opened while its source is shared with the host.
func openBinds(list []string) ([]bind, error) {
	var out []bind
	for _, s := range list {
		b, err := parseBind(s)
		if err != nil {
			return nil, err
		}
		if b.shared {
			if b.tree, err = unix.OpenTree(unix.AT_FDCWD, b.src, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE); err != nil {
				return nil, fmt.Errorf("bind %s: %w", b.src, err)
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// mountOverlay puts the container's layers together. The writable one is on a tmpfs
// that only this mount namespace has, so it ends with the container, unless there is a place for it.
func mountOverlay(lower, layers, merged, place string) error {
	if place != "" {
		layers = place
	} else if err := mount("tmpfs", layers, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	upper, work := filepath.Join(layers, "upper"), filepath.Join(layers, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	if err := unix.Mount("overlay", merged, "overlay", 0, opts); err != nil {
		return fmt.Errorf("mount overlay (%s): %w%s", opts, err, hint(err))
	}
	return nil
}

func hint(err error) string {
	if errors.Is(err, unix.EACCES) {
		return fmt.Sprintf("; with --userns every directory above the root file system and the state must be open to user %d", usernsBase)
	}
	return ""
}

func mountBasics(root string) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	if err := mount("proc", filepath.Join(root, "proc"), "proc", safe|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	dev := filepath.Join(root, "dev")
	if err := mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return err
	}
	// Bound, not made: in a user namespace mknod is refused.
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		if err := mountBind(bind{src: "/dev/" + name, dst: "/dev/" + name}, root); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	// Executable, as where Kubernetes mounts a memory volume there; Docker's is noexec.
	return mount("tmpfs", filepath.Join(dev, "shm"), "tmpfs", safe, "mode=1777")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, target, err)
	}
	return nil
}

func mountBind(b bind, root string) error {
	target := filepath.Join(root, b.dst)
	st, err := os.Stat(b.src)
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if st.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", b.src, err)
	}
	if b.shared {
		err = errors.Join(unix.MoveMount(b.tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH), unix.Close(b.tree))
	} else {
		err = unix.Mount(b.src, target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", b.src, err)
	}
	if b.readOnly {
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("bind %s read-only: %w", b.src, err)
		}
	}
	return nil
}

// pivot makes root the root directory and lets go of the host's tree; see pivot_root(2),
// "pivot_root(".", ".")".
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	return os.Chdir("/")
}

// loopback brings lo up and lets every user bind every port, as Docker does.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
}
