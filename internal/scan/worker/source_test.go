package worker

import (
	"archive/tar"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/extract"
	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

const osRelease = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"

func deb(name, version, more string) string {
	return "Package: " + name + "\nStatus: install ok installed\nVersion: " + version + "\n" + more + "\n"
}

// The traps of one image: a database that is rewritten, a source of another name and
// version, a package that is only configured, whiteouts, opaque directories, a file
// in place of a directory, hard links within a layer and across layers.
func traps() (lower, upper []ent) {
	lower = []ent{
		{name: "etc/os-release", body: osRelease},
		{name: "var/lib/dpkg/status", body: deb("bash", "5.2-1", "") + deb("bsdutils", "1:2.38.1-5", "Source: util-linux (2.38.1-5)\n")},
		{name: "app/node_modules/gone/package.json", body: `{"name":"gone","version":"1.0.0"}`},
		{name: "app/node_modules/kept/package.json", body: `{"name":"kept","version":"v1.2.0"}`},
		{name: "app/node_modules/kept/dist/cjs/package.json", body: `{"type":"commonjs"}`},
		{name: "app/node_modules/@s/scoped/package.json", body: `{"name":"@s/scoped","version":"3.0.0"}`},
		{name: "app/package.json", body: `{"name":"app","version":"9.9.9"}`},
		{name: "opaque/node_modules/hidden/package.json", body: `{"name":"hidden","version":"1.0.0"}`},
		{name: "replaced/node_modules/under/package.json", body: `{"name":"under","version":"1.0.0"}`},
		{name: "store/abc", body: `{"name":"linked","version":"2.0.0"}`},
		{name: "app/node_modules/linked/package.json", typ: tar.TypeLink, link: "store/abc"},
		{name: "usr/lib/python3/dist-packages/six-1.16.0.dist-info/METADATA", body: "Metadata-Version: 2.1\nName: six\nVersion: 1.16.0\n\nName: not-me\n"},
		{name: "opt/venv/lib/python3/site-packages/Jinja2-2.10.dist-info/METADATA", body: "Name: Jinja2\nVersion: 2.10\n"},
		{name: "var/lib/dpkg/info/python3-six.list", body: "/.\n/usr/lib/python3/dist-packages/six-1.16.0.dist-info/METADATA\n"},
	}
	upper = []ent{
		{name: "var/lib/dpkg/status", body: deb("bash", "5.2-1", "") + deb("bsdutils", "1:2.38.1-5", "Source: util-linux (2.38.1-5)\n") +
			deb("curl", "7.88.1-10", "Architecture: amd64\n") + "Package: purged\nStatus: deinstall ok config-files\nVersion: 1\n"},
		{name: "app/node_modules/.wh.gone"},
		{name: "opaque/", mode: 0o755},
		{name: "opaque/node_modules/new/package.json", body: `{"name":"new","version":"1.0.0"}`},
		{name: "opaque/.wh..wh..opq"},
		{name: "replaced", typ: tar.TypeSymlink, link: "/"},
		{name: "app/node_modules/across/package.json", typ: tar.TypeLink, link: "store/abc"},
	}
	return lower, upper
}

var wantTraps = []string{
	"deb bash 5.2-1 @0",
	"deb bsdutils 1:2.38.1-5 @0 of util-linux 2.38.1-5",
	"deb curl 7.88.1-10 @1",
	"npm @s/scoped 3.0.0 @0",
	"npm kept 1.2.0 @0",
	"npm linked 2.0.0 @1",
	"npm linked 2.0.0 @0",
	"npm new 1.0.0 @1",
	"pypi Jinja2 2.10 @0",
	"pypi six 1.16.0 @0 owned by python3-six",
}

// TestSources: the same image gives the same inventory in whatever shape it comes.
func TestSources(t *testing.T) {
	low, up := traps()
	lower, upper := tarOf(t, low...), tarOf(t, up...)
	plain := func(b []byte) []byte { return b }
	zst := func(b []byte) []byte { return zstded(t, b) }
	archives := map[string][]byte{
		"docker-archive":                    dockerArchive(t, lower, upper),
		"docker-archive, gzip":              gzipped(dockerArchive(t, lower, upper)),
		"docker-archive, zstd":              zstded(t, dockerArchive(t, lower, upper)),
		"OCI tar, plain layers":             layoutTar(t, layoutFiles(plain, lower, upper)),
		"OCI tar, gzip layers":              layoutTar(t, layoutFiles(gzipped, lower, upper)),
		"OCI tar, zstd layers":              layoutTar(t, layoutFiles(zst, lower, upper)),
		"OCI tar with zstd layers, in gzip": gzipped(layoutTar(t, layoutFiles(zst, lower, upper))),
	}
	for name, b := range archives {
		t.Run(name, func(t *testing.T) {
			res, err := readArchive(t, b)
			checkTraps(t, res, err)
		})
	}
	for name, pack := range map[string]func([]byte) []byte{"plain": plain, "gzip": gzipped, "zstd": zst} {
		t.Run("asked for, "+name+" layers", func(t *testing.T) {
			files := layoutFiles(pack, lower, upper)
			res, err := readAsked(t, files, rootOf(t, files))
			checkTraps(t, res, err)
		})
	}
	t.Run("OCI layout", func(t *testing.T) {
		dir := t.TempDir()
		writeFiles(t, dir, layoutFiles(gzipped, lower, upper))
		res, err := read(t, inventory.SourceLayout, "", dir)
		checkTraps(t, res, err)
		if _, err = read(t, inventory.SourceLayout, "linux/riscv64", dir); err == nil || !strings.Contains(err.Error(), "--platform") {
			t.Errorf("a platform that is not there: %v, want what there is", err)
		}
	})
}

func checkTraps(t *testing.T, res *inventory.Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if got := summary(res); !slices.Equal(got, wantTraps) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wantTraps, "\n"))
	}
	if res.OS.ID != "debian" || res.OS.VersionID != "12" || len(res.Layers) != 2 {
		t.Errorf("got %+v in %d layers, want debian 12 in 2", res.OS, len(res.Layers))
	}
	if !res.Complete() {
		t.Errorf("notes: %+v", res.Notes)
	}
}

// TestOverlay reads directories as overlayfs keeps them.
func TestOverlay(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	pkg := func(name string) []byte { return []byte(`{"name":"` + name + `","version":"1.0.0"}`) }
	writeFiles(t, lower, map[string][]byte{
		"n/node_modules/a/package.json": pkg("a"), "n/node_modules/b/package.json": pkg("b"), "o/node_modules/c/package.json": pkg("c"),
	})
	writeFiles(t, upper, map[string][]byte{"o/node_modules/d/package.json": pkg("d"), "n/node_modules/.wh.x/package.json": pkg("odd")})
	want := []string{"npm a 1.0.0 @0", "npm b 1.0.0 @0", "npm c 1.0.0 @0", "npm d 1.0.0 @1", "npm odd 1.0.0 @1"}
	if err := unix.Mknod(filepath.Join(upper, "n/node_modules/a"), unix.S_IFCHR, 0); err == nil {
		want = want[1:] // only root can make a whiteout
	}
	res, err := read(t, inventory.SourceOverlay, "", lower, upper)
	if err != nil {
		t.Fatal(err)
	}
	if got := summary(res); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestRootfs reads a directory; links out of it and in circles lead nowhere.
func TestRootfs(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{
		"etc/os-release":                     []byte("ID=alpine\nVERSION_ID=3.11.6\n"),
		"lib/apk/db/installed":               []byte("P:libcrypto1.1\nV:1.1.1d-r3\nA:x86_64\no:openssl\nF:usr/bin\nR:tool\n\nP:musl\nV:1.1.24-r0\n\n"),
		"var/lib/dpkg/status.d/base":         []byte("Package: base-files\nVersion: 12.4\n"),
		"var/lib/dpkg/status.d/base.md5sums": []byte("Package: no\nVersion: 1\n"),
	})
	for link, to := range map[string]string{"loop": ".", "out": "/", "self": "self", "var/lib/dpkg/status": "/etc/passwd"} {
		if err := unix.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	res, err := read(t, inventory.SourceRootfs, "", dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"apk libcrypto1.1 1.1.1d-r3 @0 of openssl 1.1.1d-r3", "apk musl 1.1.24-r0 @0", "deb base-files 12.4 @0"}
	if got := summary(res); !slices.Equal(got, want) || res.OS.ID != "alpine" {
		t.Errorf("got %q on %+v, want %q", got, res.OS, want)
	}
}

// TestAskedBroken: blobs that are not there, are others, or break off.
func TestAskedBroken(t *testing.T) {
	low, up := traps()
	lower, upper := tarOf(t, low...), tarOf(t, up...)
	good := layoutFiles(gzipped, lower, upper)
	root := rootOf(t, good)
	layer := "blobs/sha256/" + digest(gzipped(upper))
	tests := []struct {
		name   string
		change func(files map[string][]byte)
		want   string
	}{
		{"a layer that is not there", func(f map[string][]byte) { delete(f, layer) }, "no such blob"},
		{"a layer that breaks off", func(f map[string][]byte) { f[layer] = f[layer][:40] }, "layer"},
		{"another layer", func(f map[string][]byte) { f[layer] = gzipped(lower) }, "forged"},
		{"another layer the second time", func(f map[string][]byte) {
			f["blobs/sha256/"+digest(gzipped(lower))+again] = gzipped(tarOf(t, ent{name: "store/abc", body: `{"name":"innocent","version":"9.9.9"}`}))
		}, "forged"},
		{"another manifest", func(f map[string][]byte) { f["blobs/sha256/"+root[len("sha256:"):]] = []byte("{}") }, "forged"},
		{"a huge manifest", func(f map[string][]byte) { f["blobs/sha256/"+root[len("sha256:"):]] = make([]byte, 5<<20) }, "larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := maps.Clone(good)
			tt.change(files)
			if res, err := readAsked(t, files, root); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %+v, want %q", err, res, tt.want)
			}
		})
	}
}

// TestOverlayConfig: the configuration of an image whose layers lie unpacked is looked at, and one
// that is of other layers, or none, is a note beside what was read.
func TestOverlayConfig(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/os-release"), []byte("ID=debian\nVERSION_ID=12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		config string
		read   bool
		note   string
	}{
		"its own":   {`{"os":"linux","architecture":"arm64","config":{"Env":["DB_PASSWORD=hunter2hunter2"]},"rootfs":{"diff_ids":["sha256:a"]},"history":[{"created_by":"COPY x"}]}`, true, ""},
		"another's": {`{"rootfs":{"diff_ids":["sha256:b"]}}`, false, "other layers"},
		"of two":    {`{"rootfs":{"diff_ids":["sha256:a","sha256:b"]}}`, false, "1 layers and 2 digests"},
		"none":      {`x`, false, "configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(path, []byte(tt.config), 0o600); err != nil {
				t.Fatal(err)
			}
			files := map[int]*os.File{}
			for i, p := range []string{dir, path} {
				f, err := os.Open(p)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				files[i] = f
			}
			job := inventory.Job{Source: inventory.SourceOverlay, Inputs: []inventory.Input{{FD: 0, DiffID: "sha256:a"}, {FD: 1, Config: true}}}
			res, err := image.Read(t.Context(), job, func(fd int) *os.File { return files[fd] }, extract.Set{})
			if err != nil || res.OS.ID != "debian" || len(res.Layers) != 1 || res.ConfigRead != tt.read {
				t.Fatalf("%+v, %v", res, err)
			}
			if tt.read {
				secret := slices.ContainsFunc(res.Misconfigurations, func(m inventory.Misconfiguration) bool { return m.ID == inventory.ConfigSecretEnv })
				if !secret || res.Layers[0].CreatedBy != "COPY x" || res.Platform != "linux/arm64" {
					t.Errorf("%+v", res)
				}
			}
			said := slices.ContainsFunc(res.Notes, func(n inventory.Note) bool { return strings.Contains(n.Text, tt.note) })
			if tt.note != "" && !said || tt.note == "" && slices.ContainsFunc(res.Notes, func(n inventory.Note) bool { return strings.Contains(n.Text, "configuration") }) {
				t.Errorf("notes %v, want %q", res.Notes, tt.note)
			}
		})
	}
}
