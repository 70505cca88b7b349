package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPath is sizeof(sun_path) without its final NUL; see unix(7).
	maxPath = 107
	// The socket is made under this name and renamed when mode and group are right, so
	// that nobody meets it half made.
	newSuffix = ".new"
	// probeTimeout bounds how long a start waits for whoever holds the socket.
	probeTimeout = time.Second
)

// ErrInUse is returned if a process answers on the socket that a gate is to take.
var ErrInUse = errors.New("the gate's socket is in use")

// ErrReplaced is returned if the socket at the gate's path is not the gate's any more.
var ErrReplaced = errors.New("the gate's socket was replaced")

// listenUnix makes the socket at path. One that nobody listens on is replaced.
func listenUnix(path string, gid int, mode fs.FileMode) (*net.UnixListener, error) {
	tmp := path + newSuffix
	if n := len(tmp); n > maxPath {
		return nil, fmt.Errorf("socket path %q is %d bytes too long for the kernel: use a shorter one", path, n-maxPath)
	}
	if err := checkReplaceable(path); err != nil {
		return nil, err
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove what is left of an earlier start: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the gate's socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // it would remove the temporary name
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
		return fmt.Errorf("look at the gate's socket: %w", err)
	}
	if int(st.Gid) != gid {
		if err := os.Lchown(tmp, -1, gid); err != nil {
			return fmt.Errorf("give the gate's socket to group %d: %w", gid, err)
		}
	}
	if err := os.Chmod(tmp, mode.Perm()); err != nil {
		return fmt.Errorf("set the mode of the gate's socket: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("put the gate's socket in its place: %w", err)
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
		return fmt.Errorf("look at the gate's socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way and no socket: remove it, or use another path", path)
	}
	c, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		c.Close()
		return fmt.Errorf("%w: something answers on %s", ErrInUse, path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("ask whether something answers on %s: %w", path, err)
	}
	return nil
}

// siocUnixFile is SIOCUNIXFILE of include/uapi/linux/un.h: an O_PATH descriptor of the file that a socket is bound to.
const siocUnixFile = 0x89E0

// liesAt tells whether what lies at path is the socket that l listens on. A name tells nothing: another socket may have
// it since. The kernel says which file it is to whoever has CAP_NET_ADMIN; without, the name has to do.
func liesAt(l *net.UnixListener, path string) bool {
	bound, err := fileOf(l)
	var there unix.Stat_t
	switch {
	case errors.Is(err, unix.EPERM):
		name := l.Addr().String()
		return name == path || name == path+newSuffix // see listenUnix
	case err != nil || unix.Stat(path, &there) != nil:
		return false
	}
	return bound.Dev == there.Dev && bound.Ino == there.Ino
}

// fileOf is the file that a socket is bound to, which may have no name any more.
//
// Errors: EPERM without CAP_NET_ADMIN.
func fileOf(l *net.UnixListener) (st unix.Stat_t, err error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return st, err
	}
	var asked error
	err = raw.Control(func(fd uintptr) {
		var file int
		if file, asked = unix.IoctlRetInt(int(fd), siocUnixFile); asked == nil {
			asked = unix.Fstat(file, &st)
			unix.Close(file)
		}
	})
	return st, errors.Join(err, asked)
}

// lostLast orders former sockets by when they lost their place, which changed their file: the last first. Where that is not
// known they stay in their order.
func lostLast(a, b net.Listener) int {
	at := func(l net.Listener) int64 {
		ul, ok := l.(*net.UnixListener)
		if !ok {
			return 0
		}
		st, _ := fileOf(ul)
		return unix.TimespecToNsec(st.Ctim)
	}
	return cmp.Compare(at(b), at(a))
}

// inPlace tells whether a socket can still be found where it was put. Those that are no files always can.
func inPlace(l net.Listener) bool {
	name := l.Addr().String()
	ul, ok := l.(*net.UnixListener)
	return !ok || strings.HasPrefix(name, "@") || liesAt(ul, name) || liesAt(ul, strings.TrimSuffix(name, newSuffix))
}

// firstFD is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstFD = 3

// Activated returns the sockets that systemd has opened for this process, and takes
// them out of the environment. There are none if it was not started so.
//
// Source: sd_listen_fds(3). With names, only those sockets are taken whose
// FileDescriptorName is name.
func Activated(name string) ([]net.Listener, error) {
	pid, fds, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	if pid == "" || fds == "" {
		return nil, nil
	}
	if n, err := strconv.Atoi(pid); err != nil || n != os.Getpid() {
		return nil, nil //nolint:nilerr // they are for another process
	}
	n, err := strconv.Atoi(fds)
	if err != nil || n < 0 || n > 64 {
		return nil, fmt.Errorf("LISTEN_FDS=%q is no number of sockets", fds)
	}
	labels := strings.Split(names, ":")
	var out []net.Listener
	for i := range n {
		unix.CloseOnExec(firstFD + i)
		if name != "" && i < len(labels) && labels[i] != "" && labels[i] != name && !strings.HasSuffix(labels[i], ".socket") {
			continue
		}
		l, err := fileListener(firstFD+i, "activated")
		if err != nil {
			return out, fmt.Errorf("socket %d of systemd: %w", i, err)
		}
		out = append(out, l)
	}
	for _, k := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(k)
	}
	return out, nil
}

// fileListener makes a listener of a descriptor, which it owns from then on.
func fileListener(fd int, name string) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() // FileListener has a copy of its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if ul, ok := l.(*net.UnixListener); ok {
		ul.SetUnlinkOnClose(false)
	}
	return l, nil
}
