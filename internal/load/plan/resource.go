package plan

import (
	"fmt"
	"math/bits"
	"strconv"
)

// Resource is something of a node that its containers use up.
type Resource uint8

// The resources, in the order in which plans name them.
const (
	CPU Resource = iota
	Memory
	PIDs
	Disk
	Inodes

	resources = int(Inodes) + 1
)

var resourceNames = [resources]string{"cpu", "memory", "pids", "disk", "inodes"}

// String returns the name that caps of a LoadPolicy have.
func (r Resource) String() string {
	if int(r) >= resources {
		return "unknown"
	}
	return resourceNames[r]
}

// MarshalText is for JSON.
func (r Resource) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Amounts are amounts of all resources, of what a node has or of what is used. Each is from
// 0 to [MaxAmount].
type Amounts struct {
	NanoCPUs    int64 `json:"nanoCpus,omitempty"` // billionths of a CPU's time
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	PIDs        int64 `json:"pids,omitempty"`
	DiskBytes   int64 `json:"diskBytes,omitempty"`
	Inodes      int64 `json:"inodes,omitempty"`
}

// MaxAmount is the largest amount that is taken: 4 PiB, or four million CPUs.
const MaxAmount = 1 << 52

// Of returns one of them.
func (a Amounts) Of(r Resource) int64 { return a.vector()[r] }

// Plus returns the sum.
func (a Amounts) Plus(b Amounts) Amounts {
	return Amounts{
		a.NanoCPUs + b.NanoCPUs, a.MemoryBytes + b.MemoryBytes, a.PIDs + b.PIDs, a.DiskBytes + b.DiskBytes, a.Inodes + b.Inodes,
	}
}

// vector has the amounts by Resource.
type vector [resources]int64

func (a Amounts) vector() vector {
	return vector{a.NanoCPUs, a.MemoryBytes, a.PIDs, a.DiskBytes, a.Inodes}
}

func (v *vector) add(w *vector) {
	for i := range v {
		v[i] = min(v[i]+w[i], 1<<60)
	}
}

func (v *vector) sub(w *vector) {
	for i := range v {
		v[i] = max(v[i]-w[i], 0)
	}
}

// most returns the greater of each.
func most(v, w vector) vector {
	for i := range v {
		v[i] = max(v[i], w[i])
	}
	return v
}

// Caps are the shares of a node in whole percent, from 1 to 99, above which it is full; 0 is
// no cap. See LoadPolicy's spec.caps.
type Caps struct {
	CPU       int `json:"cpu,omitempty"`
	Memory    int `json:"memory,omitempty"`
	PIDs      int `json:"pids,omitempty"`
	Disk      int `json:"disk,omitempty"`
	Inodes    int `json:"inodes,omitempty"`
	PSICPU    int `json:"psiCpu,omitempty"`
	PSIMemory int `json:"psiMemory,omitempty"`
	PSIIO     int `json:"psiIo,omitempty"`
}

func (c *Caps) of(r Resource) int {
	return [resources]int{c.CPU, c.Memory, c.PIDs, c.Disk, c.Inodes}[r]
}

// Pressure is the share of time, in percent, in which some task of a node waited for
// something: the lines "some" of pressure stall information.
type Pressure struct {
	CPU    int `json:"cpu,omitempty"`
	Memory int `json:"memory,omitempty"`
	IO     int `json:"io,omitempty"`
}

// pressure is one reading beside its cap.
type pressure struct {
	name       string
	value, cap int
	of         Resource // what moving away relieves it
	relievable bool
}

func pressures(p *Pressure, c *Caps) [3]pressure {
	return [3]pressure{
		{"psi.cpu", p.CPU, c.PSICPU, CPU, true},
		{"psi.memory", p.Memory, c.PSIMemory, Memory, true},
		{"psi.io", p.IO, c.PSIIO, Disk, false},
	}
}

// whole is a share of one in the unit of [share].
const whole = 1_000_000

// share returns part/all in millionths, at most 8 wholes; of nothing everything is too much.
// Integers keep plans the same on every machine: floating point may be fused or not.
func share(part, all int64) int64 {
	const most = 8
	if part <= 0 {
		return 0
	}
	if all <= 0 || part/most >= all {
		return most * whole
	}
	hi, lo := bits.Mul64(uint64(part), whole)
	q, _ := bits.Div64(hi, lo, uint64(all))
	return int64(q)
}

// percentOf returns percent of all, rounded down.
func percentOf(all int64, percent int) int64 { return all * int64(percent) / 100 }

// percentText is share for people: "97.3%".
func percentText(part, all int64) string {
	s := share(part, all) / (whole / 1000)
	return fmt.Sprintf("%d.%d%%", s/10, s%10)
}

// text says an amount of a resource in the unit that people use for it.
func (r Resource) text(v int64) string {
	switch r {
	case CPU:
		return fmt.Sprintf("%d.%02d CPUs", v/1e9, v%1e9/1e7)
	case Memory, Disk:
		const unit = 1 << 10
		for i, name := range []string{"B", "KiB", "MiB", "GiB"} {
			if v < unit || i == 3 {
				return strconv.FormatInt(v, 10) + " " + name
			}
			if v < 10*unit {
				return fmt.Sprintf("%d.%d %s", v/unit, v%unit*10/unit, []string{"KiB", "MiB", "GiB", "TiB"}[i])
			}
			v /= unit
		}
	case PIDs:
		return strconv.FormatInt(v, 10) + " PIDs"
	}
	return strconv.FormatInt(v, 10) + " inodes"
}
