package target

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/testneed"
)

// buildScanner builds the scanner once, as it is released, unless there is one.
var buildScanner = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(scannerEnv); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "belay-scanner")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "belay-scanner")
	cmd := exec.Command("go", "build", "-o", path, "github.com/belay-project/belay/cmd/scanner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
})

func TestMain(m *testing.M) {
	if piece, ok := strings.CutPrefix(filepath.Base(os.Args[0]), bareKernel); ok {
		fmt.Fprintln(os.Stderr, onBareKernel(bareCalls[piece]))
		os.Exit(1)
	}
	code := m.Run()
	if path, err := buildScanner(); err == nil && path != os.Getenv(scannerEnv) {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func scanner(t *testing.T) string {
	t.Helper()
	path, err := buildScanner()
	if err != nil {
		t.Fatalf("build the scanner: %v", err)
	}
	return path
}

func scan(t *testing.T, name string, o Options) (*inventory.Result, error) {
	t.Helper()
	o.Scanner = scanner(t)
	tgt, err := Open(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	return Scan(t.Context(), tgt, o)
}

// TestRealAlpine reads a real image that "docker save | gzip" made.
func TestRealAlpine(t *testing.T) {
	res, err := scan(t, testneed.ScanData(t, "images/alpine-311.tar.gz"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if res.OS.ID != "alpine" || res.OS.VersionID == "" || !res.Complete() {
		t.Errorf("got %+v with notes %v, want a complete Alpine", res.OS, res.Notes)
	}
	i := slices.IndexFunc(res.Packages, func(p inventory.Package) bool { return p.Name == "libcrypto1.1" })
	if i < 0 || res.Packages[i].Source != "openssl" {
		t.Errorf("got %+v, want libcrypto1.1 of openssl among them", res.Packages)
	}
	if len(res.Sandbox.Held) < 5 {
		t.Errorf("the sandbox was %+v", res.Sandbox)
	}
	t.Logf("%d packages, %+v", len(res.Packages), res.Sandbox)
}

// TestDockerConfig: an image of the daemon's store comes with its configuration, behind its layers;
// a container, which has another, comes with its ID.
func TestDockerConfig(t *testing.T) {
	root := t.TempDir()
	layer, image, container := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	for path, text := range map[string]string{
		"image/overlay2/imagedb/content/sha256/" + image:           `{"rootfs":{"diff_ids":["sha256:` + layer + `"]}}`,
		"image/overlay2/repositories.json":                         `{"Repositories":{"app":{"app:latest":"sha256:` + image + `"}}}`,
		"image/overlay2/layerdb/sha256/" + layer + "/cache-id":     "low",
		"image/overlay2/layerdb/sha256/" + layer + "/diff":         "sha256:" + layer,
		"image/overlay2/layerdb/mounts/" + container + "/parent":   "sha256:" + layer,
		"image/overlay2/layerdb/mounts/" + container + "/mount-id": "up",
		"containers/" + container + "/config.v2.json":              `{"Name":"/run"}`, "overlay2/low/diff/x": "", "overlay2/up/diff/y": "",
	} {
		p := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][]bool{"app": {false, true}, "run": {false, false}} {
		whose := map[string]ident.ContainerID{"run": ident.ContainerID(container)}[name]
		tgt, err := Open(t.Context(), name, Options{DockerRoot: root})
		if err != nil {
			t.Fatal(err)
		}
		var got []bool
		for _, in := range tgt.job.Inputs {
			got = append(got, in.Config)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: configurations %v, want %v", name, got, want)
		}
		if tgt.Container != whose {
			t.Errorf("%s: of the container %q, want %q", name, tgt.Container, whose)
		}
		tgt.Close()
	}
}

// TestDockerDrivers: a name is found in whatever store has it. Of two different images nobody chooses,
// and of a driver that keeps no directories the error says what to do.
func TestDockerDrivers(t *testing.T) {
	root := t.TempDir()
	digits := func(c string) string { return strings.Repeat(c, 64) }
	put := func(path, text string) {
		t.Helper()
		writeFile(t, filepath.Join(root, path), []byte(text))
	}
	image := func(driver, name, id, layer, dir string) {
		t.Helper()
		put("image/"+driver+"/imagedb/content/sha256/"+id, `{"rootfs":{"diff_ids":["sha256:`+layer+`"]}}`)
		put("image/"+driver+"/repositories.json", `{"Repositories":{"app":{`+name+`}}}`)
		put("image/"+driver+"/layerdb/sha256/"+layer+"/cache-id", dir)
		put("image/"+driver+"/layerdb/sha256/"+layer+"/diff", "sha256:"+layer)
	}
	image("overlay2", `"app:both":"sha256:`+digits("a")+`","app:two":"sha256:`+digits("a")+`"`, digits("a"), digits("1"), "low")
	image("vfs", `"app:both":"sha256:`+digits("a")+`","app:two":"sha256:`+digits("b")+`","app:vfs":"sha256:`+digits("b")+`"`, digits("b"), digits("2"), "all")
	put("image/vfs/imagedb/content/sha256/"+digits("a"), `{"rootfs":{"diff_ids":["sha256:`+digits("1")+`"]}}`)
	image("btrfs", `"app:btrfs":"sha256:`+digits("c")+`"`, digits("c"), digits("3"), "sub")
	put("overlay2/low/diff/x", "")
	put("vfs/dir/all/x", "")
	put("vfs/dir/box/x", "")
	put("containers/"+digits("d")+"/config.v2.json", `{"Name":"/run"}`)
	put("image/vfs/layerdb/mounts/"+digits("d")+"/parent", "sha256:"+digits("2"))
	put("image/vfs/layerdb/mounts/"+digits("d")+"/mount-id", "box")
	for name, want := range map[string]string{
		"app:both": "overlay2/low/diff", "app:vfs": "vfs/dir/all", "sha256:" + digits("b"): "vfs/dir/all", "run": "vfs/dir/box",
		"app:two": "! by its ID", "app:btrfs": "! driver \"btrfs\"", "app:none": "! docker save",
	} {
		tgt, err := openDocker(t.Context(), name, root)
		if text, bad := strings.CutPrefix(want, "! "); bad || err != nil {
			if err == nil || !bad || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
			continue
		}
		if got := strings.TrimPrefix(tgt.files[0].Name(), root+"/"); got != want || (tgt.job.Source == inventory.SourceRootfs) != strings.HasPrefix(want, "vfs") {
			t.Errorf("%s: %s as %s, want %s", name, got, tgt.job.Source, want)
		}
		tgt.Close()
	}
}

// TestDockerStoresLeft: what a former driver left behind hides nothing that another store still has.
func TestDockerStoresLeft(t *testing.T) {
	root, id, layer := t.TempDir(), strings.Repeat("a", 64), strings.Repeat("1", 64)
	put := func(path, text string) {
		t.Helper()
		writeFile(t, filepath.Join(root, path), []byte(text))
	}
	for driver, dir := range map[string]string{"overlay2": "low", "vfs": "all", "btrfs": "sub"} {
		put("image/"+driver+"/imagedb/content/sha256/"+id, `{"rootfs":{"diff_ids":["sha256:`+layer+`"]}}`)
		put("image/"+driver+"/repositories.json", `{"Repositories":{"app":{"app:1":"sha256:`+id+`"}}}`)
		put("image/"+driver+"/layerdb/sha256/"+layer+"/cache-id", dir)
		put("image/"+driver+"/layerdb/sha256/"+layer+"/diff", "sha256:"+layer)
	}
	put("vfs/dir/all/x", "")
	open := func(what, want string) {
		t.Helper()
		tgt, err := openDocker(t.Context(), "app:1", root)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer tgt.Close()
		if got := strings.TrimPrefix(tgt.files[0].Name(), root+"/"); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	open("the layers of the first are gone", "vfs/dir/all")
	put("overlay2/low/diff/x", "")
	open("all are there", "overlay2/low/diff")
	put("image/vfs/repositories.json", "{")
	open("the second is broken", "overlay2/low/diff")
	for _, driver := range []string{"overlay2", "vfs"} {
		if err := os.RemoveAll(filepath.Join(root, "image", driver)); err != nil {
			t.Fatal(err)
		}
	}
	// Containerd and registries are asked for what nobody reads here.
	if _, err := openDocker(t.Context(), "app:1", root); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `driver "btrfs"`) {
		t.Errorf("only in another driver's store: %v", err)
	}
}
