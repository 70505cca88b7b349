package image

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// errNotRegular says that a name leads to no regular file.
var errNotRegular = errors.New("it is no regular file")

// openRegular opens a regular file of a directory for reading and tells what it is.
//
// A name may lead to something else between a look at it and its opening, and opening a
// device or a FIFO acts on it. So the name is taken hold of first with O_PATH, which opens
// nothing; what is held is looked at and, if it is a regular file, opened: the same inode,
// by /proc/self/fd. Landlock judges that as an opening of the file itself.
// want looks at the file before it is opened; false leaves it closed, and f is nil then.
//
// Errors: errNotRegular, those of openat(2).
func openRegular(dir int, base string, want func(*unix.Stat_t) bool) (f *os.File, st unix.Stat_t, err error) {
	held, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	defer unix.Close(held)
	if err := unix.Fstat(held, &st); err != nil {
		return nil, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, errNotRegular
	}
	if want != nil && !want(&st) {
		return nil, st, nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", held), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	return os.NewFile(uintptr(fd), base), st, nil
}
