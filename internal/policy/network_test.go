package policy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/verdict"
)

func netVerdictOf(t *testing.T, e *Effective, m verdict.Mode, r verdict.Rule, to string, proto uint16) verdict.Verdict {
	t.Helper()
	a := netip.MustParseAddrPort(to)
	v, _, err := e.NetVerdict(m, r, a.Addr(), proto, a.Port())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNetwork(t *testing.T) {
	e := mustSet(t, named("a", "mode: enforce", `network:
    egress:
      default: deny
      allow:
      - {to: [10.0.0.0/8], ports: [443, 8000-8999], protocol: tcp}
      - {ports: [53], protocol: udp}
      - {to: ["2001:db8::/32"]}
      - {protocol: icmp}
      deny: [{to: [10.9.0.0/16, metadata]}]
    ingress: {deny: [{from: [192.0.2.0/24], ports: [22]}]}
    listen: {ports: [8080]}
    rawSockets: deny`)).Floor()
	for _, c := range []struct {
		rule  verdict.Rule
		to    string
		proto uint16
		want  verdict.Verdict
	}{
		{verdict.RuleEgress, "10.1.2.3:443", 6, verdict.Allow},
		{verdict.RuleEgress, "[::ffff:10.1.2.3]:8500", 6, verdict.Allow},
		{verdict.RuleEgress, "10.1.2.3:443", 17, verdict.Deny},
		{verdict.RuleEgress, "10.1.2.3:444", 6, verdict.Deny},
		{verdict.RuleEgress, "10.1.2.3:9000", 6, verdict.Deny},
		{verdict.RuleEgress, "10.9.2.3:443", 6, verdict.Deny},
		{verdict.RuleEgress, "10.9.2.3:0", 1, verdict.Deny},
		{verdict.RuleEgress, "9.9.9.9:53", 17, verdict.Allow},
		{verdict.RuleEgress, "[2620:fe::fe]:53", 17, verdict.Allow},
		{verdict.RuleEgress, "9.9.9.9:53", 6, verdict.Deny},
		{verdict.RuleEgress, "9.9.9.9:0", 1, verdict.Allow},
		{verdict.RuleEgress, "9.9.9.9:0", 47, verdict.Deny},
		{verdict.RuleEgress, "169.254.169.254:53", 17, verdict.Deny},
		{verdict.RuleEgress, "[2001:db8::1]:0", 47, verdict.Allow},
		{verdict.RuleEgress, "[fd00:ec2::254]:80", 6, verdict.Deny},
		{verdict.RuleEgress, "[fd00:c1::a9fe:a9fe]:80", 6, verdict.Deny},
		{verdict.RuleIngress, "192.0.2.9:22", 6, verdict.Deny},
		{verdict.RuleIngress, "192.0.2.9:22", 33, verdict.Deny},
		{verdict.RuleIngress, "192.0.2.9:23", 6, verdict.Allow},
		{verdict.RuleIngress, "192.0.3.9:22", 6, verdict.Allow},
		{verdict.RuleListen, "0.0.0.0:8080", 6, verdict.Allow},
		{verdict.RuleListen, "0.0.0.0:8081", 6, verdict.Deny},
		{verdict.RuleListen, "0.0.0.0:0", 6, verdict.Deny},
	} {
		if got := netVerdictOf(t, e, verdict.ModeEnforce, c.rule, c.to, c.proto); got != c.want {
			t.Errorf("%s %s protocol %d: %v, want %v", c.rule, c.to, c.proto, got, c.want)
		}
		if got := netVerdictOf(t, e, verdict.ModeAudit, c.rule, c.to, c.proto); got != verdict.Allow {
			t.Errorf("%s %s: the audit mode says %v", c.rule, c.to, got)
		}
	}
	if !e.Rules[0][verdict.RuleRawSockets].on() || e.Rules[0][verdict.RulePacketSockets].on() {
		t.Error("rawSockets is on alone")
	}
	if build := mustSet(t, named("a", "mode: enforce", "network: {egress: {default: deny}}")).Effective(Subject{Class: ClassBuild}); build.Rules[0][verdict.RuleEgress].on() || len(build.NetAddrs) > 0 {
		t.Error("a build step is judged by the section")
	}
}

// Policies only tighten, but those that loosen replace what the others say of a direction.
func TestNetworkMerge(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	s := mustSet(t,
		named("a", "mode: enforce", "network: {egress: {deny: [{to: [10.0.0.0/8]}]}}"),
		named("b", "mode: enforce", "network: {egress: {default: deny, allow: [{to: [10.0.0.0/8, 11.0.0.0/8]}]}}"),
		named("c", "mode: audit", "network: {egress: {default: deny}}"),
		named("z", "selector: {imageDigest: '"+digest+"'}", "loosen: true", "mode: enforce", "network: {egress: {default: deny, allow: [{to: [10.1.0.0/16]}]}}"))
	floor, loose := s.Floor(), s.Effective(Subject{Known: true, ImageDigest: digest})
	late := s.Effective(Subject{Known: true, ImageDigest: digest, BoundLate: true})
	for _, c := range []struct {
		e    *Effective
		mode verdict.Mode
		to   string
		want verdict.Verdict
	}{
		{floor, verdict.ModeEnforce, "10.1.0.1:1", verdict.Deny}, {floor, verdict.ModeEnforce, "11.0.0.1:1", verdict.Allow},
		{floor, verdict.ModeEnforce, "12.0.0.1:1", verdict.Deny}, {floor, verdict.ModeAudit, "11.0.0.1:1", verdict.Deny},
		{loose, verdict.ModeEnforce, "10.1.0.1:1", verdict.Allow}, {loose, verdict.ModeEnforce, "11.0.0.1:1", verdict.Deny},
		{loose, verdict.ModeAudit, "10.1.0.1:1", verdict.Allow},
		{late, verdict.ModeEnforce, "10.1.0.1:1", verdict.Deny}, {late, verdict.ModeEnforce, "11.0.0.1:1", verdict.Deny},
	} {
		if got := netVerdictOf(t, c.e, c.mode, verdict.RuleEgress, c.to, 6); got != c.want {
			t.Errorf("%s in %s: %v, want %v", c.to, c.mode, got, c.want)
		}
	}
	if _, pol, _ := floor.NetVerdict(verdict.ModeEnforce, verdict.RuleEgress, netip.MustParseAddr("12.0.0.1"), 6, 1); pol != 1 {
		t.Errorf("credited to %d, want b", pol)
	}
	said := 0
	for _, l := range floor.Explain() {
		if l.Rule == verdict.RuleEgress && l.Policy != "" && strings.Contains(l.Value, "default") && l.Line > 0 {
			said++
		}
	}
	if said != 3 {
		t.Errorf("%d lines explain egress, want 3", said)
	}
}

// The tries must say what the rules mean, whatever they are.
func TestNetworkCompiled(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32", "2001:db8::1", "128.0.0.0/1", "::ffff:10.1.0.0/112"}
	random := func(n int, f func() string) string {
		var out []string
		seen := map[string]bool{}
		for range 1 + r.IntN(n) {
			if s := f(); !seen[s] {
				seen[s], out = true, append(out, `"`+s+`"`)
			}
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	rule := func() string {
		peers := random(2, func() string { return words[r.IntN(len(words))] })
		ports := random(3, func() string {
			lo := 1 + r.IntN(40)
			return fmt.Sprintf("%d-%d", lo, lo+1+r.IntN(9))
		})
		return fmt.Sprintf("{to: %s%s}", peers, []string{"", ", protocol: tcp", ", protocol: icmp", ", ports: " + ports, ", protocol: udp, ports: " + ports}[r.IntN(5)])
	}
	for range 60 {
		var docs []string
		for i := range 1 + r.IntN(3) {
			docs = append(docs, named(fmt.Sprintf("p%d", i), "mode: enforce", fmt.Sprintf("network: {egress: {default: deny, allow: [%s, %s], deny: [%s]}}", rule(), rule(), rule())))
		}
		s := mustSet(t, docs...)
		e := s.Floor()
		for range 200 {
			a := []string{"10.1.2.3", "10.1.9.9", "10.200.0.1", "11.0.0.1", "200.0.0.1", "2001:db8::1", "2001:db8::2", "::1", "fe80::1"}[r.IntN(9)]
			proto, port := []uint16{1, 6, 17, 33, 132, 47}[r.IntN(6)], uint16(r.IntN(60))
			want := netPass
			for i, p := range s.Policies() {
				if !plainly(p.Spec.Network.Egress, netip.MustParseAddr(a), proto, port) {
					want = netVerdict{Verdict: verdict.Deny, Policy: uint16(i)}
					break
				}
			}
			v, pol, err := e.NetVerdict(verdict.ModeEnforce, verdict.RuleEgress, netip.MustParseAddr(a), proto, port)
			if got := (netVerdict{Verdict: v, Policy: pol}); err != nil || got != want {
				t.Fatalf("%s protocol %d port %d: %+v, want %+v, of\n%s", a, proto, port, got, want, strings.Join(docs, "---\n"))
			}
		}
	}
}

// plainly says without any trie whether a side lets pass.
func plainly(s *NetSide, a netip.Addr, proto, port uint16) bool {
	matches := func(r NetRule) bool {
		peer, ranged := len(r.Peers) == 0, len(r.Ports) == 0
		for _, p := range r.Peers {
			peer = peer || netip.MustParsePrefix(p).Contains(a)
		}
		for _, x := range r.Ports {
			ranged = ranged || x.Lo <= port && port <= x.Hi && (proto == 6 || proto == 17 || proto == 33 || proto == 132)
		}
		return peer && ranged && (r.Protocol == "" || protocols[r.Protocol] == proto)
	}
	for _, r := range s.Deny {
		if matches(r) {
			return false
		}
	}
	for _, r := range s.Allow {
		if matches(r) {
			return true
		}
	}
	return s.Default == Allow
}

func TestNetworkErrors(t *testing.T) {
	many := make([]string, 0, MaxNetRules+1)
	for i := range MaxNetRules + 1 {
		many = append(many, fmt.Sprintf("10.0.%d.%d", i/256, i%256))
	}
	over := "{egress: {deny: [{to: [" + strings.Join(many[:600], ",") + "]}, {to: [" + strings.Join(many[600:], ",") + "]}]}}"
	for in, want := range map[string]string{
		"{egress: {allow: [{to: [10.0.0.0/8]}]}}":          "has no effect",
		"{egress: {deny: [{to: [example.com]}]}}":          "never host names",
		"{egress: {deny: [{to: [10.0.0.1/8]}]}}":           "bits set outside",
		"{egress: {deny: [{from: [10.0.0.0/8]}]}}":         `unknown field "from"`,
		"{egress: {deny: [{}]}}":                           "matches everything",
		"{egress: {allow: ['example.com:443']}}":           "write {names: [example.com], ports: [443]} or {to: [10.0.0.0/8], ports: [443]}",
		"{ingress: {deny: ['10.0.0.1']}}":                  "write {from: [10.0.0.0/8], ports: [443]}",
		"{egress: {deny: [{protocol: icmp, ports: [1]}]}}": "icmp has no ports",
		"{egress: {deny: [{ports: [0]}]}}":                 "not a port",
		"{egress: {deny: [{ports: [9-1]}]}}":               "not a port",
		"{egress: {deny: [{protocol: gre}]}}":              "tcp, udp, sctp or icmp",
		"{egress: {default: audit}}":                       "allow or deny",
		"{egress: {default: allow}}":                       "network.egress has no effect",
		"{ingress: {}, listen: deny}":                      "network.ingress has no effect",
		"{listen: {ports: []}}":                            "empty list",
		"{listen: [80]}":                                   "allow or deny",
		"{rawSockets: own}":                                "allow or deny",
		"{}":                                               "no rule",
		over:                                               "p.yaml:",
		"{egress: {default: deny, allow: [{to: [10.0.0.0/8]}, {to: [rfc]}]}}": "not an address",
	} {
		_, err := Parse("p.yaml", []byte(named("p", "mode: audit", "network: "+in)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", in, err, want)
		}
	}
}

// A rule that is wrong is not also said to match everything: nothing of it was taken.
func TestNetworkErrorsOfOneRule(t *testing.T) {
	_, err := Parse("p.yaml", []byte(named("p", "mode: audit", "network: {egress: {default: deny, allow: [{to: [example.com], ports: [http], protocol: gre}]}}")))
	if errs, ok := errors.AsType[Errors](err); !ok || len(errs) != 3 {
		t.Errorf("got %v, want three errors", err)
	}
}

// The largest policies that are accepted compile in no time to speak of.
func TestNetworkLimits(t *testing.T) {
	var peers, rules []string
	for i := range 500 {
		peers = append(peers, fmt.Sprintf("10.%d.%d.0/24", i/250, i%250))
	}
	for i := range 8 {
		var ports []string
		for j := range maxPortRanges {
			ports = append(ports, fmt.Sprint(1+2*(i*maxPortRanges+j)))
		}
		rules = append(rules, "{ports: ["+strings.Join(ports, ",")+"]}")
	}
	start := time.Now()
	e := mustSet(t, named("p", "mode: enforce", "network: {egress: {default: deny, allow: ["+strings.Join(rules, ",")+"], deny: [{to: ["+strings.Join(peers, ",")+"]}]}}")).Floor()
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
	if len(e.NetAddrs) != 501 || len(e.NetPorts) > maxNetPortItems {
		t.Errorf("%d entries of addresses and %d of ports", len(e.NetAddrs), len(e.NetPorts))
	}
}

// Two spellings of one policy have one revision, and the normal form parses.
func TestNetworkCanonical(t *testing.T) {
	a := mustSet(t, named("p", "mode: audit", "network: {egress: {deny: [{to: [metadata, '::ffff:10.0.0.0/104'], ports: [81, 80]}]}, listen: {ports: [1-3, 4]}, packetSockets: deny}"))
	b := mustSet(t, string(a.Canonical()))
	if a.Revision() != b.Revision() || !strings.Contains(string(a.Canonical()), "- 10.0.0.0/8") || !strings.Contains(string(a.Canonical()), "80-81") {
		t.Errorf("normal form:\n%s", a.Canonical())
	}
}
