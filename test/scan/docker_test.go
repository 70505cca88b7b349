// Package scan scans images and containers of a real Docker Engine in place. It needs
// root and Docker; where they are missing its tests say so.
//
// It owns a lab (see tools/lab) for the length of one test. Row: end-to-end tests.
package scan

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

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/scan/containerd"
	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// module is an installed Node.js module.
func module(name, version string) lab.File {
	dir, _, _ := strings.Cut(name, "@")
	return lab.File{Name: "app/node_modules/" + dir + "/package.json", Mode: 0o644, Body: fmt.Appendf(nil, `{"name":%q,"version":%q}`, dir, version)}
}

func scanner(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "belay-scanner")
	cmd := exec.Command("go", "build", "-o", path, "github.com/belay-project/belay/cmd/scanner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the scanner: %v\n%s", err, out)
	}
	return path
}

// opener opens a name in a store of the engine "main" of a lab.
type opener func(l *lab.Lab, name string, o target.Options) (*target.Target, error)

// TestDockerStore looks into the store of Docker's own overlay2 driver.
func TestDockerStore(t *testing.T) {
	stores(t, func(_ *lab.Lab, name string, o target.Options) (*target.Target, error) {
		return target.Open(t.Context(), name, o)
	}, "--storage-driver=overlay2")
}

// TestContainerdStore looks into containerd's store, which newer engines use.
func TestContainerdStore(t *testing.T) {
	testneed.Need(t, "modern-engine", os.Getenv(lab.ModernEngineEnv) != "", "set "+lab.ModernEngineEnv+" to a folder with an engine of today: 20.10 keeps images itself")
	stores(t, func(l *lab.Lab, name string, o target.Options) (*target.Target, error) {
		if _, err := os.Stat(name); err == nil {
			return target.Open(t.Context(), name, o)
		}
		s, err := containerd.Open(t.Context(), l.Path("main", "ctd.sock"), "")
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { s.Close() })
		digest, err := s.Image(t.Context(), name)
		if err == nil {
			return target.OpenBlobs(s, digest)
		}
		if !errors.Is(err, containerd.ErrNotFound) {
			return nil, err
		}
		id, err := target.DockerContainer(o.DockerRoot, name)
		if err != nil {
			return nil, target.ErrNotFound
		}
		dirs, _, err := s.Container(t.Context(), name, id)
		if err != nil {
			return nil, err
		}
		return target.OpenLayers(t.Context(), dirs)
	})
}

// stores: an image in the store, the same one saved, and a container of it whose own
// layer hides some and adds some; running, stopped, and as an image.
func stores(t *testing.T, open opener, args ...string) {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "scenes on a Docker Engine take minutes: make test-e2e sets BELAY_E2E")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	testneed.Need(t, "root", os.Geteuid() == 0, "the engine and its store are root's")
	ctx := t.Context()
	l, err := lab.New(lab.Options{Name: "scan", Log: os.Stderr, TempDir: os.Getenv("BELAY_TEST_TMP")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	e, err := l.StartEngine(ctx, "main", args...)
	if err != nil {
		t.Fatal(err)
	}
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	err = e.Import(ctx, "scan/app:1", []lab.File{
		lab.Program("bin/busybox", bb), {Name: "bin/sh", Mode: 0o777, Link: "busybox"}, {Name: "tmp/", Mode: 0o1777},
		{Name: "etc/os-release", Mode: 0o644, Body: []byte("ID=debian\nVERSION_ID=12\n")},
		{Name: "var/lib/dpkg/status", Mode: 0o644, Body: []byte("Package: a\nStatus: install ok installed\nVersion: 1\n\n")},
		{Name: "var/lib/dpkg/info/a.list", Mode: 0o644, Body: []byte("/.\n/bin\n/bin/busybox\n")},
		module("kept", "1.0.0"), module("removed", "1.0.0"),
		{Name: "opt/node_modules/hidden/package.json", Mode: 0o644, Body: []byte(`{"name":"hidden","version":"1.0.0"}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := target.Options{Scanner: scanner(t), DockerRoot: l.Path("main", "data")}
	image := []string{"deb a 1", "npm hidden 1.0.0", "npm kept 1.0.0", "npm removed 1.0.0"}
	expect(t, l, open, "scan/app:1", o, image)
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if r := e.Docker(ctx, "save", "-o", saved, "scan/app:1"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	expect(t, l, open, saved, o, image)

	script := "cd /app/node_modules && busybox rm -r removed && busybox mkdir new && echo '{\"name\":\"new\",\"version\":\"2.0.0\"}' > new/package.json" +
		" && busybox rm -r /opt/node_modules && busybox mkdir -p /opt/node_modules/shown && echo '{\"name\":\"shown\",\"version\":\"1.0.0\"}' > /opt/node_modules/shown/package.json" +
		" && echo done && busybox sleep 600"
	if r := e.Docker(ctx, "run", "-d", "--name", "changed", "scan/app:1", "/bin/sh", "-c", script); r.Code != 0 {
		t.Fatal(r.Err())
	}
	for !strings.Contains(e.Docker(ctx, "logs", "changed").Stdout, "done") {
		if r := e.Docker(ctx, "inspect", "-f", "{{.State.Running}}", "changed"); strings.TrimSpace(r.Stdout) != "true" {
			t.Fatalf("the container ended: %s", e.Docker(ctx, "logs", "changed").Text())
		}
	}
	container := []string{"deb a 1", "npm kept 1.0.0", "npm new 2.0.0", "npm shown 1.0.0"}
	expect(t, l, open, "changed", o, container)
	inUse(t, l, open, "changed", o)
	if r := e.Docker(ctx, "commit", "changed", "scan/app:2"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	expect(t, l, open, "scan/app:2", o, container)
	if r := e.Docker(ctx, "kill", "changed"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	expect(t, l, open, "changed", o, container)
	if _, err := open(l, "scan/none:1", o); err == nil || !strings.Contains(err.Error(), "docker save") {
		t.Errorf("an image that is not there: %v, want what to do", err)
	}
}

// inUse looks at the processes of a running container, whose program is of the package a.
func inUse(t *testing.T, l *lab.Lab, open opener, name string, o target.Options) {
	t.Helper()
	text, err := target.DockerContainer(o.DockerRoot, name)
	if err != nil {
		t.Fatal(err)
	}
	all, err := inuse.Proc{}.Processes()
	if err != nil {
		t.Fatal(err)
	}
	tgt, err := open(l, name, o)
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	res, err := target.Scan(t.Context(), tgt, o)
	if err != nil {
		t.Fatal(err)
	}
	var seen inuse.Seen
	seen.Add(inuse.Proc{}.Look(all[ident.ContainerID(text)], time.Now()))
	for i, u := range inuse.NewIndex(res).Uses(&seen) {
		want := inventory.UseUnknown // installed modules do not show
		if p := res.Packages[i]; p.Name == "a" || p.Kind == inventory.KindGo {
			want = inventory.InUse
		}
		if u.State != want || want == inventory.InUse && (u.Executed.IsZero() || u.Mapped.IsZero()) {
			t.Errorf("%s: %s is %+v, want it %s", name, res.Packages[i].Name, u, want)
		}
	}
	if seen.Looks != 1 || !seen.Whole() || !seen.Sockets {
		t.Errorf("%s: got the look %+v", name, seen)
	}
}

// expect scans a name and compares the packages.
func expect(t *testing.T, l *lab.Lab, open opener, name string, o target.Options, want []string) {
	t.Helper()
	tgt, err := open(l, name, o)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer tgt.Close()
	res, err := target.Scan(t.Context(), tgt, o)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var got []string
	for _, p := range res.Packages {
		if p.Kind != inventory.KindGo { // busybox is none, whatever the lab takes for it
			got = append(got, p.Kind+" "+p.Name+" "+p.Version)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) || !res.Complete() {
		t.Errorf("%s: got %q with notes %v, want %q", name, got, res.Notes, want)
	}
	t.Logf("%s: %d layers, sandbox %v", name, len(res.Layers), res.Sandbox.Held)
}
