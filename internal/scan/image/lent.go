package image

import (
	"encoding/binary"
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// lent asks the scanner's caller to open what the scanner may not. See [inventory.Lend].
type lent struct {
	socket *os.File // nil: nobody is there to ask
	input  int
}

// barred reports whether an error is that of what another user keeps for himself.
func barred(err error) bool { return errors.Is(err, unix.EACCES) }

// open opens a name below the input. st says what it is.
func (l lent) open(name string) (f *os.File, st unix.Stat_t, err error) {
	if l.socket == nil {
		return nil, st, unix.EACCES
	}
	q, err := inventory.Lend{Input: l.input, Path: name}.Append(nil)
	if err != nil {
		return nil, st, err
	}
	s := int(l.socket.Fd())
	if _, err := unix.Write(s, q); err != nil {
		return nil, st, err
	}
	fd, err := receive(s)
	if err != nil {
		return nil, st, err
	}
	f = os.NewFile(uintptr(fd), path.Base(name))
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, st, err
	}
	return f, st, nil
}

// receive takes the answer to one question.
func receive(s int) (fd int, err error) {
	var b [inventory.LendAnswer]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, m := 0, 0
	for {
		n, m, _, _, err = unix.Recvmsg(s, b[:], oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err != nil:
		return -1, err
	case n != len(b):
		return -1, unix.EPIPE // nobody is there any more
	}
	if errno := unix.Errno(binary.BigEndian.Uint32(b[:])); errno != 0 {
		return -1, errno
	}
	list, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(list) != 1 {
		return -1, errors.Join(unix.EBADMSG, err)
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(unix.EBADMSG, err)
	}
	return fds[0], nil
}
