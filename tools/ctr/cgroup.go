package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// defaultParent is the cgroup that containers are made in if none is named.
const defaultParent = "/belay-ctr"

// cgroupRoot returns where the cgroup v2 tree is mounted: /sys/fs/cgroup, or
// /sys/fs/cgroup/unified on hosts that also have v1.
func cgroupRoot() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("no cgroup v2 tree on /sys/fs/cgroup or /sys/fs/cgroup/unified")
}

// makeCgroup makes root/parent/name. made lists the parents that the container's
// remover takes away if they are empty, outermost first: those that had to be made, and
// always the default parent, which is nobody else's.
func makeCgroup(root, parent, name string) (dir string, made []string, err error) {
	// Another container's remover may take the parent away between the two mkdirs.
	for range 100 {
		dir, made, err = tryCgroup(root, parent, name)
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return "", made, fmt.Errorf("make cgroup: %w", err)
	}
	return dir, made, nil
}

func tryCgroup(root, parent, name string) (dir string, made []string, err error) {
	dir = root
	for elem := range strings.SplitSeq(strings.Trim(filepath.Clean("/"+parent), "/"), "/") {
		if elem == "" {
			continue
		}
		dir = filepath.Join(dir, elem)
		err := os.Mkdir(dir, 0o755)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return "", made, err
		}
		if err == nil || dir == filepath.Join(root, defaultParent) {
			made = append(made, dir)
		}
	}
	dir = filepath.Join(dir, name)
	return dir, made, os.Mkdir(dir, 0o755)
}

func attach(dir string, pid int) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("attach to cgroup: %w", err)
	}
	return nil
}

// killCgroup kills every task in dir and below, waits until they are gone and removes
// the directories, then those of made that are empty.
func killCgroup(dir string, made []string) error {
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := removeTree(dir)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		<-tick.C
	}
	for _, d := range slices.Backward(made) {
		_ = os.Remove(d) // EBUSY: another container lives there now
	}
	return nil
}

// removeTree kills the tasks of dir and of the cgroups below it and tries to remove
// them, deepest first. unix.EBUSY means that tasks are still leaving.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	pids, err := cgroupPIDs(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // it may be gone by itself
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func cgroupPIDs(dir string) (pids []int, err error) {
	f, err := os.Open(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// 0 is a task of a PID namespace that cannot be seen from here.
		if pid, err := strconv.Atoi(sc.Text()); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, sc.Err()
}
