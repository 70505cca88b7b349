package vulndb

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
)

// Confirm writes into the database at path that its data were all that there is at a later time. The file
// changes in one step. Errors: those of [Open], and of the file.
func Confirm(path string, asOf time.Time) error {
	db, err := Open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	if seconds(asOf) == seconds(db.asOf) {
		return nil
	}
	file := slices.Clone(db.file)
	binary.LittleEndian.PutUint64(file[asOfAt:], seconds(asOf))
	copy(file[headerSize-sha256.Size:], checksum(file))
	return atomicfile.WriteFile(path, file, 0o644)
}

// Status tells what a database holds.
type Status struct {
	Built time.Time `json:"built"`
	// AsOf is when the data were last known to be all that there is: [BuildOptions.AsOf].
	AsOf       time.Time      `json:"asOf"`
	Bytes      int            `json:"bytes"`
	Records    int            `json:"records"`
	Packages   int            `json:"packages"`
	Ecosystems map[string]int `json:"ecosystems"` // packages by ecosystem
	Sources    []Source       `json:"sources,omitempty"`
	BadRecords int            `json:"badRecords"` // that could not be read, and are not in it
}

// Source is one file that a database was built from.
type Source struct {
	Name string `json:"name"`
	// Time is when the file was last changed, by its publisher's word if it was
	// downloaded.
	Time    time.Time `json:"time"`
	Records int       `json:"records"`
}

// Status reads through all of the database.
func (db *DB) Status() Status {
	s := Status{Built: db.built, AsOf: db.asOf, Bytes: db.size, Records: db.nRecs, Packages: db.nKeys, Ecosystems: map[string]int{}, Sources: db.meta.Sources, BadRecords: db.meta.BadRecords}
	for i := range db.nKeys {
		eco, _, _ := strings.Cut(string(db.key(i)), "\x00")
		s.Ecosystems[eco]++
	}
	return s
}

// Built returns when the database was compiled.
func (db *DB) Built() time.Time { return db.built }

// AsOf returns of which time the data are: by it, and not by when they were compiled, they are old.
func (db *DB) AsOf() time.Time { return db.asOf }

// BadRecords returns how many records could not be read when the database was built.
func (db *DB) BadRecords() int { return db.meta.BadRecords }

// Verify decodes every record of every package: a file may have the right checksum and
// yet make no sense.
//
// Errors: [ErrBroken].
func (db *DB) Verify() error {
	var a affected
	for i := range db.nKeys {
		eco, name, _ := strings.Cut(string(db.key(i)), "\x00")
		e, err := db.lookup(eco, name)
		if err != nil {
			return err
		}
		if e.n == 0 {
			return fmt.Errorf("package %d is not where it should be: %w", i, ErrBroken)
		}
		for e.n > 0 {
			if err := e.next(&a); err != nil {
				return err
			}
			if _, err := db.record(a.record); err != nil {
				return err
			}
			if _, err := flawOf(a.imports, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteTo writes the whole file. It implements [io.WriterTo].
func (db *DB) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(db.file)
	return int64(n), err
}

// Copy checks the database in one file and puts it in the place of another, whole or not
// at all.
//
// Errors: [*fs.PathError]; [ErrBroken], with the other file as it was.
func Copy(from, to string) (Status, error) {
	db, err := Open(from)
	if err != nil {
		return Status{}, err
	}
	defer db.Close()
	if err := db.Verify(); err != nil {
		return Status{}, fmt.Errorf("%s: %w", from, err)
	}
	return db.Status(), atomicfile.WriteFile(to, db.file, 0o644)
}
