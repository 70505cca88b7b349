// Package rpmdb reads which packages a database of RPM has: those in SQLite (Fedora,
// Enterprise Linux 9 and later), in ndb (SUSE) and in the hash of Berkeley DB (before).
//
// All input is hostile: every offset is checked, no page is read twice, and lengths have
// bounds. It reads through an [io.ReaderAt] and owns no state. Row: core.
package rpmdb

import (
	"errors"
	"fmt"
	"io"
)

// Package is one installed package.
type Package struct {
	Name, Version, Release, Arch string
	Epoch                        uint32
	HasEpoch                     bool
	// SourceRPM is the file name of the source package, as bash-5.1.8-6.el9.src.rpm.
	SourceRPM string
	// Files calls fn with the path of each file that is the package's own.
	Files func(fn func(path string))
}

// ErrBroken is wrapped by errors about a database that is not as it should be.
var ErrBroken = errors.New("the RPM database is broken")

// ErrBerkeley says that a database is of Berkeley DB and no hash, as rpm makes it.
var ErrBerkeley = errors.New("an RPM database in a form of Berkeley DB that is not read")

// Bounds. The largest headers are those of kernel packages, with some 5 MB.
const (
	maxBlob     = 32 << 20
	maxPackages = 200_000
	maxPages    = 16 << 20 // of a database in pages: something is held for each
)

// Read calls fn with each package of a database of size bytes. Packages that cannot be read
// are left out, with an error at the end.
//
// Errors: [ErrBerkeley], [ErrBroken], those of r, that of fn, which ends the reading.
func Read(r io.ReaderAt, size int64, fn func(Package) error) error {
	var head [16]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("%w: it has %d bytes", ErrBroken, size)
	}
	n := 0
	var bad error
	blob := func(b []byte) error {
		if n++; n > maxPackages {
			return fmt.Errorf("%w: it has more than %d packages", ErrBroken, maxPackages)
		}
		p, err := parseHeader(b)
		if err != nil {
			bad = err
			return nil
		}
		return fn(p)
	}
	var err error
	switch {
	case string(head[:]) == sqliteMagic:
		err = readSQLite(r, size, blob)
	case string(head[:4]) == ndbMagic:
		err = readNDB(r, size, blob)
	case isBerkeley(head[:]):
		err = readBerkeley(r, size, blob)
	default:
		err = fmt.Errorf("%w: it is of no known kind", ErrBroken)
	}
	if err == nil {
		err = bad
	}
	return err
}

// isBerkeley tells a hash or a tree of Berkeley DB by the magic number at byte 12 (db_page.h),
// in either order of bytes.
func isBerkeley(head []byte) bool {
	switch string(head[12:16]) {
	case "\x61\x15\x06\x00", "\x00\x06\x15\x61", "\x62\x31\x05\x00", "\x00\x05\x31\x62":
		return true
	}
	return false
}

// section reads n bytes at a place that must be within the database.
func section(r io.ReaderAt, size, at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || n > maxBlob || at > size-n {
		return nil, fmt.Errorf("%w: %d bytes at %d of %d", ErrBroken, n, at, size)
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, at); err != nil {
		return nil, err
	}
	return b, nil
}
