package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// networkAttacks reach an address, open a port or make a socket that the section network
// denies: N1, N3 to N5. Those that send are their own peer: they have won when that has heard
// them. It listens on a port from netPorts on, by which a rule can tell them.
func networkAttacks() []attack {
	tcp := func(host string) func(*env) error { return func(e *env) error { return netTCP(host, 0, dialTCP) } }
	udp := func(host string, send func(netip.AddrPort) error) func(*env) error {
		return func(*env) error { return netUDP(host, send) }
	}
	return []attack{
		{"net-tcp", "N1", "", "connect by TCP", tcp("127.0.0.1")},
		{"net-tcp6", "N1", "", "connect by TCP and IPv6", tcp("::1")},
		{"net-mapped", "N1", "", "connect an IPv6 socket to an IPv4 address", func(*env) error { return netTCP("127.0.0.1", 0, dialMapped) }},
		{"net-any", "N1", "", "connect to 0.0.0.0, which is 127.0.0.1", func(*env) error { return netTCP("127.0.0.1", 0, dialAny) }},
		{"net-fastopen", "N1", "", "TCP Fast Open: a connection without connect", func(*env) error { return netTCP("127.0.0.1", 0, dialFastOpen) }},
		{"net-udp", "N1", "", "send by a connected UDP socket", udp("127.0.0.1", sendConnected)},
		{"net-udp6", "N1", "", "send by UDP and IPv6, without connect", udp("::1", sendTo)},
		{"net-udp-noconnect", "N1", "", "send by UDP without connect", udp("127.0.0.1", sendTo)},
		{"net-mapped-udp", "N1", "", "send an IPv4 datagram by an IPv6 socket", udp("127.0.0.1", sendMapped)},
		{"net-sendmmsg", "N1", "", "send by sendmmsg", udp("127.0.0.1", sendMmsg)},
		{"net-uring", "N1", "", "send by io_uring", func(e *env) error {
			return netUDP("127.0.0.1", func(at netip.AddrPort) error { return e.byUring("uringsend", at) })
		}},
		{"net-raw", "N1", needRaw, "send UDP by a raw socket", udp("127.0.0.1", sendRaw)},
		{"net-raw-fragment", "N1", needRaw, "send UDP in fragments of a raw socket", udp("127.0.0.1", sendFragments)},
		{"net-preexisting", "N1", "", "send by a UDP socket that was connected before", netOldUDP},
		{"net-preexisting-tcp", "N1", "", "send by a TCP connection that stood before", netOldTCP},
		{"net-metadata", "N5", needNetAdmin, "connect to the metadata service of a cloud", netMetadata},
		{"net-rawsocket", "N1", needRaw, "make a raw socket", func(*env) error { return makeSocket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
		{"net-rawsocket6", "N1", needRaw, "make a raw socket of IPv6", func(*env) error { return makeSocket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6) }},
		{"net-rawsocket-old", "N1", needRaw, "send by a raw socket made before", netOldRaw},
		{"net-packet", "N1", needRaw, "make a packet socket", func(*env) error { return makeSocket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
		{"net-packet-old", "N1", needRaw, "make a packet socket by its older name", func(*env) error { return makeSocket(unix.AF_INET, unix.SOCK_PACKET, 0) }},
		{"net-listen", "N3", "", "listen on a port", func(*env) error { return netListen("tcp", "127.0.0.1") }},
		{"net-listen6", "N3", "", "listen on a port of IPv6", func(*env) error { return netListen("tcp", "::1") }},
		{"net-listen-udp", "N3", "", "wait for UDP on a port", func(*env) error { return netListen("udp", "127.0.0.1") }},
		{"net-listen-udp-auto", "N3", "", "be asked by UDP on a port that the kernel chose", netListenAuto},
		{"net-listen-sctp", "N3", "", "listen on a port of SCTP", netListenSCTP},
		{"net-pppox", "N1", "", "make a PPPoE socket, which sends below IP", func(*env) error { return makeSocket(unix.AF_PPPOX, unix.SOCK_STREAM, 0) }},
		{"net-rds", "N1", "", "make an RDS socket, for which the kernel connects", func(*env) error { return makeSocket(unix.AF_RDS, unix.SOCK_SEQPACKET, 0) }},
		{"net-listen-unbound", "N3", "", "listen without bind, on whatever port", netListenUnbound},
	}
}

const (
	netPorts     = 7000 // and the 999 behind it
	metadataAddr = "169.254.169.254"
	arriveTime   = 1500 * time.Millisecond
)

// netAddr returns an address with a port of the attack's range, or the given one.
func netAddr(host string, port int) netip.AddrPort {
	if port == 0 {
		port = netPorts + rand.IntN(1000)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port))
}

// arrived waits until the peer has heard what was sent.
func arrived(heard <-chan bool) error {
	select {
	case <-heard:
		return nil
	case <-time.After(arriveTime):
		return fmt.Errorf("%w: nothing arrived", errRefused)
	}
}

// peerTCP accepts connections and tells of each byte.
func peerTCP(host string, port int) (netip.AddrPort, chan bool, error) {
	at := netAddr(host, port)
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return at, nil, untried(err)
	}
	heard := make(chan bool, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go tellOf(c, heard)
		}
	}()
	return at, heard, nil
}

func tellOf(c net.Conn, heard chan<- bool) {
	var b [1]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
		heard <- true
	}
}

func netTCP(host string, port int, dial func(netip.AddrPort) error) error {
	at, heard, err := peerTCP(host, port)
	if err != nil {
		return err
	}
	if err := dial(at); err != nil {
		return err
	}
	return arrived(heard)
}

func netUDP(host string, send func(netip.AddrPort) error) error {
	at := netAddr(host, 0)
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return untried(err)
	}
	heard := make(chan bool, 16)
	go tellOf(c, heard)
	if err := send(at); err != nil {
		return err
	}
	return arrived(heard)
}

// dialTCP takes a connection that does not come about for a refusal.
func dialTCP(at netip.AddrPort) error {
	c, err := net.DialTimeout("tcp", at.String(), arriveTime)
	if nerr, ok := errors.AsType[net.Error](err); ok && nerr.Timeout() {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("x"))
	return err
}

// dialBy connects a socket to an address of its own family and writes.
func dialBy(family, protocol int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return untried(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return untried(err)
	}
	if err := unix.Connect(fd, to); err != nil {
		if errors.Is(err, unix.EINPROGRESS) {
			return fmt.Errorf("%w: no answer", errRefused)
		}
		return err
	}
	_, err = unix.Write(fd, []byte("x"))
	return err
}

func dialMapped(at netip.AddrPort) error {
	return dialBy(unix.AF_INET6, 0, &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())})
}

func dialAny(at netip.AddrPort) error {
	return dialBy(unix.AF_INET, 0, &unix.SockaddrInet4{Port: int(at.Port())})
}

func inet4(at netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
}

func sockaddr(at netip.AddrPort) (family int, sa unix.Sockaddr) {
	if at.Addr().Is4() {
		return unix.AF_INET, inet4(at)
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
}

func dialFastOpen(at netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return untried(err)
	}
	err = unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, inet4(at))
	if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EAGAIN) {
		return nil // no cookie yet: the connection opens, and whether it did is seen by the peer
	}
	return err
}

func sendConnected(at netip.AddrPort) error {
	c, err := net.Dial("udp", at.String())
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("x"))
	return err
}

func sendBy(family int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	return unix.Sendto(fd, []byte("x"), 0, to)
}

func sendTo(at netip.AddrPort) error {
	family, sa := sockaddr(at)
	return sendBy(family, sa)
}

func sendMapped(at netip.AddrPort) error {
	return sendBy(unix.AF_INET6, &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())})
}

// sendUring has the C program send, which has a ring.
// udpPacket makes a datagram with its header; no checksum, which UDP over IPv4 need not have.
func udpPacket(from, to uint16, text string) []byte {
	b := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(text)))
	return append(b, text...)
}

func sendRaw(at netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	return unix.Sendto(fd, udpPacket(6999, at.Port(), "x"), 0, inet4(at))
}

// sendFragments sends one datagram as two packets, of which the second has no ports.
func sendFragments(at netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	whole := udpPacket(6999, at.Port(), "0123456789abcdef")
	for i, part := range [][]byte{whole[:16], whole[16:]} {
		h := make([]byte, 20, 40)
		h[0], h[8], h[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(h[4:], 0x4242)
		binary.BigEndian.PutUint16(h[6:], []uint16{0x2000, 2}[i]) // more to come; the third 8 bytes
		copy(h[12:], []byte{127, 0, 0, 1})
		copy(h[16:], []byte{127, 0, 0, 1})
		if err := unix.Sendto(fd, append(h, part...), 0, inet4(at)); err != nil {
			return err
		}
	}
	return nil
}

func netOldUDP(e *env) error {
	var c net.Conn
	return netUDP("127.0.0.1", func(at netip.AddrPort) error {
		var err error
		if c, err = net.Dial("udp", at.String()); err != nil {
			return untried(err)
		}
		if err := e.turn(); err != nil {
			return err
		}
		_, err = c.Write([]byte("x"))
		return err
	})
}

func netOldTCP(e *env) error {
	at, heard, err := peerTCP("127.0.0.1", 0)
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		return untried(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return untried(err)
	}
	if err := arrived(heard); err != nil {
		return untried(err)
	}
	if err := e.turn(); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	return arrived(heard)
}

func netOldRaw(e *env) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return untried(err)
	}
	if err := e.turn(); err != nil {
		return err
	}
	return netUDP("127.0.0.1", func(at netip.AddrPort) error {
		return unix.Sendto(fd, udpPacket(6999, at.Port(), "x"), 0, inet4(at))
	})
}

// netMetadata gives the container's own loopback device the address: nothing leaves it.
func netMetadata(e *env) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	ifr, err := unix.NewIfreq("lo:1")
	if err != nil {
		return untried(err)
	}
	a := netip.MustParseAddr(metadataAddr).As4()
	if err := errors.Join(ifr.SetInet4Addr(a[:]), unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr)); err != nil {
		return untried(err)
	}
	if err := e.turn(); err != nil {
		return err
	}
	return netTCP(metadataAddr, 80, dialTCP)
}

func makeSocket(family, kind, proto int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func netListen(network, host string) error {
	at := netAddr(host, 0)
	if network == "udp" {
		c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		return untried(c.Close())
	}
	l, err := net.Listen(network, at.String())
	if err != nil {
		return err
	}
	return untried(l.Close())
}

func netListenUnbound(*env) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return untried(err)
	}
	return unix.Listen(fd, 1)
}

// netListenAuto is a server whose port no bind names.
func netListenAuto(*env) error {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return untried(err)
	}
	heard := make(chan bool, 16)
	go tellOf(c, heard)
	if err := sendTo(c.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		return err
	}
	return arrived(heard)
}

// netListenSCTP binds no port: that would be another rule's act.
func netListenSCTP(*env) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return untried(err)
	}
	return unix.Listen(fd, 1)
}

// exchange is `attack ask` and `attack answer`: ordinary work, in which something comes back.
func exchange(verb, addr string) int {
	err := func() error {
		b := make([]byte, 64)
		if verb == "ask" {
			c, err := net.Dial("udp", addr)
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte("question\n")); err != nil {
				return err
			}
			if err := c.SetReadDeadline(time.Now().Add(arriveTime)); err != nil {
				return err
			}
			n, err := c.Read(b)
			fmt.Printf("%s", b[:n])
			return err
		}
		c, err := net.ListenPacket("udp", addr)
		for err == nil {
			var n int
			var from net.Addr
			if n, from, err = c.ReadFrom(b); err == nil {
				_, err = c.WriteTo(b[:n], from)
			}
		}
		return err
	}()
	if err != nil {
		fmt.Fprintf(os.Stderr, "attack: %s: %v\n", verb, err)
		return exitRefused
	}
	return exitWon
}
