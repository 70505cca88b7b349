package load

import (
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	if n, err := only([]byte("123\n")); n != 123 || err != nil {
		t.Errorf("only: got %d, %v", n, err)
	}
	for _, bad := range []string{"", "max\n", "12 13\n", "-1", "99999999999999999999"} {
		if n, err := only([]byte(bad)); !errors.Is(err, errFormat) {
			t.Errorf("only(%q): got %d, %v", bad, n, err)
		}
	}
	for in, want := range map[string]uint64{"max\n": 0, "9223372036854771712\n": 0, "1073741824\n": 1 << 30, "": 0, "-1\n": 0} {
		if got := limitOf([]byte(in)); got != want {
			t.Errorf("limitOf(%q): got %d, want %d", in, got, want)
		}
	}
	for in, want := range map[string]float64{"max 100000\n": 0, "50000 100000\n": 0.5, "": 0, "5": 0, "5 0": 0} {
		if got := quota([]byte(in)); got != want {
			t.Errorf("quota(%q): got %v, want %v", in, got, want)
		}
	}
	stat := []byte("anon 1\ninactive_file_x 9\ntotal_inactive_file 8\ninactive_file 7\n")
	if n, ok := field(stat, "inactive_file"); n != 7 || !ok {
		t.Errorf("field: got %d, %v", n, ok)
	}
	if n, ok := field([]byte("MemTotal:       24683620 kB\n"), "MemTotal:"); n != 24683620 || !ok {
		t.Errorf("field: got %d, %v", n, ok)
	}
	if _, ok := field(stat, "none"); ok {
		t.Error("field: found what is not there")
	}
	if n, ok := psiTotal([]byte("some avg10=22.18 avg60=21.63 avg300=11.79 total=23366001230\nfull avg10=0.00 total=7\n")); n != 23366001230 || !ok {
		t.Errorf("psiTotal: got %d, %v", n, ok)
	}
	if n, ok := psiTotal([]byte("some avg10=0.00\nfull avg10=0.00 total=7\n")); ok {
		t.Errorf("psiTotal: got %d of the wrong line", n)
	}
	busy, total, ok := cpuTimes([]byte("cpu  10 20 30 400 50 0 6 7 8 9\ncpu0 1 2\n"))
	if busy != 73 || total != 523 || !ok {
		t.Errorf("cpuTimes: got %d of %d, %v", busy, total, ok)
	}
	if n, ok := tasks([]byte("2.43 1.67 1.67 2/109 32099\n")); n != 109 || !ok {
		t.Errorf("tasks: got %d, %v", n, ok)
	}
	if n := written([]byte("8:0 rbytes=1 wbytes=2 rios=3\n8:16 rbytes=1 wbytes=40\n"), false); n != 42 {
		t.Errorf("written: got %d", n)
	}
	if n := written([]byte("8:0 Read 1\n8:0 Write 2\n8:16 Write 40\nTotal 43\n"), true); n != 42 {
		t.Errorf("written under version 1: got %d", n)
	}
}

// TestPressure: what the kernel tells of is there, in its unit, and nothing else.
func TestPressure(t *testing.T) {
	f := newFake(t, false, "")
	f.psi("memory", 1_500_000)
	f.write("proc/pressure/io", "some avg10=0.00\n")
	got := Pressure(filepath.Join(f.dir, "proc"))
	if want := map[string]time.Duration{"memory": 1500 * time.Millisecond}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 333265805 2993499    0    0    0     0          0         0 333265805 2993499    0    0    0     0       0          0
eth0:1: 5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
  eth0:2136993895  120665    0    0    0     0          0         0  8805003   82604    0    0    0     0       0          0
`

func TestNetBytes(t *testing.T) {
	if n, ok := netBytes([]byte(netDev)); n != 12+2136993895+8805003 || !ok {
		t.Errorf("got %d, %v", n, ok)
	}
	for _, bad := range []string{"", netDev[:strings.Index(netDev, "eth0:1")+9], "a\nb\nno colon\n"} {
		if n, ok := netBytes([]byte(bad)); ok {
			t.Errorf("netBytes(%q): got %d", bad, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{netDev, "some avg10=1 total=5\n", "cpu  1 2 3 4 5 6 7 8\n", "8:0 rbytes=1 wbytes=2\n", "2/109", "max 1000", "usage_usec 7\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		netBytes(b)
		psiTotal(b)
		cpuTimes(b)
		tasks(b)
		written(b, false)
		written(b, true)
		limitOf(b)
		quota(b)
		field(b, "usage_usec")
		_, _ = only(b)
	})
}
