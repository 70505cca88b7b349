package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the name of the control socket in the run directory.
const SocketName = "control.sock"

const (
	socketMode = 0o660
	openMode   = 0o666 // of the sockets for users
	// maxPath is sizeof(sun_path) without its final NUL; see unix(7).
	maxPath = 107
	// The socket is made under this name and renamed when mode and group are right, so
	// that nobody meets it half made.
	newSuffix  = ".new"
	lockSuffix = ".lock"
	// probeTimeout bounds how long Listen waits for whoever holds the socket.
	probeTimeout = time.Second
)

// listenUnix takes the socket at path. A stale socket is replaced, a live one never.
// The lock file beside it stays: whoever holds its lock owns the socket, so two
// agents that start at the same moment cannot both take a stale one for their own.
func listenUnix(path string, gid int, mode fs.FileMode) (*net.UnixListener, *os.File, error) {
	if n := len(path) + len(newSuffix); n > maxPath {
		return nil, nil, fmt.Errorf("socket path %q is %d bytes too long for the kernel: use a shorter run directory", path, n-maxPath)
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, nil, err
	}
	l, err := bindOver(path, gid, mode)
	if err != nil {
		lock.Close()
		return nil, nil, err
	}
	return l, lock, nil
}

func lockSocket(path string) (*os.File, error) {
	lock, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the control socket: %w", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		lock.Close()
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: %s is locked", ErrInUse, path+lockSuffix)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path+lockSuffix, err)
	}
	return lock, nil
}

func bindOver(path string, gid int, mode fs.FileMode) (*net.UnixListener, error) {
	if err := checkReplaceable(path); err != nil {
		return nil, err
	}
	tmp := path + newSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove what is left of an earlier start: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	// It would remove the temporary name, which is gone by then.
	l.SetUnlinkOnClose(false)
	if err := publish(tmp, path, gid, mode); err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, err
	}
	return l, nil
}

func publish(tmp, path string, gid int, mode fs.FileMode) error {
	var st unix.Stat_t
	if err := unix.Lstat(tmp, &st); err != nil {
		return fmt.Errorf("look at the control socket: %w", err)
	}
	// An agent without privileges may not even set the group that is set already.
	if int(st.Gid) != gid {
		if err := os.Lchown(tmp, -1, gid); err != nil {
			return fmt.Errorf("give the control socket to group %d: %w", gid, err)
		}
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return fmt.Errorf("set the mode of the control socket: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("put the control socket in its place: %w", err)
	}
	return nil
}

// checkReplaceable returns nil if path is free or a socket that nobody listens on.
func checkReplaceable(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way and no socket: remove it, or use another run directory", path)
	}
	c, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		c.Close()
		return fmt.Errorf("%w: it answers on %s", ErrInUse, path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("ask whether an agent answers: %w", err)
	}
	return nil
}
