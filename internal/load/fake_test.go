package load

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
)

// fake is a host of files: procfs and cgroups of version 2 or 1. Its containers' cgroups have
// no numbers.
type fake struct {
	t        testing.TB
	dir      string
	v1       bool
	subjects []Subject
	listErr  error
	told     []*Alert
	policies []*policy.LoadPolicy
	w        *Watcher
	now      time.Time
	busy     uint64
}

func newFake(t testing.TB, v1 bool, spec string) *fake {
	f := &fake{t: t, dir: t.TempDir(), v1: v1, now: t0}
	line := "30 1 0:26 / " + f.dir + "/cg rw - cgroup2 cgroup2 rw\n"
	if v1 {
		line = ""
		for _, c := range []string{"memory", "cpuacct", "cpu", "pids", "blkio"} {
			line += "30 1 0:26 / " + f.dir + "/" + c + " rw - cgroup cgroup rw," + c + "\n"
		}
	}
	f.write("proc/self/mountinfo", line)
	f.write("proc/sys/kernel/pid_max", "32768\n")
	f.write("proc/sys/kernel/threads-max", "1000\n")
	f.write("proc/net/dev", netDev)
	f.node(0, 10, 100)
	f.psi("memory", 0)
	f.w = New(Options{
		Proc: f.dir + "/proc", Disks: []string{f.dir, "/nowhere/at/all"}, Health: health.New(nil), Log: slog.New(slog.DiscardHandler),
		Containers: func() ([]Subject, error) { return f.subjects, f.listErr },
		Tell:       func(a *Alert, _ *policy.LoadPolicy) { f.told = append(f.told, a) },
	})
	f.w.start = t0.Add(-time.Second)
	f.policies = parsePolicies(t, spec)
	f.w.SetPolicies(f.policies)
	t.Cleanup(f.w.stop)
	return f
}

func parsePolicies(t testing.TB, specs ...string) []*policy.LoadPolicy {
	t.Helper()
	var out []*policy.LoadPolicy
	for i, s := range specs {
		if s == "" {
			continue
		}
		docs, err := policy.ParseAll("x", fmt.Appendf(nil, "apiVersion: belay.dev/v1\nkind: LoadPolicy\nmetadata: {name: p%d}\nspec: %s\n", i, s))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, docs.Loads...)
	}
	return out
}

func (f *fake) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	// In place: the watcher holds it open.
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// node sets how busy the CPUs were for two seconds, in percent, how full the memory is, and
// how many tasks there are.
func (f *fake) node(cpu, memory, tasks int) {
	f.busy += uint64(cpu)
	idle := uint64(f.now.Sub(t0)/tickEvery)*100 + 1000 - f.busy
	f.write("proc/stat", fmt.Sprintf("cpu  %d 0 0 %d 0 0 0 0 0 0\ncpu0 1 1\n", f.busy, idle))
	f.write("proc/meminfo", fmt.Sprintf("MemTotal: 1000000 kB\nMemFree: 1 kB\nMemAvailable: %d kB\n", 10000*(100-memory)))
	f.write("proc/loadavg", fmt.Sprintf("0 0 0 1/%d 99\n", tasks))
}

func (f *fake) psi(kind string, total uint64) {
	f.write("proc/pressure/"+kind, fmt.Sprintf("some avg10=0.00 avg60=0.00 avg300=0.00 total=%d\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", total))
}

func fakeID(n int) ident.ContainerID { return ident.ContainerID(fmt.Sprintf("%064x", n)) }

// container makes one, or sets what it has: MiB of memory, seconds of CPU time, tasks.
func (f *fake) container(n, memory int, cpu float64, tasks int) {
	id := fakeID(n)
	if len(f.subjects) < n {
		f.subjects = append(f.subjects, Subject{ID: id, Name: fmt.Sprintf("c%d", n), Image: "app:1"})
	}
	in := func(controller, name string) string {
		if f.v1 {
			return filepath.Join(controller, "docker", string(id), name)
		}
		return filepath.Join("cg/docker", string(id), name)
	}
	if f.v1 {
		f.write(in("memory", "memory.usage_in_bytes"), fmt.Sprint((memory+1)<<20))
		f.write(in("memory", "memory.stat"), "cache 5\ntotal_inactive_file 1048576\n")
		f.write(in("cpuacct", "cpuacct.usage"), fmt.Sprint(int64(cpu*1e9)))
		f.write(in("pids", "pids.current"), fmt.Sprint(tasks))
		f.write(in("pids", "cgroup.procs"), "")
		f.write(in("blkio", "blkio.throttle.io_service_bytes"), "8:0 Write 5\n")
		return
	}
	f.write(in("", "memory.current"), fmt.Sprint((memory+1)<<20))
	f.write(in("", "memory.stat"), "anon 5\ninactive_file 1048576\n")
	f.write(in("", "cpu.stat"), fmt.Sprintf("usage_usec %d\nuser_usec 1\n", int64(cpu*1e6)))
	f.write(in("", "pids.current"), fmt.Sprint(tasks))
	f.write(in("", "cgroup.procs"), "")
	f.write(in("", "io.stat"), "8:0 rbytes=1 wbytes=5\n")
}

// run samples for a while; each is called before each sample.
func (f *fake) run(d time.Duration, each func()) {
	for until := f.now.Add(d); f.now.Before(until); f.now = f.now.Add(tickEvery) {
		if each != nil {
			each()
		}
		f.w.tick(f.now)
	}
}

// events are what was told, as event and cap.
func (f *fake) events() string {
	var out []string
	for _, a := range f.told {
		s := a.Event + " " + a.Cap
		if a.Container != nil {
			s += " " + a.Container.Name
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}
