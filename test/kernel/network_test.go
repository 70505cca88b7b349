package kernel

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

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
	raw := []string{"net-raw", "net-raw-fragment", "net-raw-null"}
	add(egressPolicy, verdict.RuleEgress, hostNet, cgroupPrevents, sends...)
	add(egressPolicy, verdict.RuleEgress, rawNet, cgroupPrevents, raw...)
	add(allowedPolicy, verdict.RuleEgress, hostNet, cgroupPrevents, "net-tcp", "net-udp-noconnect", "net-mapped")
	add(ingressPolicy, verdict.RuleIngress, hostNet, cgroupPrevents, sends...)
	add("  network: {egress: {deny: [{to: [metadata], protocol: tcp}]}}\n", verdict.RuleEgress,
		[]string{"--uid", "0", "--cap-add", "NET_ADMIN"}, cgroupPrevents, "net-metadata")
	add("  network: {rawSockets: deny}\n", verdict.RuleRawSockets, rawNet, cgroupPrevents, "net-rawsocket", "net-rawsocket6")
	add("  network: {packetSockets: deny}\n", verdict.RulePacketSockets, rawNet, bySignal(unsupported), "net-packet", "net-packet-old")
	add("  network: {packetSockets: deny}\n", verdict.RulePacketSockets, nil, bySignal(unsupported), "net-pppox", "net-rds")
	for _, listen := range []string{"  network: {listen: deny}\n", "  network: {listen: {ports: [80, 8000-9000]}}\n"} {
		add(listen, verdict.RuleListen, nil, cgroupPrevents, "net-listen", "net-listen6", "net-listen-udp")
		add(listen, verdict.RuleListen, hostNet, cgroupPrevents, "net-listen-udp-auto")
		add(listen, verdict.RuleListen, nil, nil, "net-listen-unbound", "net-listen-sctp")
	}
	return out
}

// preexistingCases are sockets that stood before the rule.
func preexistingCases() []attackCase {
	return []attackCase{
		{name: "net-preexisting", rule: verdict.RuleEgress, policy: egressPolicy, scene: sceneStepped, flags: hostNet},
		{name: "net-preexisting-tcp", rule: verdict.RuleEgress, policy: egressPolicy, scene: sceneStepped, flags: hostNet},
		{name: "net-preexisting-answered", rule: verdict.RuleEgress, policy: egressPolicy, scene: sceneStepped, flags: hostNet},
		{name: "net-rawsocket-old", rule: verdict.RuleRawSockets, policy: "  network: {rawSockets: deny}\n", scene: sceneStepped, flags: rawNet},
	}
}

// networkMatrix are the network's attacks once each: a rule that is written in two ways is one row.
func networkMatrix() []attackCase {
	out := preexistingCases()
	for _, c := range forgedCases() {
		out = append(out, attackCase{name: c.name, rule: verdict.RuleEgress, scene: sceneForged})
	}
	for _, c := range dnsCases() {
		out = append(out, attackCase{name: c.name, rule: verdict.RuleEgress, scene: sceneDNS})
	}
	out = append(out, attackCase{name: "net-raw-version", rule: verdict.RuleEgress, policy: egressPolicy, flags: rawNet, scene: sceneVersion})
	for _, c := range networkCases() {
		if !slices.ContainsFunc(out, func(have attackCase) bool { return have.name == c.name && have.rule == c.rule }) {
			out = append(out, c)
		}
	}
	return out
}

// sceneForged: the container has a device to a host that listens to what comes.
func sceneForged(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	mode := ""
	if guarded {
		mode = "enforce"
	}
	for _, f := range forgedCases() {
		if f.name == c.name {
			won, id, _, said := h.playForged(t, f, mode)
			tr := h.seen(result{code: 1, out: said, id: id}, c.rule)
			tr.won = won
			return tr
		}
	}
	t.Fatalf("no such attack: %s", c.name)
	return trial{}
}

// sceneVersion: what cannot be judged does not pass, and is a failure that is counted, no record.
func sceneVersion(t *testing.T, h *host, c attackCase, guarded bool) trial {
	t.Helper()
	const failure = "skb_parse"
	h.enact(t, c.document(guarded))
	before, err := h.kernel.Failures()
	if err != nil {
		t.Fatal(err)
	}
	r := h.attack(t, c, newID())
	tr := trial{won: r.code == 0, untried: r.code != 0 && r.code != 1, said: r.out}
	after, err := h.kernel.Failures()
	if err != nil {
		t.Fatal(err)
	}
	if after[failure] > before[failure] {
		tr.decision, tr.hook = verdict.Denied, "cgroup_skb_egress"
	}
	return tr
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
	inFullGuests(t)
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
	for _, c := range preexistingCases() {
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
