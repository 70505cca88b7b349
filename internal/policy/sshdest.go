package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// SSHDest is a set of destinations: the addresses of Prefix, on Ports. No ports
// means any port.
type SSHDest struct {
	Prefix netip.Prefix
	Ports  []uint16 // sorted
}

// maxPorts is BL_SSH_PORTS of bpf/rules.h.
const maxPorts = 30

// String returns the destination as it is written in a policy, one entry a port.
func (d SSHDest) String() string { return strings.Join(d.entries(), ", ") }

func (d SSHDest) entries() []string {
	host := d.Prefix.String()
	if d.Prefix.Addr().Is6() {
		host = "[" + host + "]"
	}
	if len(d.Ports) == 0 {
		return []string{host + ":*"}
	}
	out := make([]string, len(d.Ports))
	for i, p := range d.Ports {
		out[i] = host + ":" + strconv.Itoa(int(p))
	}
	return out
}

func destStrings(ds []SSHDest) []string {
	var out []string
	for _, d := range ds {
		out = append(out, d.entries()...)
	}
	return sortedSet(out, strings.Compare)
}

// parseDest returns the destination that s is, or what is wrong and how to mend it.
func parseDest(s string) (d SSHDest, msg, fix string) {
	const form = `write "10.0.0.0/8:22", "[2001:db8::/32]:22" or "10.0.0.0/8:*"`
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return d, quote(s) + " has no port", form
	}
	host, port := s[:i], s[i+1:]
	bare, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		var ok bool
		if bare, ok = strings.CutSuffix(bare, "]"); !ok {
			return d, quote(s) + ` has a "[" without its "]"`, form
		}
	}
	prefix, msg, fix := parsePrefix(bare, form)
	if msg != "" {
		return d, msg, fix
	}
	if prefix.Addr().Is6() != bracketed {
		return d, quote(s) + ": brackets are for IPv6, and IPv6 needs them", form
	}
	// An IPv4 connection made through an IPv6 socket is an IPv4 connection.
	if a := prefix.Addr(); a.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
	}
	d.Prefix = prefix
	if port == "*" {
		return d, "", ""
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return d, quote(port) + " is not a port", "write one number from 1 to 65535, or * for any port; one entry a port"
	}
	d.Ports = []uint16{uint16(n)}
	return d, "", ""
}

func parsePrefix(s, form string) (p netip.Prefix, msg, fix string) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return p, quote(s) + " is not an address", form + "; the kernel sees addresses, never host names"
		}
		return netip.PrefixFrom(a, a.BitLen()), "", ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, quote(s) + " is not an address range", form + "; the kernel sees addresses, never host names"
	}
	if p.Masked() != p {
		return p, quote(s) + " has bits set outside its mask", "write " + p.Masked().String()
	}
	return p, "", ""
}

func compareDests(a, b SSHDest) int {
	return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		slices.Compare(a.Ports, b.Ports))
}

// mapped is where the kernel's trie keeps IPv4.
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// splitMapped returns ranges that hold the IPv6 addresses of p and no IPv4 one. In
// the kernel's trie "::/0" would cover IPv4 too, which nobody who wrote it meant.
func splitMapped(p netip.Prefix) []netip.Prefix {
	if !p.Addr().Is6() || p.Bits() >= mapped.Bits() || !p.Contains(mapped.Addr()) {
		return []netip.Prefix{p}
	}
	var out []netip.Prefix
	for bits := p.Bits() + 1; bits <= mapped.Bits(); bits++ {
		// The half of each step down to the mapped range that leads away from it.
		b := mapped.Addr().As16()
		b[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8)
		out = append(out, netip.PrefixFrom(netip.AddrFrom16(b), bits).Masked())
	}
	return out
}

// covers reports whether every address of b is one of a.
func covers(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }

// flatten prepares a list for longest-prefix match, where only the most specific
// range of an address is found: each range gets the ports of those that cover it.
func flatten(list []SSHDest) []SSHDest {
	own := map[netip.Prefix]SSHDest{}
	for _, d := range list {
		for _, p := range splitMapped(d.Prefix) {
			if have, ok := own[p]; ok {
				own[p] = SSHDest{p, unionPorts(have.Ports, d.Ports)}
			} else {
				own[p] = SSHDest{p, sortedSet(slices.Clone(d.Ports), cmp.Compare)}
			}
		}
	}
	out := make([]SSHDest, 0, len(own))
	for p, d := range own {
		for bits := range p.Bits() {
			if wide, ok := own[netip.PrefixFrom(p.Addr(), bits).Masked()]; ok {
				d.Ports = unionPorts(d.Ports, wide.Ports)
			}
		}
		out = append(out, d)
	}
	slices.SortFunc(out, compareDests)
	return out
}

// unionPorts returns the ports of a or b; none means any.
func unionPorts(a, b []uint16) []uint16 {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	return sortedSet(slices.Concat(a, b), cmp.Compare)
}

// lookup returns the most specific range of a flattened list that covers p.
func lookup(list []SSHDest, p netip.Prefix) (best SSHDest, ok bool) {
	for _, d := range list {
		if covers(d.Prefix, p) && (!ok || d.Prefix.Bits() > best.Prefix.Bits()) {
			best, ok = d, true
		}
	}
	return best, ok
}

// intersectDests returns what two flattened lists both allow, flattened. A range
// whose ports have nothing in common needs no entry: the ports of whatever covers it
// are among its own, so nothing that covers it is left either.
func intersectDests(a, b []SSHDest) []SSHDest {
	found := map[netip.Prefix]SSHDest{}
	for _, d := range slices.Concat(a, b) {
		x, inA := lookup(a, d.Prefix)
		y, inB := lookup(b, d.Prefix)
		if !inA || !inB {
			continue
		}
		switch {
		case len(x.Ports) == 0:
			found[d.Prefix] = SSHDest{d.Prefix, y.Ports}
		case len(y.Ports) == 0:
			found[d.Prefix] = SSHDest{d.Prefix, x.Ports}
		default:
			both := slices.DeleteFunc(slices.Clone(x.Ports), func(p uint16) bool { return !slices.Contains(y.Ports, p) })
			if len(both) > 0 {
				found[d.Prefix] = SSHDest{d.Prefix, both}
			}
		}
	}
	out := make([]SSHDest, 0, len(found))
	for _, d := range found {
		out = append(out, d)
	}
	slices.SortFunc(out, compareDests)
	return out
}

// checkPortCount says whether one range got more ports than the kernel's entry holds.
func checkPortCount(list []SSHDest) (msg, fix string) {
	for _, d := range flatten(list) {
		if len(d.Ports) > maxPorts {
			return d.Prefix.String() + " has " + strconv.Itoa(len(d.Ports)) + " ports, with those of wider ranges; at most " +
				strconv.Itoa(maxPorts) + " are possible", "write * for any port"
		}
	}
	return "", ""
}

// sortedSet sorts s in place and returns it with each element once.
func sortedSet[T comparable](s []T, compare func(a, b T) int) []T {
	slices.SortFunc(s, compare)
	return slices.Compact(s)
}
