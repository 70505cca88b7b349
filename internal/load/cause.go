package load

import (
	"cmp"
	"slices"
	"time"
)

// What of a point a resource is about. Counters are made rates of.
func memoryOf(p *point) uint64 { return p.memory }
func pidsOf(p *point) uint64   { return p.pids }
func cpuOf(p *point) uint64    { return p.cpu }
func ioOf(p *point) uint64     { return p.io }

// measure says how a resource is measured in containers.
type measure struct {
	unit  string
	level bool // a value of itself, not a counter
	of    func(*point) uint64
	// per is what a counter grows by in a nanosecond when the rate is one unit.
	per float64
}

func measureOf(r Resource) measure {
	switch r {
	case CPU:
		return measure{"cpus", false, cpuOf, 1}
	case Memory:
		return measure{"bytes", true, memoryOf, 0}
	case PIDs:
		return measure{"tasks", true, pidsOf, 0}
	case Disk, Inodes:
		// The kernel does not know how much of a file system is a container's: those that
		// write are named.
		return measure{"bytes/s", false, ioOf, 1e-9}
	}
	i := r - PSICPU
	return measure{"share", false, func(p *point) uint64 { return p.psi[i] }, 1e-3}
}

func rate(from, to *point, of func(*point) uint64) float64 {
	a, b := of(from), of(to)
	if from.at == 0 || to.at <= from.at || b < a {
		return 0
	}
	return float64(b-a) / float64(to.at-from.at)
}

// maxCauses is how many containers an alert names.
const maxCauses = 5

// causes returns the containers that grew most in what r is about, first the one that grew
// by most, then by how much they have: at most maxCauses, none that has nothing. base is the
// time at which points count from 0.
func causes(cs []*container, r Resource, base time.Time) []Cause {
	m := measureOf(r)
	var out []Cause
	for _, c := range cs {
		now, grew, since := c.growth(m)
		if now <= 0 && grew <= 0 {
			continue
		}
		cause := Cause{Subject: c.Subject, Now: now, Grew: grew, Unit: m.unit}
		if grew > 0 {
			cause.Since = base.Add(time.Duration(since))
		}
		out = append(out, cause)
	}
	slices.SortFunc(out, func(a, b Cause) int {
		if n := cmp.Compare(b.Grew, a.Grew); n != 0 {
			return n
		}
		if n := cmp.Compare(b.Now, a.Now); n != 0 {
			return n
		}
		return cmp.Compare(a.ID, b.ID)
	})
	return out[:min(len(out), maxCauses)]
}

// growth tells what a container has now, by how much that is more than the least it had in
// its history, and from when on: the last time at which it had that least, or a tenth of
// the growth more.
func (c *container) growth(m measure) (now, grew float64, since int64) {
	var values [historyLen + 2]float64
	var at [historyLen + 2]int64
	n := 0
	var prev *point
	add := func(p *point) {
		v := float64(m.of(p))
		if !m.level {
			if prev == nil {
				prev = p
				return
			}
			v = rate(prev, p, m.of) / m.per
		}
		values[n], at[n] = v, p.at
		n++
		prev = p
	}
	for i := range c.n {
		add(&c.history[(c.first+i)%historyLen])
	}
	for _, p := range []*point{&c.before, &c.now} { // those newer than the history
		if c.n > 0 && p.at > c.last().at {
			add(p)
		}
	}
	if n == 0 {
		return 0, 0, 0
	}
	now = values[n-1]
	least := slices.Min(values[:n])
	grew = now - least
	since = at[0]
	for i := n - 1; i >= 0; i-- {
		if values[i] <= least+grew/10 {
			since = at[i]
			break
		}
	}
	return now, grew, since
}
