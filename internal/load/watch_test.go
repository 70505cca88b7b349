package load

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
)

// TestOverAndRelieved: memory passes its cap; the alert comes within the window, names the
// container that grew and since when, and ends after the hysteresis.
func TestOverAndRelieved(t *testing.T) {
	for _, v1 := range []bool{false, true} {
		f := newFake(t, v1, "{caps: {memory: 80%}, for: 20s, hysteresis: 10%, actions: [alert]}")
		f.container(1, 100, 0, 5)
		f.container(2, 300, 0, 5)
		f.run(time.Minute, nil)
		grown := f.now
		f.node(0, 90, 100)
		f.container(1, 500, 0, 5)
		f.run(time.Minute, nil)
		if len(f.told) != 1 {
			t.Fatalf("v1 %v: got %s, want one alert", v1, f.events())
		}
		a := f.told[0]
		if a.Event != EventOver || a.Cap != "memory" || a.Percent != 90 || a.Limit != 80 || !a.Since.Equal(grown) || a.Time.Sub(grown) != 20*time.Second {
			t.Errorf("got %+v", a)
		}
		if len(a.Causes) != 2 {
			t.Fatalf("got causes %+v", a.Causes)
		}
		c := a.Causes[0]
		if c.Name != "c1" || c.Now != 500<<20 || c.Grew != 400<<20 || c.Unit != "bytes" || c.Since.After(grown) || grown.Sub(c.Since) > historyEvery+containersEvery {
			t.Errorf("the cause is %+v; it grew at %s", c, grown)
		}
		if c := a.Causes[1]; c.Name != "c2" || c.Grew != 0 || !c.Since.IsZero() {
			t.Errorf("the second cause is %+v", c)
		}
		f.node(0, 75, 100)
		f.run(time.Minute, nil)
		if len(f.told) != 1 {
			t.Errorf("within the hysteresis: got %s", f.events())
		}
		f.node(0, 70, 100)
		f.run(time.Minute, nil)
		if got := f.events(); got != "over memory, relieved memory" {
			t.Errorf("got %s", got)
		}
	}
}

// TestEachCap: every kind of cap is read, and raised.
func TestEachCap(t *testing.T) {
	f := newFake(t, false, "{caps: {cpu: 50%, pids: 50%, memory: 50%, disk: 99%, inodes: 99%, psi: {memory: 20%}}, for: 10s, actions: [alert]}")
	f.container(1, 1, 0, 1)
	cpu, psi := 0.0, uint64(0)
	f.run(time.Minute, func() { f.node(20, 10, 100) })
	if len(f.told) != 0 {
		t.Fatalf("calm: got %s", f.events())
	}
	f.run(time.Minute, func() {
		f.node(90, 60, 600)
		psi += 1_000_000 // half of the time
		f.psi("memory", psi)
		cpu += 1.5
		f.container(1, 1, cpu, 1)
	})
	got := f.events()
	for _, want := range []string{"over cpu", "over pids", "over memory", "over psi.memory"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, a := range f.told {
		switch {
		case a.Cap == "cpu" && (a.Percent < 80 || a.Percent > 91 || len(a.Causes) != 1 || a.Causes[0].Now < 0.7 || a.Causes[0].Now > 0.8):
			t.Errorf("cpu: %+v", a)
		case a.Cap == "psi.memory" && (a.Percent < 45 || a.Percent > 51):
			t.Errorf("psi: %+v", a)
		}
	}
	s := f.w.Status()
	if !s.Watching || len(s.Caps) != 6 || len(s.Containers) != 1 {
		t.Fatalf("got %+v", s)
	}
	for _, c := range s.Caps {
		if !c.Known || c.Error != "" {
			t.Errorf("no reading of %+v", c)
		}
		if (c.Cap == "disk" || c.Cap == "inodes") && c.Where != f.dir && c.Percent > 0 {
			t.Errorf("%s is of %q", c.Cap, c.Where)
		}
	}
}

// TestOwnLimit: a container is held against the limits that it has itself.
func TestOwnLimit(t *testing.T) {
	for _, v1 := range []bool{false, true} {
		f := newFake(t, v1, "{caps: {memory: 80%, cpu: 50%}, for: 20s, actions: [alert]}")
		f.container(1, 50, 0, 5)
		f.container(2, 90, 0, 5)
		dir := "cg/docker/" + string(fakeID(1))
		if v1 {
			f.write("memory/docker/"+string(fakeID(1))+"/memory.limit_in_bytes", "104857600\n")
			f.write("cpu/docker/"+string(fakeID(1))+"/cpu.cfs_quota_us", "50000\n")
			f.write("cpu/docker/"+string(fakeID(1))+"/cpu.cfs_period_us", "100000\n")
		} else {
			f.write(dir+"/memory.max", "104857600\n")
			f.write(dir+"/cpu.max", "50000 100000\n")
		}
		f.run(time.Minute, nil)
		if len(f.told) != 0 {
			t.Fatalf("got %s", f.events())
		}
		f.container(1, 95, 0, 5)
		f.run(time.Minute, nil)
		if got := f.events(); got != "over memory c1" {
			t.Fatalf("v1 %v: got %s", v1, got)
		}
		cpu := 0.0
		f.run(time.Minute, func() { cpu += 0.8; f.container(1, 95, cpu, 5) }) // 0.4 of the 0.5 CPUs it may have
		if got := f.events(); got != "over memory c1, over cpu c1" {
			t.Errorf("v1 %v: got %s", v1, got)
		}
		if s := f.w.Status(); s.Containers[0].MemoryMax != 100<<20 || s.Containers[0].CPUQuota != 0.5 || len(s.Containers[0].Over) != 2 {
			t.Errorf("got %+v", s.Containers[0])
		}
		f.subjects = f.subjects[1:]
		f.run(time.Minute, nil)
		if got := f.events(); !strings.Contains(got, "dropped memory c1") {
			t.Errorf("its end: got %s", got)
		}
	}
}

// TestUnreadable: what cannot be read is told, and what can be read again.
func TestUnreadable(t *testing.T) {
	f := newFake(t, false, "{caps: {memory: 80%, psi: {io: 50%}}, actions: [alert]}")
	f.container(1, 1, 0, 1)
	f.run(30*time.Second, nil)
	if got := f.events(); got != "unreadable psi.io" {
		t.Fatalf("a host without pressure: got %s", got)
	}
	if !strings.Contains(f.told[0].Error, "psi=1") {
		t.Errorf("the error names no fix: %s", f.told[0].Error)
	}
	f.write("proc/meminfo", "nothing\n")
	f.listErr = errors.New("no list")
	f.run(time.Minute, nil)
	f.node(0, 10, 100)
	f.psi("io", 1)
	f.listErr = nil
	f.run(time.Minute, nil)
	got := f.events()
	for _, want := range []string{"unreadable memory", "unreadable containers", "readable memory", "readable containers", "readable psi.io"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if n := f.w.o.Health.Counter("load_unreadable").Load(); n == 0 {
		t.Error("failures are not counted")
	}
	if c, _ := f.w.o.Health.Component(component); c.State.String() != "ok" {
		t.Errorf("health at the end: %+v", c)
	}
}

// TestReload: the state of a cap outlives an edit of its policy, and a cap that goes is told.
func TestReload(t *testing.T) {
	f := newFake(t, false, "{caps: {memory: 80%}, for: 20s, actions: [alert]}")
	f.node(0, 90, 100)
	f.run(time.Minute, nil)
	f.w.SetPolicies(parsePolicies(t, "{caps: {memory: 81%}, for: 30s, actions: [alert]}"))
	f.run(time.Minute, nil)
	if got := f.events(); got != "over memory" {
		t.Errorf("after an edit: got %s", got)
	}
	f.w.SetPolicies(nil)
	f.run(10*time.Second, nil)
	if got := f.events(); got != "over memory, dropped memory" {
		t.Errorf("after the policy went: got %s", got)
	}
	if s := f.w.Status(); s.Watching || f.w.node != nil {
		t.Errorf("without a policy it watches: %+v", s)
	}
}

// TestComesAndGoes: containers that end are forgotten, and nothing is told of that.
func TestComesAndGoes(t *testing.T) {
	f := newFake(t, false, "{caps: {memory: 80%}, actions: [alert]}")
	f.container(1, 1, 0, 1)
	f.container(2, 1, 0, 1)
	f.run(30*time.Second, nil)
	if len(f.w.Status().Containers) != 2 {
		t.Fatalf("got %+v", f.w.Status().Containers)
	}
	if err := os.RemoveAll(filepath.Join(f.dir, "cg/docker", string(fakeID(1)))); err != nil {
		t.Fatal(err)
	}
	f.subjects = f.subjects[1:]
	f.run(30*time.Second, nil)
	if got := f.w.Status().Containers; len(got) != 1 || got[0].Name != "c2" || len(f.told) != 0 {
		t.Errorf("got %+v, told %s", got, f.events())
	}
}

// TestIncomplete: a container without a file that is needed, and one without a cgroup, are told;
// they are not passed over.
func TestIncomplete(t *testing.T) {
	f := newFake(t, false, "{caps: {memory: 80%}, coolDown: 1m, actions: [alert]}")
	f.container(1, 1, 0, 1)
	if err := os.Remove(filepath.Join(f.dir, "cg/docker", string(fakeID(1)), "memory.current")); err != nil {
		t.Fatal(err)
	}
	f.run(time.Minute, nil)
	if got := f.events(); got != "unreadable containers" || !strings.Contains(f.told[0].Error, "memory.current") {
		t.Errorf("got %s", got)
	}
	f.container(1, 1, 0, 1)
	f.run(30*time.Second, nil)
	f.subjects = append(f.subjects, Subject{ID: fakeID(9)})
	f.run(30*time.Second, nil)
	if got := f.events(); got != "unreadable containers, readable containers" {
		t.Errorf("one that is being made: got %s", got)
	}
	f.run(2*time.Minute, nil)
	if got := f.events(); got != "unreadable containers, readable containers, unreadable containers" || !strings.Contains(f.told[2].Error, "1 containers have no cgroup") {
		t.Errorf("got %s", got)
	}
}

// TestImpostor: a container cannot pass a cgroup of its own for another's.
func TestImpostor(t *testing.T) {
	f := newFake(t, false, "{caps: {memory: 80%}, actions: [alert]}")
	f.container(2, 7, 0, 1)
	f.write("cg/docker/"+string(fakeID(1))+"/"+string(fakeID(2))+"/memory.current", "1\n")
	h, err := findHierarchies(f.dir + "/proc")
	if err != nil {
		t.Fatal(err)
	}
	own := "/docker/" + string(fakeID(2))
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(f.dir, "cg", own), &st); err != nil {
		t.Fatal(err)
	}
	found, err := h.find(nil, map[ident.ContainerID]uint64{fakeID(2): st.Ino})
	if err != nil || found[fakeID(2)] != own {
		t.Errorf("got %v, %v, want %s", found, err, own)
	}
}
