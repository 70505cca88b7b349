package kernel

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// Attacks that send do so to ports from 7000 to 7999 of the loopback device of the host's
// network namespace, where it is judged as any other.
const (
	egressPolicy  = "  network: {egress: {deny: [{to: [127.0.0.0/8, '::1'], ports: [7000-7999]}]}}\n"
	ingressPolicy = "  network: {ingress: {deny: [{from: [127.0.0.0/8, '::1'], ports: [7000-7999]}]}}\n"
	allowedPolicy = "  network: {egress: {default: deny, allow: [{to: [127.0.0.0/8, '::1'], ports: [1-6999, 8000-65535]}]}}\n"
)

var (
	hostNet = []string{"--net", "host"}
	rawNet  = []string{"--net", "host", "--uid", "0", "--cap-add", "NET_RAW"}
)

func networkCases() []attackCase {
	var out []attackCase
	add := func(policy string, rule verdict.Rule, flags []string, want map[string]string, names ...string) {
		for _, n := range names {
			out = append(out, attackCase{name: n, rule: rule, policy: policy, flags: flags, want: want})
		}
	}
	sends := []string{
		"net-tcp", "net-tcp6", "net-mapped", "net-any", "net-fastopen", "net-udp", "net-udp6", "net-udp-noconnect", "net-mapped-udp", "net-sendmmsg", "net-uring",
	}
	raw := []string{"net-raw", "net-raw-fragment"}
	add(egressPolicy, verdict.RuleEgress, hostNet, cgroupPrevents, sends...)
	add(egressPolicy, verdict.RuleEgress, rawNet, cgroupPrevents, raw...)
	add(allowedPolicy, verdict.RuleEgress, hostNet, cgroupPrevents, "net-tcp", "net-udp-noconnect", "net-mapped")
	add(ingressPolicy, verdict.RuleIngress, hostNet, cgroupPrevents, sends...)
	add("  network: {egress: {deny: [{to: [metadata], protocol: tcp}]}}\n", verdict.RuleEgress,
		[]string{"--uid", "0", "--cap-add", "NET_ADMIN"}, cgroupPrevents, "net-metadata")
	add("  network: {rawSockets: deny}\n", verdict.RuleRawSockets, rawNet, cgroupPrevents, "net-rawsocket", "net-rawsocket6")
	add("  network: {packetSockets: deny}\n", verdict.RulePacketSockets, rawNet, bySignal(unsupported), "net-packet", "net-packet-old")
	for _, listen := range []string{"  network: {listen: deny}\n", "  network: {listen: {ports: [80, 8000-9000]}}\n"} {
		add(listen, verdict.RuleListen, nil, cgroupPrevents, "net-listen", "net-listen6", "net-listen-udp")
		add(listen, verdict.RuleListen, nil, nil, "net-listen-unbound")
	}
	return out
}

// title tells apart the policies under which an attack is played.
func title(c attackCase) string { return c.name + " " + strings.TrimSpace(c.policy) }

// Enforced, each attack is refused and recorded.
func TestNetworkEnforced(t *testing.T) {
	h := get(t)
	for _, c := range networkCases() {
		t.Run(title(c), func(t *testing.T) { enforced(t, h, c) })
	}
}

// Audited, each passes and is reported.
func TestNetworkAudited(t *testing.T) {
	h := get(t)
	for _, c := range networkCases() {
		t.Run(title(c), func(t *testing.T) { audited(t, h, c) })
	}
}

// Without a rule each passes, and nothing is recorded.
func TestNetworkUnguarded(t *testing.T) {
	h := get(t)
	h.enact(t, document("other", "enforce", "  network: {egress: {deny: [{to: [192.0.2.0/24]}]}}\n"))
	for _, c := range networkCases() {
		t.Run(title(c), func(t *testing.T) {
			r := h.attack(t, c, newID())
			ran(t, r)
			h.none(t, r.id)
		})
	}
}

// What stood before the rule is found by its packets.
func TestNetworkPreexisting(t *testing.T) {
	h := get(t)
	for _, c := range []attackCase{
		{name: "net-preexisting", rule: verdict.RuleEgress, policy: egressPolicy, flags: hostNet},
		{name: "net-preexisting-tcp", rule: verdict.RuleEgress, policy: egressPolicy, flags: hostNet},
		{name: "net-rawsocket-old", rule: verdict.RuleRawSockets, policy: "  network: {rawSockets: deny}\n", flags: rawNet},
	} {
		for mode, want := range map[string]verdict.Decision{"enforce": verdict.Denied, "audit": verdict.WouldDeny, "": ""} {
			t.Run(c.name+" "+mode, func(t *testing.T) {
				id, said := h.stepped(t, c.name, mode, c.policy, c.flags...)
				defer h.remove(t, id)
				if won := strings.Contains(said, "WON"); won != (mode != "enforce") {
					t.Errorf("won %v: %s", won, said)
				}
				if mode == "" {
					return
				}
				evs := h.take(id, c.rule)
				if len(evs) == 0 || evs[0].Decision != want || !strings.HasPrefix(evs[0].Hook, "cgroup_skb_") {
					t.Errorf("records %+v, want %s", evs, want)
				}
			})
		}
	}
}

// Ordinary work under rules that deny all but what it needs causes no record.
func TestNetworkQuiet(t *testing.T) {
	h := get(t)
	for _, c := range []struct {
		name, policy string
		flags        []string
		command      []string
	}{
		{"loopback of its own", "  network: {egress: {default: deny}, ingress: {default: deny}, rawSockets: deny, packetSockets: deny}\n", nil,
			[]string{"/bin/sh", "-c", "(echo hello | nc -l -p 8080 >/dev/null & ); sleep 0.2; echo hi | nc 127.0.0.1 8080; (/bin/attack answer 127.0.0.1:8081 & ); sleep 0.2; /bin/attack ask 127.0.0.1:8081"}},
		{"a port that it may listen on", "  network: {listen: {ports: [8080]}}\n", nil,
			[]string{"/bin/sh", "-c", "(echo hello | nc -l -p 8080 >/dev/null & ); sleep 0.2; echo hi | nc 127.0.0.1 8080"}},
		{"whom it may reach", "  network: {egress: {default: deny, allow: [{to: [127.0.0.1], ports: [8080], protocol: tcp}]}}\n", hostNet,
			[]string{"/bin/attack", "list"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.enact(t, document("quiet", "enforce", c.policy))
			r := h.run(t, append(append([]string{}, asUser...), c.flags...), c.command...)
			ran(t, r)
			h.none(t, r.id)
		})
	}
}

// Answers pass: of servers whose egress is denied, and to a client to which nobody may send.
func TestNetworkAnswers(t *testing.T) {
	h := get(t)
	h.enact(t, document("server", "enforce", "  network: {egress: {default: deny}}\n"))
	server := h.run(t, append(append([]string{"--detach"}, asUser...), hostNet...), "/bin/sh", "-c",
		"/bin/attack answer 127.0.0.1:7542 & echo answer | nc -l -p 7543; sleep 1000")
	ran(t, server)
	defer h.remove(t, server.id)
	if got := ask(t, "tcp", "127.0.0.1:7543"); got != "answer\n" {
		t.Errorf("a server whose egress is denied said %q by TCP", got)
	}
	if got := ask(t, "udp", "127.0.0.1:7542"); got != "question\n" {
		t.Errorf("a server whose egress is denied said %q by UDP", got)
	}

	h.enact(t, document("client", "enforce", "  network: {ingress: {default: deny}}\n"))
	r := h.run(t, append(append([]string{}, asUser...), hostNet...), "/bin/attack", "ask", echo(t, "127.0.0.1"))
	if ran(t, r); !strings.Contains(r.out, "question") {
		t.Errorf("a client that nobody may send to was answered %v", r)
	}
	h.none(t, r.id)
}

// ask returns what a server says to a question, trying until it is there.
func ask(t *testing.T, network, addr string) string {
	t.Helper()
	b := make([]byte, 64)
	for range 100 {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(3 * time.Second))
			_, err = c.Write([]byte("question\n"))
		}
		if err == nil {
			var n int
			if n, err = c.Read(b); err == nil {
				return string(b[:n])
			}
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // a server in a container has no other signal
	}
	t.Errorf("%s %s did not answer", network, addr)
	return ""
}

// linked gives a container's network namespace a device to the host's, which has the address
// .1 of the network, and the container .2.
func linked(t *testing.T, pid int) (host, container string) {
	t.Helper()
	_, err := exec.LookPath("ip")
	testneed.Need(t, "ip", err == nil, "apt-get install iproute2")
	n, dev := rand.IntN(250), fmt.Sprintf("bly%d", pid)
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
	return host, container // the device ends with the namespace
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
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte("question\n"))
		if n, _ := conn.Read(make([]byte, 64)); n > 0 {
			t.Error("a UDP server that may not be reached answered")
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

// echo gives UDP back on an address of the host.
func echo(t *testing.T, host string) string {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := c.ReadFromUDP(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDP(b[:n], from)
		}
	}()
	return c.LocalAddr().String()
}
