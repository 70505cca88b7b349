package load

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReadings: how much there is and is used, and what cannot be read; without a policy nothing is.
func TestReadings(t *testing.T) {
	f := newFake(t, false, "{caps: {memory: 80%}, for: 20s, actions: [alert]}")
	if r := f.w.Readings(); !r.At.IsZero() {
		t.Errorf("before a sample: %+v", r)
	}
	f.container(1, 100, 0, 5)
	cpu := 0.0
	f.run(time.Minute, func() {
		f.node(50, 30, 100)
		cpu++
		f.container(1, 100, cpu, 5)
	})
	r := f.w.Readings()
	m := r.Amounts[Memory]
	if m.Has != 1000000<<10 || m.Use < m.Has*29/100 || m.Use > m.Has*31/100 {
		t.Errorf("memory %+v", m)
	}
	if p := r.Amounts[PIDs]; p.Has != 1000 || p.Use < 99 || p.Use > 101 {
		t.Errorf("tasks %+v", p)
	}
	if c := r.Amounts[CPU]; c.Has == 0 || c.Use < c.Has*4/10 || c.Use > c.Has*6/10 {
		t.Errorf("cpu %+v", c)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(f.dir, &st); err != nil {
		t.Fatal(err)
	}
	whole := st.Blocks * uint64(st.Bsize) //nolint:gosec // not negative
	// Some may be root's alone.
	if d := r.Amounts[Disk]; d.Has < whole/4 || d.Has > whole || d.Use == 0 || r.Disk != f.dir {
		t.Errorf("disk %+v of %q, want about %d", d, r.Disk, whole)
	}
	if len(r.Unreadable) > 0 || r.Pressure[1] != 0 || r.Pressure[0] >= 0 {
		t.Errorf("got %+v", r)
	}
	s := f.w.Status().Containers[0]
	if s.PeakMemory != 100<<20 || s.PeakPIDs != 5 || s.PeakCPUs < 0.4 {
		t.Errorf("peaks of %+v", s)
	}
	f.write("proc/meminfo", "nothing\n")
	f.run(10*time.Second, nil)
	if r := f.w.Readings(); !strings.Contains(strings.Join(r.Unreadable, " "), "meminfo") || r.Amounts[Memory].Has != 0 {
		t.Errorf("unreadable: %+v", r)
	}
	f.w.SetPolicies(nil)
	f.run(10*time.Second, nil)
	if r := f.w.Readings(); !r.At.IsZero() || f.w.Caps() != nil {
		t.Errorf("without a policy: %+v", r)
	}
}

// TestLessRoom: where containers are confined to a cgroup with a limit, that counts unless the node
// is over a cap.
func TestLessRoom(t *testing.T) {
	f := newFake(t, false, "{caps: {memory: 80%}, for: 20s, actions: [alert]}")
	w := f.w
	w.tick(f.now)
	w.node.places = []*place{{container{Subject: Subject{Name: "/scope"}, cgroup: "/scope", memoryMax: 1000}}}
	w.node.places[0].now.memory = 100
	if got := w.amount(Memory, reading{percent: 30}); got != (Amount{1000, 100}) {
		t.Errorf("a calm node: got %+v", got)
	}
	if got := w.amount(Memory, reading{percent: 90}); got.Has != w.node.memTotal {
		t.Errorf("a node over its cap: got %+v", got)
	}
	if got := w.amount(Memory, reading{percent: 95, where: "/scope"}); got.Has != 1000 {
		t.Errorf("a scope over its cap: got %+v", got)
	}
}
