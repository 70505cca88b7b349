package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/pagecache"
)

// archive is what holds an image as files: a directory or a tar.
type archive interface {
	// small returns a file of at most [maxJSON] bytes.
	small(name string) ([]byte, error)
	// each calls fn with the files that names has, each once, in any order. Those
	// that are not there are left out.
	each(names map[string]bool, fn func(name string, c Content) error) error
}

// layoutDir is an OCI layout in a directory.
type layoutDir struct {
	dir    *os.File
	helper *asked // that may know what layers hold; nil: none
}

// open opens a file below the directory, without following any link, one name at a time:
// the sandbox forbids openat2.
func (d *layoutDir) open(name string) (*os.File, int64, error) {
	if d.dir == nil {
		return nil, 0, errors.New("a job with a descriptor that is not there")
	}
	f, size, err := openBelow(int(d.dir.Fd()), name)
	if err != nil {
		return nil, 0, fmt.Errorf("open %.200q in the layout: %w", name, err)
	}
	return f, size, nil
}

// openBelow opens a regular file below a directory for reading.
func openBelow(dir int, name string) (*os.File, int64, error) {
	if !fs.ValidPath(name) {
		return nil, 0, errors.New("it is no path below it")
	}
	at := dir
	for {
		part, rest, more := strings.Cut(name, "/")
		if !more {
			f, st, err := openRegular(at, part, nil)
			if at != dir {
				unix.Close(at)
			}
			return f, st.Size, err
		}
		fd, err := unix.Openat(at, part, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if at != dir {
			unix.Close(at)
		}
		if err != nil {
			return nil, 0, err
		}
		at, name = fd, rest
	}
}

func (d *layoutDir) small(name string) ([]byte, error) {
	f, _, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return inventory.ReadAll(f, maxJSON)
}

func (d *layoutDir) each(names map[string]bool, fn func(string, Content) error) error {
	for name := range names {
		f, size, err := d.open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		drop := pagecache.Behind(f, size)
		err = fn(name, Content{Reader: f, At: f, Size: size})
		drop()
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// openArchive opens a tar in a file, compressed or not.
func openArchive(ctx context.Context, f *os.File) (archive, error) {
	if f == nil {
		return nil, errors.New("a job with a descriptor that is not there")
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("the archive is no regular file: save it to one first")
	}
	whole := Content{At: f, Size: st.Size()}
	c, closer, err := inflate(whole)
	if err != nil {
		return nil, err
	}
	defer closer()
	if c.At != nil {
		return indexTar(ctx, c)
	}
	return readAhead(ctx, whole, c)
}

// tarFile is a tar that can be read anywhere.
type tarFile struct {
	content Content
	files   map[string]span
	links   map[string]string // symbolic and hard links among its files
}

type span struct{ offset, size int64 }

func indexTar(ctx context.Context, c Content) (*tarFile, error) {
	t := &tarFile{content: c, files: map[string]span{}, links: map[string]string{}}
	pos := io.NewSectionReader(c.At, 0, c.Size)
	err := members(ctx.Err, tar.NewReader(pos), func(h *tar.Header, name string) error {
		switch h.Typeflag {
		case tar.TypeReg:
			if sparse(h) {
				return nil
			}
			at, err := pos.Seek(0, io.SeekCurrent)
			t.files[name] = span{at, h.Size}
			return err
		case tar.TypeSymlink:
			t.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			t.links[name] = path.Clean(h.Linkname)
		}
		return nil
	})
	return t, err
}

// members calls fn for each member with a clean name, within the bound.
func members(stopped func() error, t *tar.Reader, fn func(h *tar.Header, name string) error) error {
	seen := map[string]bool{}
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: read the archive's tar: %w", ErrNotImage, err)
		}
		if n > 100_000 {
			return errors.New("the archive has more than 100000 files of its own")
		}
		if err := stopped(); err != nil {
			return err
		}
		name, ok := cleanName(h.Name)
		if !ok {
			continue
		}
		if seen[name] && h.Typeflag != tar.TypeDir {
			return fmt.Errorf("the archive has %.200q twice: readers differ in which they take", name)
		}
		seen[name] = true
		if err := fn(h, name); err != nil {
			return err
		}
	}
}

func (t *tarFile) find(name string) (Content, bool) {
	for range maxLinkHops {
		if s, ok := t.files[name]; ok {
			at := io.NewSectionReader(t.content.At, s.offset, s.size)
			return Content{Reader: at, At: at, Size: s.size}, true
		}
		to, ok := t.links[name]
		if !ok {
			break
		}
		name = to
	}
	return Content{}, false
}

func (t *tarFile) small(name string) ([]byte, error) {
	c, ok := t.find(name)
	if !ok {
		return nil, fmt.Errorf("%.200q in the archive: %w", name, os.ErrNotExist)
	}
	return inventory.ReadAll(c.Reader, maxJSON)
}

func (t *tarFile) each(names map[string]bool, fn func(string, Content) error) error {
	for name := range names {
		if c, ok := t.find(name); ok {
			if err := fn(name, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// tarFlow is a compressed tar: each look at it is a pass over all of it.
type tarFlow struct {
	stopped func() error
	whole   Content
	jsons   map[string][]byte // small files that may be manifests
	links   map[string]string
}

// readAhead makes the first pass, which keeps what may be JSON.
func readAhead(ctx context.Context, whole, c Content) (*tarFlow, error) {
	t := &tarFlow{stopped: ctx.Err, whole: whole, jsons: map[string][]byte{}, links: map[string]string{}}
	sum := 0
	r := tar.NewReader(c.Reader)
	err := members(ctx.Err, r, func(h *tar.Header, name string) error {
		switch h.Typeflag {
		case tar.TypeSymlink:
			t.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			t.links[name] = path.Clean(h.Linkname)
		case tar.TypeReg:
			if h.Size > maxJSON {
				return nil
			}
			b, err := inventory.ReadAll(r, maxJSON)
			if err != nil || len(b) == 0 || (b[0] != '{' && b[0] != '[') {
				return err
			}
			if sum += len(b); sum > maxSmallSum {
				return fmt.Errorf("the archive has more than %d bytes of JSON", maxSmallSum)
			}
			t.jsons[name] = b
		}
		return nil
	})
	return t, err
}

func (t *tarFlow) small(name string) ([]byte, error) {
	for range maxLinkHops {
		if b, ok := t.jsons[name]; ok {
			return b, nil
		}
		to, ok := t.links[name]
		if !ok {
			break
		}
		name = to
	}
	return nil, fmt.Errorf("%.200q in the archive: %w", name, os.ErrNotExist)
}

func (t *tarFlow) each(names map[string]bool, fn func(string, Content) error) error {
	// Where a link is wanted, its target is read under the link's name; two names of
	// one file would need the file twice.
	want := map[string]string{}
	for name := range names {
		at := name
		for range maxLinkHops {
			to, ok := t.links[at]
			if !ok {
				break
			}
			at = to
		}
		if other, ok := want[at]; ok && other != name {
			return fmt.Errorf("the compressed archive has the layer %.200q under two names: decompress it first", at)
		}
		want[at] = name
	}
	c, closer, err := inflate(t.whole)
	if err != nil {
		return err
	}
	defer closer()
	r := tar.NewReader(c.Reader)
	return members(t.stopped, r, func(h *tar.Header, at string) error {
		name, ok := want[at]
		if !ok || h.Typeflag != tar.TypeReg {
			return nil
		}
		delete(want, at)
		return fn(name, Content{Reader: r, Size: h.Size})
	})
}
