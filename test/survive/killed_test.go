package survive

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// The agent is killed and started again, in a loop, while forbidden containers start and
// a forbidden program is tried: none passes, and what is allowed runs.
func TestKillLoop(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	starts, tries := count(t, "BELAY_KILL_STARTS", 300), count(t, "BELAY_KILL_TRIES", 3000)
	var killed, odd, allowed atomic.Int64
	working, stop := context.WithCancel(ctx)
	defer stop()
	var workers sync.WaitGroup
	workers.Go(func() { // containers whose first program is root's
		for i := 0; i < starts && odd.Load() <= 3; i++ {
			if _, code, out := w.run(ctx, nil, "/bin/id"); code == 0 || strings.Contains(out, "uid=") {
				odd.Add(1)
				t.Errorf("start %d: root runs: exit %d: %s", i, code, out)
			}
			if _, code, out := w.run(ctx, asUser, "/bin/id"); code != 0 {
				odd.Add(1)
				t.Errorf("start %d: a user's program does not run: exit %d: %s", i, code, out)
			} else {
				allowed.Add(1)
			}
		}
	})
	workers.Go(func() { // a dropped program, again and again, in one container
		_, code, out := w.run(ctx, asUser, "/bin/attack", "--count", fmt.Sprint(tries), "e14-retry")
		if code != 1 {
			t.Errorf("%d tries of a dropped program: exit %d: %s", tries, code, out)
		}
	})
	ended := make(chan struct{})
	go func() { workers.Wait(); stop(); close(ended) }()
	// Each life of the agent ends at another moment of its start.
	for life := time.Duration(0); working.Err() == nil; life = (life + 130*time.Millisecond) % (2 * time.Second) {
		if err := w.agent.Kill(); err != nil {
			t.Error(err)
			break
		}
		killed.Add(1)
		if err := w.agent.Launch(); err != nil {
			t.Error(err)
			break
		}
		lab.Await(working, life, func() bool { return false })
	}
	<-ended
	if err := w.agent.Kill(); err != nil {
		t.Fatal(err)
	}
	if killed.Load() < 3 {
		t.Errorf("the agent was killed %d times, want at least 3", killed.Load())
	}
	t.Logf("%d starts, %d tries, %d agents killed: none ran; %d allowed containers ran", starts, tries, killed.Load(), allowed.Load())
	w.restore(t)
	st, err := w.agent.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !st.Adopted {
		t.Error("the last agent started afresh")
	}
	w.enforced(t, "after the last start")
}

// Containers come and go; of the agent's descriptors, memory, pins and entries nothing
// grows with their number, nor do the entries of the kernel side's maps.
func TestChurn(t *testing.T) {
	w := need(t)
	n := count(t, "BELAY_CHURN", 300)
	warm := func(n int) {
		for i := range n {
			if _, code, out := w.run(t.Context(), asUser, "/bin/id"); code != 0 {
				t.Fatalf("container %d: exit %d: %s", i, code, out)
			}
		}
	}
	id, code, out := w.run(t.Context(), append([]string{"--detach"}, asUser...), "/bin/sleep", "1000")
	if code != 0 {
		t.Fatalf("a container that stays: exit %d: %s", code, out)
	}
	defer func() {
		if code, out := w.ctr(t.Context(), "rm", "--state", w.lab.Path("ctr"), "--id", id); code != 0 {
			t.Errorf("remove it: exit %d: %s", code, out)
		}
	}()
	warm(30) // what is made once
	before := w.footprint(t)
	if before.cgroups == 0 || before.states == 0 {
		t.Fatalf("a container runs, and the kernel's maps show none: %+v", before)
	}
	warm(n)
	var after footprint
	ok := lab.Await(t.Context(), 20*time.Second, func() bool {
		after = w.footprint(t)
		return after.containers <= before.containers && after.fds <= before.fds+4 && after.rss <= before.rss+16<<20 && after.pins == before.pins &&
			after.cgroups <= before.cgroups && after.states <= before.states && after.binds <= before.binds &&
			after.maps == before.maps && after.programs == before.programs
	})
	if !ok {
		t.Errorf("after %d containers %+v, before %+v", n, after, before)
	}
	t.Logf("before %+v; after %d containers %+v", before, n, after)
}

// footprint is what an agent holds.
type footprint struct {
	containers, fds, pins, rss int
	cgroups, states, binds     int // entries in the kernel
	maps, programs             int // pinned, programs by their links
}

func (w *world) footprint(t *testing.T) footprint {
	t.Helper()
	st, err := w.agent.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := footprint{containers: st.Containers}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.agent.PID()))
	if err != nil {
		t.Fatal(err)
	}
	f.fds = len(fds)
	err = filepath.WalkDir(filepath.Join(w.agent.RunDir(), "bpf"), func(_ string, _ os.DirEntry, err error) error {
		f.pins++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.cgroups, f.states, f.binds = w.entries(t, "bl_cgroups"), w.entries(t, "bl_containers"), w.entries(t, "bl_binds")
	f.maps, f.programs = len(pinned(t, w.agent, "maps/*")), len(pinned(t, w.agent, "links/*/*"))
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", w.agent.PID()))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(raw), &size, &resident); err != nil {
		t.Fatal(err)
	}
	f.rss = resident * os.Getpagesize()
	return f
}

// pinned returns what an agent has pinned.
func pinned(t *testing.T, a *lab.Agent, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(a.RunDir(), "bpf", "abi-*", pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("pins %s: %v, %v", pattern, found, err)
	}
	return found
}

// entries counts those of a map, as its pin tells them.
func (w *world) entries(t *testing.T, name string) (n int) {
	t.Helper()
	pin := pinned(t, w.agent, "maps/"+name)
	if len(pin) != 1 {
		t.Fatalf("pins of %s: %v, want one", name, pin)
	}
	text, err := os.ReadFile(pin[0])
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") && strings.Contains(line, ": ") {
			n++
		}
	}
	return n
}

// The kernel takes the agent for want of memory: its rules stay, and the next agent takes
// them over.
func TestOutOfMemory(t *testing.T) {
	w := need(t)
	dir, limit := memoryCgroup(t, w.lab.Name+"-oom")
	since := time.Now()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, w.agent.PID()), 0o644); err != nil {
		t.Fatal(err)
	}
	pid := w.agent.PID()
	// What it has is counted where it was; what it takes from now on is counted here.
	if err := os.WriteFile(filepath.Join(dir, limit), []byte("262144"), 0o644); err != nil {
		t.Fatal(err)
	}
	dead := lab.Await(t.Context(), time.Minute, func() bool {
		_, _, _ = w.run(t.Context(), nil, "/bin/id")
		w.agent.Belay(t.Context(), "events", "--denials")
		return w.agent.PID() == 0
	})
	if !dead {
		t.Fatalf("process %d lives with 256 KiB", pid)
	}
	w.enforced(t, "with the agent out of memory")
	w.restore(t)
	st, err := w.agent.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Adopted {
		t.Error("the next agent started afresh")
	}
	denials, err := w.agent.Denials(t.Context(), since)
	if err != nil || len(denials) == 0 {
		t.Errorf("what was denied meanwhile is not told: %v", err)
	}
}

// memoryCgroup makes a cgroup that counts memory, and says which file has its limit.
func memoryCgroup(t *testing.T, name string) (dir, limit string) {
	t.Helper()
	dir, limit = filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes"
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		dir, limit = filepath.Join("/sys/fs/cgroup", name), "memory.max"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the dead leave a moment later
		lab.Await(context.WithoutCancel(t.Context()), 5*time.Second, func() bool { return os.Remove(dir) == nil })
	})
	return dir, limit
}
