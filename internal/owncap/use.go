package owncap

import (
	"errors"
	"fmt"
	"os"
)

// Use is what the process takes at a moment.
type Use struct {
	// Memory is what is charged to its cgroup and cannot just be dropped, in bytes: without the
	// cache of files. Where others share the cgroup, it is what the process alone has resident.
	Memory int64
	// Throttled is the share of the kernel's periods since the last reading in which the process
	// was kept from the processor, from 0 to 1; 0 without a cap.
	Throttled float64
}

// counts are the kernel's counters at the last reading.
type counts struct{ periods, throttled int64 }

// Read returns what the process takes.
//
// Errors: the cgroup cannot be read, or there is none.
func (c *Cap) Read() (Use, error) {
	var u Use
	if c.memory.dir == "" && c.Why == nil {
		return u, errors.New("no memory controller is mounted here")
	}
	if c.shared || c.Why != nil {
		var err error
		u.Memory, err = resident()
		c.throttled(&u)
		return u, err
	}
	total, parts := "memory.current", []string{"file", "shmem", "slab_reclaimable"}
	if !c.memory.v2 {
		total, parts = "memory.usage_in_bytes", []string{"total_cache", "total_shmem", "total_slab_reclaimable"}
	}
	stat, err := c.memory.fields("memory.stat", parts...)
	if err != nil {
		return u, err
	}
	u.Memory = max(0, c.memory.number(total)-max(0, stat[0]-stat[1])-stat[2])
	c.throttled(&u)
	return u, nil
}

// throttled reads how often the process was kept from the processor since the last time.
func (c *Cap) throttled(u *Use) {
	if c.cpu.dir == "" {
		return
	}
	cpu, err := c.cpu.fields("cpu.stat", "nr_periods", "nr_throttled")
	if err != nil {
		return // the root has none, and is not throttled
	}
	now := counts{cpu[0], cpu[1]}
	if n := now.periods - c.readings.periods; n > 0 && now.throttled >= c.readings.throttled {
		u.Throttled = min(1, float64(now.throttled-c.readings.throttled)/float64(n))
	}
	c.readings = now
}

// resident is the memory of this process that is no file's.
//
// Source: proc_pid_statm(5), in pages.
func resident() (int64, error) {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("read what the agent takes: %w", err)
	}
	var size, all, files int64
	if _, err := fmt.Sscan(string(raw), &size, &all, &files); err != nil {
		return 0, fmt.Errorf("read /proc/self/statm: %w", err)
	}
	return (all - files) * int64(os.Getpagesize()), nil
}
