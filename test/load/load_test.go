// Package load tries the watcher of the node on real cgroups under real load: what grows is a
// program in a cgroup that is shaped like a container's, below one with a limit.
package load

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/testneed"
)

// envEat makes this test binary the program under test: it holds as much memory as each line of
// its standard input says, in MiB.
const envEat = "BELAY_TEST_LOAD_EAT"

func TestMain(m *testing.M) {
	if os.Getenv(envEat) != "" {
		eat()
		return
	}
	os.Exit(m.Run())
}

func eat() {
	var held [][]byte
	for {
		var want int
		if _, err := fmt.Fscanln(os.Stdin, &want); err != nil {
			return
		}
		for len(held) < want {
			b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				os.Exit(3)
			}
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			held = append(held, b)
		}
		for len(held) > want {
			_ = unix.Munmap(held[len(held)-1])
			held = held[:len(held)-1]
		}
		fmt.Println(want)
	}
}

// site is a cgroup with a limit, in every hierarchy that is there, and containers in it.
type site struct {
	t      testing.TB
	name   string // "/belay-test-load-…"
	bases  []string
	limits string // hierarchy that has memory limits
	v2     bool
}

const limitMiB = 128

func newSite(t testing.TB) *site {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "real load takes minutes: make test-e2e sets BELAY_E2E")
	testneed.Need(t, "root", os.Geteuid() == 0, "cgroups are made")
	s := &site{t: t, name: fmt.Sprintf("/belay-test-load-%d", rand.Uint32())}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		pre, post, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(pre), strings.Fields(post)
		if len(left) < 5 || len(right) < 3 || left[3] != "/" || right[0] != "cgroup" && right[0] != "cgroup2" || strings.Contains(right[2], "name=") {
			continue
		}
		if strings.Contains(","+right[2]+",", ",cpuset,") {
			continue // it takes no process before it was told its CPUs
		}
		s.bases = append(s.bases, left[4])
		switch {
		case right[0] == "cgroup" && strings.Contains(","+right[2]+",", ",memory,"):
			s.limits, s.v2 = left[4], false
		case right[0] == "cgroup2" && s.limits == "":
			if c, _ := os.ReadFile(filepath.Join(left[4], "cgroup.controllers")); strings.Contains(string(c), "memory") {
				s.limits, s.v2 = left[4], true
			}
		}
	}
	testneed.Need(t, "cgroup-memory", s.limits != "", "no memory controller is mounted whole")
	t.Cleanup(s.remove)
	if s.v2 {
		s.write(s.limits, "cgroup.subtree_control", "+memory +pids +cpu")
	}
	s.mkdir(s.name)
	if s.v2 {
		s.write(filepath.Join(s.limits, s.name), "cgroup.subtree_control", "+memory +pids +cpu")
		s.write(filepath.Join(s.limits, s.name), "memory.max", strconv.Itoa(limitMiB<<20))
	} else {
		s.write(filepath.Join(s.limits, s.name), "memory.use_hierarchy", "1")
		s.write(filepath.Join(s.limits, s.name), "memory.limit_in_bytes", strconv.Itoa(limitMiB<<20))
	}
	return s
}

func (s *site) mkdir(name string) {
	s.t.Helper()
	for _, b := range s.bases {
		if err := os.MkdirAll(filepath.Join(b, name), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *site) write(dir, file, text string) {
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil && file != "memory.use_hierarchy" {
		s.t.Fatal(err)
	}
}

func (s *site) remove() {
	for _, b := range s.bases {
		for range 100 {
			entries, _ := filepath.Glob(filepath.Join(b, s.name, strings.Repeat("[0-9a-f]", 8)+"*"))
			for _, e := range entries {
				_ = os.Remove(e)
			}
			if err := os.Remove(filepath.Join(b, s.name)); err == nil || os.IsNotExist(err) { //nolint:forbidigo // of a test
				break
			}
			time.Sleep(20 * time.Millisecond) //nolint:forbidigo // the kernel takes a moment
		}
	}
}

// eater is a container with a program in it.
type eater struct {
	load.Subject
	t     testing.TB
	in    io.Writer
	out   io.Reader
	ended func()
}

func (s *site) eater(n int) *eater {
	s.t.Helper()
	e := &eater{t: s.t}
	e.ID, e.Name = ident.ContainerID(fmt.Sprintf("%064x", n)), fmt.Sprintf("app-%d", n)
	dir := filepath.Join(s.name, string(e.ID))
	s.mkdir(dir)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envEat+"=1", "GOMEMLIMIT=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	e.in, e.out, e.ended = in, out, func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() }
	s.t.Cleanup(e.ended)
	for _, b := range s.bases {
		s.write(filepath.Join(b, dir), "cgroup.procs", strconv.Itoa(cmd.Process.Pid))
	}
	e.hold(1)
	return e
}

// hold makes the program hold so many MiB.
func (e *eater) hold(mib int) {
	e.t.Helper()
	if _, err := fmt.Fprintln(e.in, mib); err != nil {
		e.t.Fatal(err)
	}
	var got int
	if _, err := fmt.Fscanln(e.out, &got); err != nil || got != mib {
		e.t.Fatalf("the program holds %d MiB, want %d: %v", got, mib, err)
	}
}

// told are alerts, as they come.
type told struct {
	mu   sync.Mutex // guards list
	list []load.Alert
}

func (o *told) tell(a *load.Alert, _ *policy.LoadPolicy) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, *a)
}

func (o *told) get() []load.Alert {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]load.Alert(nil), o.list...)
}

// wait returns the n-th alert.
func (o *told) wait(t *testing.T, n int, within time.Duration) load.Alert {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { //nolint:forbidigo // it waits for the kernel
		if l := o.get(); len(l) > n {
			return l[n]
		}
	}
	t.Fatalf("within %s: got %+v, want one more", within, o.get())
	return load.Alert{}
}

func watch(t testing.TB, s *site, spec string, list ...*eater) (*load.Watcher, *told) {
	t.Helper()
	return watchWith(t, load.Options{Scopes: []string{s.name}}, spec, list...)
}

// watchWith watches containers, where options say.
func watchWith(t testing.TB, opts load.Options, spec string, list ...*eater) (*load.Watcher, *told) {
	t.Helper()
	docs, err := policy.ParseAll("x", []byte("apiVersion: belay.dev/v1\nkind: LoadPolicy\nmetadata: {name: node}\nspec: "+spec+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	o := new(told)
	opts.Containers = func() ([]load.Subject, error) {
		var out []load.Subject
		for _, e := range list {
			out = append(out, e.Subject)
		}
		return out, nil
	}
	opts.Tell, opts.Health, opts.Log = o.tell, health.New(nil), slog.New(slog.DiscardHandler)
	w := load.New(opts)
	w.SetPolicies(docs.Loads)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w, o
}

// TestMemory: a program in a container drives its node, a cgroup with a limit, over the cap.
// The alert comes within the window and names it, and ends after the hysteresis.
func TestMemory(t *testing.T) {
	s := newSite(t)
	quiet, app := s.eater(1), s.eater(2)
	w, o := watch(t, s, "{caps: {memory: 70%}, for: 6s, hysteresis: 20%, actions: [alert]}", quiet, app)
	time.Sleep(12 * time.Second) //nolint:forbidigo // the beginning of the history
	if l := o.get(); len(l) > 0 {
		t.Fatalf("calm: got %+v", l)
	}
	grown := time.Now()
	app.hold(limitMiB * 8 / 10)
	a := o.wait(t, 0, time.Minute)
	// For as long as the policy says, and a few samples longer; a machine under load samples late.
	if late := a.Time.Sub(grown); a.Event != load.EventOver || a.Cap != "memory" || a.Where != s.name || late < 6*time.Second || late > 30*time.Second {
		t.Errorf("after %s: got %+v", late, a)
	}
	if len(a.Causes) == 0 || a.Causes[0].Name != "app-2" || a.Causes[0].Grew < limitMiB/2<<20 || a.Causes[0].Since.Sub(grown).Abs() > 30*time.Second {
		t.Errorf("it grew at %s: got causes %+v", grown, a.Causes)
	}
	st := w.Status()
	if len(st.Containers) != 2 || st.Containers[1].Memory < limitMiB/2<<20 || st.Caps[0].State != "over" || !st.Caps[0].Told {
		t.Errorf("status: %+v", st)
	}
	app.hold(limitMiB * 6 / 10)  // below the cap, within the hysteresis
	time.Sleep(12 * time.Second) //nolint:forbidigo // longer than for:
	if l := o.get(); len(l) != 1 {
		t.Errorf("within the hysteresis: got %+v", l[1:])
	}
	fell := time.Now()
	app.hold(1)
	if a := o.wait(t, 1, time.Minute); a.Event != load.EventRelieved || a.Time.Sub(fell) < 6*time.Second {
		t.Errorf("got %+v", a)
	}
}

// swing is for how long load oscillates: BELAY_SWING, or two minutes.
func swing(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("BELAY_SWING")
	if text == "" {
		return 2 * time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("BELAY_SWING=%s: %v", text, err)
	}
	return d
}

// TestOscillation: load that swings faster than the window is no alert, and load that swings
// slower is one, and not one a swing.
func TestOscillation(t *testing.T) {
	for _, tt := range []struct {
		name  string
		half  time.Duration
		overs int
	}{{"fast", 3 * time.Second, 0}, {"slow", 20 * time.Second, 1}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			app := s.eater(1)
			_, o := watch(t, s, "{caps: {memory: 70%}, for: 12s, hysteresis: 20%, coolDown: 1h, actions: [alert]}", app)
			for end := time.Now().Add(swing(t)); time.Now().Before(end); {
				app.hold(limitMiB * 8 / 10)
				time.Sleep(tt.half) //nolint:forbidigo // the load's own time
				app.hold(1)
				time.Sleep(tt.half) //nolint:forbidigo // the load's own time
			}
			overs := 0
			for _, a := range o.get() {
				if a.Event == load.EventOver {
					overs++
				}
			}
			if overs != tt.overs {
				t.Errorf("got %d alerts, want %d: %+v", overs, tt.overs, o.get())
			}
		})
	}
}

// TestOwnLimit: a container at a limit of its own, on cgroups as this host has them.
func TestOwnLimit(t *testing.T) {
	s := newSite(t)
	app := s.eater(1)
	file := "memory.limit_in_bytes"
	if s.v2 {
		file = "memory.max"
	}
	s.write(filepath.Join(s.limits, s.name, string(app.ID)), file, strconv.Itoa(32<<20))
	_, o := watch(t, s, "{caps: {memory: 70%}, for: 6s, actions: [alert]}", app)
	app.hold(28)
	a := o.wait(t, 0, time.Minute)
	if a.Event != load.EventOver || a.Container == nil || a.Container.Name != "app-1" || a.Percent < 80 {
		t.Errorf("got %+v", a)
	}
}

// What it costs to watch 500 containers, with the readings of LoadPolicies, as a share of a core.
func BenchmarkWatch(b *testing.B) {
	const number, lasting = 500, 30 * time.Second
	s := newSite(b)
	var list []*eater
	for i := range number {
		e := &eater{t: b}
		e.ID = ident.ContainerID(fmt.Sprintf("%064x", i+1))
		s.mkdir(filepath.Join(s.name, string(e.ID)))
		list = append(list, e)
	}
	w, o := watch(b, s, "{caps: {memory: 70%, cpu: 99%, pids: 99%}, actions: [alert]}", list...)
	time.Sleep(15 * time.Second) //nolint:forbidigo // the files are open
	for b.Loop() {
		before := used(b)
		time.Sleep(lasting) //nolint:forbidigo // it is measured
		b.ReportMetric(100*(used(b)-before).Seconds()/lasting.Seconds(), "%")
	}
	if st := w.Status(); len(st.Containers) != number || st.Error != "" {
		b.Fatalf("%d containers are watched: %s; told %+v", len(st.Containers), st.Error, o.get())
	}
}

// used is the processor time of this process.
func used(t testing.TB) time.Duration {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
