package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dnsAttacks reach an address by a name that they may not reach it by: D1 to D8. The server is
// that of -over, and does for each name of example.net what the attack needs; -peer is the address
// that its answers have, with a port.
func dnsAttacks() []attack {
	ask := func(names ...string) func(*env) error {
		return func(e *env) error { return dnsReach(e, names...) }
	}
	return []attack{
		{"dns-forged-own", "D1", needPeerRaw, "answer the own question from a socket on 127.0.0.11", dnsForgeOwn},
		{"dns-forged-device", "D1", needPeerRaw, "answer the own question by a raw socket in the server's name", dnsForgeRaw},
		{"dns-wrong-id", "D2", needPeer, "get an answer with another id", ask("wrongid.example.net")},
		{"dns-other-name", "D3", needPeer, "ask for a name that no rule has", ask("evil.example.com")},
		{"dns-other-question", "D3", needPeer, "get an answer to another question", ask("other.example.net")},
		{"dns-error", "D3", needPeer, "get an answer that says that there is no such name", ask("nxdomain.example.net")},
		{"dns-untrusted", "D4", needPeer, "ask a server that is not trusted", ask("api.example.org")},
		{"dns-cached", "D5", needPeer, "connect to what another container has asked for", ask()},
		{"dns-expired", "D6", needPeer, "connect when the answer's time is over", dnsExpired},
		{"dns-loop", "D7", needPeer, "get an answer whose name points to itself", ask("loop.example.net")},
		{"dns-label", "D7", needPeer, "get an answer with a label of a reserved type", ask("label.example.net")},
		{"dns-long", "D7", needPeer, "get an answer with data beyond its end", ask("cut.example.net")},
		{"dns-many", "D7", needPeer, "get the address behind 32 others", ask("many.example.net")},
		{"dns-tcp", "D8", needPeer, "ask by TCP", dnsByTCP},
	}
}

// dnsQuery is a question after the addresses of a name.
func dnsQuery(id byte, name string) []byte {
	b := []byte{0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for l := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0, 0, 1, 0, 1)
}

// dnsAnswer answers it with one address.
func dnsAnswer(query []byte, a netip.Addr) []byte {
	b := append([]byte{}, query...)
	b[2], b[3], b[7] = 0x81, 0x80, 1
	b = append(b, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
	return append(b, a.AsSlice()...)
}

// dnsAsk asks and waits for something to come back.
func dnsAsk(server, name string) error {
	c, err := net.Dial("udp", server)
	if err != nil {
		return untried(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(arriveTime))
	if _, err := c.Write(dnsQuery(7, name)); err != nil {
		return untried(err)
	}
	if n, err := c.Read(make([]byte, 4096)); err != nil || n < 12 {
		return untried(fmt.Errorf("%s got no answer to %s: %w", server, name, err))
	}
	return nil
}

func dnsConnect(e *env) error {
	c, err := net.DialTimeout("tcp", e.peer, arriveTime)
	if err != nil {
		return err
	}
	return c.Close()
}

// dnsReach connects to the peer after it has asked for names.
func dnsReach(e *env, names ...string) error {
	for _, n := range names {
		if err := dnsAsk(e.over, n); err != nil {
			return err
		}
	}
	return dnsConnect(e)
}

// dnsForgeOwn is its own server, on the address of Docker's.
func dnsForgeOwn(e *env) error {
	const docker = "127.0.0.11:53"
	peer, err := netip.ParseAddrPort(e.peer)
	if err != nil {
		return untried(err)
	}
	s, err := net.ListenPacket("udp", docker)
	if err != nil {
		return untried(err)
	}
	defer s.Close()
	go func() {
		b := make([]byte, 512)
		if n, from, err := s.ReadFrom(b); err == nil {
			_, _ = s.WriteTo(dnsAnswer(b[:n], peer.Addr()), from)
		}
	}()
	if err := dnsAsk(docker, "api.example.org"); err != nil {
		return err
	}
	return dnsConnect(e)
}

// dnsForgeRaw asks a trusted server that does not answer, and answers in its name: what it sends
// to itself comes in by the loopback device.
func dnsForgeRaw(e *env) error {
	peer, err := netip.ParseAddrPort(e.peer)
	if err != nil {
		return untried(err)
	}
	server, err := netip.ParseAddrPort(e.over)
	if err != nil {
		return untried(err)
	}
	c, err := net.Dial("udp", e.over)
	if err != nil {
		return untried(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(arriveTime))
	q := dnsQuery(7, "silent.example.net")
	if _, err := c.Write(q); err != nil {
		return untried(err)
	}
	own := c.LocalAddr().(*net.UDPAddr).AddrPort()
	fd, err := rawIP()
	if err != nil {
		return err
	}
	packet := ip4Packet(unix.IPPROTO_UDP, server.Addr(), own.Addr(), udpPacket(server.Port(), own.Port(), string(dnsAnswer(q, peer.Addr()))))
	if err := unix.Sendto(fd, packet, 0, inet4(own)); err != nil {
		return untried(err)
	}
	if _, err := c.Read(make([]byte, 512)); err != nil {
		return untried(fmt.Errorf("the forged answer did not arrive: %w", err))
	}
	return dnsConnect(e)
}

// dnsExpired connects once while it may, and again when it may not.
func dnsExpired(e *env) error {
	if err := dnsReach(e, "ttl.example.net"); err != nil {
		return untried(fmt.Errorf("while the answer holds: %w", err))
	}
	time.Sleep(6500 * time.Millisecond) //nolint:forbidigo // the least time that an answer holds is 5 s
	return dnsConnect(e)
}

// dnsByTCP asks by TCP, whose answers are not read.
func dnsByTCP(e *env) error {
	c, err := net.DialTimeout("tcp", e.over, arriveTime)
	if err != nil {
		return untried(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(arriveTime))
	q := dnsQuery(7, "api.example.org")
	if _, err := c.Write(append([]byte{0, byte(len(q))}, q...)); err != nil {
		return untried(err)
	}
	if n, err := c.Read(make([]byte, 4096)); err != nil || n < 12 {
		return untried(errors.Join(errors.New("no answer by TCP"), err))
	}
	return dnsConnect(e)
}

// resolve asks for a name, connects and says so: ordinary work.
func resolve(e *env, name string) int {
	if err := dnsReach(e, name); err != nil {
		fmt.Fprintf(os.Stdout, "%s: %v\n", name, err)
		return exitRefused
	}
	fmt.Fprintf(os.Stdout, "%s: connected\n", name)
	return 0
}
