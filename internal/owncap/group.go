package owncap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/hostinfo"
)

// group is a cgroup in which a controller counts.
type group struct {
	root string // where the hierarchy is mounted
	dir  string // empty: the controller is nowhere
	v2   bool
}

// find returns where this process is counted, by controller: memory and cpu.
//
// Source: [hostinfo.Host.CgroupMounts], cgroups(7).
func find(proc string) (map[string]group, error) {
	paths, err := pathsOf(filepath.Join(proc, "self/cgroup"))
	if err != nil {
		return nil, err
	}
	mounts, err := hostinfo.Host{Proc: proc}.CgroupMounts()
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	out := map[string]group{}
	for _, m := range mounts {
		for _, c := range []string{"memory", "cpu"} {
			switch {
			case m.Has(c):
				out[c] = group{root: m.Dir, dir: filepath.Join(m.Dir, paths[c])}
			case m.V2 && out[c].dir == "" && controls(m.Dir, c):
				out[c] = group{root: m.Dir, dir: filepath.Join(m.Dir, paths[""]), v2: true}
			}
		}
	}
	return out, nil
}

// pathsOf reads a process's cgroups by controller; that of version 2 has the name "".
func pathsOf(file string) (map[string]string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("find the agent's own cgroup: %w", err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		_, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		names, path, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 {
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			out[name] = path
		}
	}
	return out, nil
}

// controls tells whether a hierarchy of version 2 has a controller, which those of hybrid hosts
// mostly do not.
func controls(root, controller string) bool {
	raw, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	return err == nil && strings.Contains(" "+strings.TrimSpace(string(raw))+" ", " "+controller+" ")
}

func (g *group) set(file, value string) error {
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0); err != nil { //nolint:gosec // files of the kernel
		return fmt.Errorf("set %s: %w", file, err)
	}
	return nil
}

// offer has the root of the hierarchy give its cgroups a controller. It stays so.
func (g *group) offer(controller string) error {
	if !g.v2 {
		return nil
	}
	if err := (&group{dir: g.root}).set("cgroup.subtree_control", "+"+controller); err != nil {
		return fmt.Errorf("have caps on the %s of cgroups: %w", controller, err)
	}
	return nil
}

func (g *group) memoryFile() string {
	if g.v2 {
		return "memory.max"
	}
	return "memory.limit_in_bytes"
}

// noLimit is about what version 1 says where there is none: the greatest number of whole pages.
const noLimit = 1 << 60

// least returns the least limit of a cgroup and those above it; 0: there is none.
func (g *group) least(limit func(*group) int64) (least int64) {
	for dir := g.dir; ; dir = filepath.Dir(dir) {
		if v := limit(&group{dir: dir, v2: g.v2}); v > 0 && (least == 0 || v < least) {
			least = v
		}
		if dir == g.root || len(dir) <= len(g.root) {
			return least
		}
	}
}

func (g *group) memoryMax() int64 {
	v := g.number(g.memoryFile())
	if v >= noLimit {
		return 0
	}
	return v
}

// cpuMax is in percent of one processor, rounded up.
func (g *group) cpuMax() int64 {
	quota, period := int64(0), int64(0)
	if g.v2 {
		raw, err := os.ReadFile(filepath.Join(g.dir, "cpu.max"))
		if f := strings.Fields(string(raw)); err == nil && len(f) == 2 {
			quota, _ = strconv.ParseInt(f[0], 10, 64) // "max" is none
			period, _ = strconv.ParseInt(f[1], 10, 64)
		}
	} else {
		quota, period = g.number("cpu.cfs_quota_us"), g.number("cpu.cfs_period_us")
	}
	if quota <= 0 || period <= 0 {
		return 0
	}
	return (100*quota + period - 1) / period
}

const period = 100_000 // microseconds, the kernel's default

func (g *group) setCPU(percent int) error {
	quota := strconv.Itoa(percent * period / 100)
	if g.v2 {
		return g.set("cpu.max", quota+" "+strconv.Itoa(period))
	}
	return errors.Join(g.set("cpu.cfs_period_us", strconv.Itoa(period)), g.set("cpu.cfs_quota_us", quota))
}

// number reads a file with one number; 0: it is not there, or says "max".
func (g *group) number(file string) int64 {
	raw, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0
	}
	v, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// fields reads "name number" lines.
func (g *group) fields(file string, names ...string) ([]int64, error) {
	raw, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return nil, fmt.Errorf("read the agent's own cgroup: %w", err)
	}
	out := make([]int64, len(names))
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		for i, n := range names {
			if n == name {
				out[i], _ = strconv.ParseInt(value, 10, 64)
			}
		}
	}
	return out, nil
}

// removeLeft removes cgroups of agents that were killed. One with a process in it stays.
func (g *group) removeLeft() {
	left, _ := filepath.Glob(filepath.Join(g.root, namePrefix+"*"))
	for _, dir := range left {
		_ = os.Remove(dir)
	}
}
