package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is who opened a connection, as the kernel recorded it at connect(2).
type peer struct {
	pid    int32
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary
	err    error    // why the kernel did not say
}

type peerKey struct{}

func peerOf(ctx context.Context) peer {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return peer{err: errors.New("the connection has no peer")}
	}
	return p
}

// check returns nil if the peer may use the socket: uid 0, the agent's own user, or
// a member of group gid. The group root gives nobody access: too many service users
// are in it.
//
// The socket's mode says the same, but a descriptor can be passed on, and a mode can
// be changed.
func (p peer) check(own uint32, gid int) error {
	switch {
	case p.err != nil:
		return fmt.Errorf("who is calling is unknown: %w", p.err)
	case p.uid == 0, p.uid == own:
		return nil
	case gid == 0:
		return fmt.Errorf("uid %d may not use this socket: only root may", p.uid)
	case p.gid == uint32(gid), slices.Contains(p.groups, uint32(gid)):
		return nil
	}
	return fmt.Errorf("uid %d may not use this socket: only root and members of group %d may", p.uid, gid)
}

// readPeer asks the kernel who is at the other end of c.
func readPeer(c net.Conn) peer {
	uc, ok := c.(syscall.Conn)
	if !ok {
		return peer{err: fmt.Errorf("a %T is no socket", c)}
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return peer{err: err}
	}
	var p peer
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			p.err = fmt.Errorf("SO_PEERCRED: %w", err)
			return
		}
		p.pid, p.uid, p.gid = cred.Pid, cred.Uid, cred.Gid
		p.groups, p.err = peerGroups(int(fd))
	})
	if err != nil {
		p.err = err
	}
	return p
}

// maxGroups is NGROUPS_MAX of include/uapi/linux/limits.h.
const maxGroups = 65536

// peerGroups reads SO_PEERGROUPS (since Linux 4.13, see socket(7)), for which
// golang.org/x/sys has no function. /proc/PID/status would answer for whoever has
// the pid now.
func peerGroups(fd int) ([]uint32, error) {
	for n := 64; n <= maxGroups; n *= 4 {
		buf := make([]uint32, n)
		size := uint32(n) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return buf[:min(int(size/4), n)], nil
		case unix.ERANGE: // the list is longer
		default:
			return nil, fmt.Errorf("SO_PEERGROUPS: %w", errno)
		}
	}
	return nil, errors.New("SO_PEERGROUPS: more groups than the kernel allows")
}
