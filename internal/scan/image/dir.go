package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/pagecache"
)

// walker reads one directory tree, a layer of overlayfs or a root file system.
type walker struct {
	r       *reader
	l       *layer
	overlay bool
	dev     uint64
	lent    lent
}

// walk reads the tree below root. It opens each name below its own directory and
// never follows a link. What it may not open it asks for.
func (r *reader) walk(l *layer, root *os.File, overlay bool, from lent) error {
	if root == nil {
		return errors.New("a job with a descriptor that is not there")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("look at the directory: %w", err)
	}
	// Anew, so that the position of the caller's descriptor does not matter.
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	var d *os.File
	switch {
	case err == nil:
		d = os.NewFile(uintptr(fd), ".")
	case barred(err):
		d, _, err = from.open(".")
	}
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	w := &walker{r: r, l: l, overlay: overlay, dev: st.Dev, lent: from}
	return w.dir(d, ".", 0)
}

// dir reads one directory and closes it.
func (w *walker) dir(d *os.File, name string, depth int) error {
	defer d.Close()
	for {
		list, err := d.ReadDir(512)
		for _, e := range list {
			if err := w.entry(d, path.Join(name, e.Name()), e, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			w.l.notes.add(name, "a directory that cannot be listed: "+reason(err))
			return nil
		}
	}
}

func (w *walker) entry(d *os.File, name string, e fs.DirEntry, depth int) error {
	if err := w.r.count(w.l); err != nil {
		return err
	}
	if len(name) > maxPath {
		w.l.notes.add(name, "the name climbs out of the image, or is too long or too deep")
		return nil
	}
	mode := e.Type()
	if w.overlay && mode&fs.ModeCharDevice != 0 {
		// A whiteout of overlayfs is a device 0/0 (kernel, overlayfs.rst).
		var st unix.Stat_t
		if err := unix.Fstatat(int(d.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Rdev == 0 {
			w.l.whiteouts[name] = true
			return nil
		}
	}
	if w.overlay {
		w.l.plain(name, mode)
	}
	switch {
	case mode.IsDir():
		return w.into(d, name, e.Name(), depth+1)
	case mode.IsRegular():
		return w.file(d, name, e.Name())
	case mode&fs.ModeSymlink != 0 && w.r.hiding(name):
		target := make([]byte, maxPath)
		n, err := unix.Readlinkat(int(d.Fd()), e.Name(), target)
		if barred(err) {
			if f, _, e := w.lent.open(name); e == nil {
				n, err = unix.Readlinkat(int(f.Fd()), "", target)
				f.Close()
			}
		}
		if err != nil {
			n = 0 // a link to nowhere known is a note
		}
		w.r.symlink(w.l, name, string(target[:n]))
	}
	return nil
}

func (w *walker) into(d *os.File, name, base string, depth int) error {
	if depth > maxDepth {
		w.l.notes.add(name, "the name climbs out of the image, or is too long or too deep")
		return nil
	}
	fd, err := unix.Openat(int(d.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	var st unix.Stat_t
	var sub *os.File
	switch {
	case err == nil:
		sub = os.NewFile(uintptr(fd), base)
		err = unix.Fstat(fd, &st)
	case barred(err):
		sub, st, err = w.lent.open(name)
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR // by now
	}
	if err != nil {
		sub.Close()
		w.l.notes.add(name, "a directory that cannot be opened: "+reason(err))
		return nil
	}
	if st.Dev != w.dev {
		sub.Close()
		w.l.notes.add(name, "another file system is mounted there")
		return nil
	}
	w.r.rights(w.l, name, fileMode(st.Mode), false)
	return w.dir(sub, name, depth)
}

const noMode = "a file whose mode cannot be told: "

// file reads a regular file if it is wanted. Its size and mode are asked for only
// where its name alone does not say that it is not.
func (w *walker) file(d *os.File, name, base string) error {
	// unknown: it may be wanted for packages, until it has been looked at.
	kind, search, unknown := "", w.r.mayBeSearched(name), w.r.x.Kind(name, 0o777, -1) != ""
	rights := !w.r.skips(inventory.ScannerMisconfig)
	if !unknown && !search {
		if !rights {
			return nil
		}
		var st unix.Stat_t
		err := unix.Fstatat(int(d.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			return nil // gone
		}
		if barred(err) {
			var f *os.File
			f, st, err = w.lent.open(name)
			f.Close()
		}
		if err != nil {
			w.l.notes.add(name, noMode+reason(err))
			return nil
		}
		w.r.rights(w.l, name, fileMode(st.Mode), false)
		return nil
	}
	program := false
	f, st, err := w.openRegular(d, name, base, func(st *unix.Stat_t) bool {
		kind, unknown = w.r.x.Kind(name, fs.FileMode(st.Mode&0o777), st.Size), false
		search = search && kind == "" && w.r.searches(w.l, name, st.Size)
		program = rights && st.Mode&0o111 != 0
		if kind == "" && !search && !program {
			w.r.rights(w.l, name, fileMode(st.Mode), false)
		}
		return kind != "" || search || program
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil // gone
	case err != nil && kind == "" && !unknown:
		if st.Mode != 0 {
			w.r.rights(w.l, name, fileMode(st.Mode), false)
		} else if rights {
			w.l.notes.add(name, noMode+reason(err))
		}
		if search {
			w.l.unsearched.add(name, "a file that cannot be opened: "+reason(err))
		}
		return nil
	case err != nil:
		w.l.notes.add(name, "a file that cannot be opened: "+reason(err))
		return nil
	case f == nil:
		return nil
	}
	defer f.Close()
	w.r.rights(w.l, name, fileMode(st.Mode), program && hasCapabilities(f))
	if kind == "" && !search {
		return nil
	}
	defer pagecache.Behind(f, st.Size)()
	c := Content{Reader: f, At: f, Size: st.Size}
	if search {
		w.r.search(w.l, name, c)
	} else {
		w.r.extract(w.l, kind, name, c)
	}
	return nil
}

// openRegular is [openRegular] of what may be asked for.
func (w *walker) openRegular(d *os.File, name, base string, want func(*unix.Stat_t) bool) (*os.File, unix.Stat_t, error) {
	f, st, err := openRegular(int(d.Fd()), base, want)
	if !barred(err) {
		return f, st, err
	}
	f, its, e := w.lent.open(name)
	switch {
	case barred(e) || errors.Is(e, unix.ENOENT):
		return nil, st, err // not where it was listed any more, which is no proof that it is gone
	case e != nil:
		return nil, st, e
	case its.Mode&unix.S_IFMT != unix.S_IFREG:
		f.Close()
		return nil, its, errNotRegular
	case !want(&its):
		f.Close()
		return nil, its, nil
	}
	return f, its, nil
}

// hasCapabilities reports whether a file has capabilities of its own; see capabilities(7).
// One of which the kernel does not tell has none for us.
func hasCapabilities(f *os.File) bool {
	n, err := unix.Fgetxattr(int(f.Fd()), "security.capability", nil)
	return err == nil && n > 0
}

// fileMode is a mode of stat(2) as [fs.FileMode], of regular files and directories.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, is := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= is
		}
	}
	if m&unix.S_IFMT == unix.S_IFDIR {
		mode |= fs.ModeDir
	}
	return mode
}

// plain notes a name for which the whiteouts of tar have no meaning.
func (l *layer) plain(name string, mode fs.FileMode) {
	if mode.IsDir() {
		l.dirs = append(l.dirs, l.hash(name))
	} else {
		l.others = append(l.others, l.hash(name))
	}
}

// reason is the cause of an error of a file, without names that a note would split on.
func reason(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	if errors.Is(err, errNotRegular) {
		return err.Error()
	}
	return "it is broken"
}
