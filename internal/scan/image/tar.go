package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// xattrCapability is where archives of images keep the capabilities of a file. Source: OCI
// image specification, layer.md, "File Attributes".
const xattrCapability = "SCHILY.xattr.security.capability"

// entry is one member of a layer's tar, with its name cleaned.
type entry struct {
	name    string
	target  string // of a hard link
	link    bool   // a hard link
	symlink string // what a symbolic link leads to
	regular bool
	mode    fs.FileMode
	caps    bool // it has capabilities of its own
	content Content
	offset  int64
}

// tarStream reads a tar, from a stream or from a place that can be read anywhere.
type tarStream struct {
	tar *tar.Reader
	at  io.ReaderAt       // nil for a stream
	pos *io.SectionReader // the reader of tar, if at is set
	bad func(name, why string)
}

func newTarStream(c Content, bad func(name, why string)) *tarStream {
	if c.At == nil {
		return &tarStream{tar: tar.NewReader(c.Reader), bad: bad}
	}
	pos := io.NewSectionReader(c.At, 0, c.Size)
	return &tarStream{tar: tar.NewReader(pos), at: c.At, pos: pos, bad: bad}
}

// next returns the next entry with a name that can be, nil at the end.
func (t *tarStream) next() (*entry, error) {
	for {
		h, err := t.tar.Next()
		if errors.Is(err, io.EOF) {
			return nil, nil //nolint:nilnil // the end is no error, and there is no entry
		}
		if err != nil {
			return nil, fmt.Errorf("read the layer's tar: %w", err)
		}
		name, ok := cleanName(h.Name)
		if !ok {
			t.bad(h.Name, "the name climbs out of the image, or is too long or too deep")
			continue
		}
		e := &entry{name: name, mode: h.FileInfo().Mode(), regular: h.Typeflag == tar.TypeReg, link: h.Typeflag == tar.TypeLink}
		_, e.caps = h.PAXRecords[xattrCapability]
		if h.Typeflag == tar.TypeSymlink {
			e.symlink = h.Linkname
		}
		if e.link {
			if e.target, ok = cleanName(h.Linkname); !ok {
				t.bad(h.Name, "a hard link whose target climbs out of the image")
				continue
			}
		}
		e.content = Content{Reader: t.tar, Size: h.Size}
		// A sparse file is shorter in the tar than it says: only as a stream.
		if t.at != nil && e.regular && !sparse(h) {
			if e.offset, err = t.pos.Seek(0, io.SeekCurrent); err != nil {
				return nil, err
			}
			e.content.At = io.NewSectionReader(t.at, e.offset, h.Size)
		}
		return e, nil
	}
}

// reopen returns the content of an entry anew.
func (t *tarStream) reopen(e *entry) Content {
	s := io.NewSectionReader(t.at, e.offset, e.content.Size)
	return Content{Reader: s, At: s, Size: e.content.Size}
}

func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if len(k) > 10 && k[:10] == "GNU.sparse" {
			return true
		}
	}
	return false
}

// collect reads one layer.
func (r *reader) collect(l *layer, t *tarStream) error {
	for {
		e, err := t.next()
		if e == nil {
			return err
		}
		if err := r.count(l); err != nil {
			return err
		}
		if e.name == "." || !l.see(e.name, e.mode) {
			continue
		}
		if l.targets[l.hash(e.name)] {
			l.notes.add(e.name, replacedTarget)
		}
		r.through(l, e)
		r.rights(l, e.name, e.mode, e.caps)
		switch {
		case e.symlink != "":
			r.symlink(l, e.name, e.symlink)
		case e.regular:
			if kind := r.x.Kind(e.name, e.mode, e.content.Size); kind != "" {
				r.extract(l, kind, e.name, e.content)
			} else if r.searches(l, e.name, e.content.Size) {
				r.search(l, e.name, e.content)
			}
		case e.link:
			l.aliases[e.name] = e.target
			l.targets[l.hash(e.target)] = true
			if kind := r.x.Kind(e.name, e.mode, -1); kind != "" {
				l.links = append(l.links, hardlink{kind, e.name, e.target})
			}
		}
	}
}

// hashedLayer reads a layer, compressed or not, and returns the digest of the whole of it,
// decompressed. bad is told of names that cannot be.
func (r *reader) hashedLayer(c Content, bad func(name, why string), pass func(*tarStream) error) (digest string, err error) {
	c, closer, err := inflate(c)
	if err != nil {
		return "", err
	}
	defer closer()
	sum := sha256.New()
	all := c.stream()
	if c.At == nil {
		all = io.TeeReader(c.Reader, sum)
		c.Reader = all
	}
	if err := pass(newTarStream(c, bad)); err != nil {
		return "", err
	}
	// What the tar's reader left: its end, or all of a layer that lies in place.
	rest := io.Writer(io.Discard)
	if c.At != nil {
		rest = sum
	}
	if _, err := io.Copy(rest, all); err != nil {
		return "", fmt.Errorf("read the layer to its end: %w", err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// zstdWindow is the largest window that is decompressed: what zstd itself takes
// without being told otherwise (zstd(1), --long). It is held in memory.
const zstdWindow = 8 << 20

// inflate returns the decompressed content; At is kept only where nothing is
// compressed. The caller calls closer when done.
func inflate(c Content) (out Content, closer func(), err error) {
	var head [4]byte
	if c.At != nil {
		if _, err := c.At.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
			return c, nil, err
		}
	} else {
		b := bufio.NewReaderSize(c.Reader, 64<<10)
		peeked, err := b.Peek(len(head))
		if err != nil && !errors.Is(err, io.EOF) {
			return c, nil, err
		}
		copy(head[:], peeked)
		c.Reader = b
	}
	switch {
	case bytes.HasPrefix(head[:], []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(c.stream())
		if err != nil {
			return c, nil, fmt.Errorf("read gzip: %w", err)
		}
		return Content{Reader: z}, func() { z.Close() }, nil
	case bytes.HasPrefix(head[:], []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(c.stream(), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return c, nil, fmt.Errorf("read zstd: %w", err)
		}
		return Content{Reader: z}, z.Close, nil
	}
	return c, func() {}, nil
}

// stream returns the content from its beginning.
func (c Content) stream() io.Reader {
	if c.At == nil {
		return c.Reader
	}
	return io.NewSectionReader(c.At, 0, c.Size)
}
