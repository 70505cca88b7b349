package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Limits are what all containers of an engine may have together; zero is no limit.
type Limits struct {
	Memory int64   // bytes
	PIDs   int     // tasks
	CPUs   float64 // processors' time
}

// cpuPeriod is the kernel's own period for cpu.max and cpu.cfs_quota_us, in microseconds.
const cpuPeriod = 100_000

// controls returns what is written for each limit: files of either version of cgroups, with their text.
func (l Limits) controls() (out []map[string]string) {
	if l.Memory > 0 {
		n := strconv.FormatInt(l.Memory, 10)
		out = append(out, map[string]string{"memory.limit_in_bytes": n, "memory.max": n})
	}
	if l.PIDs > 0 {
		out = append(out, map[string]string{"pids.max": strconv.Itoa(l.PIDs)})
	}
	if l.CPUs > 0 {
		n := strconv.Itoa(int(l.CPUs * cpuPeriod))
		out = append(out, map[string]string{"cpu.cfs_quota_us": n, "cpu.max": n})
	}
	return out
}

// Limit limits all containers of the engine together: its cgroup, which is made in every hierarchy, gets each limit
// in whichever version of cgroups has the controller here.
func (e *Engine) Limit(l Limits) error {
	dirs, err := e.makeScope()
	if err != nil {
		return fmt.Errorf("limit an engine: %w", err)
	}
	for _, c := range l.controls() {
		limited := false
		for _, dir := range dirs {
			for file, text := range c {
				at := filepath.Join(dir, file)
				if _, err := os.Stat(at); errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err := os.WriteFile(at, []byte(text), 0); err != nil {
					return fmt.Errorf("limit an engine: %w", err)
				}
				limited = true
			}
		}
		if !limited {
			return fmt.Errorf("limit an engine: no controller is mounted that has one of %v", c)
		}
	}
	return nil
}

// makeScope makes the engine's cgroup in every hierarchy, and returns its directories.
func (e *Engine) makeScope() (dirs []string, err error) {
	roots, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil { // version 2 alone
		roots = []string{"/sys/fs/cgroup"}
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory +pids +cpu"), 0); err != nil {
			return nil, err
		}
		_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+io"), 0) // not every kernel has it
	}
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil || filepath.Base(root) == "cpuset" {
			continue // no hierarchy; or one that takes no process before it was told its CPUs
		}
		if base, err := filepath.EvalSymlinks(root); err != nil || base != root {
			continue
		}
		dir := filepath.Join(root, e.Scope)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}
