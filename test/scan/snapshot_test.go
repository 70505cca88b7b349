package scan

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/scan/containerd"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// TestDockerVFS looks into the store of Docker's driver vfs.
func TestDockerVFS(t *testing.T) {
	stores(t, func(_ *lab.Lab, name string, o target.Options) (*target.Target, error) {
		return target.Open(t.Context(), name, o)
	}, "--storage-driver=vfs")
}

// TestSnapshotters: a container of a real containerd has the same inventory with the snapshotter native,
// which copies directories, as with overlayfs, as in an archive, and as its image in the store.
func TestSnapshotters(t *testing.T) {
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "scenes on a Docker Engine take minutes: make test-e2e sets BELAY_E2E")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	testneed.Need(t, "root", os.Geteuid() == 0, "the engine and its store are root's")
	_, err := exec.LookPath("ctr")
	testneed.Need(t, "ctr", err == nil, "apt-get install containerd")
	l, err := lab.New(lab.Options{Name: "snap", Log: os.Stderr, TempDir: os.Getenv("BELAY_TEST_TMP")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	e, err := l.StartEngine(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Import(t.Context(), "scan/low:1", []lab.File{
		lab.Program("bin/busybox", bb), {Name: "bin/sh", Mode: 0o777, Link: "busybox"}, {Name: "tmp/", Mode: 0o1777}, {Name: "opt/tool", Mode: 0o4755, Body: []byte("x")},
		{Name: "etc/os-release", Mode: 0o644, Body: []byte("ID=debian\nVERSION_ID=12\n")},
		{Name: "var/lib/dpkg/status", Mode: 0o644, Body: []byte("Package: a\nStatus: install ok installed\nVersion: 1\n\n")},
		module("kept", "1.0.0"), module("removed", "1.0.0"),
	}); err != nil {
		t.Fatal(err)
	}
	// A layer above it that hides something.
	if r := e.Docker(t.Context(), "run", "--name", "up", "scan/low:1", "/bin/sh", "-c", "busybox rm -r /app/node_modules/removed; echo API_TOKEN=correct-horse-battery > /.env"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	if r := e.Docker(t.Context(), "commit", "up", "scan/app:1"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if r := e.Docker(t.Context(), "save", "-o", saved, "scan/app:1"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	socket := l.Path("main", "ctd.sock")
	ctr := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "ctr", slices.Concat([]string{"--address", socket, "--namespace", l.Name}, args)...)
		cmd.WaitDelay = 5 * time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	o := target.Options{Scanner: scanner(t)}
	read := func(tgt *target.Target, err error) *inventory.Result {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer tgt.Close()
		res, err := target.Scan(t.Context(), tgt, o)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	want := content(read(target.Open(t.Context(), saved, o)))
	if len(want) != 4 { // a, kept, opt/tool, .env
		t.Fatalf("the test says something else: %q", want)
	}
	s, err := containerd.Open(t.Context(), socket, l.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, snapshotter := range []string{"overlayfs", "native"} {
		ctr("images", "import", "--snapshotter", snapshotter, saved)
		ctr("containers", "create", "--snapshotter", snapshotter, "docker.io/scan/app:1", snapshotter)
		t.Cleanup(func() {
			exec.Command("ctr", "--address", socket, "--namespace", l.Name, "containers", "delete", snapshotter).Run()
		})
		dirs, _, err := s.Container(t.Context(), snapshotter, "")
		if err != nil {
			t.Fatalf("%s: %v", snapshotter, err)
		}
		res := read(target.OpenLayers(t.Context(), dirs))
		if d := cmp.Diff(want, content(res)); d != "" || !res.Complete() {
			t.Errorf("%s: the image (-) and the container (+), with notes %v:\n%s", snapshotter, res.Notes, d)
		}
		t.Logf("%s: %d directories", snapshotter, len(dirs))
	}
	digest, err := s.Image(t.Context(), "scan/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, content(read(target.OpenBlobs(s, digest)))); d != "" {
		t.Errorf("the archive (-) and the image in the store (+):\n%s", d)
	}
}

// content is what an inventory says of files that a container sees, whatever layers they lie in.
func content(res *inventory.Result) []string {
	var out []string
	for _, p := range res.Packages {
		if p.Kind != inventory.KindGo {
			out = append(out, strings.Join([]string{p.Kind, p.Name, p.Version, p.Path}, " "))
		}
	}
	for _, m := range res.Misconfigurations {
		if m.Path != "" && m.ID != inventory.FileWorldWritable && m.ID != inventory.FileSecretDeleted {
			out = append(out, m.ID+" "+m.Where)
		}
	}
	slices.Sort(out)
	return out
}
