package worker

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/scan/extract"
	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// held is what a layer holds, as a scanner writes it.
func held(tb testing.TB, blob []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := image.WriteLayer(tb.Context(), bytes.NewReader(blob), extract.Set{}, nil, &b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// holder answers what layers hold, and counts those that were asked for.
type holder struct {
	tb    testing.TB
	files map[string][]byte
	asked []string
}

func (h *holder) holds(digest string) []byte {
	h.asked = append(h.asked, digest)
	return held(h.tb, h.files["blobs/sha256/"+digest[len("sha256:"):]])
}

// sameHeld holds that an image gives the same whether its layers are read or what they hold
// is known.
func sameHeld(t *testing.T, layers ...[]byte) *inventory.Result {
	t.Helper()
	files := layoutFiles(gzipped, layers...)
	want, werr := readAsked(t, files, rootOf(t, files))
	h := &holder{tb: t, files: files}
	got, err := readHeld(t, files, rootOf(t, files), h.holds)
	if fmt.Sprint(err) != fmt.Sprint(werr) {
		t.Fatalf("known: %v; read: %v", err, werr)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("read (-) and known (+):\n%s", d)
	}
	distinct := map[string]bool{}
	for _, l := range layers {
		distinct[digest(l)] = true
	}
	if len(h.asked) != len(distinct) {
		t.Errorf("asked for %d layers of %d", len(h.asked), len(distinct))
	}
	return got
}

// TestHeldLayers: what is known of layers gives what reading them gives, in all that layers do
// to each other.
func TestHeldLayers(t *testing.T) {
	low, up := traps()
	lower, upper := tarOf(t, low...), tarOf(t, up...)
	t.Run("traps", func(t *testing.T) {
		res := sameHeld(t, lower, upper)
		checkTraps(t, res, nil)
	})
	t.Run("traps the other way", func(t *testing.T) { sameHeld(t, upper, lower) })
	t.Run("a layer twice", func(t *testing.T) { sameHeld(t, lower, upper, lower) })
	npm := func(name, version string) string { return `{"name":"` + name + `","version":"` + version + `"}` }
	key := "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAx0000\n-----END RSA PRIVATE KEY-----\n"
	t.Run("all else", func(t *testing.T) {
		a := tarOf(t,
			ent{name: "etc/os-release", body: osRelease},
			ent{name: "var/lib/dpkg/status", body: deb("bash", "5.2-1", "") + deb("sudo", "1.9", "")},
			ent{name: "var/lib/dpkg/info/sudo.list", body: "/usr/bin/sudo\n/usr/lib/x\n"},
			ent{name: "usr/bin/sudo", body: "x", mode: 0o4755},
			ent{name: "opt/tool", body: "x", mode: 0o2755},
			ent{name: "root/.env", body: "DB_PASSWORD=correct-horse-battery\n"},
			ent{name: "root/id_rsa", body: key}, ent{name: "root/.netrc", body: "machine a login b password s3cr3tw0rd\n"},
			ent{name: "tmp/open", body: "x", mode: 0o666},
			ent{name: "lib", typ: tar.TypeSymlink, link: "usr/lib"},
			ent{name: "var/lib/rpm", typ: tar.TypeSymlink, link: "/elsewhere"},
			ent{name: "odd", typ: tar.TypeSymlink, link: "/opt"}, ent{name: "odd/through", body: "x"},
			ent{name: "../climbs", body: "x"},
			ent{name: "n/node_modules/bad/package.json", body: `{"name":`},
			ent{name: "n/node_modules/twice/package.json", body: npm("twice", "1.0.0")},
			ent{name: "n/node_modules/twice/package.json", body: npm("twice", "2.0.0")},
			ent{name: "n/node_modules/was/package.json", body: npm("was", "1.0.0")},
			ent{name: "n/node_modules/was/package.json", body: "", typ: tar.TypeSymlink, link: "nowhere"},
			ent{name: "m/package-lock.json", body: `{"lockfileVersion":3,"packages":{"node_modules/asked":{"version":"1.2.3"}}}`},
			ent{name: "store/1", body: npm("deep", "1.0.0")}, ent{name: "store/2", typ: tar.TypeLink, link: "store/1"},
		)
		b := tarOf(t,
			ent{name: "n/node_modules/deep/package.json", typ: tar.TypeLink, link: "store/2"},
			ent{name: "n/node_modules/lost/package.json", typ: tar.TypeLink, link: "nowhere/at/all"},
			ent{name: "root/.wh..env"}, ent{name: "root/id_rsa", body: "gone"},
			ent{name: "odd/below/x", body: "x"}, ent{name: "var/lib/dpkg/.wh.status"},
			ent{name: "lib/apk/db/installed", body: "P:musl\nV:1.1.24-r0\n\n"},
		)
		res := sameHeld(t, a, b)
		if res.Complete() || len(res.Misconfigurations) == 0 || len(res.Packages) == 0 {
			t.Errorf("the test says too little: %+v", res)
		}
	})
	t.Run("a layer that is none", func(t *testing.T) {
		files := layoutFiles(gzipped, lower, []byte("no tar at all, and long enough for a header"))
		_, werr := readAsked(t, files, rootOf(t, files))
		_, err := readHeld(t, files, rootOf(t, files), func(string) []byte { return nil })
		if err == nil || fmt.Sprint(err) != fmt.Sprint(werr) {
			t.Errorf("got %v, want %v", err, werr)
		}
	})
}

// TestHeldBroken: what is no record of a layer has the layer read; one of another layer is
// refused by its digest.
func TestHeldBroken(t *testing.T) {
	low, up := traps()
	lower, upper := tarOf(t, low...), tarOf(t, up...)
	files := layoutFiles(gzipped, lower, upper)
	good := held(t, lower)
	cut := func(n int) []byte { return good[:n] }
	zstdRecord := func(kind byte, texts ...string) []byte {
		b := binary.AppendUvarint([]byte{kind}, uint64(len(texts)))
		for _, s := range texts {
			b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
		}
		return zstded(t, b)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, b := range map[string][]byte{
		"nothing": {}, "no zstd": []byte("hello"), "cut": cut(len(good) / 2), "cut at its end": cut(len(good) - 1), "a bit": flipped,
		"more behind it":           slices.Concat(good, zstded(t, []byte("z"))),
		"an unknown record":        zstdRecord('?', "x"),
		"a record of few texts":    zstdRecord('a', "x"),
		"a name that climbs":       zstdRecord('o', "../x"),
		"a package of no file":     zstdRecord('P', `{"name":"x"}`),
		"a huge text":              zstded(t, append([]byte{'o', 1}, binary.AppendUvarint(nil, 1<<40)...)),
		"an end and nothing else":  zstdRecord('z', "sha256:"+diffID(lower), "-1"),
		"an end without a digest":  zstdRecord('z', "x", "0"),
		"a note of no times":       zstdRecord('n', `{"text":"x","count":0}`),
		"zeros in a megabyte bomb": zstded(t, make([]byte, 64<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			res, err := readHeld(t, files, rootOf(t, files), func(string) []byte { return b })
			checkTraps(t, res, err)
		})
	}
	if _, err := readHeld(t, files, rootOf(t, files), func(string) []byte { return good }); err == nil {
		t.Error("what another layer holds was taken for a layer's own")
	}
}

// FuzzHeldLayer: whatever is said of a layer, an image is read or refused.
func FuzzHeldLayer(f *testing.F) {
	low, up := traps()
	lower, upper := tarOf(f, low...), tarOf(f, up...)
	files := layoutFiles(gzipped, lower, upper)
	root := rootOf(f, files)
	f.Add([]byte("o\x01\x01xz\x02\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		packed := zstded(t, b)
		res, err := readHeld(t, files, root, func(string) []byte { return packed })
		if err == nil && res.Check() != nil {
			t.Logf("refused outside: %v", res.Check())
		}
	})
}
