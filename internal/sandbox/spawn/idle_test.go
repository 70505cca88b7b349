package spawn

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

// seen is what can be seen of a running child from outside.
type seen struct {
	threads    []string // scheduler and class of block devices, of each
	namespaces int      // that are not this process's
	oom        string   // how soon it is killed where the host has no memory left
	files      map[string]string
}

// look looks at the one child of this process that runs the program.
func look(program string) (*seen, error) {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // a thread that ended
		}
		for _, pid := range strings.Fields(string(b)) {
			if exe, err := os.Readlink("/proc/" + pid + "/exe"); err == nil && exe == program {
				return lookAt(pid)
			}
		}
	}
	return nil, errors.New("no child runs " + program)
}

func lookAt(pid string) (*seen, error) {
	s := &seen{files: map[string]string{}}
	tasks, err := os.ReadDir("/proc/" + pid + "/task")
	if err != nil {
		return nil, err
	}
	for _, e := range tasks {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		s.threads = append(s.threads, classes(tid))
	}
	for _, ns := range []string{"net", "ipc", "pid", "uts"} {
		a, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			return nil, err
		}
		if b, err := os.Readlink("/proc/" + pid + "/ns/" + ns); err == nil && a != b {
			s.namespaces++
		}
	}
	oom, err := os.ReadFile("/proc/" + pid + "/oom_score_adj")
	if err != nil {
		return nil, err
	}
	s.oom = strings.TrimSpace(string(oom))
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return nil, err
	}
	_, at, ok := strings.Cut(string(b), "/belay-scan-")
	if !ok {
		return s, nil
	}
	name, _, _ := strings.Cut(at, "\n")
	for _, dir := range []string{cgroupRoot, cgroupMemory} {
		for _, file := range []string{"memory.max", "memory.limit_in_bytes", "cpu.idle", "io.weight"} {
			if b, err := os.ReadFile(filepath.Join(dir, "belay-scan-"+name, file)); err == nil {
				s.files[file] = strings.TrimSpace(string(b))
			}
		}
	}
	return s, nil
}

// classes are the scheduler and the class of block devices of a thread; 0 is the caller's.
func classes(tid int) string {
	policy, _, e1 := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, uintptr(tid), 0, 0)
	class, _, e2 := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(tid), 0)
	if e1 != 0 || e2 != 0 {
		return e1.Error() + ", " + e2.Error()
	}
	return fmt.Sprintf("%d %d", policy, class>>13)
}

// TestHeld: the cgroup, its cap and the namespaces are the child's, and an idle one has the idle
// classes in each of its threads; another has those of its parent.
func TestHeld(t *testing.T) {
	for _, idle := range []bool{false, true} {
		t.Run(fmt.Sprintf("idle %v", idle), func(t *testing.T) {
			path, err := buildEscape()
			if err != nil {
				t.Fatal(err)
			}
			var s *seen
			rep, err := escape(t, "flood", Options{MemoryMax: 128 << 20, Idle: idle, Output: func(r io.Reader) error {
				// What it writes first, it writes after it locked itself in.
				if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
					return err
				}
				var err error
				if s, err = look(path); err != nil {
					return err
				}
				return errEnough
			}})
			if !errors.Is(err, errEnough) {
				t.Fatal(err)
			}
			want := classes(0)
			if idle {
				want = fmt.Sprintf("%d %d", unix.SCHED_IDLE, 3)
			}
			for _, got := range s.threads {
				if got != want {
					t.Errorf("a thread has scheduler and class %q, want %q: %q", got, want, s.threads)
				}
			}
			if s.oom != "500" {
				t.Errorf("its score for the kernel's killer is raised by %s, want 500", s.oom)
			}
			if rep.Namespaces != (s.namespaces == 4) {
				t.Errorf("%d namespaces of its own, and the report says %v", s.namespaces, rep.Namespaces)
			}
			testneed.Need(t, "root", os.Geteuid() == 0, "namespaces and cgroups of its own are root's to make everywhere")
			if !rep.Namespaces {
				t.Error("no namespaces of its own")
			}
			c, err := newCgroup("belay-scan-", 128<<20, maxThreads, idle)
			testneed.Need(t, "cgroup-memory", err == nil, fmt.Sprint(err))
			c.remove()
			if !rep.Cgroup || s.files["memory.max"]+s.files["memory.limit_in_bytes"] != "134217728" {
				t.Errorf("in a cgroup: %v, %v, want a cap of 128 MiB", rep.Cgroup, s.files)
			}
			if v, ok := s.files["cpu.idle"]; ok && (v == "1") != idle {
				t.Errorf("cpu.idle is %s, want idle %v", v, idle)
			}
			if v, ok := s.files["io.weight"]; ok && (v == "default 1") != idle {
				t.Errorf("io.weight is %s, want idle %v", v, idle)
			}
			t.Logf("%d threads, %v", len(s.threads), s.files)
		})
	}
}
