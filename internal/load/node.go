package load

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// counters are the node's, at a moment; they only grow.
type counters struct {
	at             int64  // nanoseconds on the watcher's clock
	busy, total    uint64 // ticks of all CPUs
	net            uint64 // bytes
	psi            [numPSI]uint64
	cpuErr, netErr error
	psiErr         [numPSI]error
}

// ticks kept: rates are over at most rateOver.
const (
	rateOver = 10 * time.Second
	tickKept = 32
)

// node samples the node itself.
type node struct {
	proc                string
	stat, mem, avg, net file
	psi                 [numPSI]file
	disks               []string // never changed: a goroutine may read them
	places              []*place

	ring     [tickKept]counters
	n, head  int // of ring; head is the newest
	maxTasks uint64

	memory, pids reading // as last read
	disk, inodes reading
	answer       chan diskReadings // of the file systems; nil: none is waited for
	memTotal     uint64
	limitsAt     time.Time
}

// place is a cgroup that containers are confined to and that has limits of its own: where the
// agent is for such a cgroup alone, the node is no greater than it.
type place struct {
	container // its files and limits
}

func newNode(proc string, disks, scopes []string, h *hierarchies) *node {
	n := &node{proc: proc, disks: disks}
	set := func(f *file, name string) { f.path = filepath.Join(proc, name) }
	set(&n.stat, "stat")
	set(&n.mem, "meminfo")
	set(&n.avg, "loadavg")
	set(&n.net, "net/dev")
	for i, kind := range psiKinds {
		set(&n.psi[i], pressureFile(kind))
	}
	for _, s := range scopes {
		n.places = append(n.places, &place{*newContainer(Subject{Name: s}, s, h, false)})
	}
	return n
}

// sample reads what costs little: all but the disks.
func (n *node) sample(at int64, buf []byte) {
	var c counters
	c.at = at
	if b, err := n.stat.read(buf); err != nil {
		c.cpuErr = fmt.Errorf("read %s: %w", n.stat.path, err)
	} else if busy, total, ok := cpuTimes(b); !ok {
		c.cpuErr = fmt.Errorf("read %s: %w", n.stat.path, errFormat)
	} else {
		c.busy, c.total = busy, total
	}
	if b, err := n.net.read(buf); err != nil {
		c.netErr = err
	} else if sum, ok := netBytes(b); !ok {
		c.netErr = errFormat
	} else {
		c.net = sum
	}
	for i := range n.psi {
		b, err := n.psi[i].read(buf)
		if err == nil {
			var ok bool
			if c.psi[i], ok = psiTotal(b); !ok {
				err = errFormat
			}
		}
		if err != nil {
			c.psiErr[i] = fmt.Errorf("read %s: %w (pressure needs a kernel with CONFIG_PSI, and psi=1 on some)", n.psi[i].path, err)
		}
	}
	n.head = (n.head + 1) % tickKept
	n.ring[n.head] = c
	n.n = min(n.n+1, tickKept)
	n.memory, n.memTotal = n.readMemory(buf)
	n.pids = n.readTasks(buf)
	for _, p := range n.places {
		_ = p.sample(at, buf) // kept for place.join
	}
}

func (n *node) readMemory(buf []byte) (reading, uint64) {
	b, err := n.mem.read(buf)
	if err != nil {
		return reading{err: fmt.Errorf("read %s: %w", n.mem.path, err)}, 0
	}
	total, ok1 := field(b, "MemTotal:")
	avail, ok2 := field(b, "MemAvailable:")
	if !ok1 || !ok2 || total == 0 {
		return reading{err: fmt.Errorf("read %s: %w", n.mem.path, errFormat)}, 0
	}
	return reading{percent: share(total-min(avail, total), total)}, total << 10
}

func (n *node) readTasks(buf []byte) reading {
	b, err := n.avg.read(buf)
	if err != nil {
		return reading{err: fmt.Errorf("read %s: %w", n.avg.path, err)}
	}
	have, ok := tasks(b)
	if !ok || n.maxTasks == 0 {
		return reading{err: fmt.Errorf("read %s and sys/kernel/pid_max: %w", n.avg.path, errFormat)}
	}
	return reading{percent: share(have, n.maxTasks)}
}

func share(part, whole uint64) float64 { return 100 * float64(part) / float64(whole) }

// readLimits reads what changes rarely: how many tasks there may be, limits of places. The
// least of what the kernel allows counts. Source: proc_sys_kernel(5).
func (n *node) readLimits(h *hierarchies, buf []byte) {
	n.maxTasks = 0
	for _, name := range []string{"sys/kernel/pid_max", "sys/kernel/threads-max"} {
		f := file{path: filepath.Join(n.proc, name), once: true}
		b, err := f.whole(buf)
		if err != nil {
			continue
		}
		if v, err := only(b); err == nil && v > 0 && (n.maxTasks == 0 || v < n.maxTasks) {
			n.maxTasks = v
		}
	}
	for _, p := range n.places {
		if p.err != nil { // it may have been made since
			p.close()
			p.container = *newContainer(p.Subject, p.cgroup, h, false)
		}
		p.readLimits(h, buf)
	}
}

// diskTime is how long a file system may take to answer. One of a network that is away may
// never do.
const diskTime = time.Second

type diskReadings struct{ disk, inodes reading }

// sampleDisks reads the file systems; the fullest counts. One that does not answer is a
// reading that fails, and costs one goroutine that waits for it.
func (n *node) sampleDisks() {
	if n.answer == nil {
		n.answer = make(chan diskReadings, 1)
		go func(to chan<- diskReadings) { to <- readDisks(n.disks) }(n.answer)
	}
	t := time.NewTimer(diskTime)
	defer t.Stop()
	select {
	case got := <-n.answer:
		n.disk, n.inodes, n.answer = got.disk, got.inodes, nil
	case <-t.C:
		err := fmt.Errorf("look at the file systems of %q: no answer within %s", n.disks, diskTime)
		n.disk, n.inodes = reading{err: err}, reading{err: err}
	}
}

func readDisks(paths []string) diskReadings {
	d := diskReadings{reading{err: errAbsent}, reading{err: errAbsent}}
	for _, path := range paths {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); errors.Is(err, fs.ErrNotExist) {
			continue // no engine keeps anything there
		} else if err != nil {
			err = fmt.Errorf("look at the file system of %s: %w", path, err)
			return diskReadings{reading{err: err}, reading{err: err}}
		}
		block := uint64(st.Bsize) //nolint:gosec // not negative
		used := st.Blocks - min(st.Bfree, st.Blocks)
		// As df does: what only root may use is not there for containers.
		fullest(&d.disk, used*block, (used+st.Bavail)*block, path)
		// File systems without a fixed number of inodes say that they have 0.
		fullest(&d.inodes, st.Files-min(st.Ffree, st.Files), st.Files, path)
	}
	return d
}

func fullest(r *reading, used, of uint64, path string) {
	if of == 0 {
		return
	}
	if p := share(used, of); r.err != nil || p > r.percent {
		*r = reading{percent: p, of: of, where: path}
	}
}

// read returns a resource's reading, with rates over the given time or as long as is known.
// The second result is false as long as there is no rate yet.
func (n *node) read(r Resource, over time.Duration) (reading, bool) {
	out, ok := reading{}, true
	switch r {
	case Memory:
		out = n.memory
	case PIDs:
		out = n.pids
	case Disk:
		out = n.disk
	case Inodes:
		out = n.inodes
	default:
		out, ok = n.rateOf(r, over)
	}
	if !ok || out.err != nil {
		return out, ok
	}
	for _, p := range n.places {
		p.join(r, &out)
	}
	return out, true
}

func (n *node) rateOf(r Resource, over time.Duration) (reading, bool) {
	now := &n.ring[n.head]
	i := int(r) - int(PSICPU)
	if err := now.cpuErr; r == CPU && err != nil {
		return reading{err: err}, true
	}
	if r != CPU && now.psiErr[i] != nil {
		return reading{err: now.psiErr[i]}, true
	}
	from := n.before(over)
	if from == nil {
		return reading{}, false
	}
	if r == CPU {
		if from.cpuErr != nil || now.total <= from.total || now.busy < from.busy {
			return reading{}, false
		}
		return reading{percent: share(now.busy-from.busy, now.total-from.total)}, true
	}
	if from.psiErr[i] != nil || now.psi[i] < from.psi[i] {
		return reading{}, false
	}
	return reading{percent: psiShare(from.psi[i], now.psi[i], from.at, now.at)}, true
}

// psiShare is the share of time in percent. The kernel adds up in batches, so that a share can
// come out a little over all of it.
func psiShare(from, to uint64, since, at int64) float64 {
	return min(100, 100*float64(to-from)*1000/float64(at-since))
}

// before returns the newest counters that are at least as old as asked for, or the oldest; nil
// while there are no two.
func (n *node) before(over time.Duration) *counters {
	now := &n.ring[n.head]
	var best *counters
	for i := 1; i < n.n; i++ {
		c := &n.ring[(n.head-i+tickKept)%tickKept]
		if c.at >= now.at {
			continue
		}
		best = c
		if now.at-c.at >= int64(over) {
			break
		}
	}
	return best
}

// capacity is how much there is of what a reading is of. CPU is in billionths of one.
func (n *node) capacity(r Resource, got reading) uint64 {
	if r > PIDs {
		return got.of
	}
	for _, p := range n.places {
		if p.cgroup == got.where {
			return p.capacity(r)
		}
	}
	return [...]uint64{CPU: uint64(runtime.NumCPU()) * 1e9, Memory: n.memTotal, PIDs: n.maxTasks}[r] //nolint:gosec // not negative
}

func (p *place) capacity(r Resource) uint64 {
	return [...]uint64{CPU: uint64(p.cpus * 1e9), Memory: p.memoryMax, PIDs: p.pidsMax}[r]
}

// netRate returns bytes a second over rateOver; 0 while it is not known.
func (n *node) netRate() float64 {
	now, from := &n.ring[n.head], n.before(rateOver)
	if from == nil || now.netErr != nil || from.netErr != nil || now.net < from.net {
		return 0
	}
	return float64(now.net-from.net) / time.Duration(now.at-from.at).Seconds()
}

// join makes a place's reading the node's if it is the fuller. One that cannot be read is
// the reading's error, unless the place has no limit that it would be held against.
func (p *place) join(r Resource, out *reading) {
	percent, limited := p.percent(r)
	switch {
	case !limited:
	case p.err != nil:
		*out = reading{where: p.cgroup, err: p.err}
	case percent > out.percent:
		*out = reading{percent: percent, where: p.cgroup}
	}
}

// percent is what a container, or a place, has of its own limit, or how long some task
// in it waited; false if it has no such limit.
func (c *container) percent(r Resource) (float64, bool) {
	switch r {
	case CPU:
		return 100 * c.cpuRate() / max(c.cpus, 1e-9), c.cpus > 0
	case Memory:
		return share(c.now.memory, max(c.memoryMax, 1)), c.memoryMax > 0
	case PIDs:
		return share(c.now.pids, max(c.pidsMax, 1)), c.pidsMax > 0
	case PSICPU, PSIMemory, PSIIO:
		i := int(r) - int(PSICPU)
		if c.files[fPSI+i].path == "" || c.before.at == 0 || c.now.psi[i] < c.before.psi[i] {
			return 0, false
		}
		return psiShare(c.before.psi[i], c.now.psi[i], c.before.at, c.now.at), true
	}
	return 0, false
}

func (n *node) close() {
	for _, f := range []*file{&n.stat, &n.mem, &n.avg, &n.net, &n.psi[0], &n.psi[1], &n.psi[2]} {
		f.close()
	}
	for _, p := range n.places {
		p.close()
	}
}
