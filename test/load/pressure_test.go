package load

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// pressed is a node of containers that stress-ng runs in: the cgroup of a real engine, and a small disk.
type pressed struct {
	t       *testing.T
	e       *lab.Engine
	disk    string // a file system of 64 MiB
	device  string // below it
	list    []*eater
	watched *told
}

const stressImage = "load/stress:1"

func newPressed(t *testing.T) *pressed {
	t.Helper()
	l := newLab(t)
	needIdle(t)
	tree, err := l.StressTree(t.Context())
	testneed.Need(t, "packages", !errors.Is(err, lab.ErrNoPackages), fmt.Sprint(err))
	if err != nil {
		t.Fatal(err)
	}
	p := &pressed{t: t, disk: l.Path("disk"), watched: new(told)}
	mountSmall(t, l.Path("disk.img"), p.disk, 64<<20)
	t.Cleanup(func() {
		if err := unix.Unmount(p.disk, 0); err != nil {
			t.Error(err)
		}
	})
	p.device = deviceOf(t, p.disk)
	if p.e, err = l.StartEngine(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	if err := p.e.Limit(lab.Limits{Memory: 256 << 20, PIDs: 120, CPUs: 0.5}); err != nil {
		t.Fatal(err)
	}
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.e.ImportTar(t.Context(), stressImage, tree, []lab.File{lab.Program("busybox", bb), {Name: "tmp/", Mode: 0o1777}, {Name: "disk/", Mode: 0o777}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// newLab makes a lab for engines, which goes with the test.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "real load takes minutes: make test-e2e sets BELAY_E2E")
	testneed.Need(t, "root", os.Geteuid() == 0, "containers need it")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	l, err := lab.New(lab.Options{Name: "load", BinDir: os.Getenv("BELAY_BIN"), TempDir: os.Getenv("BELAY_TEST_TMP")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// needIdle: how busy a node is counts all that runs on it, other tests and their builds too.
func needIdle(t *testing.T) {
	t.Helper()
	testneed.Need(t, "full", os.Getenv("BELAY_MATRIX") == "full", "make test-full, on a machine that does nothing else")
}

// mountSmall makes a file system that is full soon, in a file, and mounts it.
func mountSmall(t *testing.T, file, dir string, size int64) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size), os.MkdirAll(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", file).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	out, err := exec.Command("mount", "-o", "loop", file, dir).CombinedOutput()
	testneed.Need(t, "loop", err == nil, fmt.Sprintf("a small disk is a loop device: %s", out))
}

// deviceOf returns the block device below a file system.
func deviceOf(t *testing.T, dir string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	name, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join("/dev", filepath.Base(name))
}

// add makes a container that stress-ng will run in, and starts it without load.
func (p *pressed) add(name string, flags ...string) *eater {
	p.t.Helper()
	r := p.e.Docker(p.t.Context(), slices.Concat([]string{"run", "-d", "--name", name, "--stop-signal", "KILL"}, flags, []string{stressImage, "/busybox", "sleep", "1d"})...)
	if r.Code != 0 {
		p.t.Fatal(r.Err())
	}
	c := &eater{t: p.t}
	c.ID, c.Name = ident.ContainerID(strings.TrimSpace(r.Stdout)), name
	p.list = append(p.list, c)
	return c
}

// stress has stress-ng run in a container.
func (p *pressed) stress(name string, args ...string) {
	p.t.Helper()
	cmd := append([]string{"exec", "-d", name, "/usr/bin/stress-ng", "--timeout", "5m", "--temp-path", "/disk"}, args...)
	if r := p.e.Docker(p.t.Context(), cmd...); r.Code != 0 {
		p.t.Fatal(r.Err())
	}
}

// over waits for the alert that a cap is passed.
func (p *pressed) over(name string, within time.Duration) (a load.Alert) {
	p.t.Helper()
	if !lab.Await(p.t.Context(), within, func() bool {
		i := slices.IndexFunc(p.watched.get(), func(a load.Alert) bool { return a.Event == load.EventOver && a.Cap == name && a.Container == nil })
		if i >= 0 {
			a = p.watched.get()[i]
		}
		return i >= 0
	}) {
		p.t.Fatalf("%s: within %s: got %+v", name, within, p.watched.get())
	}
	return a
}

// TestPressure: stress-ng in containers of a real engine drives the node over its caps on CPU, tasks, memory and
// disk. Each alert comes within the window and names the container first that is the cause.
func TestPressure(t *testing.T) {
	p := newPressed(t)
	p.add("quiet")
	scenes := []struct {
		cap, unit string
		flags     []string
		args      string
	}{
		{"cpu", "cpus", nil, "--cpu 4 --cpu-method loop"},
		{"pids", "tasks", nil, "--sleep 1 --sleep-max 80"},
		{"memory", "bytes", nil, "--vm 1 --vm-bytes 180M --vm-keep --vm-hang 0"},
		// Cgroups of version 1 count what is written only where it is limited, since kernel 6.10.
		{"disk", "bytes/s", []string{"-v", p.disk + ":/disk", "--device-write-bps", p.device + ":1tb"}, "--iomix 1 --iomix-bytes 40M"},
	}
	for _, s := range scenes {
		p.add(s.cap, s.flags...)
	}
	const window = 4 * time.Second
	_, p.watched = watchWith(t, load.Options{Scopes: []string{p.e.Scope}, Disks: []string{p.disk}},
		fmt.Sprintf("{caps: {cpu: 60%%, pids: 60%%, memory: 60%%, disk: 60%%}, for: %s, actions: [alert]}", window), p.list...)
	time.Sleep(12 * time.Second) //nolint:forbidigo // the beginning of the history
	if l := p.watched.get(); len(l) > 0 {
		t.Fatalf("calm: got %+v", l)
	}
	for _, s := range scenes {
		began := time.Now()
		p.stress(s.cap, strings.Fields(s.args)...)
		a := p.over(s.cap, time.Minute)
		// For as long as the policy says, and a few samples longer; disks are sampled every 10 s.
		if late := a.Time.Sub(began); late < window || late > 30*time.Second {
			t.Errorf("%s: the alert came after %s", s.cap, late)
		}
		if len(a.Causes) == 0 || a.Causes[0].Name != s.cap || a.Causes[0].Unit != s.unit || a.Causes[0].Grew <= 0 {
			t.Errorf("%s: got causes %+v", s.cap, a.Causes)
		}
	}
}
