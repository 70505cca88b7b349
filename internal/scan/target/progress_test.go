package target

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestProgress: an image is whole in the end, read or kept, and what is passed on is what came.
func TestProgress(t *testing.T) {
	m := &memory{blobs: map[string][]byte{}}
	root, layers := m.image(t, baseLayer, appLayer, baseLayer)
	cache := newCache(t)
	for _, name := range []string{"read", "kept"} {
		m.fetched = map[string]int{}
		tgt, err := OpenBlobs(m, root)
		if err != nil {
			t.Fatal(err)
		}
		var all []Progress
		_, err = Scan(t.Context(), tgt, Options{Scanner: scanner(t), Cache: cache, Progress: func(p Progress) { all = append(all, p) }})
		tgt.Close()
		if err != nil {
			t.Fatal(err)
		}
		size := int64(len(m.blobs[layers[0]]) + len(m.blobs[layers[1]]))
		if last := all[len(all)-1]; last != (Progress{2, 2, size, size}) {
			t.Errorf("%s: got %+v, want two layers of %d bytes", name, last, size)
		}
		for i := 1; i < len(all); i++ {
			if all[i].Read < all[i-1].Read || all[i].Layers < all[i-1].Layers {
				t.Errorf("%s: it goes back: %+v, %+v", name, all[i-1], all[i])
			}
		}
		if n := m.fetched[layers[0]]; (n == 0) != (name == "kept") {
			t.Errorf("%s: the layer was fetched %d times", name, n)
		}
	}
}

// TestProgressHostile: a manifest that lies makes the figures wrong, and nothing else.
func TestProgressHostile(t *testing.T) {
	m := &memory{blobs: map[string][]byte{}, fetched: map[string]int{}}
	m.blobs["m"] = []byte(`{"layers":[{"digest":"a","size":2},{"digest":"a","size":9},{"digest":"b","size":-5},{"digest":"c","size":9223372036854775807}]}`)
	m.blobs["a"], m.blobs["b"], m.blobs["c"], m.blobs["config"] = []byte("longer"), []byte("x"), []byte("short"), []byte("config")
	var p Progress
	w := newWatch(func(now Progress) { p = now })
	for _, name := range []string{"config", "m", "config", "a", "b", "c", "a"} {
		r, err := w.fetch(t.Context(), m, inventory.Ask{Digest: name, Manifest: name == "m"})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(iotest.OneByteReader(r)); err != nil || !bytes.Equal(b, m.blobs[name]) {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
		r.Close()
	}
	if want := (Progress{3, 3, 2 + maxLayerSize, 2 + maxLayerSize}); p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
	large := strings.Repeat(" ", maxWatched+5)
	if b, err := io.ReadAll(w.manifest(io.NopCloser(strings.NewReader(large)))); err != nil || string(b) != large {
		t.Errorf("a large manifest is %d bytes, %v", len(b), err)
	}
	gone := errors.New("gone")
	if _, err := io.ReadAll(w.manifest(io.NopCloser(io.MultiReader(strings.NewReader("{"), iotest.ErrReader(gone))))); !errors.Is(err, gone) {
		t.Errorf("a manifest that breaks off: %v", err)
	}
}
