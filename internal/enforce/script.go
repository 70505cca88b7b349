package enforce

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ScriptPath returns the path of a script in the container of pid, which has just executed it by
// name. One that was executed by a descriptor, or by a name below one, the kernel knows as
// /dev/fd/N: that is looked up in pid, which has it open for its interpreter.
//
// Source: execveat(2), "NOTES"; alloc_bprm in the kernel's fs/exec.c.
// Errors: *[fs.PathError] if pid has ended, or has no such descriptor any more.
func ScriptPath(pid uint32, name string) (string, error) {
	rest, ok := strings.CutPrefix(name, "/dev/fd/")
	if !ok {
		return name, nil
	}
	fd, below, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(fd, 10, 31)
	if err != nil {
		return name, nil //nolint:nilerr // a name like any other
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, n))
	if err != nil {
		return "", fmt.Errorf("find the script %s: %w", name, err)
	}
	return filepath.Join(dir, below), nil
}

// InWritableLayer tells whether a path of a container lies in its writable layer, and
// the file's own path. pid is any process of the container. It is how a dropped #!
// script is detected where only its interpreter can be judged: after the fact, by path.
//
// Errors: [ErrUnsupported] if the container's root is no overlay.
func InWritableLayer(pid uint32, path string) (target string, in bool, err error) {
	upper, err := upperDir(pid)
	if err != nil {
		return "", false, err
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false, fmt.Errorf("open the root of pid %d: %w", pid, err)
	}
	defer unix.Close(root)
	_, target, err = statIn(root, path)
	if err != nil {
		return "", false, fmt.Errorf("resolve %s: %w", path, err)
	}
	var st unix.Stat_t
	err = unix.Lstat(filepath.Join(upper, target), &st)
	switch {
	case err == nil:
		return target, st.Mode&unix.S_IFMT == unix.S_IFREG, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return target, false, nil
	}
	return target, false, fmt.Errorf("look for %s in the writable layer: %w", target, err)
}

// upperDir returns the directory of the writable layer of a process's root.
//
// Source: /proc/PID/mountinfo, proc_pid_mountinfo(5).
func upperDir(pid uint32) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return "", fmt.Errorf("find the root of pid %d: %w", pid, err)
	}
	defer f.Close()
	upper := ""
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20) // overlays with many layers have long lines
	for sc.Scan() {
		pre, post, ok := strings.Cut(sc.Text(), " - ")
		left, right := strings.Fields(pre), strings.Fields(post)
		if !ok || len(left) < 5 || len(right) < 3 || left[4] != "/" {
			continue
		}
		upper = ""
		if right[0] != "overlay" {
			continue
		}
		for opt := range strings.SplitSeq(right[2], ",") {
			if v, ok := strings.CutPrefix(opt, "upperdir="); ok {
				upper = v
			}
		}
	}
	if err := sc.Err(); err != nil {
		return "", fmt.Errorf("find the root of pid %d: %w", pid, err)
	}
	if upper == "" {
		return "", fmt.Errorf("the root of pid %d has no writable layer: %w", pid, ErrUnsupported)
	}
	return upper, nil
}
