package inuse

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/ident"
)

// socketText writes a line of a list of sockets of IPv4.
func socketText(local, remote, state string, inode int) string {
	hex := func(s string) string {
		a := netip.MustParseAddrPort(s)
		b := a.Addr().As4()
		return fmt.Sprintf("%02X%02X%02X%02X:%04X", b[3], b[2], b[1], b[0], a.Port())
	}
	return fmt.Sprintf("   0: %s %s %s 00000000:00000000 00:00000000 00000000     0        0 %d 1\n", hex(local), hex(remote), state, inode)
}

// pod is two containers in one network namespace, a third in another, and one whose first process
// has the third's addresses.
func pod() map[string]string {
	cgroup := func(letter string) string { return "0::/docker/" + strings.Repeat(letter, 64) + "\n" }
	return map[string]string{
		"10/cgroup": cgroup("a"), "10/ns/net": "->net:[1]", "10/fd/3": "->socket:[11]", "10/fd/4": "->socket:[12]", "10/fd/5": "->socket:[13]",
		"10/fd/6": "->socket:[14]", "10/fd/7": "->socket:[15]",
		"10/net/tcp": tcpHead + socketText("0.0.0.0:80", "0.0.0.0:0", stateListen, 11) +
			socketText("172.17.0.2:80", "172.17.0.3:40000", stateEstablished, 12) +
			socketText("172.17.0.2:80", "192.0.2.9:50000", stateEstablished, 13) +
			socketText("172.17.0.2:40001", "203.0.113.5:443", stateEstablished, 14) +
			socketText("127.0.0.1:41000", "127.0.0.1:9000", stateEstablished, 15) +
			socketText("172.17.0.2:80", "198.51.100.1:1", stateEstablished, 99), // of a process that is no container's
		"20/cgroup": cgroup("b"), "20/ns/net": "->net:[2]", "20/fd/3": "->socket:[21]", "20/fd/4": "->socket:[22]",
		"21/cgroup": cgroup("b"), "21/ns/net": "->net:[2]", "21/fd/3": "->socket:[21]", // forked with it
		"30/cgroup": cgroup("c"), "30/ns/net": "->net:[2]", "30/fd/3": "->socket:[31]", "30/fd/4": "->socket:[32]",
		"20/net/tcp": tcpHead + socketText("127.0.0.1:9000", "0.0.0.0:0", stateListen, 31) +
			socketText("172.17.0.3:40000", "172.17.0.2:80", stateEstablished, 21) +
			socketText("127.0.0.1:41000", "127.0.0.1:9000", stateEstablished, 22) +
			socketText("127.0.0.1:9000", "127.0.0.1:41000", stateEstablished, 32),
	}
}

func told(t *testing.T, files map[string]string) (lines []string, whole bool) {
	t.Helper()
	p := fakeProc(t, files)
	of, err := p.Processes()
	if err != nil {
		t.Fatal(err)
	}
	all, whole := p.Connections(of)
	name := func(id ident.ContainerID) string { return string(id[:min(len(id), 1)]) }
	for _, c := range all {
		arrow := "->"
		if c.Accepted {
			arrow = "<-"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s %s", name(c.Container), c.Local, arrow, c.Remote, name(c.Peer)))
	}
	slices.Sort(lines)
	return lines, whole
}

// TestConnections: each connection is of the container that holds its socket, and leads to the container that holds
// the other end of it, in the same network namespace or in another.
func TestConnections(t *testing.T) {
	files := pod()
	got, whole := told(t, files)
	want := []string{
		"a 127.0.0.1:41000 -> 127.0.0.1:9000 ", // of its own loopback, where nobody has the other end
		"a 172.17.0.2:40001 -> 203.0.113.5:443 ",
		"a 172.17.0.2:80 <- 172.17.0.3:40000 b",
		"a 172.17.0.2:80 <- 192.0.2.9:50000 ",
		"b 127.0.0.1:41000 -> 127.0.0.1:9000 c",
		"b 172.17.0.3:40000 -> 172.17.0.2:80 a",
		"c 127.0.0.1:9000 <- 127.0.0.1:41000 b",
	}
	if !slices.Equal(got, want) || !whole {
		t.Errorf("got %q (whole: %v), want %q", got, whole, want)
	}

	// Nobody listens any more: the lower port was connected to.
	files["10/net/tcp"] = strings.Replace(files["10/net/tcp"], " 0A ", " 07 ", 1)
	if got, _ = told(t, files); !slices.Contains(got, want[2]) || !slices.Contains(got, want[5]) {
		t.Errorf("without a listener: %q", got)
	}

	// A network with the addresses of another: whose they are cannot be told.
	files["40/cgroup"], files["40/ns/net"], files["40/fd/3"] = "0::/docker/"+strings.Repeat("d", 64)+"\n", "->net:[3]", "->socket:[41]"
	files["40/net/tcp"] = tcpHead + socketText("172.17.0.2:80", "172.17.0.3:40000", stateEstablished, 41)
	if got, _ = told(t, files); !slices.Contains(got, "b 172.17.0.3:40000 -> 172.17.0.2:80 ") {
		t.Errorf("with two that have the other end: %q", got)
	}

	files["10/net/tcp"] += strings.Repeat(" ", maxNetBytes)
	if _, whole = told(t, files); whole {
		t.Error("a list that was cut is told as whole")
	}
}

// TestRealConnection: the kernel's own files are read as the fakes are.
func TestRealConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	me := ident.ContainerID(cid)
	all, whole := Proc{}.Connections(map[ident.ContainerID][]int{me: {os.Getpid()}})
	if !whole {
		t.Error("not all was read")
	}
	for _, end := range []struct {
		c        net.Conn
		accepted bool
	}{{out, false}, {in, true}} {
		want := Connection{me, end.c.LocalAddr().(*net.TCPAddr).AddrPort(), end.c.RemoteAddr().(*net.TCPAddr).AddrPort(), end.accepted, me}
		if !slices.Contains(all, want) {
			t.Errorf("no %+v in %+v", want, all)
		}
	}
}
