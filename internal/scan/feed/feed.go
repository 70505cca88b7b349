// Package feed lists the records of a folder in the layout of the public OSV bucket:
// archives and single files.
//
// It owns no state. It is apart from vulndb so that who only matches links no reader of
// archives. Row: vocabulary; standard library only.
package feed

import (
	"archive/zip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Walk calls add for each record below dir: ECOSYSTEM/all.zip, ECOSYSTEM/ID.json, or
// files of both kinds directly. The reader holds one record and is of any length.
//
// Errors: those of files and archives; that of add, which ends it. An archive that is broken
// is an error, since it would hide records without end.
func Walk(dir string, add func(name string, r io.Reader) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		switch filepath.Ext(path) {
		case ".zip":
			return archive(path, add)
		case ".json":
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return add(path, f)
		}
		return nil
	})
}

func archive(path string, add func(name string, r io.Reader) error) error {
	z, err := zip.OpenReader(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer z.Close()
	for _, f := range z.File {
		if filepath.Ext(f.Name) != ".json" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, f.Name, err)
		}
		err = add(path+": "+f.Name, r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
