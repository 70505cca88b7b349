// Package peer knows who is at the other end of a connection to the gate: a user of
// the host, a process in a container, or the holder of a client certificate.
//
// A unix peer's credentials and groups are those that the kernel recorded at
// connect(2). Its cgroup is read from /proc, under the guard of the peer's pidfd, so
// that a process which took the number of one that ended is never asked in its place.
// Whoever is in a container is the container, whatever its uid; whoever is in a user
// namespace is who made it. What cannot be read is an error, and the caller is nobody.
//
// It owns a small cache of user and group names and no other state; it decides nothing.
// It imports apicall (row: core).
package peer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/apicall"
)

// Workload knows containers by their cgroups.
type Workload interface {
	// ContainerOf returns the id of the container that a cgroup belongs to, and false
	// if it belongs to none. The path is that of /proc/PID/cgroup. An empty id with
	// true is a container that is not known, such as a step of a build.
	ContainerOf(cgroupPath string) (id string, ok bool)
	// Describe fills in name, labels and image digest of a container's subject.
	Describe(sub *apicall.Subject)
}

// Labeller is what a [Workload] also is if the kernel knows of a process which container it is
// of, whatever cgroup it has gone to.
type Labeller interface {
	// Label returns the container of the process of a pidfd, and false if none is known. An
	// empty id with true is a container that is not known.
	Label(pidfd int) (id string, ok bool, err error)
}

// Accepted is what a connection also is if it is kept who its peer was when it was accepted: a
// number that has gone to another process since is not taken for the peer's.
type Accepted interface {
	// Accepted returns the subject that was found then, or why none was.
	Accepted() (apicall.Subject, error)
}

// Identifier tells who the peer of a connection is. The zero value knows containers by
// the names of their cgroups only.
type Identifier struct {
	Workload Workload // nil: by the shape of cgroup names alone
	// Proc is where procfs is mounted; "/proc".
	Proc  string
	names nameCache
	// For tests. owner says whose a cgroup is; nil: the file system of cgroups does.
	owner func(path string) error
	// userNS says what user namespace a process is in; nil: procfs does.
	userNS   func(dir string) (userNS, error)
	subuid   string // "/etc/subuid"
	sessions string // "/run/systemd/sessions"
}

// ErrUnknown is returned if the kernel does not say who the peer is.
var ErrUnknown = errors.New("who is calling is unknown")

// Of returns the subject at the other end of c. A TLS connection must have shaken hands. The peer
// of one that is [Accepted] is the process that it was then, or nobody.
//
// Errors: wraps [ErrUnknown].
func (id *Identifier) Of(c net.Conn) (apicall.Subject, error) {
	if tc, ok := c.(*tls.Conn); ok {
		return ofCertificate(tc)
	}
	uc, ok := c.(syscall.Conn)
	if !ok {
		return apicall.Subject{}, fmt.Errorf("%w: a %T is no socket", ErrUnknown, c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return apicall.Subject{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	var cred credentials
	if err := raw.Control(func(fd uintptr) { cred = readCredentials(int(fd)) }); err != nil {
		return apicall.Subject{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	defer cred.close()
	if cred.err != nil {
		return apicall.Subject{}, fmt.Errorf("%w: %w", ErrUnknown, cred.err)
	}
	sub, err := id.ofProcess(cred)
	if a, ok := c.(Accepted); ok && err == nil {
		err = stillIt(a, &sub)
	}
	if err != nil {
		return apicall.Subject{}, err
	}
	return sub, nil
}

// stillIt returns an error unless the peer is the process that it was when it was accepted.
func stillIt(a Accepted, sub *apicall.Subject) error {
	switch before, err := a.Accepted(); {
	case err != nil: // whoever has its number now need not be the peer
		return err
	case before.PID != sub.PID || before.PIDStart != sub.PIDStart:
		return fmt.Errorf("%w: %w", ErrUnknown, ErrEnded)
	}
	return nil
}

func (id *Identifier) ofProcess(cred credentials) (apicall.Subject, error) {
	sub := apicall.Subject{UID: cred.uid, GID: cred.gid, GIDs: cred.groups, PID: cred.pid}
	if cred.pid <= 0 {
		return apicall.Subject{}, fmt.Errorf("%w: the process is in a PID namespace that is not ours", ErrUnknown)
	}
	at, err := id.look(cred)
	if err != nil {
		return apicall.Subject{}, fmt.Errorf("%w: cgroup of process %d: %w", ErrUnknown, cred.pid, err)
	}
	sub.PIDStart = at.start
	if at.labelErr != nil {
		return apicall.Subject{}, fmt.Errorf("%w: which container process %d is of: %w", ErrUnknown, cred.pid, at.labelErr)
	}
	for _, c := range at.cgroups {
		cid, ok := id.containerOf(c.path)
		if !ok {
			continue
		}
		// Whoever was given a cgroup of his own can make one of any name in it.
		if err := id.rootOwns(c); err != nil {
			return apicall.Subject{}, fmt.Errorf("%w: process %d is in a cgroup that is named like a container's: %w", ErrUnknown, cred.pid, err)
		}
		if at.labelled && at.label != cid {
			return apicall.Subject{}, fmt.Errorf("%w: process %d is in the cgroup of another container than its own", ErrUnknown, cred.pid)
		}
		// Before any uid: root of a container is not root of the host.
		sub.Kind, sub.ContainerID = apicall.Container, cid
		if id.Workload != nil && cid != "" {
			id.Workload.Describe(&sub)
		}
		return sub, nil
	}
	if at.labelled {
		return apicall.Subject{}, fmt.Errorf("%w: process %d has left the cgroup of its container", ErrUnknown, cred.pid)
	}
	sub.Kind = apicall.User
	if at.nsErr != nil {
		return apicall.Subject{}, fmt.Errorf("%w: process %d: %w", ErrUnknown, cred.pid, at.nsErr)
	}
	if err := id.person(&sub, at.ns, at.login); err != nil {
		return apicall.Subject{}, fmt.Errorf("%w: process %d: %w", ErrUnknown, cred.pid, err)
	}
	return sub, nil
}

func (id *Identifier) containerOf(path string) (string, bool) {
	if id.Workload != nil {
		return id.Workload.ContainerOf(path)
	}
	return ContainerOf(path)
}

func ofCertificate(c *tls.Conn) (apicall.Subject, error) {
	st := c.ConnectionState()
	if len(st.VerifiedChains) == 0 || len(st.PeerCertificates) == 0 {
		return apicall.Subject{}, fmt.Errorf("%w: no verified client certificate", ErrUnknown)
	}
	leaf := st.PeerCertificates[0]
	sub := apicall.Subject{Kind: apicall.Certificate, CN: leaf.Subject.CommonName, Orgs: leaf.Subject.Organization}
	sub.SANs = append(sub.SANs, leaf.DNSNames...)
	sub.SANs = append(sub.SANs, leaf.EmailAddresses...)
	for _, u := range leaf.URIs {
		sub.SANs = append(sub.SANs, u.String())
	}
	for _, ip := range leaf.IPAddresses {
		sub.SANs = append(sub.SANs, ip.String())
	}
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		sub.Remote = a.Addr().Unmap()
	}
	return sub, nil
}

// credentials are what the kernel recorded of a peer at connect(2).
type credentials struct {
	pid      int32
	uid, gid uint32
	groups   []uint32
	pidfd    int // -1: this kernel has none
	err      error
}

func (c *credentials) close() {
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
	}
}

func readCredentials(fd int) (c credentials) {
	c.pidfd = -1
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		c.err = fmt.Errorf("SO_PEERCRED: %w", err)
		return c
	}
	c.pid, c.uid, c.gid = cred.Pid, cred.Uid, cred.Gid
	if c.groups, c.err = peerGroups(fd); c.err != nil {
		return c
	}
	// SO_PEERPIDFD is there since Linux 6.5; see include/uapi/asm-generic/socket.h.
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		c.pidfd = pidfd
	}
	c.err = pidfdError(err)
	return c
}

// pidfdError returns why a peer without a pidfd is nobody. A kernel that has no SO_PEERPIDFD says
// ENOPROTOOPT: of its peers the start times are compared, see [Accepted]. Any other error is of a
// peer that ended and was reaped: EINVAL before Linux 6.15, ESRCH and ENODATA since.
//
// Errors: [ErrEnded].
func pidfdError(err error) error {
	if err == nil || errors.Is(err, unix.ENOPROTOOPT) {
		return nil
	}
	return fmt.Errorf("SO_PEERPIDFD: %w: %w", ErrEnded, err)
}

// maxGroups is NGROUPS_MAX of include/uapi/linux/limits.h.
const maxGroups = 65536

// peerGroups reads SO_PEERGROUPS (since Linux 4.13, see socket(7)), for which
// golang.org/x/sys has no function.
func peerGroups(fd int) ([]uint32, error) {
	for n := 64; n <= maxGroups; n *= 4 {
		buf := make([]uint32, n)
		size := uint32(n) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return buf[:min(int(size/4), n):min(int(size/4), n)], nil
		case unix.ERANGE: // the list is longer
		default:
			return nil, fmt.Errorf("SO_PEERGROUPS: %w", errno)
		}
	}
	return nil, errors.New("SO_PEERGROUPS: more groups than the kernel allows")
}
