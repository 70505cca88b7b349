package extract

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// A ZIP archive is told by its central directory, at its end. It is read as a stream of
// entries that nothing is kept of: a library that lists them all first takes hundreds of
// megabytes for a directory of a million. Source: PKWARE, APPNOTE.TXT 6.3.10, 4.3 to 4.5.
const (
	zipEntrySig  = "PK\x01\x02"
	zipLocalSig  = "PK\x03\x04"
	zipEndSig    = "PK\x05\x06"
	zipEnd64Sig  = "PK\x06\x06"
	zipPointSig  = "PK\x06\x07"
	zipEntryLen  = 46
	zipLocalLen  = 30
	zipEndLen    = 22
	zipEnd64Len  = 56
	zipPointLen  = 20
	zipComment   = 1<<16 - 1
	zipEncrypted = 1 // flag
	zipStored    = 0 // methods
	zipDeflated  = 8
	zipMax32     = 1<<32 - 1
	zipMax16     = 1<<16 - 1
	zipExtra64   = 1
)

// zipEntry is one entry of a central directory.
type zipEntry struct {
	name               string
	flags, method      uint16
	packed, size, from int64
}

// zipDir is an archive of size bytes. base is where its first entry would be: a program may
// stand before it.
type zipDir struct {
	at   io.ReaderAt
	size int64
	base int64
	// dir is where the central directory begins, dirLen how long it is.
	dir, dirLen int64
}

// openZip finds the central directory. Errors: [errBroken], those of at.
func openZip(at io.ReaderAt, size int64) (*zipDir, error) {
	tail := min(size, zipEndLen+zipComment)
	b := make([]byte, tail)
	if _, err := at.ReadAt(b, size-tail); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	// The last one that reaches to the end of the file, as Java takes it.
	for i := bytes.LastIndex(b, []byte(zipEndSig)); i >= 0; i = bytes.LastIndex(b[:i], []byte(zipEndSig)) {
		if len(b)-i < zipEndLen || int(binary.LittleEndian.Uint16(b[i+20:])) > len(b)-i-zipEndLen {
			continue
		}
		z := &zipDir{at: at, size: size}
		end := size - tail + int64(i)
		z.dirLen, z.dir = int64(binary.LittleEndian.Uint32(b[i+12:])), int64(binary.LittleEndian.Uint32(b[i+16:]))
		if z.dirLen == zipMax32 || z.dir == zipMax32 || binary.LittleEndian.Uint16(b[i+10:]) == zipMax16 {
			var err error
			if end, err = z.large(end); err != nil {
				return nil, err
			}
		}
		if z.dirLen < 0 || z.dir < 0 || z.dirLen > end || z.dir > end-z.dirLen {
			return nil, fmt.Errorf("a ZIP archive whose directory lies outside of it: %w", errBroken)
		}
		z.base = end - z.dirLen - z.dir
		z.dir = end - z.dirLen
		return z, nil
	}
	return nil, fmt.Errorf("a ZIP archive without a directory: %w", errBroken)
}

// large reads the end of a ZIP64 archive that stands before the other end, if there is one,
// and returns where the directory ends.
func (z *zipDir) large(end int64) (int64, error) {
	var p [zipPointLen]byte
	if end < zipPointLen+zipEnd64Len {
		return end, nil
	}
	if _, err := z.at.ReadAt(p[:], end-zipPointLen); err != nil || string(p[:4]) != zipPointSig {
		return end, err
	}
	// Where the pointer says, or right before it if a program stands before the archive.
	for _, at := range []int64{int64(binary.LittleEndian.Uint64(p[8:])), end - zipPointLen - zipEnd64Len} {
		var b [zipEnd64Len]byte
		if at < 0 || at > z.size-zipEnd64Len {
			continue
		}
		if _, err := z.at.ReadAt(b[:], at); err != nil {
			return end, err
		}
		if string(b[:4]) == zipEnd64Sig {
			z.dirLen, z.dir = int64(binary.LittleEndian.Uint64(b[40:])), int64(binary.LittleEndian.Uint64(b[48:]))
			return at, nil
		}
	}
	return end, fmt.Errorf("a large ZIP archive without its end: %w", errBroken)
}

// each calls fn with every entry, up to limit of them, and returns how many there were.
// Errors: [errBroken], that of fn.
func (z *zipDir) each(limit int, fn func(zipEntry) error) (n int, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(z.at, z.dir, z.dirLen), 32<<10)
	var h [zipEntryLen]byte
	for {
		if _, err := io.ReadFull(r, h[:]); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil || string(h[:4]) != zipEntrySig {
			return n, fmt.Errorf("a ZIP archive whose directory is cut off: %w", errBroken)
		}
		if n++; n > limit {
			return n, fmt.Errorf("a ZIP archive of more than %d entries, in it and in those within: what follows was not read", maxJarEntries)
		}
		names, extra, comment := int(binary.LittleEndian.Uint16(h[28:])), int(binary.LittleEndian.Uint16(h[30:])), int(binary.LittleEndian.Uint16(h[32:]))
		b := make([]byte, names+extra)
		if _, err := io.ReadFull(r, b); err != nil {
			return n, fmt.Errorf("a ZIP archive whose directory is cut off: %w", errBroken)
		}
		if _, err := r.Discard(comment); err != nil {
			return n, fmt.Errorf("a ZIP archive whose directory is cut off: %w", errBroken)
		}
		e := zipEntry{
			name: string(b[:names]), flags: binary.LittleEndian.Uint16(h[8:]), method: binary.LittleEndian.Uint16(h[10:]),
			packed: int64(binary.LittleEndian.Uint32(h[20:])), size: int64(binary.LittleEndian.Uint32(h[24:])), from: int64(binary.LittleEndian.Uint32(h[42:])),
		}
		e.widen(b[names:])
		if err := fn(e); err != nil {
			return n, err
		}
	}
}

// widen takes the numbers that need 64 bits from the extra field: in order, those alone that
// are at their highest in the entry.
func (e *zipEntry) widen(extra []byte) {
	for len(extra) >= 4 {
		id, n := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if extra = extra[4:]; n > len(extra) {
			return
		}
		if id == zipExtra64 {
			f := extra[:n]
			for _, into := range []*int64{&e.size, &e.packed, &e.from} {
				if *into == zipMax32 && len(f) >= 8 {
					*into, f = int64(binary.LittleEndian.Uint64(f)), f[8:]
				}
			}
		}
		extra = extra[n:]
	}
}

// section is where the content of e lies, as it is stored.
func (z *zipDir) section(e zipEntry) (*io.SectionReader, error) {
	var h [zipLocalLen]byte
	at := z.base + e.from
	if e.from < 0 || at < 0 || at > z.size-zipLocalLen {
		return nil, fmt.Errorf("an entry outside of its ZIP archive: %w", errBroken)
	}
	if _, err := z.at.ReadAt(h[:], at); err != nil || string(h[:4]) != zipLocalSig {
		return nil, fmt.Errorf("an entry that its ZIP archive does not have: %w", errBroken)
	}
	at += zipLocalLen + int64(binary.LittleEndian.Uint16(h[26:])) + int64(binary.LittleEndian.Uint16(h[28:]))
	if e.packed < 0 || e.packed > z.size || at > z.size-e.packed {
		return nil, fmt.Errorf("an entry outside of its ZIP archive: %w", errBroken)
	}
	return io.NewSectionReader(z.at, at, e.packed), nil
}

// read returns the content of e, of at most limit bytes. Errors: [errBroken],
// [inventory.ErrTooLarge].
func (z *zipDir) read(e zipEntry, limit int64) ([]byte, error) {
	if e.size < 0 || e.size > limit {
		return nil, fmt.Errorf("%w: an entry of a ZIP archive of more than %d bytes", inventory.ErrTooLarge, limit)
	}
	s, err := z.section(e)
	if err != nil {
		return nil, err
	}
	if e.flags&zipEncrypted != 0 {
		return nil, fmt.Errorf("an entry of a ZIP archive that is encrypted: %w", errBroken)
	}
	var r io.Reader = s
	switch e.method {
	case zipStored:
		e.size = min(e.size, e.packed)
	case zipDeflated:
		// More than DEFLATE can give (zlib.net, "zlib Technical Details", "Maximum Compression Factor").
		if e.size > e.packed*1032+1032 {
			return nil, fmt.Errorf("an entry of a ZIP archive that is larger than it can be: %w", errBroken)
		}
		f := flate.NewReader(bufio.NewReader(s))
		defer f.Close()
		r = f
	default:
		return nil, fmt.Errorf("an entry of a ZIP archive that is packed in a way which Java does not know: %w", errBroken)
	}
	// As much as the directory says, which a buffer that grows would take three times.
	b := make([]byte, e.size)
	n, err := io.ReadFull(r, b)
	if err == nil || errors.Is(err, io.EOF) && n == 0 {
		var more [1]byte
		if m, err := r.Read(more[:]); m == 0 && (err == nil || errors.Is(err, io.EOF)) {
			return b[:n], nil
		}
	}
	return b[:n], fmt.Errorf("an entry of a ZIP archive cannot be unpacked to the size that it should have: %w", errBroken)
}
