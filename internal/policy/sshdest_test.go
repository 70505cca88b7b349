package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/verdict"
)

func dests(t testing.TB, list ...string) []SSHDest {
	t.Helper()
	var out []SSHDest
	for _, s := range list {
		d, msg, _ := parseDest(s)
		if msg != "" {
			t.Fatal(msg)
		}
		out = append(out, d)
	}
	return out
}

func TestFlatten(t *testing.T) {
	tests := []struct {
		name     string
		in, want []string
	}{
		{"one", []string{"10.0.0.0/8:22"}, []string{"10.0.0.0/8:22"}},
		{"ports of one range", []string{"10.0.0.0/8:2222", "10.0.0.0/8:22"}, []string{"10.0.0.0/8:22, 10.0.0.0/8:2222"}},
		{"any absorbs", []string{"10.0.0.0/8:22", "10.0.0.0/8:*"}, []string{"10.0.0.0/8:*"}},
		{"narrow inherits", []string{"10.0.0.0/8:22", "10.1.0.0/16:2222"}, []string{"10.0.0.0/8:22", "10.1.0.0/16:22, 10.1.0.0/16:2222"}},
		{"narrow inherits any", []string{"0.0.0.0/0:*", "10.1.0.0/16:2222"}, []string{"0.0.0.0/0:*", "10.1.0.0/16:*"}},
		{"mapped is IPv4", []string{"[::ffff:10.0.0.0/104]:22"}, []string{"10.0.0.0/8:22"}},
		{"IPv6 apart", []string{"[2001:db8::/32]:22", "0.0.0.0/0:1"}, []string{"0.0.0.0/0:1", "[2001:db8::/32]:22"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, d := range flatten(dests(t, tt.in...)) {
				got = append(got, d.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("flattened (-want +got):\n%s", diff)
			}
		})
	}
}

// What the kernel's trie would find for IPv4 must not be a range of IPv6.
func TestFlattenKeepsIPv4OutOfIPv6(t *testing.T) {
	for _, s := range []string{"[::/0]:22", "[::/64]:22", "[::/80]:22", "[::/1]:22"} {
		t.Run(s, func(t *testing.T) {
			flat := flatten(dests(t, s))
			wide := dests(t, s)[0].Prefix
			for _, d := range flat {
				if d.Prefix.Overlaps(mapped) {
					t.Errorf("%v covers IPv4", d.Prefix)
				}
			}
			for range 2000 {
				var b [16]byte
				for i := range b {
					if i*8 >= wide.Bits() && rand.IntN(3) == 0 {
						b[i] = byte(rand.Uint32())
					}
				}
				if rand.IntN(2) == 0 {
					b[10], b[11] = 0xff, 0xff
				}
				a := netip.AddrFrom16(b)
				_, got := lookup(flat, netip.PrefixFrom(a, 128))
				if want := wide.Contains(a) && !mapped.Contains(a); got != want {
					t.Errorf("%v: got %v, want %v", a, got, want)
				}
			}
		})
	}
}

// allowed is what a list means, without any compilation.
func allowed(list []SSHDest, ap netip.AddrPort) bool {
	return slices.ContainsFunc(list, func(d SSHDest) bool {
		return d.Prefix.Contains(ap.Addr()) && (len(d.Ports) == 0 || slices.Contains(d.Ports, ap.Port()))
	})
}

func TestIntersectDests(t *testing.T) {
	ranges := []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1/32", "11.0.0.0/8", "0.0.0.0/0"}
	ports := []string{"22", "23", "24", "*"}
	random := func() []SSHDest {
		var list []string
		for range 1 + rand.IntN(4) {
			list = append(list, ranges[rand.IntN(len(ranges))]+":"+ports[rand.IntN(len(ports))])
		}
		return dests(t, list...)
	}
	for range 2000 {
		a, b := random(), random()
		got := intersectDests(flatten(a), flatten(b))
		e := &Effective{SSHTo: [2][]SSHDest{got}}
		e.Rules[verdict.ModeEnforce][verdict.RuleSSHClient].Opt = OptSSHTo
		for _, addr := range []string{"10.1.1.1", "10.1.1.2", "10.1.2.1", "10.2.0.0", "11.0.0.1", "12.0.0.1"} {
			for _, port := range []uint16{22, 23, 24, 25} {
				ap := netip.AddrPortFrom(netip.MustParseAddr(addr), port)
				want := allowed(a, ap) && allowed(b, ap)
				if got := e.SSHAllowed(verdict.ModeEnforce, ap); got != want {
					t.Fatalf("%v and %v at %v: got %v, want %v", destStrings(a), destStrings(b), ap, got, want)
				}
			}
		}
	}
}

func TestSSHAllowed(t *testing.T) {
	client := func(name, v string) string { return named(name, "mode: enforce", "ssh: {client: "+v+"}") }
	tests := []struct {
		name string
		docs []string
		addr string
		want bool
	}{
		{"no policy", nil, "192.0.2.1:22", true},
		{"deny", []string{client("a", "deny")}, "192.0.2.1:22", false},
		{"to, listed", []string{client("a", "{to: ['192.0.2.0/24:22']}")}, "192.0.2.1:22", true},
		{"to, other port", []string{client("a", "{to: ['192.0.2.0/24:22']}")}, "192.0.2.1:2222", false},
		{"to, other address", []string{client("a", "{to: ['192.0.2.0/24:22']}")}, "192.0.3.1:22", false},
		{"to, any port", []string{client("a", "{to: ['192.0.2.0/24:*']}")}, "192.0.2.1:2222", true},
		{"to, IPv4 through an IPv6 socket", []string{client("a", "{to: ['192.0.2.0/24:22']}")}, "[::ffff:192.0.2.1]:22", true},
		{"to, IPv6", []string{client("a", "{to: ['[2001:db8::/32]:22']}")}, "[2001:db8::1]:22", true},
		{"to, IPv6 with zone", []string{client("a", "{to: ['[fe80::/10]:22']}")}, "[fe80::1%eth0]:22", true},
		{"to, IPv6 does not mean IPv4", []string{client("a", "{to: ['[::/0]:22']}")}, "192.0.2.1:22", false},
		{"deny beats to", []string{client("a", "{to: ['192.0.2.0/24:22']}"), client("b", "deny")}, "192.0.2.1:22", false},
		{"to beats allow", []string{client("a", "allow"), client("b", "{to: ['192.0.2.0/24:22']}")}, "192.0.3.1:22", false},
		{
			"intersection",
			[]string{client("a", "{to: ['192.0.0.0/16:*']}"), client("b", "{to: ['192.0.2.0/24:22', '10.0.0.0/8:22']}")},
			"192.0.2.1:22", true,
		},
		{
			"intersection, one misses",
			[]string{client("a", "{to: ['192.0.0.0/16:*']}"), client("b", "{to: ['192.0.2.0/24:22', '10.0.0.0/8:22']}")},
			"10.0.0.1:22", false,
		},
		{"nothing in common", []string{client("a", "{to: ['192.0.2.0/24:22']}"), client("b", "{to: ['10.0.0.0/8:22']}")}, "10.0.0.1:22", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := (&Set{}).Floor()
			if len(tt.docs) > 0 {
				e = mustSet(t, tt.docs...).Floor()
			}
			if got := e.SSHAllowed(verdict.ModeEnforce, netip.MustParseAddrPort(tt.addr)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if !e.SSHAllowed(verdict.ModeAudit, netip.MustParseAddrPort(tt.addr)) {
				t.Error("the audit mode denies, though no policy is in audit mode")
			}
		})
	}
}

func TestDestString(t *testing.T) {
	in := []string{"10.0.0.0/8:22", "192.0.2.7/32:*", "[2001:db8::/32]:22"}
	if diff := cmp.Diff(strings.Join(in, " "), strings.Join(destStrings(dests(t, in...)), " ")); diff != "" {
		t.Errorf("written form (-want +got):\n%s", diff)
	}
}
