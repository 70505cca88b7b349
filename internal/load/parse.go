package load

import (
	"bytes"
	"errors"
	"fmt"
	"math"
)

// errFormat is returned for a file of the kernel that does not hold what its manual says.
var errFormat = errors.New("unexpected format")

// The parsers below read files of the kernel without allocating; what they cannot read is
// no value, never a guess.

// number reads the decimal digits at the start of b, and returns what follows them.
func number(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		d := uint64(b[i] - '0')
		if n > (math.MaxUint64-d)/10 {
			return 0, b, false
		}
		n = n*10 + d
	}
	return n, b[i:], i > 0
}

// only reads a file that holds one number.
func only(b []byte) (uint64, error) {
	n, rest, ok := number(b)
	if !ok || len(bytes.TrimSpace(rest)) > 0 {
		return 0, fmt.Errorf("%w: %.40q is no number", errFormat, b)
	}
	return n, nil
}

// limitOf reads a limit of a cgroup; 0 is none. Version 1 writes a number near the largest
// for none: "9223372036854771712", rounded to pages (mm/page_counter.c).
func limitOf(b []byte) uint64 {
	n, _, ok := number(b)
	if !ok || n >= math.MaxInt64&^0xfffff {
		return 0
	}
	return n
}

// field reads the number after key at the start of a line, such as "usage_usec 12" or
// "MemTotal:   34 kB".
func field(b []byte, key string) (uint64, bool) {
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		if len(line) <= len(key) || string(line[:len(key)]) != key || line[len(key)] != ' ' {
			continue
		}
		n, _, ok := number(bytes.TrimLeft(line[len(key):], " "))
		return n, ok
	}
	return 0, false
}

var totalKey = []byte("total=")

// psiTotal reads for how many microseconds some task has waited: the first line of a
// pressure file. Source: Documentation/accounting/psi.rst.
func psiTotal(b []byte) (uint64, bool) {
	if !bytes.HasPrefix(b, []byte("some ")) {
		return 0, false
	}
	i := bytes.Index(b, totalKey)
	if i < 0 || bytes.IndexByte(b[:i], '\n') >= 0 {
		return 0, false
	}
	n, _, ok := number(b[i+len(totalKey):])
	return n, ok
}

// cpuTimes reads the first line of /proc/stat: ticks in which the CPUs did something, and
// all ticks. Guest time is in user time already. Source: proc_stat(5).
func cpuTimes(b []byte) (busy, total uint64, ok bool) {
	if !bytes.HasPrefix(b, []byte("cpu ")) {
		return 0, 0, false
	}
	b = b[4:]
	for i := range 8 {
		n, rest, ok := number(bytes.TrimLeft(b, " "))
		if !ok {
			return 0, 0, false
		}
		total += n
		if i != 3 && i != 4 { // idle, iowait
			busy += n
		}
		b = rest
	}
	return busy, total, true
}

// tasks reads how many tasks there are: the number after the slash in /proc/loadavg.
func tasks(b []byte) (uint64, bool) {
	i := bytes.IndexByte(b, '/')
	if i < 0 {
		return 0, false
	}
	n, _, ok := number(b[i+1:])
	return n, ok
}

// netBytes adds up what went over all interfaces of a /proc/net/dev but the loopback, in both
// directions. Source: proc_pid_net(5).
func netBytes(b []byte) (sum uint64, ok bool) {
	n := 0
	for ; len(b) > 0; n++ {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		if n < 2 { // titles
			continue
		}
		colon := bytes.LastIndexByte(line, ':') // a name may hold one: eth0:1
		if colon < 0 {
			return 0, false
		}
		if name := bytes.TrimLeft(line[:colon], " "); len(name) == 2 && name[0] == 'l' && name[1] == 'o' {
			continue
		}
		rest := line[colon+1:]
		for i := range 9 { // received bytes are the first of eight, sent bytes follow
			v, r, ok := number(bytes.TrimLeft(rest, " "))
			if !ok {
				return 0, false
			}
			if i == 0 || i == 8 {
				sum += v
			}
			rest = r
		}
	}
	return sum, n >= 2
}

// written adds up the bytes written in an io.stat (wbytes=N) or, under version 1, in a
// blkio.throttle.io_service_bytes (8:0 Write N).
func written(b []byte, v1 bool) uint64 {
	key := []byte(" wbytes=")
	if v1 {
		key = []byte(" Write ")
	}
	var sum uint64
	for {
		i := bytes.Index(b, key)
		if i < 0 {
			return sum
		}
		n, rest, ok := number(b[i+len(key):])
		if ok {
			sum += n
		}
		b = rest
	}
}

// quota reads a cpu.max: "max 100000" or "50000 100000". It returns CPUs; 0 is no limit.
func quota(b []byte) float64 {
	q, rest, ok := number(b)
	if !ok {
		return 0
	}
	p, _, ok := number(bytes.TrimLeft(rest, " "))
	if !ok || p == 0 {
		return 0
	}
	return float64(q) / float64(p)
}
