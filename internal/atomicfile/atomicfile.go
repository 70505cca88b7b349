// Package atomicfile replaces a file so that a reader, or a machine that loses
// power, sees the old content or the new, never a part.
//
// It owns no state, never locks, and never follows a symbolic link at the target:
// the link itself is replaced. It imports the standard library only (bottom row).
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces the file at path by one that holds data and has mode perm,
// whatever the umask.
//
// When it returns nil the new content has reached the disk, and so has its name.
// Errors: *[fs.PathError] and *[os.LinkError]. Before the rename an error leaves
// the old file untouched and no temporary file behind; an error that names the
// directory means that the new file is in place but may not survive a power loss.
// Safe for concurrent use; the last rename wins.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return Write(path, perm, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(data))
		return err
	})
}

// WriteFileUnsynced is [WriteFile] without the wait for the disk: what it wrote survives
// the process and not a loss of power, after which the file may be missing or short.
// [Sync] makes up for it.
func WriteFileUnsynced(path string, data []byte, perm fs.FileMode) error {
	return replace(path, perm, false, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Sync makes what [WriteFileUnsynced] wrote durable, all in one directory. Files that are
// gone by now are left out.
func Sync(dir string, names []string) error {
	var errs []error
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("sync: %w", err))
		}
	}
	return errors.Join(append(errs, SyncDir(dir))...)
}

// Write is [WriteFile] for content that fill writes piece by piece. An error of
// fill is returned wrapped, and the old file stays.
func Write(path string, perm fs.FileMode, fill func(io.Writer) error) error {
	if err := replace(path, perm, true, fill); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func replace(path string, perm fs.FileMode, sync bool, fill func(io.Writer) error) error {
	dir := filepath.Dir(path)
	// Same directory: a rename across file systems is a copy, and not atomic.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	tmp := f.Name()
	if err := finish(f, perm, sync, fill); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("replace %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

// finish fills, syncs if it is to, and closes f.
func finish(f *os.File, perm fs.FileMode, sync bool, fill func(io.Writer) error) error {
	err := fill(f)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil && sync {
		// Without it, ext4 with delayed allocation can keep the rename and lose
		// the content: https://lwn.net/Articles/322823/
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// SyncDir makes the names in dir durable: files created, renamed or removed in it
// before the call stay so after a power loss.
//
// Source: fsync(2), "an explicit fsync() on a file descriptor for the directory
// is also needed".
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
