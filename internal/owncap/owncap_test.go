package owncap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{"256M": 256 << 20, "1G": 1 << 30, "none": 0, "268435456": 256 << 20, "131072K": 128 << 20} {
		if got, err := ParseMemory(text); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1G", "0", "1.5G", "256MB", "95M", "9999999999999G"} {
		if got, err := ParseMemory(text); err == nil {
			t.Errorf("%q is taken as %d", text, got)
		}
	}
	for text, want := range map[string]int{"50%": 50, "150%": 150, "none": 0} {
		if got, err := ParseCPU(text); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "%", "50", "0%", "-5%", "1%"} {
		if got, err := ParseCPU(text); err == nil {
			t.Errorf("%q is taken as %d", text, got)
		}
	}
}

// tree makes a hierarchy of files.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFind(t *testing.T) {
	root := tree(t, map[string]string{"two/cgroup.controllers": "cpuset cpu io memory pids\n", "hybrid/cgroup.controllers": "\n"})
	line := func(dir, kind, opts string) string {
		return fmt.Sprintf("30 23 0:26 / %s rw - %s cgroup rw,%s\n", filepath.Join(root, dir), kind, opts)
	}
	for _, c := range []struct {
		what, mounts, cgroup, memory, cpu string
		v2                                bool
	}{
		{"version 2", line("two", "cgroup2", "nsdelegate"), "0::/a.slice/b.service\n", "two/a.slice/b.service", "two/a.slice/b.service", true},
		{"version 1", line("m", "cgroup", "memory") + line("c", "cgroup", "cpu,cpuacct"), "5:memory:/x\n4:cpu,cpuacct:/y\n0::/z\n", "m/x", "c/y", false},
		{"hybrid", line("hybrid", "cgroup2", "") + line("m", "cgroup", "memory") + line("c", "cgroup", "cpu"), "5:memory:/x\n4:cpu:/\n0::/z\n", "m/x", "c", false},
	} {
		proc := tree(t, map[string]string{"self/mountinfo": c.mounts, "self/cgroup": c.cgroup})
		got, err := find(proc)
		if err != nil {
			t.Fatal(err)
		}
		if m := got["memory"]; m.dir != filepath.Join(root, c.memory) || m.v2 != c.v2 {
			t.Errorf("%s: memory is counted in %+v", c.what, m)
		}
		if m := got["cpu"]; m.dir != filepath.Join(root, c.cpu) || m.v2 != c.v2 {
			t.Errorf("%s: the processor is counted in %+v", c.what, m)
		}
	}
}

func TestLeast(t *testing.T) {
	root := tree(t, map[string]string{
		"memory.stat": "", "a/memory.max": "300\n", "a/b/memory.max": "max\n", "a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n",
		"c/memory.limit_in_bytes": "9223372036854771712\n",
	})
	g := group{root: root, dir: filepath.Join(root, "a/b"), v2: true}
	if got := g.least((*group).memoryMax); got != 300 {
		t.Errorf("memory: %d, want that of the one above", got)
	}
	if got := g.least((*group).cpuMax); got != 50 {
		t.Errorf("processor: %d %%, want that of the one above", got)
	}
	g = group{root: root, dir: filepath.Join(root, "c")}
	if got := g.least((*group).memoryMax); got != 0 {
		t.Errorf("version 1 without a limit: %d", got)
	}
}

// Who is under a service manager or in a container stays where it was put.
func TestManaged(t *testing.T) {
	id := strings.Repeat("ab", 32)
	for dir, want := range map[string]bool{
		"/sys/fs/cgroup": false, "/sys/fs/cgroup/system.slice/belay.service": true, "/sys/fs/cgroup/user.slice/session-1.scope": false,
		"/sys/fs/cgroup/system.slice/docker-" + id + ".scope": true, "/sys/fs/cgroup/docker/" + id + "/inner": true,
	} {
		t.Setenv("NOTIFY_SOCKET", "")
		c := &Cap{limits: Limits{Memory: 1 << 60}, memory: group{root: "/sys/fs/cgroup", dir: dir}}
		if _, got := c.managed(); got != want {
			t.Errorf("%s: managed %v, want %v", dir, got, want)
		}
		t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
		if _, got := c.managed(); !got {
			t.Errorf("%s: not managed by a service manager", dir)
		}
	}
}

// Where somebody has set a limit on memory and none on the processor, the agent does not leave for a
// cgroup of its own, and says why it has no cap.
func TestStaysUnderLimit(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	root := tree(t, map[string]string{"a.scope/memory.max": "100000000\n", "a.scope/cpu.max": "max 100000\n"})
	g := group{root: root, dir: filepath.Join(root, "a.scope"), v2: true}
	c := &Cap{Memory: 256 << 20, limits: Limits{Memory: 256 << 20, CPU: 50}, memory: g, cpu: g}
	if err := c.holdMemory(); err != nil || c.Memory != 100_000_000 {
		t.Fatalf("%d bytes, %v", c.Memory, err)
	}
	if c.HoldCPU(); c.WhyCPU == nil || len(c.made) > 0 {
		t.Errorf("made %v, said %v", c.made, c.WhyCPU)
	}
	if left, _ := filepath.Glob(filepath.Join(root, namePrefix+"*")); len(left) > 0 {
		t.Errorf("made %q", left)
	}
}

const envHold = "BELAY_TEST_OWNCAP"

// TestHold lets a process hold itself to caps in a real cgroup, and take more than they are.
func TestHold(t *testing.T) {
	if how := os.Getenv(envHold); how != "" {
		hold(t, how)
		return
	}
	testneed.Need(t, "root", os.Geteuid() == 0, "a cgroup is made")
	groups, err := find("/proc")
	if err != nil {
		t.Fatal(err)
	}
	testneed.Need(t, "cgroup-memory", groups["memory"].dir != "" && groups["cpu"].dir != "", "no memory or cpu controller is mounted whole")
	t.Setenv("NOTIFY_SOCKET", "")
	who, managed := (&Cap{memory: groups["memory"], cpu: groups["cpu"]}).managed()
	testneed.Need(t, "own-cgroup", !managed, who)
	var pids []int
	for _, how := range []string{"clean", "exceed"} {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestHold$", "-test.v")
		cmd.Env = append(os.Environ(), envHold+"="+how, "NOTIFY_SOCKET=", "GOMEMLIMIT=")
		out, err := cmd.CombinedOutput()
		pids = append(pids, cmd.Process.Pid)
		switch how {
		case "clean":
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		case "exceed":
			if err == nil || !strings.Contains(err.Error(), "killed") {
				t.Errorf("ended with %v, want it killed at its cap\n%s", err, out)
			}
		}
	}
	for _, g := range groups {
		g.removeLeft()             // of the one that was killed
		for _, pid := range pids { // those of agents that run here are theirs
			if left, _ := filepath.Glob(filepath.Join(g.root, fmt.Sprint(namePrefix, pid))); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		}
	}
}

func hold(t *testing.T, how string) {
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	c := Hold(Limits{Memory: 96 << 20, CPU: 50})
	if c.Why != nil || c.Memory != 96<<20 {
		t.Fatalf("%+v", c)
	}
	if c.HoldCPU(); c.WhyCPU != nil {
		t.Fatal(c.WhyCPU)
	}
	if got := c.cpu.cpuMax(); got != 50 {
		t.Errorf("the kernel says %d %% of a processor", got)
	}
	if how == "exceed" {
		var all [][]byte
		for range 40 {
			b := make([]byte, 16<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
		t.Fatalf("it lives with %d blocks", len(all))
	}
	block := make([]byte, 16<<20)
	for i := range block {
		block[i] = 1
	}
	u, err := c.Read()
	if err != nil || u.Memory < 16<<20 || u.Memory > 96<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	block[0]++
	if err := c.Release(); err != nil {
		t.Error(err)
	}
	after, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || string(after) != string(before) {
		t.Errorf("before:\n%s\nafter (%v):\n%s", before, err, after)
	}
}
