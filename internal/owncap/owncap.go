// Package owncap holds the agent to caps on its own memory and processor time, so that what
// guards a node cannot be what fills it, and says what is to be given up when a cap comes near.
//
// It owns the cgroup that it makes for a process that was started by hand; under a service
// manager, or in a container, the limits are theirs and it only reads them. It never decides
// about containers and gives up nothing itself: a [Ladder] names the step, the agent acts on it. Row:
// adapter.
package owncap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/ident"
)

// Limits are what a process may take at most. A field that is 0 is no cap.
type Limits struct {
	Memory int64 // bytes
	CPU    int   // percent of one processor
}

// Cap is a process under its limits. Make one with [Hold]. Not safe for concurrent use.
type Cap struct {
	// Memory is the cap that is in force, in bytes: what was asked for, or less where somebody else
	// has set less; 0 is none.
	Memory int64
	// Why says why the kernel does not hold the process to it, and WhyCPU why it does not to the cap
	// on processor time; nil: it does.
	Why, WhyCPU error
	// shared says that others are counted where this process is, so it counts itself.
	shared bool

	found    bool // somebody else has set a limit on memory
	limits   Limits
	memory   group // where the process's memory is counted
	cpu      group
	made     []group // cgroups of our own; the process goes back to back when they end
	back     []string
	readings counts
}

// Hold puts this process under limits: where nobody holds it to that much already, and no service
// manager runs it, into a cgroup of its own. The Go runtime's soft limit (GOMEMLIMIT, unless it is
// set) follows. The processor's cap begins with [Cap.HoldCPU], since a start costs more than
// what comes after it.
//
// The result can always be used: what the kernel does not hold is in [Cap.Why].
func Hold(l Limits) *Cap {
	c := &Cap{Memory: l.Memory, limits: l}
	groups, err := find("/proc")
	if err != nil {
		c.Why = err
	} else {
		c.memory, c.cpu = groups["memory"], groups["cpu"]
		c.Why = c.holdMemory()
	}
	if c.Memory >= LeastMemory && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(c.Memory - kernelSide)
	}
	return c
}

// managed tells who has put this process where it is, and looks for it there: a service manager or
// a container's runtime. ok is false if nobody has.
func (c *Cap) managed() (who string, ok bool) {
	if os.Getenv("NOTIFY_SOCKET") != "" || strings.HasSuffix(c.memory.dir, ".service") || strings.HasSuffix(c.cpu.dir, ".service") {
		return "the service manager has set no such cap: set %s of the unit", true
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(c.memory.dir+c.cpu.dir, c.memory.root), "/") {
		if _, ok := ident.CgroupContainer(name); ok {
			return "the container has no such cap: set %s of it", true
		}
	}
	return "", false
}

func (c *Cap) holdMemory() error {
	if c.limits.Memory <= 0 {
		return nil
	}
	if c.memory.dir == "" {
		return errors.New("no memory controller is mounted here")
	}
	c.shared = true
	limit := c.memory.least((*group).memoryMax)
	if limit > 0 {
		c.Memory = min(limit, c.Memory)
	}
	who, managed := c.managed()
	c.found = limit > 0
	switch {
	case limit > 0 && limit <= c.limits.Memory:
		c.shared = c.memory.memoryMax() == 0 && !managed
		return nil
	case managed:
		return fmt.Errorf(who, "MemoryMax= or the memory limit")
	}
	own, err := c.enter(c.memory, "memory")
	if err != nil {
		return err
	}
	if own.v2 {
		c.cpu = own // they are one
	}
	return c.setMemory(own)
}

// setMemory puts the cap on memory in force in a cgroup of our own.
func (c *Cap) setMemory(own group) error {
	c.memory, c.shared = own, false
	limit := strconv.FormatInt(c.Memory, 10)
	if err := own.set(own.memoryFile(), limit); err != nil {
		return err
	}
	// Neither is there without the accounting of swap.
	if own.v2 {
		_ = own.set("memory.swap.max", "0")
	} else {
		_ = own.set("memory.memsw.limit_in_bytes", limit)
	}
	return nil
}

// HoldCPU puts the cap on processor time in force. What it cannot do is in [Cap.WhyCPU].
func (c *Cap) HoldCPU() { c.WhyCPU = c.holdCPU() }

func (c *Cap) holdCPU() error {
	if c.limits.CPU <= 0 {
		return nil
	}
	if c.cpu.dir == "" {
		return errors.New("no cpu controller is mounted here")
	}
	quota := c.cpu.least((*group).cpuMax)
	who, managed := c.managed()
	switch {
	case quota > 0 && quota <= int64(c.limits.CPU):
		return nil
	case managed:
		return fmt.Errorf(who, "CPUQuota= or the processor limit")
	case c.isOwn(c.cpu):
		if err := c.cpu.offer("cpu"); err != nil {
			return err
		}
	case c.cpu.v2 && c.found:
		return errors.New("whoever has set the limit on memory has set none on the processor, and the agent does not leave that cgroup: set a quota there")
	default:
		own, err := c.enter(c.cpu, "cpu")
		if err != nil {
			return err
		}
		c.cpu = own
	}
	return c.cpu.setCPU(c.limits.CPU)
}

func (c *Cap) isOwn(g group) bool {
	for _, m := range c.made {
		if m.dir == g.dir {
			return true
		}
	}
	return false
}

// namePrefix is how cgroups of this package begin; the process's number follows.
const namePrefix = "belay-agent-"

// enter makes a cgroup with a controller below the root of g's hierarchy and moves this process
// into it.
func (c *Cap) enter(g group, controller string) (own group, err error) {
	for range 3 { // another agent that starts may take the empty cgroup for one that was left
		if own, err = c.tryEnter(g, controller); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return own, err
}

func (c *Cap) tryEnter(g group, controller string) (own group, err error) {
	g.removeLeft()
	own = group{root: g.root, dir: filepath.Join(g.root, namePrefix+strconv.Itoa(os.Getpid())), v2: g.v2}
	if err := own.offer(controller); err != nil {
		return own, err
	}
	if err := os.Mkdir(own.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return own, fmt.Errorf("make a cgroup of its own: %w", err)
	}
	if err := own.set("cgroup.procs", "0"); err != nil {
		_ = os.Remove(own.dir)
		return own, fmt.Errorf("enter a cgroup of its own: %w", err)
	}
	c.made, c.back = append(c.made, own), append(c.back, g.dir)
	return own, nil
}

// Release takes the process back to where it was and removes what was made.
func (c *Cap) Release() error {
	var errs []error
	for i, own := range c.made {
		back := group{dir: c.back[i]}
		if err := back.set("cgroup.procs", "0"); err != nil {
			back.dir = own.root
			errs = append(errs, back.set("cgroup.procs", "0"))
		}
		if err := os.Remove(own.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove the agent's own cgroup: %w", err))
		}
	}
	c.made, c.back = nil, nil
	return errors.Join(errs...)
}

// ParseMemory reads a size such as 256M or 1G; "none" is 0.
//
// Errors name what is wanted.
func ParseMemory(text string) (int64, error) {
	if text == "none" {
		return 0, nil
	}
	shift := 0
	number := text
	if n := len(text); n > 0 {
		if i := strings.IndexByte("KMG", text[n-1]); i >= 0 {
			shift, number = 10*(i+1), text[:n-1]
		}
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v <= 0 || v > 1<<50>>shift {
		return 0, fmt.Errorf("%q: want a size such as 256M or 1G, or none", text)
	}
	if v <<= shift; v < LeastMemory {
		return 0, fmt.Errorf("%q: want at least %dM: with less the agent does not start", text, LeastMemory>>20)
	}
	return v, nil
}

const (
	// LeastMemory is the least cap that an agent starts under, in bytes: a start takes some 80 MB.
	LeastMemory = 96 << 20
	// kernelSide is what the Go runtime cannot give back, of the cap: the maps of the kernel side (some
	// 40 MB), pages of the program, buffers of sockets.
	kernelSide = 64 << 20
)

// ParseCPU reads a share of one processor such as 50% or 150%; "none" is 0.
//
// Errors name what is wanted.
func ParseCPU(text string) (int, error) {
	if text == "none" {
		return 0, nil
	}
	v, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
	if err != nil || !strings.HasSuffix(text, "%") || v < 5 || v > 100_000 {
		return 0, fmt.Errorf("%q: want percent of one processor, 5%% or more, such as 50%%, or none", text)
	}
	return v, nil
}
