package doctor

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Host is the [System] that this machine is.
type Host struct{}

// Space implements [System]. Source: statfs(2).
func (Host) Space(path string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Space{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return Space{Free: st.Bavail * uint64(st.Bsize), Inodes: st.Ffree, Counted: st.Files > 0}, nil
}

// Synchronised implements [System]. Source: adjtimex(2), of which TIME_ERROR and
// STA_UNSYNC say that nobody keeps the clock.
func (Host) Synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, err
	}
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, nil
}

// ACL implements [System]. Source: acl(5), which is kept in an extended attribute.
func (Host) ACL(path string) (bool, error) {
	n, err := unix.Getxattr(path, "system.posix_acl_access", nil)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err != nil:
		return false, &fs.PathError{Op: "getxattr", Path: path, Err: err}
	}
	return n > 0, nil
}
