package treedigest

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a look at a tree that a container has made.
const (
	maxDepth   = 256      // directories held open within each other
	namesAtOne = 128      // of a directory, held at one time
	maxLinks   = 16 << 20 // bytes for files that have several names
	linkBytes  = 256      // of these, for one name beside itself
	readAtOne  = 128 << 10
	packAtOne  = 256 << 10
	maxLink    = unix.PathMax
)

// Errors of a tree that is not looked at whole.
var (
	ErrTooDeep  = errors.New("its directories are too deep")
	ErrTooMany  = errors.New("too many of its files have several names")
	ErrChanging = errors.New("it changes while it is looked at")
)

// Of returns the digest of the directory dir of this host, as that of an archive in which it is called name. tell is told of
// each file, and of the bytes read of it as they are read; its error ends the look.
//
// Errors: those of tell; [ErrTooDeep], [ErrTooMany], [ErrChanging]; EXDEV for something mounted in the directory; those of
// opening and reading.
func Of(dir, name string, tell func(bytes int) error) (string, error) {
	return look(unix.AT_FDCWD, dir, name, tell, nil)
}

// Pack is [Of] of a directory that is open, if only with O_PATH, and writes the archive that has this digest to out as it reads: each byte
// of a file is read once for both.
//
// Errors: those of [Of]; those of writing, of an owner or device that archives cannot have too. What was written is no whole archive then.
func Pack(out io.Writer, dir *os.File, name string, tell func(bytes int) error) (string, error) {
	parts := bufio.NewWriterSize(out, packAtOne)
	archive := tar.NewWriter(parts)
	digest, err := look(int(dir.Fd()), ".", name, tell, archive)
	if err == nil {
		err = archive.Close()
	}
	if err == nil {
		err = parts.Flush()
	}
	return digest, err
}

// Fits fails where [Pack] would once it comes there, for what can be told without reading files. tell is told of each file.
//
// Errors: those of tell; [ErrTooDeep], [ErrTooMany]; EXDEV for something mounted in the directory; those of opening.
func Fits(dir *os.File, name string, tell func(bytes int) error) error {
	w := &walk{tell: tell, several: map[uint64]*several{}}
	return w.tree(int(dir.Fd()), ".", name)
}

func look(at int, dir, name string, tell func(bytes int) error, archive *tar.Writer) (string, error) {
	content := sha256.New()
	w := &walk{tell: tell, several: map[uint64]*several{}, content: content, into: content, archive: archive, buf: make([]byte, readAtOne)}
	if archive != nil {
		w.into = io.MultiWriter(content, archive)
	}
	if err := w.tree(at, dir, name); err != nil {
		return "", err
	}
	w.addSeveral()
	return w.sum.String(), nil
}

type walk struct {
	tell    func(bytes int) error
	sum     Sum
	several map[uint64]*several // by inode
	waiting int                 // bytes for these
	content hash.Hash           // nil: nothing is read
	into    io.Writer           // for what is in a file: content, and archive if there is one
	archive *tar.Writer         // nil: none
	buf     []byte
}

// several is a file that has several names.
type several struct {
	e     Entry
	names []string
}

// tree looks at a directory, by a path from another that is open.
func (w *walk) tree(at int, dir, name string) error {
	// What leads to the directory is the host's; the directory itself is no link.
	fd, err := unix.Openat(at, dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	return w.held(fd, path.Join("/", name), 0)
}

// held looks at a file by a descriptor, and closes that: by its name it could be another one by now.
func (w *walk) held(fd int, name string, depth int) error {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%.256q: %w", name, err)
	}
	if err := w.tell(0); err != nil {
		return err
	}
	e := Entry{Name: name, Mode: int64(st.Mode & 0o7777), UID: int64(st.Uid), GID: int64(st.Gid), Time: st.Mtim.Sec}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Kind, e.Size = Regular, st.Size
	case unix.S_IFDIR:
		e.Kind = Dir
	case unix.S_IFLNK:
		e.Kind = Symlink
	case unix.S_IFCHR:
		e.Kind, e.Major, e.Minor = CharDevice, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFBLK:
		e.Kind, e.Major, e.Minor = BlockDevice, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		e.Kind = FIFO
	default:
		return nil // a socket, which archives have not
	}
	if e.Kind != Dir && st.Nlink > 1 {
		return w.keep(fd, &e, st.Ino)
	}
	if err := w.read(fd, &e); err != nil {
		return fmt.Errorf("%.256q: %w", name, err)
	}
	w.sum.Add(&e)
	if e.Kind == Dir {
		return w.inside(fd, name, depth+1)
	}
	return nil
}

// inside looks at what is in a directory.
func (w *walk) inside(held int, name string, depth int) error {
	if depth > maxDepth {
		return ErrTooDeep
	}
	fd, err := unix.Openat(held, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %.256q: %w", name, err)
	}
	d := os.NewFile(uintptr(fd), "volume")
	defer d.Close()
	for {
		names, err := d.Readdirnames(namesAtOne)
		for _, base := range names {
			below, err := unix.Openat2(fd, base, &unix.OpenHow{
				Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
				Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
			})
			if err != nil {
				return fmt.Errorf("open %.256q: %w", name+"/"+base, err)
			}
			if err := w.held(below, name+"/"+base, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("list %.256q: %w", name, err)
		}
	}
}

// keep keeps a file that has several names: which of them an archive has as the file is known when all are.
func (w *walk) keep(fd int, e *Entry, inode uint64) error {
	if w.waiting += len(e.Name) + linkBytes; w.waiting > maxLinks {
		return ErrTooMany
	}
	s := w.several[inode]
	if s == nil {
		if err := w.read(fd, e); err != nil {
			return fmt.Errorf("%.256q: %w", e.Name, err)
		}
		s = &several{e: *e}
		w.several[inode] = s
	} else if err := w.pack(s.link(e.Name)); err != nil {
		return err
	}
	s.names = append(s.names, e.Name)
	return nil
}

// link is the entry of a further name. It has what the file has, as engines' archives do: engines set it anew when they unpack the
// name, and the owner, which they set first, takes capabilities from the file.
func (s *several) link(name string) *Entry {
	e := s.e
	e.Name, e.Kind, e.Size, e.Link = name, Link, 0, s.names[0]
	return &e
}

// addSeveral adds the files that have several names: engines walk directories by name, and the first is the file.
func (w *walk) addSeveral() {
	none := sha256.Sum256(nil)
	for _, s := range w.several {
		slices.SortFunc(s.names, func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) })
		s.e.Name = s.names[0]
		w.sum.Add(&s.e)
		s.e.Content = none[:]
		for _, name := range s.names[1:] {
			w.sum.Add(s.link(name))
		}
	}
}

// read reads what is in a file, and the extended attribute that archives have.
func (w *walk) read(held int, e *Entry) (err error) {
	if w.content == nil {
		return nil
	}
	file := "/proc/self/fd/" + strconv.Itoa(held) // the file itself, also if it is a link
	if e.Kind == Symlink {
		buf := make([]byte, maxLink)
		n, err := unix.Readlinkat(held, "", buf)
		if err != nil {
			return err
		}
		e.Link = string(buf[:n])
	}
	if e.Attributes, err = capabilityOf(file); err != nil {
		return err
	}
	if err := w.pack(e); err != nil {
		return err
	}
	w.content.Reset()
	if e.Kind == Regular {
		if err := w.readContent(file, e.Size); err != nil {
			return err
		}
	}
	e.Content = w.content.Sum(nil)
	return nil
}

// pack writes an entry to the archive, if there is one, in the form in which engines write it.
//
// Source: moby, go-archive (FileInfoHeader, addTarFile).
func (w *walk) pack(e *Entry) error {
	if w.archive == nil {
		return nil
	}
	h := &tar.Header{
		Format: tar.FormatPAX, Typeflag: byte(e.Kind), Name: strings.TrimPrefix(e.Name, "/"), Linkname: e.Link, Mode: e.Mode, Size: e.Size,
		Uid: int(e.UID), Gid: int(e.GID), Devmajor: e.Major, Devminor: e.Minor, ModTime: time.Unix(e.Time, 0),
	}
	switch e.Kind {
	case Dir:
		h.Name += "/"
	case Link:
		h.Linkname = strings.TrimPrefix(e.Link, "/")
	}
	for name, value := range e.Attributes {
		h.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	}
	return w.archive.WriteHeader(h)
}

func (w *walk) readContent(file string, size int64) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for left := size; ; {
		n, err := unix.Read(fd, w.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case int64(n) > left || n == 0 && left > 0:
			return ErrChanging
		case n == 0:
			return nil
		}
		left -= int64(n)
		if _, err := w.into.Write(w.buf[:n]); err != nil {
			return err
		}
		if err := w.tell(n); err != nil {
			return err
		}
	}
}

// capabilityOf returns the one extended attribute that engines' archives have, in the form in which they have it: without
// the user namespace that it is for.
//
// Source: moby, go-archive (ReadSecurityXattrToTarHeader); linux/capability.h.
func capabilityOf(file string) (map[string]string, error) {
	const (
		name                   = "security.capability"
		version                = 3 // of the attribute: the last byte of its first word
		revision2, revision3   = 2, 3
		revision2Size, maxSize = 20, 24
	)
	buf := make([]byte, maxSize)
	n, err := unix.Getxattr(file, name, buf)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return nil, nil //nolint:nilnil // it has none
	case err != nil:
		return nil, fmt.Errorf("its capabilities: %w", err)
	}
	if buf = buf[:n]; n == maxSize && buf[version] == revision3 {
		buf = buf[:revision2Size]
		buf[version] = revision2
	}
	return map[string]string{name: string(buf)}, nil
}
