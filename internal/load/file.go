package load

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// maxRead is the most that is read of a file of the kernel.
const maxRead = 16 << 10

// errTooLong is returned for a file that is longer than maxRead.
var errTooLong = fmt.Errorf("longer than %d bytes", maxRead)

// errAbsent is returned for a file that this host does not have.
var errAbsent = errors.New("this host has none")

// file is a file of the kernel that is read again and again. Held open it is read with one
// system call, which is the greater half of what a sample costs.
type file struct {
	path string
	fd   int  // less than 1: not open
	once bool // it is opened anew for each read, since too many are open
}

// read returns the file's beginning in buf, which is valid until the next read. A
// descriptor that fails is closed, and opened anew at the next read.
func (f *file) read(buf []byte) ([]byte, error) {
	if f.path == "" {
		return nil, errAbsent
	}
	if f.fd <= 0 {
		fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		f.fd = fd
	}
	n, err := unix.Pread(f.fd, buf, 0)
	for err == unix.EINTR { //nolint:errorlint // of a system call
		n, err = unix.Pread(f.fd, buf, 0)
	}
	if err != nil || f.once {
		f.close()
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// whole is read for a file that says nothing right when it is cut.
func (f *file) whole(buf []byte) ([]byte, error) {
	b, err := f.read(buf)
	if err == nil && len(b) == len(buf) {
		return nil, errTooLong
	}
	return b, err
}

func (f *file) close() {
	if f.fd > 0 {
		unix.Close(f.fd)
		f.fd = 0
	}
}

// gone reports whether an error means that a container's cgroup was removed.
func gone(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) }
