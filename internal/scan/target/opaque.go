package target

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Bounds on the search for opaque directories of one layer.
const (
	maxOpaque      = 100_000
	maxOpaqueSeen  = 2_000_000 // directories, as many as the scanner reads files
	maxOpaqueDepth = 200       // the scanner goes no deeper, and notes it
)

// opaqueSearch is one look for opaque directories.
type opaqueSearch struct {
	stopped func() error // the error of the caller's context
	out     []string
	seen    int
}

// opaque lists the directories of a layer that hide lower ones. The mark is a trusted
// attribute (kernel, overlayfs.rst), which the scanner has no right to read. What lies
// deeper than the scanner goes is left out here as there.
//
// Errors: that of ctx, and a sentence for more directories than its bounds.
func opaque(ctx context.Context, root *os.File) ([]string, error) {
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := &opaqueSearch{stopped: ctx.Err}
	err = s.walk(fd, ".", 0)
	return s.out, err
}

// walk looks at one directory and those below it, and closes it.
func (s *opaqueSearch) walk(fd int, name string, depth int) error {
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	if opaqueMark(fd) && name != "." {
		s.out = append(s.out, name)
	}
	if s.seen++; s.seen > maxOpaqueSeen || len(s.out) > maxOpaque {
		return fmt.Errorf("a layer of more than %d directories, or more than %d opaque ones", maxOpaqueSeen, maxOpaque)
	}
	if depth >= maxOpaqueDepth {
		return nil
	}
	for {
		if err := s.stopped(); err != nil {
			return fmt.Errorf("look for opaque directories: %w", err)
		}
		list, err := d.ReadDir(512)
		for _, e := range list {
			if !e.IsDir() {
				continue
			}
			sub, err := unix.Openat(fd, e.Name(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				continue // the scanner notes it
			}
			if err := s.walk(sub, filepath.Join(name, e.Name()), depth+1); err != nil {
				return err
			}
		}
		if err != nil {
			return nil //nolint:nilerr // its end, or the scanner notes it
		}
	}
}

// opaqueMark tells whether overlayfs takes a directory of an upper layer for opaque. Mounts
// made by root go by the trusted attribute alone, and a container can write the other one:
// root goes by what its own engine's mounts do. A rootless engine's store shows root more than
// its containers see, and never less.
func opaqueMark(fd int) bool {
	attrs := []string{"trusted.overlay.opaque"}
	if os.Geteuid() != 0 {
		attrs = append(attrs, "user.overlay.opaque")
	}
	for _, attr := range attrs {
		var b [2]byte
		if n, err := unix.Fgetxattr(fd, attr, b[:]); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}
