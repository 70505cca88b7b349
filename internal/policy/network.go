package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/verdict"
)

// Network holds the rules on what a container may reach, be reached by and listen on.
type Network struct {
	Mode verdict.Mode
	// Egress and Ingress are nil if the document does not say anything on them.
	Egress, Ingress *NetSide
	// Listen is Allow, Deny, Unset, or To: only on ListenPorts.
	Listen      Value
	ListenPorts []PortRange
	DNS         NetDNS
	// RawSockets and PacketSockets are Allow, Deny or Unset.
	RawSockets, PacketSockets Value
}

// NetSide says who may be reached, or who may come in. What Deny matches is denied; of the
// rest, where Default is Deny, only what Allow matches passes.
type NetSide struct {
	Default     Value // Allow or Deny
	Allow, Deny []NetRule
}

// NetDNS says whose answers count for the names of a section.
type NetDNS struct {
	Servers []netip.Addr // sorted; empty: those of the host and of Docker
}

// NetRule matches packets by the other end's address, and by port and protocol. An empty
// field matches all.
type NetRule struct {
	Peers    []string // canonical: a prefix, or [Metadata]
	Names    []string // canonical: names, or *.NAME; only where Egress allows, and without Peers
	Ports    []PortRange
	Protocol string // tcp, udp, sctp or icmp
}

// PortRange is the ports from Lo to Hi, both of it.
type PortRange struct{ Lo, Hi uint16 }

// String returns the range as in a policy.
func (r PortRange) String() string {
	if r.Lo == r.Hi {
		return strconv.Itoa(int(r.Lo))
	}
	return fmt.Sprintf("%d-%d", r.Lo, r.Hi)
}

// Metadata stands for the addresses at which clouds hand out credentials.
const Metadata = "metadata"

// metadataAddrs are link-local or otherwise reserved by one cloud: its own documentation is the
// source of each.
var metadataAddrs = []string{
	"169.254.169.254/32",     // EC2, Google, Azure, Oracle, OpenStack and others
	"fd00:ec2::254/128",      // EC2
	"169.254.170.2/32",       // ECS, credentials of a task
	"169.254.170.23/32",      // EKS, credentials of a pod
	"fd00:ec2::23/128",       // EKS
	"fd20:ce::254/128",       // Google
	"168.63.129.16/32",       // Azure, WireServer
	"100.100.100.200/32",     // Alibaba
	"fe80::a9fe:a9fe/128",    // OpenStack
	"fd00:c1::a9fe:a9fe/128", // Oracle
	"169.254.42.42/32",       // Scaleway
	"fd00:42::42/128",        // Scaleway
	"169.254.0.23/32",        // Tencent
}

// Limits of one policy. One of MaxNetRules is one peer, or one range of ports, of one rule: what
// compiling a policy costs is bounded by both.
const (
	MaxNetRules     = 1024
	maxPortRanges   = 64
	maxNetPortItems = 8192
	maxNetNameItems = 8192
	maxResolvers    = 16
)

// protocols are the IP protocols that a rule can name, by their numbers:
// https://www.iana.org/assignments/protocol-numbers.
var protocols = map[string]uint16{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1}

// netProtocols are those of which the answer can differ from every other protocol's: those that a
// rule can name, and DCCP (33), which has ports.
var netProtocols = []uint16{1, 6, 17, 33, 132}

// netDir is what a rule of the section is about: BL_NET_* of bpf/rules.h.
type netDir uint8

const (
	netEgress  netDir = 0
	netIngress netDir = 1
	netListen  netDir = 2
)

func (d netDir) rule() verdict.Rule {
	return [...]verdict.Rule{verdict.RuleEgress, verdict.RuleIngress, verdict.RuleListen}[d]
}

// side returns what the section says on one direction, listening as a side without peers;
// nil if nothing.
func (s *Network) side(d netDir) *NetSide {
	switch {
	case s == nil:
		return nil
	case d == netEgress:
		return s.Egress
	case d == netIngress:
		return s.Ingress
	case s.Listen == Unset:
		return nil
	case s.Listen == To:
		return &NetSide{Default: Deny, Allow: []NetRule{{Ports: s.ListenPorts}}}
	}
	return &NetSide{Default: s.Listen}
}

// denies reports whether the side can deny anything.
func (s *NetSide) denies() bool { return s != nil && (s.Default == Deny || len(s.Deny) > 0) }

func (s *NetSide) rules() []NetRule { return slices.Concat(s.Allow, s.Deny) }

// settings returns the rules of the section that are one value each.
func (s *Network) settings() []setting {
	return []setting{
		{rule: verdict.RuleRawSockets, mode: s.Mode, value: s.RawSockets, field: "network.rawSockets"},
		{rule: verdict.RulePacketSockets, mode: s.Mode, value: s.PacketSockets, field: "network.packetSockets"},
	}
}

// sets reports whether the section says anything on addresses and ports.
func (s *Network) sets() bool {
	return s != nil && (s.Egress != nil || s.Ingress != nil || s.Listen != Unset)
}

// Values returns the names and values of the rules as section.field and value in turn; a
// value that is not set is empty.
func (s *Network) Values() []string {
	side := func(x *NetSide) string {
		if x == nil {
			return ""
		}
		v := string(x.Default)
		if n := len(x.rules()); n > 0 {
			v += fmt.Sprintf("-and-%d-rules", n)
		}
		return v
	}
	listen := string(s.Listen)
	if s.Listen == To {
		listen = fmt.Sprintf("%d-ports", len(s.ListenPorts))
	}
	return []string{
		"network.egress", side(s.Egress), "network.ingress", side(s.Ingress), "network.listen", listen,
		"network.rawSockets", string(s.RawSockets), "network.packetSockets", string(s.PacketSockets),
	}
}

type canonNetwork struct {
	Mode          string     `yaml:"mode"`
	Egress        *canonSide `yaml:"egress,omitempty"`
	Ingress       *canonSide `yaml:"ingress,omitempty"`
	Listen        any        `yaml:"listen,omitempty"`
	DNS           *canonDNS  `yaml:"dns,omitempty"`
	RawSockets    Value      `yaml:"rawSockets,omitempty"`
	PacketSockets Value      `yaml:"packetSockets,omitempty"`
}

type canonDNS struct {
	Servers []netip.Addr `yaml:"servers"`
}

type canonSide struct {
	Default Value          `yaml:"default"`
	Allow   []canonNetRule `yaml:"allow,omitempty"`
	Deny    []canonNetRule `yaml:"deny,omitempty"`
}

type canonNetRule struct {
	To       []string `yaml:"to,omitempty"`
	Names    []string `yaml:"names,omitempty"`
	From     []string `yaml:"from,omitempty"`
	Ports    []string `yaml:"ports,omitempty"`
	Protocol string   `yaml:"protocol,omitempty"`
}

func (s *Network) canonical() *canonNetwork {
	side := func(x *NetSide, in bool) *canonSide {
		if x == nil {
			return nil
		}
		rules := func(rs []NetRule) (out []canonNetRule) {
			for _, r := range rs {
				c := canonNetRule{To: r.Peers, Names: r.Names, Ports: rangeStrings(r.Ports), Protocol: r.Protocol}
				if in {
					c.To, c.From = nil, r.Peers
				}
				out = append(out, c)
			}
			return out
		}
		return &canonSide{Default: x.Default, Allow: rules(x.Allow), Deny: rules(x.Deny)}
	}
	c := &canonNetwork{
		Mode: s.Mode.String(), Egress: side(s.Egress, false), Ingress: side(s.Ingress, true),
		RawSockets: s.RawSockets, PacketSockets: s.PacketSockets,
	}
	if len(s.DNS.Servers) > 0 {
		c.DNS = &canonDNS{s.DNS.Servers}
	}
	switch s.Listen {
	case Unset:
	case To:
		c.Listen = map[string][]string{"ports": rangeStrings(s.ListenPorts)}
	default:
		c.Listen = string(s.Listen)
	}
	return c
}

func rangeStrings(rs []PortRange) []string {
	var out []string
	for _, r := range rs {
		out = append(out, r.String())
	}
	return out
}

func (d *decoder) network(n *yaml.Node, at string, s *Network, m **verdict.Mode) {
	left := MaxNetRules
	side := func(to **NetSide, peers string) func(*yaml.Node, string) {
		return func(n *yaml.Node, at string) {
			x := &NetSide{Default: Allow}
			*to = x
			d.object(n, at, []field{
				{"default", false, d.value(&x.Default, Allow, Deny)},
				{"allow", false, d.netRules(&x.Allow, peers, peers == "to", &left)},
				{"deny", false, d.netRules(&x.Deny, peers, false, &left)},
			})
			if x.Default == Allow && len(x.Allow) > 0 {
				d.fail(n, "add default: deny, or delete allow", "%s.allow has no effect: the default is allow, and deny wins over allow", at)
			}
		}
	}
	d.object(n, at, []field{
		{"mode", false, d.mode(m)},
		{"egress", false, side(&s.Egress, "to")},
		{"ingress", false, side(&s.Ingress, "from")},
		{"listen", false, func(n *yaml.Node, at string) {
			if n.Kind != yaml.MappingNode {
				d.value(&s.Listen, Allow, Deny)(n, at)
				return
			}
			s.Listen = To
			d.object(n, at, []field{{"ports", true, d.ports(&s.ListenPorts, "write listen: deny to allow no port")}})
		}},
		{"dns", false, func(n *yaml.Node, at string) {
			d.object(n, at, []field{{"servers", true, d.list(maxResolvers, "delete dns to trust the host's servers and Docker's", s.DNS.server)}})
			slices.SortFunc(s.DNS.Servers, netip.Addr.Compare)
			s.DNS.Servers = slices.Compact(s.DNS.Servers)
		}},
		{"rawSockets", false, d.value(&s.RawSockets, Allow, Deny)},
		{"packetSockets", false, d.value(&s.PacketSockets, Allow, Deny)},
	})
	if len(s.DNS.Servers) > 0 && !s.hasNames() {
		d.fail(n, "delete it, or allow names", "%s.dns has no effect: egress.allow has no names", at)
	}
	if left < 0 {
		d.fail(n, "use wider address ranges, or fewer rules", "%s has %d rules or more, each address and each range of ports counted; at most %d are possible",
			at, MaxNetRules-left, MaxNetRules)
	}
}

// netRules reads a list of rules; left counts how many more the policy may have.
func (d *decoder) netRules(dst *[]NetRule, peers string, names bool, left *int) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		switch {
		case n.Kind != yaml.SequenceNode:
			d.fail(n, "write it as a list of mappings with "+peers+", ports and protocol", "%s must be a list, got %s", at, describe(n))
			return
		case len(n.Content) == 0:
			d.fail(n, "delete the field or fill the list", "%s is an empty list", at)
			return
		}
		for i, c := range n.Content {
			var r NetRule
			where := fmt.Sprintf("%s[%d]", at, i)
			if c.Kind == yaml.ScalarNode {
				example := "{" + peers + ": [10.0.0.0/8], ports: [443]}"
				if names {
					example = "{names: [example.com], ports: [443]} or " + example
				}
				d.fail(c, "write "+example, "%s must be a mapping, got %s", where, describe(c))
				continue
			}
			before := len(d.errs)
			fields := []field{
				{peers, false, d.list(MaxNetRules, "delete it to mean every address", r.peer)},
				{"ports", false, d.ports(&r.Ports, "delete it to mean every port")},
				{"protocol", false, d.enum([]string{"tcp", "udp", "sctp", "icmp"}, func(s string) { r.Protocol = s })},
			}
			if names {
				fields = append(fields, field{"names", false, d.list(MaxNetRules, "delete it to mean every address", r.name)})
			}
			d.object(c, where, fields)
			for _, words := range []*[]string{&r.Peers, &r.Names} {
				slices.Sort(*words)
				*words = slices.Compact(*words) // two spellings of one
			}
			if *left -= max(len(r.Peers)+len(r.Names)+len(r.Ports), 1); *left < 0 {
				return
			}
			switch {
			case len(d.errs) > before: // what is left of a rule that is wrong says nothing
			case r.Protocol == "icmp" && len(r.Ports) > 0:
				d.fail(c, "delete ports", "%s: icmp has no ports", where)
			case len(r.Peers) > 0 && len(r.Names) > 0:
				d.fail(c, "write two rules", "%s has both "+peers+" and names", where)
			case len(r.Peers)+len(r.Names)+len(r.Ports) == 0 && r.Protocol == "":
				d.fail(c, "say which "+peers+", ports or protocol, or use default", "%s matches everything", where)
			}
			*dst = append(*dst, r)
		}
	}
}

// peer adds one address, range or word.
func (r *NetRule) peer(s string) (msg, fix string) {
	if s == Metadata {
		r.Peers = append(r.Peers, s)
		return "", ""
	}
	const form = `write "10.0.0.0/8", "2001:db8::/32", one address, or ` + Metadata
	p, msg, fix := parsePrefix(s, form)
	if msg != "" {
		return msg, fix + " (of egress, allow rules take names)"
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	r.Peers = append(r.Peers, p.String())
	return "", ""
}

// ports reads a list of ports and ranges of them, as numbers or as text.
func (d *decoder) ports(dst *[]PortRange, whenEmpty string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		switch {
		case n.Kind != yaml.SequenceNode:
			d.fail(n, "write it as a list: [80, 8000-8999]", "%s must be a list, got %s", at, describe(n))
			return
		case len(n.Content) == 0:
			d.fail(n, whenEmpty, "%s is an empty list", at)
			return
		case len(n.Content) > maxPortRanges:
			d.fail(n, "write ranges", "%s has %d entries, more than %d", at, len(n.Content), maxPortRanges)
			return
		}
		for i, c := range n.Content {
			r, ok := parsePorts(c)
			if !ok {
				d.fail(c, "write a number from 1 to 65535, or a range such as 8000-8999", "%s[%d]: %s is not a port", at, i, describe(c))
				continue
			}
			*dst = append(*dst, r)
		}
		*dst = mergeRanges(*dst)
	}
}

func parsePorts(n *yaml.Node) (r PortRange, ok bool) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Tag != "!!int" {
		return r, false
	}
	port := func(s string) (uint16, bool) {
		v, err := strconv.ParseUint(s, 10, 16)
		return uint16(v), err == nil && v > 0 && strconv.FormatUint(v, 10) == s
	}
	lo, hi, isRange := strings.Cut(n.Value, "-")
	if !isRange {
		hi = lo
	}
	var okLo, okHi bool
	r.Lo, okLo = port(lo)
	r.Hi, okHi = port(hi)
	return r, okLo && okHi && r.Lo <= r.Hi && !(isRange && lo == hi)
}

// mergeRanges sorts ranges and joins those that touch.
func mergeRanges(rs []PortRange) []PortRange {
	slices.SortFunc(rs, func(a, b PortRange) int { return cmp.Or(cmp.Compare(a.Lo, b.Lo), cmp.Compare(a.Hi, b.Hi)) })
	var out []PortRange
	for _, r := range rs {
		if i := len(out) - 1; i >= 0 && int(r.Lo) <= int(out[i].Hi)+1 {
			out[i].Hi = max(out[i].Hi, r.Hi)
			continue
		}
		out = append(out, r)
	}
	return out
}

// hasNames reports whether the section lets pass by name.
func (s *Network) hasNames() bool {
	return s.Egress != nil && slices.ContainsFunc(s.Egress.Allow, func(r NetRule) bool { return len(r.Names) > 0 })
}

// validateNetwork checks what only the compiled form shows.
func (d *decoder) validateNetwork(p *RuntimePolicy) {
	s := p.Spec.Network
	if !s.sets() {
		return
	}
	for _, dir := range []netDir{netEgress, netIngress} {
		if x := s.side(dir); x != nil && !x.denies() && !p.Spec.Loosen {
			field := []string{"egress", "ingress"}[dir]
			d.failAt("spec.network."+field, "add deny or default: deny, or delete it", "network.%s has no effect: it denies nothing", field)
		}
	}
	var e Effective
	mergeNetwork(&e, []selected{{RuntimePolicy: p}})
	if n := len(e.NetNameRules); n > maxNetNameItems {
		d.failAt("spec.network", "use fewer names, or the same ports for all", "spec.network comes to %d entries for names; at most %d are possible", n, maxNetNameItems)
	}
	if n := len(e.NetPorts); n > maxNetPortItems {
		d.failAt("spec.network", "use fewer ports, or ranges that start and end at powers of two",
			"spec.network comes to %d entries for ports; at most %d are possible", n, maxNetPortItems)
	}
}
