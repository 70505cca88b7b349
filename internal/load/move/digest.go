package move

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/belay-project/belay/internal/load/treedigest"
)

// copyBuffer is how much of a volume is moved and digested at one time.
const copyBuffer = 256 << 10

// digestTree reads a tar stream to its end and returns a digest of the tree in it: of each
// file's name, kind, mode, owner, size, link, device, time in seconds, extended attributes and
// content. Two streams of one tree have one digest, whatever their order and form.
//
// Engines leave out sockets, and of extended attributes all but security.capability (and some
// of overlayfs): what is not in the stream is not compared.
func digestTree(r io.Reader) (string, error) {
	t := tar.NewReader(r)
	var all treedigest.Sum
	content := sha256.New()
	buf := make([]byte, copyBuffer)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		content.Reset()
		if _, err := io.CopyBuffer(content, t, buf); err != nil {
			return "", fmt.Errorf("%q: %w", h.Name, err)
		}
		all.Add(entryOf(h, content.Sum(nil)))
	}
	// Padding after the end of the archive is the stream's, and whoever sends it waits.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return "", err
	}
	return all.String(), nil
}

func entryOf(h *tar.Header, content []byte) *treedigest.Entry {
	kind := h.Typeflag
	if kind == tar.TypeRegA { //nolint:staticcheck // old engines write it
		kind = tar.TypeReg
	}
	var attributes map[string]string
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if attributes == nil {
				attributes = map[string]string{}
			}
			attributes[name] = v
		}
	}
	return &treedigest.Entry{
		Name: h.Name, Kind: treedigest.Kind(kind), Mode: h.Mode, UID: int64(h.Uid), GID: int64(h.Gid), Size: h.Size,
		Major: h.Devmajor, Minor: h.Devminor, Time: h.ModTime.Unix(), Link: h.Linkname, Attributes: attributes, Content: content,
	}
}
