package target

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/layercache"
	"github.com/belay-project/belay/internal/scan/pagecache"
	"github.com/belay-project/belay/internal/testneed"
)

// memory is blobs by digest; it counts what was fetched.
type memory struct {
	blobs   map[string][]byte
	fetched map[string]int
}

// Fetch implements [Blobs].
func (m *memory) Fetch(_ context.Context, a inventory.Ask) (io.ReadCloser, error) {
	b, ok := m.blobs[a.Digest]
	if !ok {
		return nil, errors.New("no such blob")
	}
	m.fetched[a.Digest]++
	return io.NopCloser(bytes.NewReader(b)), nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (m *memory) add(b []byte) map[string]any {
	m.blobs[digestOf(b)] = b
	return map[string]any{"digest": digestOf(b), "size": len(b)}
}

// image adds an image of layers, each a list of names and contents; it returns the digests of
// its manifest and of its layers.
func (m *memory) image(tb testing.TB, layers ...[]string) (root string, digests []string) {
	tb.Helper()
	var diffIDs []string
	var list []any
	for _, files := range layers {
		var plain, packed bytes.Buffer
		w := tar.NewWriter(&plain)
		for i := 0; i < len(files); i += 2 {
			w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))})
			io.WriteString(w, files[i+1])
		}
		w.Close()
		z := gzip.NewWriter(&packed)
		z.Write(plain.Bytes())
		z.Close()
		diffIDs = append(diffIDs, digestOf(plain.Bytes()))
		list = append(list, m.add(packed.Bytes()))
		digests = append(digests, digestOf(packed.Bytes()))
	}
	config, _ := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"diff_ids": diffIDs}})
	manifest, _ := json.Marshal(map[string]any{"schemaVersion": 2, "config": m.add(config), "layers": list})
	m.add(manifest)
	return digestOf(manifest), digests
}

// scanBlobs scans through the whole of the sandbox. What holds the scanner is left out.
func scanBlobs(t *testing.T, m *memory, root string, c Layers, skip ...string) (*inventory.Result, error) {
	t.Helper()
	m.fetched = map[string]int{}
	tgt, err := OpenBlobs(m, root)
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	res, err := Scan(t.Context(), tgt, Options{Scanner: scanner(t), Cache: c, Skip: skip})
	if res != nil {
		res.Sandbox = inventory.Sandbox{}
	}
	return res, err
}

func newCache(t *testing.T) *layercache.Cache {
	t.Helper()
	c, err := layercache.Open(filepath.Join(t.TempDir(), "layers"), 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pkg(name, version string) string { return `{"name":"` + name + `","version":"` + version + `"}` }

var (
	baseLayer = []string{
		"etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n", "var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n\n",
		"a/node_modules/gone/package.json", pkg("gone", "1.0.0"), "o/node_modules/hidden/package.json", pkg("hidden", "1.0.0"),
	}
	appLayer = []string{
		"a/node_modules/.wh.gone", "", "o/.wh..wh..opq", "", "b/node_modules/new/package.json", pkg("new", "1.0.0"),
		"var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n\nPackage: curl\nStatus: install ok installed\nVersion: 7\n\n",
	}
)

// TestCache: a second image is read by its new layers alone, and what is found is the same as
// without a cache.
func TestCache(t *testing.T) {
	m := &memory{blobs: map[string][]byte{}}
	first, layers := m.image(t, baseLayer, appLayer)
	second, newer := m.image(t, baseLayer, []string{"c/node_modules/other/package.json", pkg("other", "2.0.0")})
	c := newCache(t)
	same := func(root string, fetched ...string) {
		t.Helper()
		want, err := scanBlobs(t, m, root, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := scanBlobs(t, m, root, c)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("without (-) and with (+) a cache:\n%s", d)
		}
		for _, l := range append(layers, newer...) {
			n := 0
			for _, f := range fetched {
				if f == l {
					n = 1
				}
			}
			if m.fetched[l] != n {
				t.Errorf("the layer %s was fetched %d times, want %d", l, m.fetched[l], n)
			}
		}
	}
	same(first, layers...)
	same(first)
	same(second, newer[1])
	same(second)
	if got := c.Counts(); got.Stored != 3 || got.Hits != 5 || got.Misses != 3 {
		t.Errorf("counts %+v", got)
	}
	// Layers of an OCI layout are known by their digests too.
	dir := t.TempDir()
	for d, b := range m.blobs {
		writeFile(t, filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(d, "sha256:")), b)
	}
	index, _ := json.Marshal(map[string]any{"manifests": []any{map[string]string{"digest": first}}})
	writeFile(t, filepath.Join(dir, "index.json"), index)
	writeFile(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	want, err := scan(t, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*layercache.Cache{c, newCache(t)} {
		got, err := scan(t, dir, Options{Cache: c})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("a layout, without (-) and with (+) a cache:\n%s", d)
		}
		if n := c.Counts(); n.Hits+n.Stored == 0 {
			t.Errorf("the cache was not used: %+v", n)
		}
	}
}

// TestCacheSkip: what is kept of a layer with all that is looked for serves who looks for less, and
// never the other way; a result says what was left out.
func TestCacheSkip(t *testing.T) {
	m := &memory{blobs: map[string][]byte{}}
	root, layers := m.image(t, append([]string{"srv/.env", "API_TOKEN=correct-horse-battery\n"}, baseLayer...))
	read := func(c Layers, fetched int, skip ...string) *inventory.Result {
		t.Helper()
		res, err := scanBlobs(t, m, root, c, skip...)
		if err != nil {
			t.Fatal(err)
		}
		if m.fetched[layers[0]] != fetched {
			t.Errorf("without %v: the layer was fetched %d times, want %d", skip, m.fetched[layers[0]], fetched)
		}
		want := 1
		for _, s := range skip {
			if s == inventory.ScannerSecret {
				want = 0
			}
		}
		if n := len(res.Misconfigurations) - 1; n != want || len(res.Packages) == 0 || !cmp.Equal(res.Skipped, skip) { // one is root-user
			t.Errorf("without %v: %d secrets, want %d: %+v", skip, n, want, res)
		}
		return res
	}
	c := newCache(t)
	less := read(c, 1, inventory.ScannerSecret)
	if d := cmp.Diff(less, read(c, 0, inventory.ScannerSecret)); d != "" {
		t.Errorf("read (-) and kept (+):\n%s", d)
	}
	read(c, 1) // of less it knows nothing of the rest
	read(c, 0)
	other := newCache(t)
	read(other, 1)
	if d := cmp.Diff(less, read(other, 0, inventory.ScannerSecret)); d != "" {
		t.Errorf("kept of less (-) and of all (+):\n%s", d)
	}
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestCacheForged: bytes of another digest than the image names are kept under no name, and
// what cannot be fetched is an error, not an empty layer.
func TestCacheForged(t *testing.T) {
	m := &memory{blobs: map[string][]byte{}}
	root, layers := m.image(t, baseLayer, appLayer)
	_, other := m.image(t, []string{"x", "innocent"})
	good := m.blobs[layers[1]]
	for name, forge := range map[string]func(){
		"another layer":           func() { m.blobs[layers[1]] = m.blobs[other[0]] },
		"a layer that breaks off": func() { m.blobs[layers[1]] = good[:len(good)/2] },
		"no layer":                func() { delete(m.blobs, layers[1]) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			forge()
			if res, err := scanBlobs(t, m, root, c); err == nil {
				t.Errorf("it was read: %+v", res)
			}
			m.blobs[layers[1]] = good
			if n := c.Counts().Stored; n != 1 {
				t.Errorf("%d layers were kept, want the good one alone", n)
			}
			if _, err := scanBlobs(t, m, root, c); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// A layout's blob is believed by its bytes, whatever is kept of one of its name.
func TestLayoutHas(t *testing.T) {
	dir := t.TempDir()
	body := []byte("a layer")
	sum := sha256.Sum256(body)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	l := layoutBlobs{dir}
	if l.Has(t.Context(), digest) {
		t.Error("a layout without the blob has it")
	}
	file := filepath.Join(dir, "blobs/sha256", hex.EncodeToString(sum[:]))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"a layer": true, "another": false, "": false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := l.Has(t.Context(), digest); got != want {
			t.Errorf("%q: has it %v, want %v", text, got, want)
		}
	}
}

// TestLayoutCache: what is read of a layout does not stay in the page cache, unless it was there.
func TestLayoutCache(t *testing.T) {
	dir := t.TempDir()
	body := bytes.Repeat([]byte("x"), 1<<20)
	sum := sha256.Sum256(body)
	digest, file := "sha256:"+hex.EncodeToString(sum[:]), filepath.Join(dir, "blobs/sha256", hex.EncodeToString(sum[:]))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	testneed.Need(t, "page-cache", !pagecache.Has(f, 1<<20), "a file system whose pages can be dropped")
	l := layoutBlobs{dir}
	reads := map[string]func() error{
		"asked whether it is there": func() error {
			if !l.Has(t.Context(), digest) {
				return errors.New("it is not")
			}
			return nil
		},
		"fetched": func() error {
			r, err := l.Fetch(t.Context(), inventory.Ask{Digest: digest})
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, r)
			return errors.Join(err, r.Close())
		},
	}
	for what, read := range reads {
		if err := read(); err != nil || pagecache.Has(f, 1<<20) {
			t.Errorf("%s: %v, in the page cache afterwards", what, err)
		}
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, 4096)); err != nil {
		t.Fatal(err)
	}
	for what, read := range reads {
		if err := read(); err != nil || !pagecache.Has(f, 1<<20) {
			t.Errorf("%s: %v, dropped though it was in the page cache", what, err)
		}
	}
}

// hostileCache answers with what a broken scanner may have kept.
type hostileCache struct{ b []byte }

func (h hostileCache) Get(string, string) ([]byte, bool) { return h.b, true }
func (hostileCache) Put(string, string, []byte)          {}

// TestCacheHostile: what is kept is read in the sandbox alone; what is none has the layers read.
func TestCacheHostile(t *testing.T) {
	m := &memory{blobs: map[string][]byte{}}
	root, layers := m.image(t, baseLayer, appLayer)
	want, err := scanBlobs(t, m, root, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "garbage": []byte("garbage"), "much": make([]byte, inventory.MaxLayerBytes)} {
		got, err := scanBlobs(t, m, root, hostileCache{b})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" || m.fetched[layers[0]] != 1 {
			t.Errorf("%s: fetched %v\n%s", name, m.fetched, d)
		}
	}
}

// guarded is blobs of which a caller may not have all.
type guarded struct {
	*memory
	denied string
}

// Fetch implements [Blobs].
func (g guarded) Fetch(ctx context.Context, a inventory.Ask) (io.ReadCloser, error) {
	if a.Digest == g.denied {
		return nil, errors.New("denied")
	}
	return g.memory.Fetch(ctx, a)
}

// Has says what may be fetched.
func (g guarded) Has(_ context.Context, digest string) bool { return digest != g.denied }

// TestCacheSecrecy: who may not fetch a layer does not learn from the cache what is in it, and
// what was read for one scope is not known in another.
func TestCacheSecrecy(t *testing.T) {
	m := &memory{blobs: map[string][]byte{}}
	root, layers := m.image(t, baseLayer, appLayer)
	c := newCache(t)
	scan := func(scope, denied string) error {
		m.fetched = map[string]int{}
		tgt, err := OpenBlobs(guarded{m, denied}, root)
		if err != nil {
			t.Fatal(err)
		}
		defer tgt.Close()
		_, err = Scan(t.Context(), tgt, Options{Scanner: scanner(t), Cache: c, CacheScope: scope})
		return err
	}
	if err := scan("a", ""); err != nil {
		t.Fatal(err)
	}
	if err := scan("a", ""); err != nil || m.fetched[layers[0]] != 0 {
		t.Errorf("the same scope: %v, fetched %v", err, m.fetched)
	}
	if err := scan("a", layers[0]); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Errorf("a layer that may not be fetched: %v", err)
	}
	if err := scan("b", ""); err != nil || m.fetched[layers[0]] != 1 {
		t.Errorf("another scope: %v, fetched %v", err, m.fetched)
	}
}
