package target

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/sandbox/spawn"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/pagecache"
)

// Layers keeps what layers hold, by the digest of their bytes and the version of the scanner
// that read them. It need not look into it.
type Layers interface {
	Get(version, digest string) ([]byte, bool)
	Put(version, digest string, holds []byte)
}

// layerReader answers what layers hold: what is kept, or else what a scanner of its own, which
// sees that layer alone, says of it. So a layer that breaks into the scanner can lie about
// itself, and about no other.
type layerReader struct {
	o       Options
	version string // of the scanner: the digest of its program
	program os.FileInfo
}

// newLayerReader returns nil where nothing is to be kept.
func newLayerReader(o Options) *layerReader {
	if o.Cache == nil {
		return nil
	}
	version, st, err := ScannerVersion(o.Scanner)
	if err != nil {
		return nil // starting it says why
	}
	return &layerReader{o, version, st}
}

// ScannerVersion returns the version of the scanner at path, the digest of its program, and what file
// that is.
func ScannerVersion(path string) (string, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", nil, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", nil, err
	}
	return hex.EncodeToString(sum.Sum(nil)), st, nil
}

// holds returns what a layer holds; empty where whoever asks is to read it.
//
// Errors: a layer that cannot be fetched.
func (l *layerReader) holds(ctx context.Context, blobs Blobs, w *watch, digest string) ([]byte, error) {
	key, whole := l.key(digest, l.o.Skip), l.key(digest, nil)
	// Who may not have a layer is not told what it holds.
	h, asks := blobs.(interface {
		Has(ctx context.Context, digest string) bool
	})
	b, ok := l.o.Cache.Get(l.version, whole)
	if !ok && key != whole {
		b, ok = l.o.Cache.Get(l.version, key)
	}
	if ok && (!asks || h.Has(ctx, digest)) {
		return b, nil
	}
	blob, err := w.fetch(ctx, blobs, inventory.Ask{Digest: digest})
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	b, got, fetched, err := l.read(ctx, blob)
	switch {
	case fetched != nil:
		return nil, fetched
	case err != nil, got != digest:
		return nil, nil //nolint:nilnil // whoever asks reads it, and says what is wrong
	}
	// Another program of that name by now would have another version.
	if st, err := os.Stat(l.o.Scanner); err == nil && os.SameFile(st, l.program) && st.ModTime().Equal(l.program.ModTime()) && st.Size() == l.program.Size() {
		l.o.Cache.Put(l.version, key, b)
	}
	return b, nil
}

// key names what is kept of a layer: with all that is looked for by its digest, with less apart. Of the
// former who looks for less leaves out the rest.
func (l *layerReader) key(digest string, skip []string) string {
	text := digest
	if len(skip) > 0 {
		text = strings.Join(slices.Compact(slices.Sorted(slices.Values(skip))), ",") + "\n" + text
	}
	if l.o.CacheScope != "" {
		text = l.o.CacheScope + "\n" + text
	}
	if text == digest {
		return digest
	}
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// read has one layer read by a scanner. got is the digest of what it was given, fetched the
// error of blob.
func (l *layerReader) read(ctx context.Context, blob io.Reader) (holds []byte, got string, fetched, err error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, "", nil, err
	}
	sum, done := sha256.New(), make(chan struct{})
	go func() {
		defer close(done)
		defer to.Close()
		// A scanner that reads no more ends it: what it wrote is of no use then.
		io.Copy(to, &failing{io.TeeReader(blob, sum), &fetched})
	}()
	job := inventory.Job{
		Source: inventory.SourceLayer, Inputs: []inventory.Input{{FD: firstFD}},
		Skip: l.o.Skip, Without: l.o.Without, MemoryMax: l.o.MemoryMax, Idle: l.o.Idle,
	}
	_, err = spawn.Run(ctx, spawn.Options{
		Path: l.o.Scanner, Files: []*os.File{from}, Timeout: l.o.Timeout, MemoryMax: l.o.MemoryMax, Idle: l.o.Idle, Without: l.o.Without,
		Input: func(cgroup bool) ([]byte, error) {
			job.Cgroup = cgroup
			return json.Marshal(job)
		},
		Output: func(r io.Reader) (err error) {
			holds, err = inventory.ReadAll(r, inventory.MaxLayerBytes)
			return err
		},
	})
	from.Close() // ends a write that waits for a scanner which is gone
	<-done
	return holds, "sha256:" + hex.EncodeToString(sum.Sum(nil)), fetched, err
}

// failing keeps the error of a reader.
type failing struct {
	io.Reader
	err *error
}

// Read implements [io.Reader].
func (f *failing) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		*f.err = err
	}
	return n, err
}

// layoutBlobs are the blobs of an OCI layout in a directory.
type layoutBlobs struct{ dir string }

// Has tells whether the layout has the blob, whole: what is kept of a layer says nothing of a file
// that another one's name was given to.
func (l layoutBlobs) Has(ctx context.Context, digest string) bool {
	f, err := l.Fetch(ctx, inventory.Ask{Digest: digest})
	if err != nil {
		return false
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return err == nil && "sha256:"+hex.EncodeToString(sum.Sum(nil)) == digest
}

// Fetch implements [Blobs].
func (l layoutBlobs) Fetch(_ context.Context, a inventory.Ask) (io.ReadCloser, error) {
	root, err := os.OpenRoot(l.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile("blobs/sha256/"+strings.TrimPrefix(a.Digest, "sha256:"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s in the layout: %w", a.Digest, errors.Join(err, fs.ErrInvalid))
	}
	return pagecache.Reader(f, st.Size()), nil
}
