package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// dnsPolicy lets a container connect to port 7100 of what the names stand for.
func dnsPolicy(server, trusted string) string {
	return fmt.Sprintf("  network: {dns: {servers: [%s]}, egress: {default: deny, allow: [{to: [%s], ports: [53]}, {names: [api.example.org, '*.example.net'], ports: [7100], protocol: tcp}]}}\n", trusted, server)
}

// dnsServe answers questions with an address, as each name says; it ends with the test.
func dnsServe(t *testing.T, c net.PacketConn, peer netip.Addr) {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if a := dnsReply(b[:n], peer); a != nil {
				_, _ = c.WriteTo(a, from)
			}
		}
	}()
}

// dnsReply returns the answer to a question; nil: none.
func dnsReply(query []byte, peer netip.Addr) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true}, Questions: []dnsmessage.Question{q}}
	add := func(name dnsmessage.Name, ttl uint32, body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}, Body: body})
	}
	host := &dnsmessage.AResource{A: peer.As4()}
	first, _, _ := strings.Cut(strings.ToLower(q.Name.String()), ".")
	switch first {
	case "silent":
		return nil
	case "alias":
		to := dnsmessage.MustNewName("cdn.example.com.")
		add(q.Name, 60, &dnsmessage.CNAMEResource{CNAME: to})
		add(to, 60, host)
	case "ttl":
		add(q.Name, 0, host)
	case "many":
		for i := range 32 {
			add(q.Name, 60, &dnsmessage.AResource{A: [4]byte{192, 0, 2, byte(i + 1)}})
		}
		add(q.Name, 60, host)
	case "nxdomain":
		m.Header.RCode = dnsmessage.RCodeNameError
		add(q.Name, 60, host)
	case "wrongid":
		m.Header.ID++
		add(q.Name, 60, host)
	case "other":
		m.Questions[0].Name = dnsmessage.MustNewName("api.example.org.")
		add(m.Questions[0].Name, 60, host)
	default:
		add(q.Name, 60, host)
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	record := len(b) - 16 // a pointer to the question
	switch first {
	case "loop":
		b[record+1] = byte(record)
	case "label":
		b[record] = 0x80
	case "cut":
		b[record+11] = 5
	}
	return b
}

// onNetwork is a container with a device to a host with a DNS server and, on port 7100, who is to be
// reached.
func (h *host) onNetwork(t *testing.T, flags ...string) (id string, pid int, peer string) {
	t.Helper()
	id, pid, peer, _ = h.onDevice(t, flags...)
	serveNetwork(t, peer)
	return id, pid, peer
}

// serveNetwork is that host.
func serveNetwork(t *testing.T, peer string) {
	t.Helper()
	at := netip.MustParseAddr(peer)
	c, err := net.ListenPacket("udp", net.JoinHostPort(peer, "53"))
	if err != nil {
		t.Fatal(err)
	}
	dnsServe(t, c, at)
	for port, serve := range map[string]func(net.Conn){"7100": func(c net.Conn) { _, _ = io.Copy(c, c) }, "53": func(c net.Conn) {
		b := make([]byte, 512)
		if n, err := c.Read(b); err == nil && n > 2 {
			a := dnsReply(b[2:n], at)
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
		}
	}} {
		l, err := net.Listen("tcp", net.JoinHostPort(peer, port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					serve(c)
				}()
			}
		}()
	}
}

func dnsArgs(peer string) string {
	return fmt.Sprintf("/bin/attack --peer %s:7100 --over %s:53 ", peer, peer)
}

type dnsCase struct {
	name    string
	flags   []string
	trusted string // whose answers count; empty: the server's
}

func dnsCases() []dnsCase {
	out := []dnsCase{
		{name: "dns-forged-own", flags: []string{"--uid", "0", "--cap-add", "NET_BIND_SERVICE"}, trusted: "127.0.0.11"},
		{name: "dns-forged-device", flags: []string{"--uid", "0", "--cap-add", "NET_RAW"}},
		{name: "dns-untrusted", flags: asUser, trusted: "203.0.113.53"},
	}
	for _, n := range []string{
		"dns-wrong-id", "dns-other-name", "dns-other-question", "dns-error", "dns-cached", "dns-expired", "dns-loop", "dns-label", "dns-long", "dns-many", "dns-tcp",
	} {
		out = append(out, dnsCase{name: n, flags: asUser})
	}
	return out
}

// playDNS has a container do it, under a policy of that mode (empty: none).
func (h *host) playDNS(t *testing.T, c dnsCase, mode string) (won bool, id, said string) {
	t.Helper()
	id, pid, peer := h.onNetwork(t, c.flags...)
	trusted := c.trusted
	if trusted == "" {
		trusted = peer
	}
	if mode != "" {
		h.enact(t, document("names", mode, dnsPolicy(peer, trusted)))
	}
	said = command(t, pid, dnsArgs(peer)+c.name)
	if strings.Contains(said, "cannot try") {
		t.Fatal(said)
	}
	return strings.Contains(said, "WON"), id, said
}

// sceneDNS plays it for the matrix.
func sceneDNS(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	mode := ""
	if guarded {
		mode = "enforce"
	}
	for _, d := range dnsCases() {
		if d.name == c.name {
			won, id, said := h.playDNS(t, d, mode)
			tr := h.seen(result{code: 1, out: said, id: id}, c.rule)
			tr.won = won
			return tr
		}
	}
	t.Fatalf("no such attack: %s", c.name)
	return trial{}
}

// Names: each attack is refused, passes and is reported in audit, and wins without a rule.
func TestDNSAttacks(t *testing.T) {
	h := get(t)
	for _, c := range dnsCases() {
		for mode, want := range map[string]verdict.Decision{"enforce": verdict.Denied, "audit": verdict.WouldDeny, "": ""} {
			t.Run(c.name+" "+mode, func(t *testing.T) {
				if mode == "" {
					inFullGuests(t)
				}
				won, id, said := h.playDNS(t, c, mode)
				if won != (mode != "enforce") {
					t.Errorf("won %v: %s", won, said)
				}
				if mode == "" {
					h.remove(t, id) // its end is known at once then
					h.none(t, id)
					return
				}
				if evs := h.take(id, verdict.RuleEgress); len(evs) == 0 || evs[0].Decision != want || evs[0].Remote.Port() != 7100 {
					t.Errorf("records %s, want %s", recordsOf(evs), want)
				}
			})
		}
	}
}

// Ordinary work: ask, connect. No record, in either mode.
func TestDNSOrdinary(t *testing.T) {
	h := get(t)
	for _, mode := range []string{"enforce", "audit"} {
		t.Run(mode, func(t *testing.T) {
			id, pid, peer := h.onNetwork(t, asUser...)
			h.enact(t, document("names", mode, dnsPolicy(peer, peer)))
			names := []string{"api.example.org", "API.Example.ORG", "a.example.net", "a.b.example.net", "alias.example.net"}
			line := ""
			for _, name := range names {
				line += dnsArgs(peer) + "resolve " + name + "; "
			}
			if said := command(t, pid, line); strings.Count(said, "connected") != len(names) {
				t.Error(said)
			}
			h.remove(t, id)
			h.none(t, id)
		})
	}
}

// What one container has asked for is not open to another, nor on another port; what is over is
// open again once it is asked for again.
func TestDNSOpen(t *testing.T) {
	h := get(t)
	_, one, peer := h.onNetwork(t, asUser...)
	h.enact(t, document("names", "enforce", dnsPolicy(peer, peer)))
	if said := command(t, one, dnsArgs(peer)+"dns-expired; "+dnsArgs(peer)+"resolve ttl.example.net; "+dnsArgs(peer)+"dns-cached; "+
		strings.Replace(dnsArgs(peer), ":7100", ":53", 1)+"dns-cached; "+strings.Replace(dnsArgs(peer), ":7100", ":7101", 1)+"dns-cached"); strings.Count(said, "refused") != 2 ||
		!strings.Contains(said, "ttl.example.net: connected") || strings.Count(said, "WON") != 2 {
		t.Error(said)
	}
	other, two, _, _ := h.onDevice(t, asUser...)
	h.enact(t, document("names", "enforce", dnsPolicy(peer, peer)))
	if said := command(t, two, dnsArgs(peer)+"dns-cached"); !strings.Contains(said, "refused") {
		t.Error(said)
	}
	if evs := h.take(other, verdict.RuleEgress); len(evs) == 0 {
		t.Error("no record of the other container's")
	}
}

// In a network namespace of its own making a container is every server: what it asks there opens
// nothing.
func TestDNSNested(t *testing.T) {
	h := get(t)
	h.enact(t, document("none", "audit", nothing))
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sh", "-c",
		"unshare -U -r -n sh -c 'while [ ! -e /tmp/cmd ]; do sleep 0.05; done; sh /tmp/cmd >/tmp/said 2>&1; mv /tmp/said /tmp/out'; sleep 1000")
	ran(t, c)
	t.Cleanup(func() { h.remove(t, c.id) })
	dir := filepath.Join(cgroupMount(t), h.scope, c.id)
	pid := firstPID(t, dir)
	nested := 0
	for range 100 {
		if nested = otherNet(t, dir, pid); nested != 0 {
			break
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // a namespace has no other signal
	}
	testneed.Need(t, "userns", nested != 0, "a kernel that lets users make user namespaces")
	peer, _ := linked(t, nested)
	serveNetwork(t, peer)
	h.enact(t, document("names", "enforce", dnsPolicy(peer, peer)))
	if said := command(t, pid, dnsArgs(peer)+"resolve api.example.org"); !strings.Contains(said, "not permitted") {
		t.Error(said)
	}
	evs := h.take(c.id, verdict.RuleEgress)
	if !slices.ContainsFunc(evs, func(ev *enforce.Event) bool { return ev.Remote.Port() == 7100 && ev.Decision == verdict.Denied }) {
		t.Errorf("records %s", recordsOf(evs))
	}
}

// otherNet returns a process of a cgroup in another network namespace than pid; 0: none.
func otherNet(t *testing.T, dir string, pid int) int {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	for p := range strings.FieldsSeq(string(procs)) {
		if net, err := os.Readlink("/proc/" + p + "/ns/net"); err == nil && net != own {
			n, _ := strconv.Atoi(p)
			return n
		}
	}
	return 0
}

// A connection that stands goes on when the answer's time is over and the policy changes. A new one is
// refused.
func TestDNSStanding(t *testing.T) {
	h := get(t)
	_, pid, peer := h.onNetwork(t, asUser...)
	h.enact(t, document("names", "enforce", dnsPolicy(peer, peer)))
	said := make(chan string, 1)
	go func() {
		said <- command(t, pid, dnsArgs(peer)+"resolve ttl.example.net; (sleep 8; echo late; sleep 1) | nc "+peer+" 7100; "+dnsArgs(peer)+"dns-cached")
	}()
	time.Sleep(6500 * time.Millisecond) //nolint:forbidigo // until the answer's time is over
	h.enact(t, document("names", "enforce", dnsPolicy(peer, peer))+"---\n"+document("more", "enforce", "  network: {egress: {deny: [{to: [192.0.2.0/24]}]}}\n"))
	if got := <-said; !strings.Contains(got, "connected") || !strings.Contains(got, "late") || !strings.Contains(got, "refused") {
		t.Error(got)
	}
}

// A dead agent is not needed to open or to refuse.
func TestDNSWithoutAgent(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	_, pid, peer := h.onNetwork(t, asUser...)
	h.enact(t, document("names", "enforce", dnsPolicy(peer, peer)))
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	said := command(t, pid, dnsArgs(peer)+"dns-other-name; "+dnsArgs(peer)+"resolve api.example.org")
	k, err := enforce.Open(h.opts)
	if err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
	if strings.Count(said, "refused") != 1 || !strings.Contains(said, "connected") {
		t.Error(said)
	}
}

// Docker's own server: a process of the host answers in the container's network namespace.
func TestDNSLoopback(t *testing.T) {
	h := get(t)
	id, pid, peer := h.onNetwork(t, asUser...)
	c, err := listenIn(pid, "127.0.0.11:53")
	if err != nil {
		t.Fatal(err)
	}
	dnsServe(t, c, netip.MustParseAddr(peer))
	h.enact(t, document("names", "enforce", dnsPolicy("192.0.2.1", "127.0.0.11")))
	over := strings.Replace(dnsArgs(peer), peer+":53", "127.0.0.11:53", 1)
	if said := command(t, pid, over+"resolve api.example.org"); !strings.Contains(said, "connected") {
		t.Error(said)
	}
	h.none(t, id)
}

// listenIn makes a socket in the network namespace of a process, as the engine does.
func listenIn(pid int, addr string) (c net.PacketConn, err error) {
	done := make(chan struct{})
	go func() { // the thread ends with it, since it is locked to the end
		defer close(done)
		runtime.LockOSThread()
		f, openErr := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if openErr != nil {
			err = openErr
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			c, err = net.ListenPacket("udp", addr)
		}
	}()
	<-done
	if c == nil && err == nil {
		err = errors.New("no socket")
	}
	return c, err
}
