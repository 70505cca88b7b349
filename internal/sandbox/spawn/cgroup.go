package spawn

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// errNoCgroup says that none can be made here: not root, or a controller is not there.
var errNoCgroup = errors.New("no cgroup with a memory cap can be made here")

func noCgroup(cause error) error { return fmt.Errorf("%w: %w", errNoCgroup, cause) }

// cgroup is a cgroup of one child, under version 2 or under version 1's memory
// controller.
type cgroup struct {
	dir  string
	v2   bool
	pids string // the one under version 1's pids controller; "": none
}

// Where cgroup file systems are. Source: cgroups(7), file-hierarchy(7).
const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroupMemory = "/sys/fs/cgroup/memory"
	cgroupPids   = "/sys/fs/cgroup/pids"
)

// newCgroup makes a cgroup whose name is kind, the number of this process, and something random. It may have so many
// threads; 0 is no cap.
func newCgroup(kind string, memoryMax int64, threads int, idle bool) (*cgroup, error) {
	if os.Geteuid() != 0 || memoryMax <= 0 {
		return nil, errNoCgroup
	}
	name := fmt.Sprintf("%s%d-%s", kind, os.Getpid(), strings.ToLower(rand.Text()[:12]))
	c := &cgroup{dir: filepath.Join(cgroupRoot, name), v2: true}
	if controllers, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		if !strings.Contains(string(controllers), "memory") {
			return nil, fmt.Errorf("%w: the kernel has no memory controller here, or it is off (cgroup_enable=memory)", errNoCgroup)
		}
		// On most hosts it is on already.
		if err := c.write(cgroupRoot, "cgroup.subtree_control", "+memory"); err != nil {
			return nil, noCgroup(err)
		}
		if threads > 0 {
			if err := c.write(cgroupRoot, "cgroup.subtree_control", "+pids"); err != nil {
				return nil, noCgroup(err)
			}
		}
		if idle {
			// One at a time: a host may have but one of them, and what is missing is no cap.
			c.write(cgroupRoot, "cgroup.subtree_control", "+cpu")
			c.write(cgroupRoot, "cgroup.subtree_control", "+io")
		}
	} else if _, err := os.Stat(filepath.Join(cgroupMemory, "memory.limit_in_bytes")); err == nil {
		c.dir, c.v2 = filepath.Join(cgroupMemory, name), false
		if threads > 0 {
			c.pids = filepath.Join(cgroupPids, name)
			if err := os.Mkdir(c.pids, 0o755); err != nil {
				return nil, noCgroup(err)
			}
		}
	} else {
		return nil, noCgroup(err)
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		c.remove()
		return nil, noCgroup(err)
	}
	limit := "memory.limit_in_bytes"
	if c.v2 {
		limit = "memory.max"
	}
	if err := c.write(c.dir, limit, strconv.FormatInt(memoryMax, 10)); err != nil {
		c.remove()
		return nil, fmt.Errorf("cap its memory: %w", err)
	}
	if threads > 0 {
		if err := c.write(cmp.Or(c.pids, c.dir), "pids.max", strconv.Itoa(threads)); err != nil {
			c.remove()
			return nil, fmt.Errorf("cap its threads: %w", err)
		}
	}
	// What follows is not there on every kernel, and no cap.
	if c.v2 {
		c.write(c.dir, "memory.swap.max", "0")
		c.write(c.dir, "memory.oom.group", "1")
		if idle {
			c.write(c.dir, "cpu.idle", "1")
			c.write(c.dir, "io.weight", "1")
		}
	}
	return c, nil
}

func (c *cgroup) write(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

// add moves a process that has not done anything yet.
func (c *cgroup) add(pid int) error {
	for _, dir := range []string{c.dir, c.pids} {
		if dir == "" {
			continue
		}
		if err := c.write(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("put it into its cgroup: %w", err)
		}
	}
	return nil
}

// limitCPU caps it at so many processors' time, where the kernel can.
func (c *cgroup) limitCPU(processors int) {
	if c.v2 {
		c.write(cgroupRoot, "cgroup.subtree_control", "+cpu")
		c.write(c.dir, "cpu.max", fmt.Sprintf("%d 100000", processors*100000))
	}
}

// RemoveLeft removes cgroups of that kind whose maker has ended: it was killed. What still runs in them, such as a
// command's own child in a process group of its own, is killed where the kernel can (version 2, Linux 5.14). Whatever
// else has a name that begins so is somebody else's.
func RemoveLeft(kind string) {
	name := regexp.MustCompile("^" + regexp.QuoteMeta(kind) + "([0-9]+)-[a-z2-7]{12}$")
	for _, root := range []string{cgroupRoot, cgroupMemory, cgroupPids} {
		left, _ := filepath.Glob(filepath.Join(root, kind+"*")) // the pattern is one
		for _, dir := range left {
			m := name.FindStringSubmatch(filepath.Base(dir))
			if m == nil || m[1] != strconv.Itoa(os.Getpid()) && alive(m[1]) {
				continue
			}
			(&cgroup{dir: dir, v2: true}).remove() // one of version 1 that is in use stays
		}
	}
}

func alive(pid string) bool {
	_, err := os.Stat(filepath.Join("/proc", pid))
	return err == nil
}

// oomKilled reports whether the kernel killed at the memory cap.
func (c *cgroup) oomKilled() bool {
	file := "memory.oom_control"
	if c.v2 {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(c.dir, file))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// remove kills what still runs in the cgroup and removes it, which is busy for a moment after its last process ended.
func (c *cgroup) remove() {
	if c.v2 {
		c.write(c.dir, "cgroup.kill", "1")
	}
	for range 50 {
		// One that was not made has an empty name, which is not there.
		if gone(c.dir) && gone(c.pids) {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

func gone(dir string) bool {
	err := os.Remove(dir)
	return err == nil || errors.Is(err, os.ErrNotExist)
}
