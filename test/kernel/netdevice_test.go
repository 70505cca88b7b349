package kernel

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// linked gives a container's network namespace a device to the host's, which has the address
// .1 of the network, and the container .2.
func linked(t *testing.T, pid int) (host, container string) {
	t.Helper()
	_, err := exec.LookPath("ip")
	testneed.Need(t, "ip", err == nil, "apt-get install iproute2")
	n, dev := pid%250, fmt.Sprintf("bly%d", pid)                                   // of those made one after the other no two have a number in common
	host, container = fmt.Sprintf("198.18.%d.1", n), fmt.Sprintf("198.18.%d.2", n) // of RFC 2544, for tests
	inside := []string{"nsenter", "-n", "-t", fmt.Sprint(pid), "ip"}
	for i, args := range [][]string{
		{"ip", "link", "add", dev, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(pid)},
		{"ip", "addr", "add", host + "/30", "dev", dev},
		{"ip", "link", "set", dev, "up"},
		slices.Concat(inside, []string{"addr", "add", container + "/30", "dev", "eth0"}),
		slices.Concat(inside, []string{"link", "set", "eth0", "up"}),
	} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		testneed.Need(t, "veth", i > 0 || err == nil, "a kernel with veth: "+string(out))
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	for range 200 { // until then the kernel drops what is sent
		if b, err := os.ReadFile("/sys/class/net/" + dev + "/operstate"); err == nil && strings.TrimSpace(string(b)) == "up" {
			return host, container // the device ends with the namespace
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // sysfs has no other signal
	}
	t.Fatalf("%s did not come up", dev)
	return "", ""
}

// linked6 adds addresses of IPv6 to such a device: two of the host's and one of the container's.
func linked6(t *testing.T, pid int) (host, other, container string) {
	t.Helper()
	net6, dev := fmt.Sprintf("fd5e:%x:%x::", rand.IntN(1<<16), rand.IntN(1<<16)), fmt.Sprintf("bly%d", pid)
	host, other, container = net6+"1", net6+"3", net6+"2"
	for _, args := range [][]string{
		{"ip", "addr", "add", host + "/64", "dev", dev, "nodad"},
		{"ip", "addr", "add", other + "/64", "dev", dev, "nodad"},
		{"nsenter", "-n", "-t", strconv.Itoa(pid), "ip", "addr", "add", container + "/64", "dev", "eth0", "nodad"},
	} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		testneed.Need(t, "ipv6", err == nil, "a kernel with IPv6: "+string(out))
	}
	return host, other, container
}

// sniff counts the frames that come from a container's device and that are wanted.
func sniff(t *testing.T, pid int, want func(frame []byte) bool) *atomic.Int64 {
	t.Helper()
	dev, err := net.InterfaceByName(fmt.Sprintf("bly%d", pid))
	if err != nil {
		t.Fatal(err)
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}); err != nil {
		t.Fatal(err)
	}
	n, stop, done := &atomic.Int64{}, make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			select {
			case <-stop:
				return
			default:
			}
			got, from, err := unix.Recvfrom(fd, b, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_OUTGOING && want(b[:got]) {
				n.Add(1)
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		unix.Close(fd)
	})
	return n
}

// onDevice starts a container with a device, whose main process waits for a command.
func (h *host) onDevice(t *testing.T, flags ...string) (id string, pid int, host, own string) {
	t.Helper()
	h.enact(t, document("none", "audit", nothing))
	c := h.run(t, slices.Concat([]string{"--detach"}, flags), "/bin/sh", "-c",
		"while [ ! -e /tmp/cmd ]; do sleep 0.05; done; sh /tmp/cmd >/tmp/said 2>&1; echo code $? >>/tmp/said; mv /tmp/said /tmp/out; sleep 1000")
	ran(t, c)
	t.Cleanup(func() {
		if !h.gone(c.id) {
			h.remove(t, c.id)
		}
	})
	pid = firstPID(t, filepath.Join(cgroupMount(t), h.scope, c.id))
	host, own = linked(t, pid)
	return c.id, pid, host, own
}

// command has it do what it waits for, and returns what it printed.
func command(t *testing.T, pid int, line string) string {
	t.Helper()
	tmp := fmt.Sprintf("/proc/%d/root/tmp/", pid)
	if err := os.WriteFile(tmp+"new", []byte(line+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp+"new", tmp+"cmd"); err != nil {
		t.Fatal(err)
	}
	return waitFile(t, tmp+"out")
}

var rawUser = []string{"--uid", "0", "--cap-add", "NET_RAW"}

// forged is a way to send to whom one must not by having the kernel believe that this is another
// exchange, or another address.
type forged struct {
	name, hook string
	flags      []string
	// play gets it ready: the address that is to be denied, what the attack is told, and how many
	// forbidden frames have come out of the device (nil: the attack knows).
	play func(t *testing.T, pid int, host string) (denied, args string, arrived *atomic.Int64)
}

func forgedCases() []forged {
	ether := func(proto uint16, at int, to netip.Addr, next byte, nextAt int) func([]byte) bool {
		return func(f []byte) bool {
			a := to.AsSlice()
			return len(f) > at+len(a) && binary.BigEndian.Uint16(f[12:]) == proto && slices.Equal(f[at:at+len(a)], a) && f[nextAt] == next
		}
	}
	toIP4 := func(host string) func([]byte) bool { // TCP
		return ether(unix.ETH_P_IP, 14+16, netip.MustParseAddr(host), unix.IPPROTO_TCP, 14+9)
	}
	toIP6 := func(host string, next byte) func([]byte) bool {
		return ether(unix.ETH_P_IPV6, 14+24, netip.MustParseAddr(host), next, 14+6)
	}
	return []forged{
		{"net-source-route", "cgroup_skb_egress", asUser, func(t *testing.T, pid int, _ string) (string, string, *atomic.Int64) {
			host6, other6, _ := linked6(t, pid)
			l, err := net.Listen("tcp", net.JoinHostPort(host6, "0"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return other6, "--peer " + l.Addr().String() + " --over " + other6, sniff(t, pid, toIP6(other6, unix.IPPROTO_ROUTING))
		}},
		{"net-source-route-answer", "cgroup_skb_egress", asUser, func(t *testing.T, pid int, _ string) (string, string, *atomic.Int64) {
			_, other6, _ := linked6(t, pid)
			return other6, "--over " + other6, sniff(t, pid, toIP6(other6, unix.IPPROTO_ROUTING))
		}},
		{"net-forged-syn", "cgroup_skb_ingress", rawUser, func(t *testing.T, pid int, host string) (string, string, *atomic.Int64) {
			return host, "--peer " + host + ":4242", sniff(t, pid, toIP4(host))
		}},
		{"net-freebind", "cgroup_skb_ingress", asUser, func(t *testing.T, pid int, _ string) (string, string, *atomic.Int64) {
			host6, _, _ := linked6(t, pid)
			return host6, "--peer [" + host6 + "]:4242", sniff(t, pid, toIP6(host6, unix.IPPROTO_TCP))
		}},
		{"net-forged-multicast", "cgroup_sendmsg", rawUser, func(t *testing.T, _ int, host string) (string, string, *atomic.Int64) {
			return host, "--peer " + echo(t, host), nil
		}},
	}
}

// playForged has a container do it, under a policy of that mode (empty: none), and says whether it won.
func (h *host) playForged(t *testing.T, c forged, mode string) (won bool, id, denied, said string) {
	t.Helper()
	id, pid, host, _ := h.onDevice(t, c.flags...)
	denied, args, arrived := c.play(t, pid, host)
	if mode != "" {
		h.enact(t, document("forged", mode, forgedPolicy(denied)))
	}
	said = command(t, pid, "/bin/attack "+args+" "+c.name)
	if strings.Contains(said, "cannot try") {
		t.Fatal(said)
	}
	won = strings.Contains(said, "WON")
	if arrived != nil {
		won = arrived.Load() > 0
	}
	return won, id, denied, said
}

func forgedPolicy(denied string) string {
	return "  network: {egress: {deny: [{to: ['" + denied + "']}]}}\n"
}

// Each arrives without a rule and when it is audited, and not when it is enforced. Whether something
// arrives says the other end of the container's device.
func TestNetworkForged(t *testing.T) {
	h := get(t)
	for _, c := range forgedCases() {
		for mode, want := range map[string]verdict.Decision{"enforce": verdict.Denied, "audit": verdict.WouldDeny, "": ""} {
			t.Run(c.name+" "+mode, func(t *testing.T) {
				won, id, denied, said := h.playForged(t, c, mode)
				var evs []*enforce.Event
				if mode != "" {
					evs = h.take(id, verdict.RuleEgress)
					testneed.Need(t, "synack-ipv6", c.name != "net-source-route-answer" || !won || len(evs) > 0,
						"a kernel that runs cgroup programs on what a listener answers by IPv6, which 6.1 does not")
				}
				if won != (mode != "enforce") {
					t.Errorf("won %v: %s", won, said)
				}
				if mode == "" {
					return
				}
				if len(evs) == 0 || evs[0].Decision != want || evs[0].Remote.Addr().String() != denied || mode == "enforce" && evs[0].Hook != c.hook {
					t.Errorf("records %s, want %s of %s at %s", recordsOf(evs), want, denied, c.hook)
				}
			})
		}
	}
}

// recordsOf is what a test prints of them.
func recordsOf(evs []*enforce.Event) string {
	var out []string
	for _, ev := range evs {
		out = append(out, fmt.Sprintf("%s of %s at %s", ev.Decision, ev.Remote, ev.Hook))
	}
	return strings.Join(out, ", ")
}

// A packet whose header says another version than the kernel sends cannot be judged, and does not
// pass.
func TestNetworkVersion(t *testing.T) {
	h := get(t)
	c := attackCase{name: "net-raw-version", flags: rawNet}
	h.enact(t, document("none", "audit", nothing))
	ran(t, h.attack(t, c, newID()))
	h.enact(t, document("version", "enforce", egressPolicy))
	if r := h.attack(t, c, newID()); r.code != 1 {
		t.Errorf("it was sent: %v", r)
	}
}

// I2: a socket that was made in a cgroup below the container's, which is gone, is the container's.
func TestNetworkRemovedCgroup(t *testing.T) {
	h := get(t)
	h.enact(t, document("none", "audit", nothing))
	c := h.run(t, slices.Concat([]string{"--detach"}, rawNet), "/bin/sh", "-c",
		"while [ ! -e /tmp/cmd ]; do sleep 0.05; done; /bin/attack --wait /tmp/go net-rawsocket-old >/tmp/said 2>&1; mv /tmp/said /tmp/out; sleep 1000")
	ran(t, c)
	defer h.remove(t, c.id)
	dir := filepath.Join(cgroupMount(t), h.scope, c.id)
	pid, below := firstPID(t, dir), filepath.Join(dir, "below")
	root := fmt.Sprintf("/proc/%d/root/tmp/", pid)
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	move := func(pid, to string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	move(strconv.Itoa(pid), below)
	if err := os.WriteFile(root+"cmd", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	waitExists(t, root+"go.ready")
	b, err := os.ReadFile(filepath.Join(below, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(b)) {
		move(p, dir)
	}
	if err := os.Remove(below); err != nil {
		t.Fatal(err)
	}
	h.enact(t, document("late", "enforce", egressPolicy))
	if err := os.WriteFile(root+"go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if said := waitFile(t, root+"out"); !strings.Contains(said, "refused") {
		t.Errorf("it said %s", said)
	}
	if evs := h.take(c.id, verdict.RuleEgress); len(evs) == 0 || evs[0].Hook != "cgroup_skb_egress" {
		t.Errorf("records %+v", evs)
	}
}

// Who sends from outside much that is denied neither floods the ring nor makes the kernel forget
// who may talk.
func TestNetworkFlood(t *testing.T) {
	h := get(t)
	id, pid, host, own := h.onDevice(t, asUser...)
	asked := echo(t, host)
	_, port, _ := net.SplitHostPort(asked)
	h.enact(t, document("flood", "enforce", fmt.Sprintf("  network: {egress: {default: deny, allow: [{to: [%s], ports: [%s]}]}, ingress: {default: deny}}\n", host, port)))
	start := time.Now()
	before, err := h.kernel.Failures()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			for range 500 {
				if c, err := net.Dial("udp", own+":7103"); err == nil {
					_, _ = c.Write([]byte("x"))
					c.Close()
				}
			}
			time.Sleep(50 * time.Millisecond) //nolint:forbidigo // the flood goes on until the answer is there
		}
	}()
	said := command(t, pid, "(/bin/attack answer "+own+":7103 >/dev/null 2>&1 &); sleep 1; /bin/attack ask "+asked)
	if !strings.Contains(said, "question") {
		t.Errorf("a client was not answered: %s", said)
	}
	evs := h.take(id, verdict.RuleIngress)
	after, err := h.kernel.Failures()
	if err != nil {
		t.Fatal(err)
	}
	if len(evs) == 0 || len(evs) > 64*int(time.Since(start)/time.Second+2) || after["net_muted"] == before["net_muted"] {
		t.Errorf("%d records, and failures %v", len(evs), after)
	}
}

// On a device of its own: what is allowed passes and is answered, both ways, and the rest is not.
func TestNetworkDevice(t *testing.T) {
	h := get(t)
	h.enact(t, document("none", "audit", nothing))
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sh", "-c", "sleep 1000")
	ran(t, c)
	defer h.remove(t, c.id)
	host, own := linked(t, firstPID(t, filepath.Join(cgroupMount(t), h.scope, c.id)))
	allowed, denied := echo(t, host), echo(t, host)
	_, port, _ := net.SplitHostPort(allowed)
	h.enact(t, document("device", "enforce", fmt.Sprintf("  network: {egress: {default: deny, allow: [{to: [%s], ports: [%s], protocol: udp}]}, "+
		"ingress: {default: deny, allow: [{from: [%s], ports: [7101, 7102]}]}}\n", host, port, host)))
	ask1 := func(what string, want int, addr string) {
		t.Helper()
		if r := h.exec(t, c.id, asUser, "/bin/attack", "ask", addr); r.code != want {
			t.Errorf("%s: %v, want exit %d", what, r, want)
		}
	}
	ask1("whom it may ask", 0, allowed)
	ask1("another port", 1, denied)
	ask1("another address", 1, "198.18.254.1:"+port)
	serve := h.exec(t, c.id, asUser, "/bin/sh", "-c", fmt.Sprintf("(/bin/attack answer %s:7101 & /bin/attack answer %s:7103 & echo answer | nc -l -p 7102 &) >/dev/null 2>&1", own, own))
	ran(t, serve)
	if got := ask(t, "udp", own+":7101"); got != "question\n" {
		t.Errorf("a UDP server that may be reached said %q", got)
	}
	if got := ask(t, "tcp", own+":7102"); got != "answer\n" {
		t.Errorf("a TCP server that may be reached said %q", got)
	}
	if conn, err := net.Dial("udp", own+":7103"); err == nil {
		for range 20 { // the server may not be there yet
			_ = conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = conn.Write([]byte("question\n"))
			if n, _ := conn.Read(make([]byte, 64)); n > 0 {
				t.Error("a UDP server that may not be reached answered")
			}
		}
		conn.Close()
	}
	if evs := h.take(c.id, verdict.RuleIngress); len(evs) == 0 || evs[0].Local.Port() != 7103 || evs[0].Hook != "cgroup_skb_ingress" {
		t.Errorf("records of ingress %+v", evs)
	}
	for _, ev := range h.take(c.id, verdict.RuleEgress) {
		if ev.Remote.String() == allowed || ev.Local.Port() == 7101 || ev.Local.Port() == 7102 {
			t.Errorf("a record of what may pass: %+v", ev)
		}
	}
}
