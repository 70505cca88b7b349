package target

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// lender opens what the scanner may not: files below the directories of its job that are another
// user's alone. A scanner that was broken into gets nothing by it but what it was to read anyway.
type lender struct {
	roots  []*os.File // by input
	ours   int        // the end of the socket
	theirs *os.File
	open   func(root int, name string) (fd int, err error)
	wait   time.Duration // for the end
}

// lendWait is how long the end of a lender is waited for: opening may hang in the kernel where a
// network or another process has the files, and no signal ends that.
const lendWait = 3 * time.Second

// lend gives the scanner's process a lender, if it reads directories. files are those of the process;
// the scanner's end comes behind them.
func (t *Target) lend(job *inventory.Job, files []*os.File) (*lender, error) {
	if job.Source != inventory.SourceRootfs && job.Source != inventory.SourceOverlay {
		return nil, nil //nolint:nilnil // a nil lender does nothing
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for the scanner: %w", err)
	}
	job.LendFD = firstFD + len(files)
	return &lender{roots: t.files, ours: ends[0], theirs: os.NewFile(uintptr(ends[1]), "lend"), open: openBelow, wait: lendWait}, nil
}

// start serves in a goroutine. stop ends that and waits for it, but not for a file system that hangs: the
// goroutine ends by itself when that lets it go. A nil lender does nothing.
func (l *lender) start() (stop func()) {
	if l == nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.serve()
	}()
	return func() {
		_ = unix.Shutdown(l.ours, unix.SHUT_RDWR) // a read or write that waits ends
		l.theirs.Close()
		select {
		case <-done:
			unix.Close(l.ours)
		case <-time.After(l.wait):
			go func() {
				<-done
				unix.Close(l.ours) // no sooner: its number could be another's by then
			}()
		}
	}
}

// serve answers until the socket is shut down, or is asked what is no question.
func (l *lender) serve() {
	b := make([]byte, inventory.MaxLend+1)
	for {
		n, err := unix.Read(l.ours, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		q, err := inventory.ReadLend(b[:n])
		if err != nil || l.answer(q) != nil {
			_ = unix.Shutdown(l.ours, unix.SHUT_RDWR)
			return
		}
	}
}

func (l *lender) answer(q inventory.Lend) error {
	fd, err := -1, error(unix.EBADF)
	if q.Input < len(l.roots) {
		fd, err = l.open(int(l.roots[q.Input].Fd()), q.Path)
	}
	errno, with := unix.Errno(0), []byte(nil)
	switch {
	case err == nil:
		defer unix.Close(fd)
		with = unix.UnixRights(fd)
	case !errors.As(err, &errno):
		errno = unix.EIO
	}
	for {
		err := unix.Sendmsg(l.ours, binary.BigEndian.AppendUint32(nil, uint32(errno)), with, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openBelow opens a regular file or a directory below root for reading, and takes hold of a symbolic
// link; it follows none, and leaves neither root nor its mount. A name may lead to something else by
// the time it is opened, so that it is held first and what is held is opened, as the scanner does.
//
// Errors: EINVAL for anything else, those of openat2(2).
func openBelow(root int, name string) (int, error) {
	held, err := unix.Openat2(root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(held, &st); err != nil {
		unix.Close(held)
		return -1, err
	}
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return held, nil
	case unix.S_IFDIR:
		flags |= unix.O_DIRECTORY
	case unix.S_IFREG:
	default:
		unix.Close(held)
		return -1, unix.EINVAL
	}
	defer unix.Close(held)
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", held), flags, 0)
}
