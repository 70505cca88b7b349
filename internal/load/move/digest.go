package move

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// maxEntries bounds the files of one volume: each takes 32 bytes here while it is compared.
const maxEntries = 20 << 20

// errEntries is returned for a volume with more files than are compared.
var errEntries = fmt.Errorf("it has more than %d files", maxEntries)

// digestTree reads a tar stream to its end and returns a digest of the tree in it: of each
// file's name, kind, mode, owner, size, link, device, time in seconds, extended attributes and
// content. Two streams of one tree have one digest, whatever their order and form.
//
// Engines leave out sockets, and of extended attributes all but security.capability (and some
// of overlayfs): what is not in the stream is not compared.
func digestTree(r io.Reader) (string, error) {
	t := tar.NewReader(r)
	var all [][sha256.Size]byte
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		if len(all) >= maxEntries {
			return "", errEntries
		}
		content := sha256.New()
		if _, err := io.Copy(content, t); err != nil {
			return "", fmt.Errorf("%q: %w", h.Name, err)
		}
		all = append(all, digestEntry(h, content.Sum(nil)))
	}
	// Padding after the end of the archive is the stream's, and whoever sends it waits.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return "", err
	}
	slices.SortFunc(all, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
	sum := sha256.New()
	for i := range all {
		sum.Write(all[i][:])
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
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
