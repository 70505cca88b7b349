package scan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/scan/ci"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

func send(ctx context.Context, method, host, path, media string, body io.Reader) error {
	q, err := http.NewRequestWithContext(ctx, method, "http://"+host+"/v2/"+path, body)
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", media)
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s %s: %s", method, path, res.Status)
	}
	return nil
}

// realWorld is a host with an engine, a registry and belay, and one image in every form.
type realWorld struct {
	l        *lab.Lab
	e        *lab.Engine
	im       *realImage
	bin, db  string
	registry string // host
	want     *report.Scan
}

func newRealWorld(t *testing.T) *realWorld {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "a whole Debian in ten forms takes a minute: make test-e2e sets BELAY_E2E")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	testneed.Need(t, "root", os.Geteuid() == 0, "overlays, the engine and its store are root's")
	feeds := testneed.ScanData(t, "osv")
	ctx := t.Context()
	w := &realWorld{bin: belay(t)}
	var err error
	if w.l, err = lab.New(lab.Options{Name: "real", Log: os.Stderr, BinDir: os.Getenv("BELAY_BIN"), TempDir: os.Getenv("BELAY_TEST_TMP")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.l.Close(); err != nil {
			t.Error(err)
		}
	})
	var trees [2]string
	for i, tree := range []func(context.Context) (string, error){w.l.QuietTree, w.l.NodeTree} {
		trees[i], err = tree(ctx)
		testneed.Need(t, "packages", !errors.Is(err, lab.ErrNoPackages), fmt.Sprint(err))
		if err != nil {
			t.Fatal(err)
		}
	}
	w.db = w.l.Path("vuln.db")
	if out, err := exec.CommandContext(ctx, w.bin, "db", "import", feeds, "--db", w.db).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.im = newRealImage(t, w.l, trees[0], trees[1], filepath.Join(filepath.Dir(w.bin), "belay-scanner"))
	return w
}

// scan scans a target by the command and reads its report.
func (w *realWorld) scan(t *testing.T, name string, args ...string) *report.Scan {
	t.Helper()
	var msg bytes.Buffer
	cmd := exec.CommandContext(t.Context(), w.bin, append([]string{"scan", name, "--db", w.db, "--docker-root", w.l.Path("main", "data"), "--store", "docker", "--cache-dir", w.l.Path("cache"), "-o", "json"}, args...)...)
	cmd.Stderr = &msg
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, msg.Bytes())
	}
	s, err := report.Read(bytes.NewReader(out))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}

// facts are what every source of the image must tell alike: all of the packages, the findings, what
// is wrong with files, and the notes. A directory has one layer, and none below: what a root file
// system cannot know is the layer of a thing, and a secret that a later layer hides.
func facts(s *report.Scan, layers bool) []string {
	out := []string{fmt.Sprintf("%+v", s.Inventory.OS), fmt.Sprint("complete ", s.Complete)}
	for i := range s.Inventory.Packages {
		p := s.Inventory.Packages[i]
		if !layers {
			p.Layer = 0
		}
		out = append(out, fmt.Sprintf("package %+v", p))
	}
	out = append(out, findings(s)...)
	for _, m := range s.Misconfigurations {
		if m.Path == "" || m.ID == inventory.FileSecretDeleted {
			continue
		}
		if m.FromBase = false; !layers {
			m.Layer = 0
		}
		out = append(out, fmt.Sprintf("fault %+v", m))
	}
	for _, n := range append(slices.Clone(s.Inventory.Notes), s.Notes...) {
		out = append(out, fmt.Sprintf("note %+v", n))
	}
	slices.Sort(out)
	return out
}

// findings are one text each.
func findings(s *report.Scan) (out []string) {
	for i := range s.Findings {
		f := &s.Findings[i]
		p := &s.Inventory.Packages[f.Package]
		out = append(out, fmt.Sprintf("finding %s %s %s %s %q %q %s", p.Kind, p.Name, p.Version, p.Path, f.IDs, f.Fixed, f.Severity))
	}
	return out
}

// same holds a scan to the first one.
func (w *realWorld) same(t *testing.T, got *report.Scan, layers bool) {
	t.Helper()
	alike(t, facts(w.want, layers), facts(got, layers))
	if layers && len(got.Inventory.Layers) != 2 {
		t.Errorf("got %d layers, want 2", len(got.Inventory.Layers))
	}
}

// alike holds sorted texts to those that are wanted.
func alike(t *testing.T, a, b []string) {
	t.Helper()
	differ := 0
	tell := func(what string, from, in []string) {
		for _, f := range from {
			if !slices.Contains(in, f) && differ < 20 {
				differ++
				t.Errorf("%s: %s", what, f)
			}
		}
	}
	tell("missing", a, b)
	tell("too much", b, a)
	if differ == 0 && !slices.Equal(a, b) {
		t.Errorf("got %d facts, want %d", len(b), len(a))
	}
}

// TestRealImage: one image of real packages gives the same inventory and the same findings in
// whatever form it is scanned, by the command and by the agent, and what is found is what is known.
func TestRealImage(t *testing.T) {
	w := newRealWorld(t)
	plain := w.l.Path("image.tar")
	w.im.archive(t, plain)
	w.want = w.scan(t, plain)
	t.Run("contents", func(t *testing.T) { checkReal(t, w.want) })
	t.Run("root file system", func(t *testing.T) { w.same(t, w.scan(t, w.im.merged), false) })
	t.Run("overlay", w.overlay)
	for _, form := range []string{"gzip", "zstd"} {
		t.Run("archive in "+form, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if _, _, err := pack(plain, path, packers[form]); err != nil {
				t.Fatal(err)
			}
			w.same(t, w.scan(t, path), true)
		})
	}
	layout := w.l.Path("layout")
	manifest := w.im.layout(t, layout)
	t.Run("OCI layout", func(t *testing.T) { w.same(t, w.scan(t, layout, "--no-cache"), true) })
	t.Run("OCI layout, layers kept", func(t *testing.T) {
		for range 2 { // keeps, and reads what is kept
			w.same(t, w.scan(t, layout), true)
		}
	})
	for _, form := range []string{"cyclonedx", "spdx"} {
		t.Run("bill of materials in "+form, func(t *testing.T) { w.bill(t, plain, form) })
	}
	t.Run("OCI layout in a tar", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "oci.tar")
		tarDir(t, path, layout, ".")
		w.same(t, w.scan(t, path), true)
	})
	w.serve(t)
	if err := push(t.Context(), w.registry, "real/app", layout, manifest); err != nil {
		t.Fatal(err)
	}
	pulled := "registry:" + w.registry + "/real/app:1"
	t.Run("registry", func(t *testing.T) { w.same(t, w.scan(t, pulled, "--no-cache"), true) })
	t.Run("engine", func(t *testing.T) { w.engine(t) })
	t.Run("agent", func(t *testing.T) { w.agent(t, pulled, local) })
}

// local is the image's name in the engine.
const local = "real/app:1"

// bill writes a bill of materials and scans that: what is found is what was found in the image.
func (w *realWorld) bill(t *testing.T, image, form string) {
	b, err := exec.CommandContext(t.Context(), w.bin, "sbom", image, "-o", form).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bill.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	want, got := findings(w.want), findings(w.scan(t, path))
	slices.Sort(want)
	slices.Sort(got)
	alike(t, want, got)
}

// serve starts a registry with its blobs on disk.
func (w *realWorld) serve(t *testing.T) {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	s := httptest.NewServer(ggcr.New(ggcr.WithBlobHandler(ggcr.NewDiskBlobHandler(t.TempDir())), ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	w.registry = strings.TrimPrefix(s.URL, "http://")
}

// overlay reads the two directories as overlayfs keeps them.
func (w *realWorld) overlay(t *testing.T) {
	tgt, err := target.OpenLayers(t.Context(), []string{w.im.lower, w.im.upper})
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	res, err := target.Scan(t.Context(), tgt, target.Options{Scanner: filepath.Join(filepath.Dir(w.bin), "belay-scanner")})
	if err != nil {
		t.Fatal(err)
	}
	db, err := vulndb.Open(w.db)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	m, err := db.Match(t.Context(), res)
	if err != nil {
		t.Fatal(err)
	}
	w.same(t, report.New("overlay", w.want.Time, res, w.want.Database, &m), true)
}

// engine loads the image into a real engine, whose store is read in place, and has it saved. An engine
// that unpacks layers by themselves knows no link over layers: it gets the file with the link.
func (w *realWorld) engine(t *testing.T) {
	var err error
	if w.e, err = w.l.StartEngine(t.Context(), "main", "--storage-driver=overlay2"); err != nil {
		t.Fatal(err)
	}
	im := *w.im
	im.dir, im.layers, im.diffIDs = w.l.Path("load"), nil, nil
	if err := os.Mkdir(im.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	im.write(t, im.lower, nil)
	im.write(t, im.upper, nil)
	path := w.l.Path("load.tar")
	im.archive(t, path)
	if r := w.e.Docker(t.Context(), "load", "-i", path); r.Code != 0 {
		t.Fatal(r.Err())
	}
	w.same(t, w.scan(t, local), true)
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if r := w.e.Docker(t.Context(), "save", "-o", saved, local); r.Code != 0 {
		t.Fatal(r.Err())
	}
	w.same(t, w.scan(t, saved), true)
	w.containerd(t, saved)
	// A container that runs; its program comes from the host, since the image's have no library.
	if r := w.e.Docker(t.Context(), "run", "-d", "--name", "ran", "-v", "/bin/busybox:/bb:ro", local, "/bb", "sleep", "3600"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	w.same(t, w.scan(t, "ran"), false)
}

// containerd imports a saved image into containerd's store and has it read there: its blobs, and the snapshot of
// a container.
func (w *realWorld) containerd(t *testing.T, saved string) {
	_, err := exec.LookPath("ctr")
	testneed.Need(t, "docker", err == nil, "containerd's client ctr is missing: apt-get install containerd")
	socket, id := w.l.Path("main", "ctd.sock"), strings.Repeat("c", 64)
	for _, args := range [][]string{{"images", "import", saved}, {"containers", "create", "docker.io/" + local, id}} {
		if out, err := exec.CommandContext(t.Context(), "ctr", append([]string{"--address", socket, "--namespace", w.l.Name}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("ctr %q: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		exec.Command("ctr", "--address", socket, "--namespace", w.l.Name, "containers", "delete", id).Run()
	})
	stored := func(name string) *report.Scan {
		return w.scan(t, name, "--no-cache", "--store", "containerd", "--containerd", socket, "--namespace", w.l.Name)
	}
	w.same(t, stored(local), true)
	w.same(t, stored(id), false)
}

// agent asks the scan API of an agent for the image by each of its names, and what the agent itself, for its policies
// and events, has found in the engine's.
func (w *realWorld) agent(t *testing.T, names ...string) {
	if w.e == nil {
		t.Fatal("there is no engine")
	}
	ctx := t.Context()
	a, err := w.l.NewAgent(ctx, lab.AgentOptions{Name: "agent", Engine: w.e, Flags: []string{
		"--scanner", filepath.Join(filepath.Dir(w.bin), "belay-scanner"), "--vuln-db", w.db, "--docker-root", w.l.Path("main", "data"), "--scan-registry", w.registry,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(ctx); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(a.RunDir(), ci.SocketName)
	if !lab.Await(ctx, time.Minute, func() bool { _, err := os.Stat(socket); return err == nil }) { // the last that an agent opens
		t.Fatalf("the agent opens no %s\n%s", ci.SocketName, a.Log())
	}
	c, err := ci.NewClient(ci.ClientOptions{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		asked, err := c.Create(ctx, &ci.Request{Image: strings.TrimPrefix(name, "registry:")})
		if err != nil {
			t.Fatal(err)
		}
		done, err := c.Wait(ctx, asked.ID)
		if err != nil || done.State != ci.StateDone {
			t.Fatalf("%s: %v, %+v\n%s", name, err, done, a.Log())
		}
		text, err := c.Format(ctx, asked.ID, "report")
		if err != nil {
			t.Fatal(err)
		}
		got, err := report.Read(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		w.same(t, got, true)
		// To the letter, but for when, and what the target was called.
		command := w.scan(t, name)
		got.Time, got.Target = command.Time, command.Target
		one, err1 := json.Marshal(got)
		two, err2 := json.Marshal(command)
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s: the agent's report and the command's differ: %v, %d and %d bytes", name, err, len(one), len(two))
		}
	}
	w.kept(t, a)
}

// kept compares what the agent has found by itself in the image of a container, which its policies and events go by,
// with what the command finds.
func (w *realWorld) kept(t *testing.T, a *lab.Agent) {
	t.Helper()
	var e control.ImageExplanation
	if !lab.Await(t.Context(), time.Minute, func() bool {
		r := a.Belay(t.Context(), "explain", "--image", local, "-o", "json")
		return r.Code == 0 && json.Unmarshal([]byte(r.Stdout), &e) == nil && !e.Image.Database.IsZero()
	}) {
		t.Fatalf("the agent has not scanned and matched the image of a container: %+v\n%s", e.Image, a.Log())
	}
	s := w.scan(t, local)
	var want, got []string
	for i := range s.Findings {
		f := &s.Findings[i]
		p := &s.Inventory.Packages[f.Package]
		want = append(want, fmt.Sprintf("%q %s %s %s", f.IDs, f.Severity, p.Name, p.Version))
	}
	for i := range e.List {
		f := &e.List[i]
		got = append(got, fmt.Sprintf("%q %s %s %s", f.IDs, f.Severity, f.Package, f.Version))
	}
	slices.Sort(want)
	slices.Sort(got)
	alike(t, want, got)
	if e.Image.Packages != len(s.Inventory.Packages) || e.Image.Complete != s.Complete {
		t.Errorf("%d packages, complete %v, want %d, %v", e.Image.Packages, e.Image.Complete, len(s.Inventory.Packages), s.Complete)
	}
}

// checkReal: what is known of the image, by its packages and by real records.
func checkReal(t *testing.T, s *report.Scan) {
	inv := s.Inventory
	if inv.OS.ID != "debian" || inv.OS.VersionID != "12" || len(inv.Layers) != 2 || !s.Complete {
		t.Errorf("got %+v, %d layers, complete %v: %+v %+v", inv.OS, len(inv.Layers), s.Complete, inv.Notes, s.Notes)
	}
	find := func(kind, name, path string) []inventory.Package {
		var out []inventory.Package
		for _, p := range inv.Packages {
			if p.Kind == kind && p.Name == name && strings.Contains(p.Path, path) {
				out = append(out, p)
			}
		}
		return out
	}
	for _, tt := range []struct {
		kind, name, path string
		n, layer         int
	}{
		{"deb", "nginx-light", "", 1, 0}, {"deb", "postgresql-15", "", 1, 0}, {"deb", "libc6", "", 1, 0},
		{"deb", "zlib1g", "", 1, 1}, {"deb", "sysvinit-utils", "", 0, 0},
		{"npm", "lodash", "", 0, 0}, {"npm", "axios", "app/", 1, 0}, {"npm", "axios", "srv/", 1, 1}, {"npm", "follow-redirects", "app/", 1, 0},
		{"npm", "hidden", "", 0, 0}, {"npm", "shown", "", 1, 1}, {"npm", "inside", "", 1, 1}, {"npm", "under", "", 0, 0}, {"npm", "b", "", 1, 0},
		{"pypi", "Jinja2", "", 1, 0}, {"golang", "stdlib", "usr/local/bin", 1, 0}, {"golang", "stdlib", "srv/bin", 1, 1}, {"golang", "github.com/klauspost/compress", "usr/local", 1, 0},
	} {
		got := find(tt.kind, tt.name, tt.path)
		if len(got) != tt.n || tt.n > 0 && got[0].Layer != tt.layer {
			t.Errorf("%s %s in %q: got %+v, want %d of layer %d", tt.kind, tt.name, tt.path, got, tt.n, tt.layer)
		}
	}
	for id, pkg := range map[string]string{"CVE-2021-3749": "axios", "CVE-2019-10906": "Jinja2"} {
		if !slices.ContainsFunc(s.Findings, func(f vulndb.Finding) bool {
			return slices.Contains(f.IDs, id) && inv.Packages[f.Package].Name == pkg
		}) {
			t.Errorf("%s of %s is not found", id, pkg)
		}
	}
	// The versions that fixed them, or a version above all: nothing.
	for i := range s.Findings {
		if p := inv.Packages[s.Findings[i].Package]; p.Name == "zlib1g" || slices.Contains(s.Findings[i].IDs, "CVE-2019-8331") {
			t.Errorf("%v in %s %s", s.Findings[i].IDs, p.Name, p.Version)
		}
	}
	t.Logf("%d packages, %d findings, %d faults", len(inv.Packages), len(s.Findings), len(s.Misconfigurations))
}
