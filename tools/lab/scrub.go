package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// scrub removes what is left when every process was told to end: whatever still runs
// in the lab's cgroups or out of its directory, its mounts, its cgroups, its files.
func (l *Lab) scrub() error {
	var errs []error
	for _, pid := range l.processes() {
		errs = append(errs, kill(pid))
	}
	gone := func() bool { return len(l.processes()) == 0 }
	if !Await(context.Background(), 5*time.Second, gone) { // also when the caller's context has ended
		errs = append(errs, fmt.Errorf("processes %v do not end", l.processes()))
	}
	errs = append(errs, l.removeShimSockets(), l.unmount(), l.removeCgroups(), removeTree(l.Dir))
	return errors.Join(errs...)
}

// shimSockets is a folder of the host that containerd's shims use whatever their
// configuration says (containerd, pkg/shim/util_unix.go).
const shimSockets = "/run/containerd/s"

// removeShimSockets removes the sockets of shims that were killed: each container's
// bundle names its own.
func (l *Lab) removeShimSockets() error {
	bundles, err := filepath.Glob(l.Path("*", "ctd-state", "*", "*", "*", "address"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range bundles {
		addr, err := os.ReadFile(f)
		if err != nil {
			continue // gone meanwhile
		}
		sock := strings.TrimPrefix(string(addr), "unix://")
		if filepath.Dir(sock) != shimSockets {
			continue
		}
		if err := os.Remove(sock); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	// Fails, as it should, where others have something in them.
	for _, d := range []string{shimSockets, filepath.Dir(shimSockets)} {
		_ = os.Remove(d)
	}
	return errors.Join(errs...)
}

// removeTree removes a directory of the lab, but nothing that is mounted in it.
func removeTree(dir string) error {
	if m := mountsBelow(dir); len(m) > 0 {
		return fmt.Errorf("%s is not removed: %s is still mounted", dir, m[0])
	}
	return os.RemoveAll(dir)
}

func kill(pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// Leftovers lists what of the lab is still on the machine: nothing after Close.
func (l *Lab) Leftovers() []string {
	var out []string
	for _, pid := range l.processes() {
		out = append(out, fmt.Sprintf("process %d", pid))
	}
	for _, m := range mountsBelow(l.Dir) {
		out = append(out, "mount "+m)
	}
	for _, d := range l.cgroups() {
		out = append(out, "cgroup "+d)
	}
	if _, err := os.Lstat(l.Dir); !errors.Is(err, fs.ErrNotExist) {
		out = append(out, "directory "+l.Dir)
	}
	return out
}

// processes returns the processes that are surely the lab's: those in its cgroups, and
// those whose command line names its directory, as shims' do. Never this one.
func (l *Lab) processes() []int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	needle := []byte(l.Dir + "/")
	var out []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(d + "/cmdline")
		if err != nil || len(cmdline) == 0 { // ended, or a zombie
			continue
		}
		groups, err := os.ReadFile(d + "/cgroup")
		if err != nil {
			continue
		}
		if bytes.Contains(groups, []byte("/"+l.Name)) || bytes.Contains(cmdline, needle) && ours(d) {
			out = append(out, pid)
		}
	}
	return out
}

// ours tells a program that the lab or its engines run from one that merely names the
// lab's directory, such as an editor or tail.
func ours(proc string) bool {
	name, err := os.ReadFile(proc + "/comm")
	if err != nil {
		return false
	}
	known := []string{"dockerd", "containerd", "containerd-shim", "runc", "docker-proxy", "docker", "belay-agent", "belay", "sshd", "actor"}
	return slices.Contains(known, strings.TrimSpace(string(name)))
}

// mountsBelow returns the mount points at or below dir, deepest first.
//
// Source: /proc/self/mountinfo, proc_pid_mountinfo(5).
func mountsBelow(dir string) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			out = append(out, fields[4])
		}
	}
	slices.Reverse(out) // a mount on another comes later
	return out
}

func (l *Lab) unmount() error {
	var errs []error
	for _, m := range mountsBelow(l.Dir) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	return errors.Join(errs...)
}

// cgroups returns the lab's cgroups in every hierarchy, deepest first.
func (l *Lab) cgroups() []string {
	var out []string
	for _, top := range l.topCgroups() {
		// A directory that goes while we walk is not there: that is all we ask.
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, p)
			}
			return nil
		})
	}
	slices.Reverse(out)
	return out
}

func (l *Lab) topCgroups() []string {
	var out []string
	// cgroup v2 alone, and the hierarchies of v1 and hybrid hosts.
	for _, pattern := range []string{"/sys/fs/cgroup/" + l.Name + "*", "/sys/fs/cgroup/*/" + l.Name + "*"} {
		found, err := filepath.Glob(pattern)
		if err == nil {
			out = append(out, found...)
		}
	}
	// cpu and cpuacct may be links to one hierarchy.
	slices.Sort(out)
	return slices.Compact(out)
}

func (l *Lab) removeCgroups() error {
	var errs []error
	for _, d := range l.cgroups() {
		// A process that was killed leaves its cgroup a moment later.
		Await(context.Background(), 2*time.Second, func() bool {
			err := os.Remove(d)
			return err == nil || errors.Is(err, fs.ErrNotExist)
		})
		if _, err := os.Lstat(d); err == nil {
			errs = append(errs, fmt.Errorf("cgroup %s is still in use", d))
		}
	}
	return errors.Join(errs...)
}
