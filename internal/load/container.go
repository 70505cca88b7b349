package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A container's files, in the order of container.files.
const (
	fMemory = iota
	fMemoryStat
	fCPU
	fPIDs
	fIO
	fPSI     // and the two after it
	fNet     = fPSI + numPSI
	numFiles = fNet + 1
)

// point is what a container had at a moment. Counters only grow.
type point struct {
	at     int64  // nanoseconds on the watcher's clock
	memory uint64 // bytes, without what the kernel gives back first
	cpu    uint64 // nanoseconds of CPU time
	pids   uint64
	io     uint64         // bytes written to block devices
	net    uint64         // bytes, both directions
	psi    [numPSI]uint64 // microseconds in which some task waited
}

const (
	// historyEvery apart, historyLen points are kept: a quarter of an hour.
	historyEvery = 20 * time.Second
	historyLen   = 46
)

// container is one that is watched.
type container struct {
	Subject
	cgroup string
	files  [numFiles]file
	memV1  bool
	cpuV1  bool
	ioV1   bool
	hasNet bool // it has a network of its own, which is open
	netTry int  // looks for it

	memoryMax uint64 // bytes; 0: none
	pidsMax   uint64
	cpus      float64 // quota in CPUs; 0: none
	limitsAt  time.Time

	now, before point // the last two samples
	history     [historyLen]point
	first, n    int   // of history, a ring
	err         error // of the last sample
	once        bool  // its files are not kept open
	states      map[stateKey]*machine
}

func newContainer(s Subject, cgroup string, h *hierarchies, once bool) *container {
	c := &container{Subject: s, cgroup: cgroup}
	set := func(i int, path string) { c.files[i] = file{path: path, once: once} }
	path, v1 := h.in(cgroup, "memory", "memory.usage_in_bytes", "memory.current")
	c.memV1 = v1
	set(fMemory, path)
	path, _ = h.in(cgroup, "memory", "memory.stat", "memory.stat")
	set(fMemoryStat, path)
	path, c.cpuV1 = h.in(cgroup, "cpuacct", "cpuacct.usage", "cpu.stat")
	set(fCPU, path)
	path, _ = h.in(cgroup, "pids", "pids.current", "pids.current")
	set(fPIDs, path)
	path, c.ioV1 = h.in(cgroup, "blkio", "blkio.throttle.io_service_bytes", "io.stat")
	set(fIO, path)
	for i, name := range psiFiles {
		if h.unified != "" {
			set(fPSI+i, filepath.Join(h.unified, cgroup, name))
		}
	}
	return c
}

var psiFiles = [numPSI]string{"cpu.pressure", "memory.pressure", "io.pressure"}

// required are the files without which a container is not watched. Of the others a host, or
// a container, may have none: the reading is 0 then, and named in none of the causes.
func required(i int) bool { return i == fMemory || i == fCPU || i == fPIDs }

// sample reads all that the container has. A cgroup that is gone is an error that [gone]
// knows. It allocates nothing as long as nothing fails.
func (c *container) sample(at int64, buf []byte) error {
	p := point{at: at}
	for i := range c.files {
		f := &c.files[i]
		if f.path == "" {
			if required(i) {
				return c.failed(i, errAbsent)
			}
			continue
		}
		b, err := f.whole(buf)
		switch {
		case err == nil:
			err = c.take(i, b, &p)
		case !required(i):
			// This host, or this container, has it no more.
			f.close()
			f.path = ""
			c.hasNet = c.hasNet && i != fNet
			continue
		}
		if err != nil {
			return c.failed(i, err)
		}
	}
	c.before, c.now, c.err = c.now, p, nil
	if c.n == 0 || at-c.last().at >= int64(historyEvery) {
		c.keep(p)
	}
	return nil
}

// removed reports whether the last sample failed because the cgroup is no more, and not a
// file of it alone.
func (c *container) removed(h *hierarchies) bool {
	if c.err == nil || !gone(c.err) {
		return false
	}
	_, err := os.Lstat(h.procs(c.cgroup))
	return errors.Is(err, fs.ErrNotExist)
}

func (c *container) failed(i int, err error) error {
	c.err = fmt.Errorf("read %s: %w", c.files[i].path, err)
	return c.err
}

// take puts what a file holds into the point.
func (c *container) take(i int, b []byte, p *point) (err error) {
	var n uint64
	ok := true
	switch i {
	case fMemory:
		p.memory, err = only(b)
	case fMemoryStat:
		// What the kernel gives back first is no load: caches of files that are not in use.
		key := "inactive_file"
		if c.memV1 {
			key = "total_inactive_file"
		}
		n, ok = field(b, key)
		p.memory -= min(n, p.memory)
	case fCPU:
		if c.cpuV1 {
			p.cpu, err = only(b)
			break
		}
		n, ok = field(b, "usage_usec")
		p.cpu = n * 1000
	case fPIDs:
		p.pids, err = only(b)
	case fIO:
		p.io = written(b, c.ioV1)
	case fNet:
		p.net, ok = netBytes(b)
	default:
		p.psi[i-fPSI], ok = psiTotal(b)
	}
	if !ok {
		err = errFormat
	}
	return err
}

func (c *container) last() *point { return &c.history[(c.first+c.n-1)%historyLen] }

func (c *container) keep(p point) {
	if c.n < historyLen {
		c.n++
	} else {
		c.first = (c.first + 1) % historyLen
	}
	*c.last() = p
}

// cpuRate is how many CPUs it used between the last two samples.
func (c *container) cpuRate() float64 { return rate(&c.before, &c.now, cpuOf) }

// readLimits reads what limits the container has.
func (c *container) readLimits(h *hierarchies, buf []byte) {
	read := func(controller, v1, v2 string) []byte {
		path, _ := h.in(c.cgroup, controller, v1, v2)
		f := file{path: path, once: true}
		b, err := f.whole(buf)
		if err != nil {
			return nil // it is gone, or there is none
		}
		return b
	}
	c.memoryMax = limitOf(read("memory", "memory.limit_in_bytes", "memory.max"))
	c.pidsMax = limitOf(read("pids", "pids.max", "pids.max"))
	if h.v1["cpu"] == "" {
		c.cpus = quota(read("cpu", "", "cpu.max"))
		return
	}
	c.cpus = 0
	if q, _, ok := number(read("cpu", "cpu.cfs_quota_us", "")); ok { // -1: none
		if period, _, ok := number(read("cpu", "cpu.cfs_period_us", "")); ok && period > 0 {
			c.cpus = float64(q) / float64(period)
		}
	}
}

// maxNetTries is how often a network is looked for in a container without processes.
const maxNetTries = 30

// openNet opens the counters of the container's network, through a process of it. One that
// shares the host's has none of its own.
func (c *container) openNet(h *hierarchies, proc string, once bool) {
	if c.hasNet || c.netTry >= maxNetTries {
		return
	}
	c.netTry++
	pid := firstPID(h.procs(c.cgroup))
	if pid == 0 {
		return
	}
	dir := filepath.Join(proc, strconv.Itoa(pid))
	f := file{path: filepath.Join(dir, "net/dev"), once: once}
	var b [64]byte
	if _, err := f.read(b[:]); err != nil {
		return
	}
	// A number is given anew when its process has ended: it must still be one of the
	// container's after the file was opened.
	of, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil || !bytes.Contains(of, []byte(c.ID)) || sameNet(proc, dir) {
		f.close()
		return
	}
	c.files[fNet], c.hasNet = f, true
}

func sameNet(proc, dir string) bool {
	a, err1 := os.Readlink(filepath.Join(proc, "self/ns/net"))
	b, err2 := os.Readlink(filepath.Join(dir, "ns/net"))
	return err1 != nil || err2 != nil || a == b
}

func firstPID(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	n, _, ok := number([]byte(line))
	if !ok || n > 1<<22 { // PID_MAX_LIMIT
		return 0
	}
	return int(n)
}

func (c *container) close() {
	for i := range c.files {
		c.files[i].close()
	}
}

// openFiles returns how many files may be kept open for containers: half of what the process
// may have.
func openFiles() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(l.Cur/2, 1<<20)) //nolint:gosec // at most a million
}
