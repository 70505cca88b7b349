// Package treedigest makes one digest of a tree of files, of what engines' archives have of it: so two sides can compare
// a volume that each has, or has as a stream, and the archive of a tree with its digest.
//
// It owns no state, and keeps nothing for each file but of those with several names. [Of] and [Pack] read a directory of this host,
// and [Fits] looks ahead: they follow no link, cross no mount, and open nothing but regular files and directories; nothing in it is written.
//
// Row: core.
package treedigest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math/bits"
	"path"
	"slices"
)

// Kind says what a file is, by the letter that tar(5) has for it.
type Kind byte

// The kinds that archives have. A socket is none.
const (
	Regular Kind = '0' + iota
	Link         // a further name of a file
	Symlink
	CharDevice
	BlockDevice
	Dir
	FIFO
)

// Entry is one file, as an engine's archive has it.
type Entry struct {
	Name                               string
	Kind                               Kind
	Mode                               int64 // permissions, and the set-ID and sticky bits
	UID, GID, Size, Major, Minor, Time int64 // in bytes; in seconds since 1970
	Link                               string
	// Attributes are the extended ones by their names.
	Attributes map[string]string
	// Content is the SHA-256 of what is in the file, of nothing if it is no regular one.
	Content []byte
}

func (e *Entry) digest() (out [sha256.Size]byte) {
	d := sha256.New()
	// Each part with its length: no two entries are written alike.
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		d.Write(n[:])
		d.Write(b)
	}
	part([]byte(path.Clean("/" + e.Name)))
	part(fmt.Appendf(nil, "%c %o %d %d %d %d %d %d", e.Kind, e.Mode&0o7777, e.UID, e.GID, e.Size, e.Major, e.Minor, e.Time))
	link := e.Link
	if e.Kind == Link {
		link = path.Clean("/" + link)
	}
	part([]byte(link))
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		part([]byte(k))
		part([]byte(e.Attributes[k]))
	}
	part(e.Content)
	copy(out[:], d.Sum(nil))
	return out
}

// Sum is the sum of the digests of entries, in whatever order, in constant memory: a volume may have millions of files. It
// is against damage: who could choose the files of one side by those of the other is an engine. The zero value has none.
type Sum struct {
	digits [sha256.Size / 8]uint64 // the least first
	n      uint64
}

// Add counts an entry.
func (s *Sum) Add(e *Entry) {
	d := e.digest()
	var carry uint64
	for i := range s.digits {
		s.digits[i], carry = bits.Add64(s.digits[i], binary.LittleEndian.Uint64(d[8*i:]), carry)
	}
	s.n++
}

// String returns it with the number of entries.
func (s *Sum) String() string {
	var b []byte
	for _, d := range s.digits {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	return fmt.Sprintf("sha256-sum:%s:%d", hex.EncodeToString(b), s.n)
}
