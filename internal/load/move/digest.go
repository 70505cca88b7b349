package move

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"path"
	"slices"
	"strings"
)

// digestTree reads a tar stream to its end and returns a digest of the tree in it: of each
// file's name, kind, mode, owner, size, link, device, time in seconds, extended attributes and
// content. Two streams of one tree have one digest, whatever their order and form.
//
// Engines leave out sockets, and of extended attributes all but security.capability (and some
// of overlayfs): what is not in the stream is not compared.
func digestTree(r io.Reader) (string, error) {
	t := tar.NewReader(r)
	var all sum
	content := sha256.New()
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		content.Reset()
		if _, err := io.Copy(content, t); err != nil {
			return "", fmt.Errorf("%q: %w", h.Name, err)
		}
		all.add(digestEntry(h, content.Sum(nil)))
	}
	// Padding after the end of the archive is the stream's, and whoever sends it waits.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return "", err
	}
	return all.String(), nil
}

// sum is the sum of digests, in whatever order, in constant memory: a volume may have millions of files. It is
// against damage: who could choose the files of one side by those of the other is an engine.
type sum struct {
	digits [sha256.Size / 8]uint64 // the least first
	n      uint64
}

func (s *sum) add(d [sha256.Size]byte) {
	var carry uint64
	for i := range s.digits {
		s.digits[i], carry = bits.Add64(s.digits[i], binary.LittleEndian.Uint64(d[8*i:]), carry)
	}
	s.n++
}

// String returns it with the number of entries.
func (s *sum) String() string {
	var b []byte
	for _, d := range s.digits {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	return fmt.Sprintf("sha256-sum:%s:%d", hex.EncodeToString(b), s.n)
}

func digestEntry(h *tar.Header, content []byte) [sha256.Size]byte {
	d := sha256.New()
	// Each part with its length: no two entries are written alike.
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		d.Write(n[:])
		d.Write(b)
	}
	kind := h.Typeflag
	if kind == tar.TypeRegA { //nolint:staticcheck // old engines write it
		kind = tar.TypeReg
	}
	part([]byte(path.Clean("/" + h.Name)))
	part(fmt.Appendf(nil, "%c %o %d %d %d %d %d %d", kind, h.Mode&0o7777, h.Uid, h.Gid, h.Size, h.Devmajor, h.Devminor, h.ModTime.Unix()))
	link := h.Linkname
	if kind == tar.TypeLink {
		link = path.Clean("/" + link)
	}
	part([]byte(link))
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			part([]byte(k))
			part([]byte(h.PAXRecords[k]))
		}
	}
	part(content)
	var out [sha256.Size]byte
	copy(out[:], d.Sum(nil))
	return out
}
