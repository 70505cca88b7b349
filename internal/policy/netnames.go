package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/verdict"
)

// NetName is a pattern that rules of one mode name: a name, or *.NAME, which is every name below
// NAME at any depth.
type NetName struct {
	Mode    verdict.Mode
	Pattern string
}

// NetNameRule says that under the condition Cond of one mode an address is let pass that the
// container has by a name of which Pattern is the most specific that matches.
type NetNameRule struct {
	Mode    verdict.Mode
	Cond    uint32
	Pattern string
}

// Resolvers are the DNS servers whose answers count: those that all policies with names trust.
type Resolvers struct {
	Default bool         // among those of the host and of Docker
	Listed  []netip.Addr // among these; nil: no policy lists any
}

// MaxName is the longest name that a rule can have, without a dot at its end: BL_NAME_TEXT of bpf/rules.h.
const MaxName = 251

const maxNameLabels = 32 // BL_DNS_LABELS of bpf/pure/dns.h

// name adds one name or pattern.
func (r *NetRule) name(s string) (msg, fix string) {
	n := strings.ToLower(strings.TrimSuffix(s, "."))
	if _, err := netip.ParseAddr(n); err == nil {
		return quote(s) + " is an address", "write it under to, in a rule of its own"
	}
	if strings.ContainsFunc(s, func(c rune) bool { return c > 127 }) {
		return quote(s) + " has characters beyond ASCII", "write the name in punycode, as it is asked for: xn--…"
	}
	base, wild := strings.CutPrefix(n, "*.")
	switch labels := strings.Split(base, "."); {
	case strings.Contains(base, "*"):
		return quote(s) + " has a * that is not its first label", `write "*.example.org" for every name below example.org; use to or default for every address`
	case len(n) > MaxName || len(labels) >= maxNameLabels:
		return fmt.Sprintf("%s has %d characters and %d labels", quote(s), len(n), len(labels)), fmt.Sprintf("use at most %d and %d", MaxName, maxNameLabels-1)
	case slices.ContainsFunc(labels, func(l string) bool { return !isLabel(l) }):
		return quote(s) + " is not a name", `write "api.example.org" or "*.example.org": labels of 1 to 63 letters, digits, - and _; no port and no URL`
	case !wild && base == "localhost":
		return quote(s) + " is never asked of a server", "delete it: loopback is not judged"
	}
	r.Names = append(r.Names, n)
	return "", ""
}

func isLabel(l string) bool {
	return l != "" && len(l) <= 63 && l[0] != '-' && l[len(l)-1] != '-' && strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// server adds one server whose answers count.
func (s *NetDNS) server(text string) (msg, fix string) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || a.Zone() != "":
		return quote(text) + " is not an address", `write "10.0.0.2" or "2001:db8::53"; answers come from port 53`
	case a.IsUnspecified() || a.IsMulticast():
		return quote(text) + " is nobody's address", "write the server's own address"
	}
	s.Servers = append(s.Servers, a.Unmap())
	return "", ""
}

// NameMatches reports whether a pattern matches a name, or all that another pattern matches.
func NameMatches(pattern, name string) bool {
	below, wild := strings.CutPrefix(pattern, "*")
	if !wild {
		return pattern == name
	}
	return len(name) > len(below) && strings.HasSuffix(name, below)
}

// cond returns the number of a condition: one name must be let pass by every policy of needs.
func (m *netMerger) cond(needs [][]*NetRule) uint32 {
	if len(needs) == 0 {
		return 0
	}
	var b strings.Builder
	for _, rs := range needs {
		for _, r := range rs {
			fmt.Fprintf(&b, "%p ", r)
		}
		b.WriteByte(';')
	}
	key := b.String()
	if id, ok := m.conds[key]; ok {
		return id
	}
	m.needs = append(m.needs, needs)
	id := uint32(len(m.needs))
	m.conds[key] = id
	return id
}

// names compiles what the policies of one mode say of names. Conditions are of one mode only, since
// policies are.
func (m *netMerger) names(mode verdict.Mode, policies []*netPolicy) {
	var patterns []string
	for _, p := range policies {
		for _, r := range p.named {
			patterns = append(patterns, r.Names...)
		}
	}
	slices.Sort(patterns)
	patterns = slices.Compact(patterns)
	for _, n := range patterns {
		m.e.NetNames = append(m.e.NetNames, NetName{mode, n})
	}
	for i, needs := range m.needs {
		if !slices.ContainsFunc(policies, func(p *netPolicy) bool { return slices.Contains(p.named, needs[0][0]) }) {
			continue
		}
		for _, n := range patterns {
			lifts := !slices.ContainsFunc(needs, func(rs []*NetRule) bool {
				return !slices.ContainsFunc(rs, func(r *NetRule) bool {
					return slices.ContainsFunc(r.Names, func(p string) bool { return NameMatches(p, n) })
				})
			})
			if lifts {
				m.e.NetNameRules = append(m.e.NetNameRules, NetNameRule{mode, uint32(i + 1), n})
			}
		}
	}
	m.resolvers(mode)
}

// resolvers intersects: a policy must not make another's names open by its own server.
func (m *netMerger) resolvers(mode verdict.Mode) {
	to := &m.e.Resolvers[mode]
	for _, p := range m.owners[mode][netEgress] {
		s := p.Spec.Network
		switch {
		case !s.hasNames():
		case len(s.DNS.Servers) == 0:
			to.Default = true
		case to.Listed == nil:
			to.Listed = slices.Clone(s.DNS.Servers)
		default:
			to.Listed = slices.DeleteFunc(to.Listed, func(a netip.Addr) bool { return !slices.Contains(s.DNS.Servers, a) })
		}
	}
}

// Of returns the servers, given those that are trusted by default.
func (r Resolvers) Of(defaults []netip.Addr) []netip.Addr {
	switch {
	case !r.Default:
		return r.Listed
	case r.Listed == nil:
		return defaults
	}
	return slices.DeleteFunc(slices.Clone(r.Listed), func(a netip.Addr) bool { return !slices.Contains(defaults, a) })
}

// nameOpens reports whether a name lifts a condition.
func (e *Effective) nameOpens(mode verdict.Mode, cond uint32, name string) bool {
	best := ""
	for _, n := range e.NetNames {
		if n.Mode == mode && NameMatches(n.Pattern, name) && (n.Pattern == name || best != name && len(n.Pattern) > len(best)) {
			best = n.Pattern
		}
	}
	return best != "" && slices.Contains(e.NetNameRules, NetNameRule{mode, cond, best})
}
