package target

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Progress is how far the reading of an image is whose blobs are fetched for the scanner, by the sizes that its
// manifest tells. What a manifest does not tell, or wrongly, makes it wrong and nothing else.
type Progress struct {
	Layers, Of int   // layers that were begun, of how many
	Read, Size int64 // bytes of layers, as they are stored, of how many; what was kept counts as read
}

// Bounds of what a manifest says.
const (
	maxWatched   = 4 << 20 // bytes of a manifest
	maxLayerSize = 1 << 40 // of one layer
)

// watch counts what a server serves. A nil watch counts nothing.
type watch struct {
	tell func(Progress)
	p    Progress
	left map[string]int64 // sizes of layers that were not begun, by digest
}

func newWatch(tell func(Progress)) *watch {
	if tell == nil {
		return nil
	}
	return &watch{tell: tell}
}

// fetch fetches and counts.
func (w *watch) fetch(ctx context.Context, blobs Blobs, a inventory.Ask) (io.ReadCloser, error) {
	r, err := blobs.Fetch(ctx, a)
	if err != nil || w == nil {
		return r, err
	}
	if a.Manifest {
		return w.manifest(r), nil
	}
	if size, ok := w.begin(a.Digest); ok {
		w.tell(w.p)
		return &watched{r, w, size}, nil
	}
	return r, nil // the configuration, or a layer once more
}

// manifest reads how many layers there are, and passes on what was sent.
func (w *watch) manifest(r io.ReadCloser) io.ReadCloser {
	b, err := io.ReadAll(io.LimitReader(r, maxWatched))
	var m struct {
		Layers []struct {
			Digest string
			Size   int64
		}
	}
	if err == nil && json.Unmarshal(b, &m) == nil && len(m.Layers) > 0 {
		w.p, w.left = Progress{}, map[string]int64{}
		for _, l := range m.Layers {
			if _, ok := w.left[l.Digest]; !ok {
				w.left[l.Digest] = min(max(l.Size, 0), maxLayerSize)
				w.p.Size += w.left[l.Digest]
			}
		}
		w.p.Of = len(w.left)
	}
	rest := io.Reader(r)
	if err != nil {
		rest = broken{err}
	}
	return passed{io.MultiReader(bytes.NewReader(b), rest), r}
}

// begin counts a layer once.
func (w *watch) begin(digest string) (size int64, ok bool) {
	if size, ok = w.left[digest]; ok {
		delete(w.left, digest)
		w.p.Layers++
	}
	return size, ok
}

// kept counts a layer that was answered without being fetched.
func (w *watch) kept(digest string) {
	if w == nil {
		return
	}
	if size, ok := w.begin(digest); ok {
		w.p.Read += size
		w.tell(w.p)
	}
}

// passed is what was read already, and what follows.
type passed struct {
	io.Reader
	io.Closer
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// watched counts the bytes of a layer, as many as it should have.
type watched struct {
	io.ReadCloser
	w    *watch
	left int64
}

// Read implements [io.Reader].
func (l *watched) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	l.count(min(int64(n), l.left))
	return n, err
}

// Close implements [io.Closer]. What nobody wanted to read is done with.
func (l *watched) Close() error {
	l.count(l.left)
	return l.ReadCloser.Close()
}

func (l *watched) count(n int64) {
	l.left -= n
	l.w.p.Read += n
	l.w.tell(l.w.p)
}
