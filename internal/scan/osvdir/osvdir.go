// Package osvdir lists the records of a folder in the layout of the public OSV bucket:
// archives and single files.
//
// It owns no state. It is apart from vulndb so that who only matches links no reader of
// archives. Row: vocabulary; standard library only.
package osvdir

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Add takes one record. The file at path is the record, or an archive with the record as
// its entry. The reader is of any length. [fs.SkipDir] passes over the rest of the archive.
type Add = func(path, entry string, r io.Reader) error

// Walk calls add for each record below dir: ECOSYSTEM/all.zip, ECOSYSTEM/ID.json, or
// files of both kinds directly. Records of their own come first: they
// take the place of those in archives.
//
// Errors: those of files and archives; that of add, which ends it. An archive that is broken
// is an error, since it would hide records without end.
func Walk(dir string, add Add) error {
	for _, kind := range []struct {
		ext  string
		read func(path string, add Add) error
	}{{".json", single}, {".zip", archive}} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != kind.ext {
				return err
			}
			return kind.read(path, add)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func single(path string, add Add) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return add(path, "", f)
}

func archive(path string, add Add) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	opened, err := file.Stat()
	if err != nil {
		return err
	}
	z, err := zip.NewReader(file, opened.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := entries(z, path, add); err != nil {
		return err
	}
	// What is compiled of it is kept under the digest of what the path names.
	if now, err := os.Stat(path); err != nil || !os.SameFile(opened, now) || now.Size() != opened.Size() || !now.ModTime().Equal(opened.ModTime()) {
		return fmt.Errorf("%s was replaced while it was read; fix: once more", path)
	}
	return nil
}

func entries(z *zip.Reader, path string, add Add) error {
	for _, f := range z.File {
		if filepath.Ext(f.Name) != ".json" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, f.Name, err)
		}
		err = add(path, f.Name, r)
		r.Close()
		if errors.Is(err, fs.SkipDir) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Check reads all of an archive of records: whether it is whole and has some, but at most
// the given number of records and bytes of them.
func Check(path string, maxRecords int, maxBytes int64) error {
	total, records := int64(0), 0
	err := archive(path, func(_, entry string, r io.Reader) error {
		n, err := io.Copy(io.Discard, io.LimitReader(r, maxBytes-total+1))
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, entry, err)
		}
		records++
		if total += n; total > maxBytes || records > maxRecords {
			return fmt.Errorf("%s has more than %d bytes or %d records", path, maxBytes, maxRecords)
		}
		return nil
	})
	if err == nil && records == 0 {
		err = fmt.Errorf("%s has no record", path)
	}
	return err
}
