package worker

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/sandbox/spawn"
	"github.com/belay-project/belay/internal/scan/extract"
	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// hostileImage is an image made to hurt, and what becomes of it.
type hostileImage struct {
	name  string
	image []byte
	err   string // part of the error; empty: it is read, and the good package is found
	note  string // part of a note; "-": either is fine, as long as it ends
}

func hostileImages(t *testing.T) []hostileImage {
	good := ent{name: "x/node_modules/a/package.json", body: `{"name":"a","version":"1.0.0"}`}
	deep := strings.Repeat("d/", 1000)
	one := func(ents ...ent) []byte { return dockerArchive(t, tarOf(t, append(ents, good)...)) }
	layer := tarOf(t, good)
	return []hostileImage{
		{"climbing name", one(ent{name: "../../etc/os-release", body: "ID=evil"}), "", "climbs"},
		{"climbing hard link", one(ent{name: "x/node_modules/b/package.json", typ: tar.TypeLink, link: "../../../etc/passwd"}), "", "climbs"},
		{"hard link to nothing", one(ent{name: "x/node_modules/b/package.json", typ: tar.TypeLink, link: "nowhere"}), "", "no layer has"},
		{"hard link to itself", one(ent{name: "x/node_modules/b/package.json", typ: tar.TypeLink, link: "x/node_modules/b/package.json"}), "", ""},
		{"link to host", one(ent{name: "etc/os-release", typ: tar.TypeSymlink, link: "/etc/os-release"}), "", ""},
		{"deep", one(ent{name: deep + "node_modules/a/package.json", body: good.body}), "", "too deep"},
		{"long name", one(ent{name: strings.Repeat("n", 5000), body: "x"}), "", "too long"},
		{"device", one(ent{name: "dev/sda", typ: tar.TypeBlock}, ent{name: "p", typ: tar.TypeFifo}), "", ""},
		{"broken dpkg", one(ent{name: "var/lib/dpkg/status", body: strings.Repeat("\x00\xff:", 9000) + "\n\n:::\nPackage: x\n"}), "", ""},
		{"endless line", one(ent{name: "var/lib/dpkg/status", body: strings.Repeat("x", 2<<20)}), "", "broken"},
		{"broken json", one(ent{name: "x/node_modules/b/package.json", body: strings.Repeat("[", 100_000)}), "", "no JSON"},
		{"huge version", one(ent{name: "x/node_modules/b/package.json", body: `{"name":"b","version":"` + strings.Repeat("1", 9999) + `"}`}), "", "cannot be"},
		{"bad text", one(ent{name: "x/node_modules/\xff\xfe/package.json", body: "{\"name\":\"\xff\",\"version\":\"1\"}"}), "", ""},
		{"not an ELF file", one(ent{name: "bin/x", mode: 0o755, body: "\x7fELF" + strings.Repeat("\xff Go buildinf:\x08\x02", 20_000)}), "", ""},
		{"no image", tarOf(t, good), "no image", ""},
		{"garbage", []byte(strings.Repeat("garbage ", 200)), "no image", ""},
		{"empty", nil, "no image", ""},
		{"cut off", dockerArchive(t, layer)[:1800], "", "-"},
		{"layer that is not there", tarOf(t, ent{name: "c.json", body: string(configOf([][]byte{layer}))},
			ent{name: "manifest.json", body: `[{"Config":"c.json","Layers":["gone"]}]`}), "not there", ""},
		{"links in circles", tarOf(t, ent{name: "c.json", body: string(configOf([][]byte{layer}))}, ent{name: "a", typ: tar.TypeSymlink, link: "b"},
			ent{name: "b", typ: tar.TypeSymlink, link: "a"}, ent{name: "manifest.json", body: `[{"Config":"c.json","Layers":["a"]}]`}), "not there", ""},
		{"more digests than layers", tarOf(t, ent{name: "c.json", body: string(configOf([][]byte{layer, layer}))},
			ent{name: "l", body: string(layer)}, ent{name: "manifest.json", body: `[{"Config":"c.json","Layers":["l"]}]`}), "1 layers and 2 digests", ""},
		{"index that leads to itself", layoutTar(t, map[string][]byte{"index.json": []byte(`{"manifests":[{"digest":"sha256:../../x"}]}`)}), "no sha256", ""},
		{"wrong digest", layoutTar(t, map[string][]byte{
			"index.json": []byte(`{"manifests":[{"digest":"sha256:` + strings.Repeat("a", 64) + `"}]}`),
			"blobs/sha256/" + strings.Repeat("a", 64): []byte(`{}`),
		}), "has the digest", ""},
		{"broken gzip layer", dockerArchive(t, gzipped(layer)[:60]), "layer", ""},
	}
}

// TestHostile: images made to hurt end in an error or a note, soon; in this process, and in that of
// the scanner as it is released, under its caps and its filter of system calls.
func TestHostile(t *testing.T) {
	for _, tt := range hostileImages(t) {
		check := func(t *testing.T, res *inventory.Result, err error) {
			t.Helper()
			if tt.note == "-" {
				return
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("got %v, want %q", err, tt.err)
			}
			if err != nil {
				return
			}
			if !slices.Contains(summary(res), "npm a 1.0.0 @0") {
				t.Errorf("the good package is gone: %q", summary(res))
			}
			noted := slices.ContainsFunc(res.Notes, func(n inventory.Note) bool { return strings.Contains(n.Text, tt.note) })
			if tt.note != "" && !noted {
				t.Errorf("notes %+v, want one with %q", res.Notes, tt.note)
			}
		}
		t.Run(tt.name, func(t *testing.T) {
			res, err := readArchive(t, tt.image)
			check(t, res, err)
		})
		t.Run(tt.name+", sandboxed", func(t *testing.T) {
			res, err := sandboxed(t, tt.image)
			if _, killed := errors.AsType[*spawn.LimitError](err); killed {
				t.Fatal(err)
			}
			check(t, res, err)
		})
	}
}

// builtScanner builds the scanner once, as it is released.
var builtScanner = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "belay-scanner")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "belay-scanner")
	cmd := exec.Command("go", "build", "-o", path, "github.com/belay-project/belay/cmd/scanner")
	cmd.Env, cmd.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	return path, cmd.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, _ := builtScanner(); path != "" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// sandboxed reads bytes as an archive by the scanner itself. A scanner that breaks fails the test: its
// own error, or its end at a cap, is returned.
func sandboxed(t *testing.T, b []byte) (*inventory.Result, error) {
	t.Helper()
	scanner, err := builtScanner()
	if err != nil {
		t.Fatalf("build the scanner: %v", err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var res *inventory.Result
	_, err = spawn.Run(t.Context(), spawn.Options{
		Path: scanner, Files: []*os.File{f}, MemoryMax: inventory.DefaultMemoryMax,
		Input: func(cgroup bool) ([]byte, error) {
			return json.Marshal(inventory.Job{
				Source: inventory.SourceArchive, Platform: "linux/amd64", Inputs: []inventory.Input{{FD: firstFD}}, MemoryMax: inventory.DefaultMemoryMax, Cgroup: cgroup,
			})
		},
		Output: func(r io.Reader) (err error) {
			res, err = inventory.ReadResult(r)
			return err
		},
	})
	if _, killed := errors.AsType[*spawn.LimitError](err); killed {
		return nil, err
	}
	if err != nil {
		t.Fatalf("the scanner broke: %v", err)
	}
	if len(res.Sandbox.Held) < 5 || len(res.Sandbox.Lost) > 0 {
		t.Errorf("the sandbox was %+v", res.Sandbox)
	}
	if res.Error != "" {
		return nil, errors.New(res.Error)
	}
	return res, nil
}

// bomb is a gzip stream of n zero bytes, at the ratio of 1000 to 1.
func bomb(n int) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	zeros := make([]byte, 1<<20)
	for range n >> 20 {
		w.Write(zeros)
	}
	w.Close()
	return b.Bytes()
}

// TestBomb: 1 GiB of zeros in a file of a layer is passed over in constant memory, by the scanner as it is released
// too, within its caps.
func TestBomb(t *testing.T) {
	const size = 1 << 30
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: "var/lib/dpkg/status", Size: size, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	layer := slices.Concat(gzipped(head.Bytes()), bomb(size), gzipped(make([]byte, 1024)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start, image := time.Now(), dockerArchive(t, layer)
	res, err := readArchive(t, image)
	runtime.ReadMemStats(&after)
	if err != nil || len(res.Notes) == 0 {
		t.Errorf("got %v and %+v, want a note", err, res)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("it took %d MiB in all, want less than 64", grown>>20)
	}
	t.Logf("%s", time.Since(start))
	if res, err := sandboxed(t, image); err != nil || len(res.Notes) == 0 {
		t.Errorf("by the scanner: got %v and %+v, want a note", err, res)
	}
}

// manyEntries is how many names [TestManyEntries] has; tools/ci/full.sh sets 1,000,000.
const manyEntries = "BELAY_SCAN_ENTRIES"

// TestManyEntries: 50,000 names, each with a whiteout in the next layer, take time in proportion. The
// scanner as it is released reads them within its caps; of a million it may be killed at that of its
// memory, and at no other.
func TestManyEntries(t *testing.T) {
	n := 50_000
	if text := os.Getenv(manyEntries); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			t.Fatalf("%s is %q, want a number", manyEntries, text)
		}
	}
	layer := func(name string) []byte {
		var out bytes.Buffer
		z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		for i := range n {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf(name, i), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	image := dockerArchive(t, layer("d%d/node_modules/m/package.json"), layer("d%d/.wh.node_modules"))
	start := time.Now()
	res, err := readArchive(t, image)
	if err != nil || len(res.Packages) > 0 {
		t.Errorf("got %v, %d packages", err, len(res.Packages))
	}
	t.Logf("%d entries in %s", 2*n, time.Since(start))
	start = time.Now()
	res, err = sandboxed(t, image)
	limit, killed := errors.AsType[*spawn.LimitError](err)
	if killed && (limit.What != "memory" || n <= 50_000) || !killed && (err != nil || len(res.Packages) > 0) {
		t.Errorf("by the scanner: %v, %+v", err, res)
	}
	t.Logf("by the scanner in %s: %v", time.Since(start), err)
}

// TestDeepDirectories: a tree deeper than the bound is a note, and its names do not
// run out of descriptors.
func TestDeepDirectories(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{"node_modules/a/package.json": []byte(`{"name":"a","version":"1.0.0"}`)})
	deep := dir
	for range 300 {
		deep = filepath.Join(deep, "dd")
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	res, err := read(t, inventory.SourceRootfs, "", dir)
	if err != nil || len(res.Packages) != 1 || len(res.Notes) != 1 {
		t.Errorf("got %v, %+v, want one package and one note", err, res)
	}
}

// TestGoBinary reads a program as a file and as a stream; both tell the same.
func TestGoBinary(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tool")
	cmd := exec.Command("go", "build", "-o", path, "github.com/belay-project/belay/cmd/scanner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l := tarOf(t, ent{name: "usr/bin/tool", mode: 0o755, body: string(self)})
	file, err := readArchive(t, dockerArchive(t, l))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := readArchive(t, dockerArchive(t, gzipped(l)))
	if err != nil {
		t.Fatal(err)
	}
	got := summary(file)
	if !slices.Equal(got, summary(stream)) {
		t.Errorf("as a file\n%q\nas a stream\n%q", got, summary(stream))
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(runtime.Version(), "go"), " ")
	if !slices.Contains(got, "golang stdlib "+version+" @0") || !slices.ContainsFunc(got, func(s string) bool {
		return strings.HasPrefix(s, "golang github.com/klauspost/compress v")
	}) {
		t.Errorf("got %q, want the standard library and what the program links", got)
	}
}

// FuzzArchive reads any bytes as an image.
func FuzzArchive(f *testing.F) {
	low, up := traps()
	lower, upper := tarOf(f, low...), tarOf(f, up...)
	f.Add(dockerArchive(f, lower, upper))
	f.Add(gzipped(dockerArchive(f, gzipped(lower), zstded(f, upper))))
	f.Add(layoutTar(f, layoutFiles(gzipped, lower)))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		p := filepath.Join(dir, fmt.Sprintf("%x", len(b)))
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(p)
		res, err := read(t, inventory.SourceArchive, "", p)
		if err == nil && res == nil {
			t.Error("neither a result nor an error")
		}
	})
}

// FuzzExtract gives every extractor any bytes, as a file and as a stream, under the names that it wants
// and others.
func FuzzExtract(f *testing.F) {
	low, _ := traps()
	for _, e := range low {
		f.Add([]byte(e.body), e.name)
	}
	kinds := map[string]string{
		"os-release": "etc/os-release", "dpkg": "var/lib/dpkg/status.d/a", "dpkg-list": "var/lib/dpkg/info/a.list", "apk": "lib/apk/db/installed", "rpm": "var/lib/rpm/rpmdb.sqlite",
		"npm": "node_modules/@a/b/package.json", "python": "a-1.dist-info/METADATA", "python-record": "a-1.dist-info/RECORD", "composer": "vendor/composer/installed.json",
		"nuget": "a.deps.json", "gem": "specifications/a-1.gemspec", "java": "a-1.jar", "lock": "yarn.lock", "program": "usr/bin/a",
	}
	f.Add([]byte("aa/_a.so,sha256=x,1\n\"a,b.so\",,\n../../../bin/a,,\n"), kinds["python-record"])
	f.Add([]byte("\x7fELF"+strings.Repeat("\x00", 28)+"\xff Go buildinf:\x08\x02"+strings.Repeat("\x00", 16)+"\x06go1.22\x00"), kinds["program"])
	for _, name := range kinds {
		f.Add([]byte("Package: a\nVersion: 1\n"), name)
	}
	try := func(t *testing.T, kind, name string, b []byte) {
		for _, c := range []image.Content{
			{Reader: bytes.NewReader(b), Size: int64(len(b))},
			{Reader: bytes.NewReader(b), At: bytes.NewReader(b), Size: int64(len(b))},
		} {
			file, err := extract.Set{}.Extract(kind, name, c)
			// The standard library's reader of programs is not made for enemies. What fails in another is ours.
			if err != nil && (strings.HasPrefix(err.Error(), "no extractor") || kind != "program" && strings.HasSuffix(err.Error(), "the reader failed")) {
				t.Fatal(err)
			}
			for _, p := range file.Packages {
				if p.Name == "" || p.Version == "" || len(p.Version) > inventory.MaxVersion {
					t.Errorf("%s: %+v", kind, p)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		for kind, usual := range kinds {
			try(t, kind, usual, b)
		}
		if kind := (extract.Set{}).Kind(name, 0o755, int64(len(b))); kind != "" {
			try(t, kind, name, b)
		}
	})
}
