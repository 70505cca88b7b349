package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// LimitMemory gives all containers of the engine together so many bytes: its cgroup, which is made in
// every hierarchy, gets a limit in whichever version of cgroups has the memory controller here.
func (e *Engine) LimitMemory(bytes int64) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return err
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil { // version 2 alone
		roots = []string{"/sys/fs/cgroup"}
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory +pids +cpu"), 0); err != nil {
			return fmt.Errorf("limit memory: %w", err)
		}
	}
	limited := false
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil || filepath.Base(root) == "cpuset" {
			continue // no hierarchy; or one that takes no process before it was told its CPUs
		}
		if base, err := filepath.EvalSymlinks(root); err != nil || base != root {
			continue
		}
		dir := filepath.Join(root, e.Scope)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("limit memory: %w", err)
		}
		for _, file := range []string{"memory.limit_in_bytes", "memory.max"} {
			at := filepath.Join(dir, file)
			if _, err := os.Stat(at); err != nil {
				continue
			}
			if err := os.WriteFile(at, []byte(strconv.FormatInt(bytes, 10)), 0); err != nil {
				return fmt.Errorf("limit memory: %w", err)
			}
			limited = true
		}
	}
	if !limited {
		return errors.New("limit memory: no memory controller is mounted")
	}
	return nil
}
