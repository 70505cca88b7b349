package policy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/verdict"
)

// NetAddr is what the network rules of one mode and direction say of the addresses of one
// prefix that have no longer one: an entry of a longest-prefix-match trie.
type NetAddr struct {
	Kind    uint8        // direction << 1 | mode
	Prefix  netip.Prefix // of 128 bits: IPv4 is ::ffff:a.b.c.d
	List    uint32       // of NetPorts; 0: the verdict is that of every port
	Verdict verdict.Verdict
	Policy  uint16 // who is credited with a denial
	Cond    uint32 // of a denial: the NetNameRules that lift it; 0: none
}

// NetPort is what one list says of a protocol and ports: an entry of such a trie over the
// protocol's 16 bits and the port's. What no entry of a list has, the NetAddr says.
type NetPort struct {
	List     uint32
	Protocol uint16
	Port     uint16
	Bits     int // of Port that count
	Verdict  verdict.Verdict
	Policy   uint16
	Cond     uint32
}

// netVerdict is the answer for one packet.
type netVerdict struct {
	Verdict verdict.Verdict
	Policy  uint16
	Cond    uint32
}

var netPass = netVerdict{Verdict: verdict.Allow}

// netPolicy is one policy's side, by prefix.
type netPolicy struct {
	index       uint16
	def         Value
	allow, deny map[netip.Prefix][]*NetRule
	named       []*NetRule // what it allows by name
}

// netMerger puts the network sections of the policies of one container together.
type netMerger struct {
	e      *Effective
	owners [slots][3][]selected
	lists  map[string]uint32
	conds  map[string]uint32
	needs  [][][]*NetRule // by cond - 1: of each policy that denies, the rules one of which must match
}

var anyAddr = netip.MustParsePrefix("::/0")

// mergeNetwork compiles them into e. What any policy denies is denied. A loosening policy that
// says something of a direction replaces what the others say of it: in its own mode, and if it
// enforces also in audit.
func mergeNetwork(e *Effective, sel []selected) *netMerger {
	m := &netMerger{e: e, lists: map[string]uint32{}, conds: map[string]uint32{}}
	for mode := range slots {
		for dir := range netDir(3) {
			m.owners[mode][dir] = netOwners(sel, verdict.Mode(mode), dir)
			m.compile(verdict.Mode(mode), dir)
		}
	}
	return m
}

func netOwners(sel []selected, mode verdict.Mode, dir netDir) []selected {
	var out []selected
	for _, p := range sel {
		s := p.Spec.Network
		if s == nil || s.side(dir) == nil {
			continue
		}
		switch {
		case p.loosen && s.Mode == mode: // the first in total order has the last word
			return []selected{p}
		case p.loosen && s.Mode == verdict.ModeEnforce:
			return nil
		}
	}
	for _, p := range sel {
		if s := p.Spec.Network; s != nil && s.Mode == mode && s.side(dir).denies() {
			out = append(out, p)
		}
	}
	return out
}

func (m *netMerger) compile(mode verdict.Mode, dir netDir) {
	var policies []*netPolicy
	prefixes := map[netip.Prefix]bool{}
	for _, p := range m.owners[mode][dir] {
		s := p.Spec.Network.side(dir)
		if !s.denies() {
			continue
		}
		np := &netPolicy{index: p.index, def: s.Default, allow: map[netip.Prefix][]*NetRule{}, deny: map[netip.Prefix][]*NetRule{}}
		for i := range s.Allow {
			if r := &s.Allow[i]; len(r.Names) > 0 {
				np.named = append(np.named, r)
			} else {
				np.add(np.allow, r, prefixes)
			}
		}
		for i := range s.Deny {
			np.add(np.deny, &s.Deny[i], prefixes)
		}
		policies = append(policies, np)
	}
	if len(policies) == 0 {
		return
	}
	prefixes[anyAddr] = true
	order := make([]netip.Prefix, 0, len(prefixes))
	for p := range prefixes {
		order = append(order, p)
	}
	slices.SortFunc(order, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	done := map[netip.Prefix]NetAddr{}
	for _, p := range order { // the wide before the narrow
		a := m.addr(policies, p)
		a.Kind = uint8(dir)<<1 | uint8(mode)
		if wide, ok := nearest(done, p); ok && wide.List == a.List && wide.Verdict == a.Verdict && wide.Policy == a.Policy && wide.Cond == a.Cond {
			continue
		}
		done[p] = a
		m.e.NetAddrs = append(m.e.NetAddrs, a)
	}
	m.names(mode, policies)
}

// add enters a rule by its prefixes.
func (p *netPolicy) add(to map[netip.Prefix][]*NetRule, r *NetRule, all map[netip.Prefix]bool) {
	for _, x := range r.prefixes() {
		to[x] = append(to[x], r)
		all[x] = true
	}
}

// prefixes returns the addresses that a rule matches as prefixes of 128 bits.
func (r *NetRule) prefixes() []netip.Prefix {
	if len(r.Peers) == 0 {
		return []netip.Prefix{anyAddr}
	}
	var words []string
	for _, w := range r.Peers {
		if w == Metadata {
			words = append(words, metadataAddrs...)
		} else {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	var out []netip.Prefix
	for _, w := range slices.Compact(words) {
		for _, p := range splitMapped(netip.MustParsePrefix(w)) {
			out = append(out, wide(p))
		}
	}
	return out
}

// wide returns a prefix of IPv4 as one of 128 bits.
func wide(p netip.Prefix) netip.Prefix {
	if !p.Addr().Is4() {
		return p
	}
	return netip.PrefixFrom(netip.AddrFrom16(p.Addr().As16()), p.Bits()+96)
}

// nearest returns what the longest prefix of done that holds p says.
func nearest(done map[netip.Prefix]NetAddr, p netip.Prefix) (a NetAddr, ok bool) {
	for n := p.Bits() - 1; n >= 0; n-- {
		if a, ok = done[netip.PrefixFrom(p.Addr(), n).Masked()]; ok {
			return a, true
		}
	}
	return a, false
}

// covering returns the rules whose addresses include all of p.
func covering(rules map[netip.Prefix][]*NetRule, p netip.Prefix) []*NetRule {
	if len(rules) == 0 {
		return nil
	}
	var out []*NetRule
	for n := p.Bits(); n >= 0; n-- {
		out = append(out, rules[netip.PrefixFrom(p.Addr(), n).Masked()]...)
	}
	return out
}

// netCase is a policy with those of its rules that are about one prefix.
type netCase struct {
	*netPolicy
	allows, denies []*NetRule
}

// addr compiles what the policies say of the addresses of one prefix.
func (m *netMerger) addr(policies []*netPolicy, p netip.Prefix) NetAddr {
	cases := make([]netCase, len(policies))
	for i, np := range policies {
		cases[i] = netCase{np, covering(np.allow, p), covering(np.deny, p)}
	}
	other := m.decide(cases, 0, 0)
	a := NetAddr{Prefix: p, Verdict: other.Verdict, Policy: other.Policy, Cond: other.Cond}
	var items []NetPort
	for _, proto := range netProtocols {
		cuts := portCuts(cases, proto)
		segs := make([]netVerdict, len(cuts))
		plain := true
		for i, lo := range cuts {
			segs[i] = m.decide(cases, proto, lo)
			plain = plain && segs[i] == other
		}
		if plain {
			continue
		}
		for i, lo := range cuts {
			hi := uint16(65535)
			if i+1 < len(cuts) {
				hi = cuts[i+1] - 1
			}
			if segs[i] != other {
				items = append(items, portItems(proto, PortRange{lo, hi}, segs[i])...)
			}
		}
	}
	a.List = m.list(items)
	return a
}

// portCuts returns the ports at which the answer can change, from 0 on.
func portCuts(cases []netCase, proto uint16) []uint16 {
	cuts := []uint16{0}
	for _, c := range cases {
		for _, r := range slices.Concat(c.allows, c.denies, c.named) {
			if r.Protocol != "" && protocols[r.Protocol] != proto || proto == protocols["icmp"] {
				continue
			}
			for _, x := range r.Ports {
				cuts = append(cuts, x.Lo)
				if x.Hi < 65535 {
					cuts = append(cuts, x.Hi+1)
				}
			}
		}
	}
	slices.Sort(cuts)
	return slices.Compact(cuts)
}

// decide is the meaning of the rules, of which the tries are the compiled form. proto 0 is
// one that no rule can name and that has no ports.
func (m *netMerger) decide(cases []netCase, proto, port uint16) netVerdict {
	matches := func(r *NetRule) bool {
		if r.Protocol != "" && protocols[r.Protocol] != proto {
			return false
		}
		return len(r.Ports) == 0 || proto > 1 && inRanges(r.Ports, port)
	}
	v := netPass
	var needs [][]*NetRule
	for _, c := range cases {
		denied := slices.ContainsFunc(c.denies, matches)
		if !denied && (c.def == Allow || slices.ContainsFunc(c.allows, matches)) {
			continue
		}
		var named []*NetRule
		for _, r := range c.named {
			if matches(r) {
				named = append(named, r)
			}
		}
		if denied || len(named) == 0 {
			return netVerdict{Verdict: verdict.Deny, Policy: c.index}
		}
		if len(needs) == 0 {
			v = netVerdict{Verdict: verdict.Deny, Policy: c.index}
		}
		needs = append(needs, named)
	}
	v.Cond = m.cond(needs)
	return v
}

// inRanges reports whether sorted ranges hold a port.
func inRanges(rs []PortRange, port uint16) bool {
	_, ok := slices.BinarySearchFunc(rs, port, func(x PortRange, port uint16) int {
		switch {
		case x.Hi < port:
			return -1
		case x.Lo > port:
			return 1
		}
		return 0
	})
	return ok
}

// portItems cuts a range into prefixes.
func portItems(proto uint16, r PortRange, v netVerdict) []NetPort {
	var out []NetPort
	for lo, hi := uint32(r.Lo), uint32(r.Hi); lo <= hi; {
		size := uint32(1) << 16
		if lo != 0 {
			size = 1 << bits.TrailingZeros32(lo)
		}
		for size > hi-lo+1 {
			size >>= 1
		}
		out = append(out, NetPort{
			Protocol: proto, Port: uint16(lo), Bits: 16 - bits.TrailingZeros32(size), Verdict: v.Verdict, Policy: v.Policy, Cond: v.Cond,
		})
		lo += size
	}
	return out
}

// list returns the number of a list with these items; equal lists have one number.
func (m *netMerger) list(items []NetPort) uint32 {
	if len(items) == 0 {
		return 0
	}
	var key []byte
	for _, it := range items {
		key = binary.BigEndian.AppendUint16(key, it.Protocol)
		key = binary.BigEndian.AppendUint16(key, it.Port)
		key = append(key, byte(it.Bits), byte(it.Verdict))
		key = binary.BigEndian.AppendUint16(key, it.Policy)
		key = binary.BigEndian.AppendUint32(key, it.Cond)
	}
	if id, ok := m.lists[string(key)]; ok {
		return id
	}
	id := uint32(len(m.lists) + 1)
	m.lists[string(key)] = id
	for _, it := range items {
		it.List = id
		m.e.NetPorts = append(m.e.NetPorts, it)
	}
	return id
}

// rule compiles the rule of one mode.
func (m *netMerger) rule(mode verdict.Mode, r verdict.Rule) Rule {
	if m != nil {
		for _, p := range m.owners[mode][r-verdict.RuleEgress] {
			if p.Spec.Network.side(netDir(r - verdict.RuleEgress)).denies() {
				return Rule{Verdict: verdict.Deny, Policy: p.index}
			}
		}
	}
	return Rule{Verdict: verdict.Allow}
}

func (e *Effective) explainNetwork(mode verdict.Mode, r verdict.Rule, m *netMerger) {
	dir := netDir(r - verdict.RuleEgress)
	if m == nil || len(m.owners[mode][dir]) == 0 {
		e.lines = append(e.lines, Line{Rule: r, Mode: mode, Value: string(Allow), Why: "no policy sets it"})
		return
	}
	for _, p := range m.owners[mode][dir] {
		why := "what any policy denies is denied"
		if p.loosen {
			why = "loosens what other policies say"
		}
		field := []string{"network.egress", "network.ingress", "network.listen"}[dir]
		e.lines = append(e.lines, Line{
			Rule: r, Mode: mode, Value: p.Spec.Network.text(dir), Policy: p.Name, File: p.File, Line: p.lines[field], Why: why,
		})
	}
}

// text writes a side, and whose answers count for its names.
func (s *Network) text(dir netDir) string {
	t := s.side(dir).text()
	if dir != netEgress || !s.hasNames() {
		return t
	}
	servers := []string{"the host's and Docker's"}
	if len(s.DNS.Servers) > 0 {
		servers = nil
		for _, a := range s.DNS.Servers {
			servers = append(servers, a.String())
		}
	}
	return t + "; names by the servers " + someOf(servers)
}

// text writes a side for one line of a terminal.
func (s *NetSide) text() string {
	parts := []string{"default " + string(s.Default)}
	add := func(word string, rs []NetRule) {
		var out []string
		for _, r := range rs {
			out = append(out, r.text())
		}
		if len(out) > 0 {
			parts = append(parts, word+" "+someOf(out))
		}
	}
	add("allow", s.Allow)
	add("deny", s.Deny)
	return strings.Join(parts, "; ")
}

func (r *NetRule) text() string {
	var parts []string
	if r.Protocol != "" {
		parts = append(parts, r.Protocol)
	}
	if words := slices.Concat(r.Peers, r.Names); len(words) > 0 {
		parts = append(parts, strings.Join(words, "+"))
	}
	if len(r.Ports) > 0 {
		parts = append(parts, "port "+strings.Join(rangeStrings(r.Ports), "+"))
	}
	return strings.Join(parts, " ")
}

// NetVerdict returns what the rules of one mode say: of egress and ingress the address is the
// remote one; the port is the remote one of egress, else the local one. protocol is a number of
// IP. names are those by which the container has the address from servers that the mode trusts.
// It is the reference of bl_net_judge in bpf/netrules.h.
//
// Errors: a rule that none of the three is.
func (e *Effective) NetVerdict(mode verdict.Mode, r verdict.Rule, addr netip.Addr, protocol, port uint16, names ...string) (verdict.Verdict, uint16, error) {
	if r < verdict.RuleEgress || r > verdict.RuleListen {
		return verdict.Deny, 0, fmt.Errorf("%s is no rule on addresses", r)
	}
	if !e.Rules[mode][r].on() {
		return verdict.Allow, 0, nil
	}
	kind := uint8(r-verdict.RuleEgress)<<1 | uint8(mode)
	addr = netip.AddrFrom16(addr.As16())
	var a *NetAddr
	for i := range e.NetAddrs {
		if x := &e.NetAddrs[i]; x.Kind == kind && contains(x.Prefix, addr) && (a == nil || x.Prefix.Bits() > a.Prefix.Bits()) {
			a = x
		}
	}
	if a == nil {
		return verdict.Deny, 0, nil
	}
	v, best := netVerdict{a.Verdict, a.Policy, a.Cond}, -1
	for _, x := range e.NetPorts {
		if x.List == a.List && x.Protocol == protocol && port>>(16-x.Bits) == x.Port>>(16-x.Bits) && x.Bits > best {
			v, best = netVerdict{x.Verdict, x.Policy, x.Cond}, x.Bits
		}
	}
	if v.Cond != 0 && slices.ContainsFunc(names, func(n string) bool { return e.nameOpens(mode, v.Cond, n) }) {
		return verdict.Allow, 0, nil
	}
	return v.Verdict, v.Policy, nil
}

// contains is Prefix.Contains for addresses that are IPv4 in 128 bits.
func contains(p netip.Prefix, a netip.Addr) bool {
	return netip.PrefixFrom(a, p.Bits()).Masked().Addr() == p.Masked().Addr()
}
