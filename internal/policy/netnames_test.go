package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/verdict"
)

func namesVerdict(t *testing.T, e *Effective, to string, names ...string) verdict.Verdict {
	t.Helper()
	a := netip.MustParseAddrPort(to)
	v, _, err := e.NetVerdict(verdict.ModeEnforce, verdict.RuleEgress, a.Addr(), 6, a.Port(), names...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNetworkNames(t *testing.T) {
	e := mustSet(t, named("a", "mode: enforce", `network:
    egress:
      default: deny
      allow:
      - {names: [API.example.org., "*.example.net"], ports: [443], protocol: tcp}
      - {names: [deep.example.net], ports: [8000-8010]}
      - {to: [10.0.0.0/8], ports: [80]}
      deny: [{to: [192.0.2.0/24]}]`)).Floor()
	for _, c := range []struct {
		to, name string
		want     verdict.Verdict
	}{
		{"198.51.100.1:443", "", verdict.Deny},
		{"198.51.100.1:443", "api.example.org", verdict.Allow},
		{"[2001:db8::1]:443", "api.example.org", verdict.Allow},
		{"198.51.100.1:444", "api.example.org", verdict.Deny},
		{"198.51.100.1:443", "x.api.example.org", verdict.Deny},
		{"198.51.100.1:443", "xapi.example.org", verdict.Deny},
		{"198.51.100.1:443", "a.b.example.net", verdict.Allow},
		{"198.51.100.1:443", "example.net", verdict.Deny},
		{"198.51.100.1:443", "evilexample.net", verdict.Deny},
		{"198.51.100.1:443", "deep.example.net", verdict.Allow},
		{"198.51.100.1:8005", "deep.example.net", verdict.Allow},
		{"198.51.100.1:8005", "x.deep.example.net", verdict.Deny},
		{"192.0.2.1:443", "api.example.org", verdict.Deny}, // deny wins
		{"10.0.0.1:80", "", verdict.Allow},
	} {
		if got := namesVerdict(t, e, c.to, c.name); got != c.want {
			t.Errorf("%s as %q: %v, want %v", c.to, c.name, got, c.want)
		}
	}
	if r := e.Resolvers[0]; !r.Default || r.Listed != nil || e.Resolvers[1].Default {
		t.Errorf("resolvers %+v", e.Resolvers)
	}
}

// Every policy that denies must let pass by the same name, and trust the server.
func TestNetworkNamesMerge(t *testing.T) {
	e := mustSet(t,
		named("a", "mode: enforce", `network: {dns: {servers: [10.0.0.53, 10.0.0.54]}, egress: {default: deny, allow: [{names: ["*.example.org"]}, {to: [10.0.0.0/8]}]}}`),
		named("b", "mode: enforce", `network: {dns: {servers: [10.0.0.54, 10.0.0.55]}, egress: {default: deny, allow: [{names: [api.example.org, other.example.com]}]}}`),
		named("c", "mode: audit", `network: {egress: {default: deny, allow: [{names: [c.example.org]}]}}`)).Floor()
	for name, want := range map[string]verdict.Verdict{
		"api.example.org": verdict.Allow, "x.example.org": verdict.Deny, "other.example.com": verdict.Deny,
	} {
		if got := namesVerdict(t, e, "198.51.100.1:1", name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if namesVerdict(t, e, "198.51.100.1:1", "x.example.org", "other.example.com") != verdict.Deny {
		t.Error("two names together satisfy two policies")
	}
	if namesVerdict(t, e, "10.1.1.1:1", "other.example.com") != verdict.Allow {
		t.Error("one policy passes by address, the other by name: denied")
	}
	if got := e.Resolvers[0].Of(nil); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.0.0.54")}) {
		t.Errorf("trusted %v", got)
	}
	host := []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	if got := e.Resolvers[1].Of(host); !slices.Equal(got, host) {
		t.Errorf("trusted in audit %v", got)
	}
	if got := (Resolvers{Default: true, Listed: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}).Of(host); len(got) != 0 {
		t.Errorf("trusted by nobody else: %v", got)
	}
	said := ""
	for _, l := range e.Explain() {
		said += l.Value + "\n"
	}
	for _, want := range []string{"*.example.org", "servers 10.0.0.53, 10.0.0.54", "the host's and Docker's"} {
		if !strings.Contains(said, want) {
			t.Errorf("explain does not say %q:\n%s", want, said)
		}
	}
}

// The compiled form says what the rules mean, whatever they are.
func TestNetworkNamesCompiled(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	patterns := []string{"a.x.org", "*.x.org", "b.a.x.org", "*.a.x.org", "y.org", "*.org"}
	names := []string{"a.x.org", "c.x.org", "b.a.x.org", "d.a.x.org", "x.org", "y.org", "z.com"}
	for range 200 {
		var docs []string
		for i := range 1 + r.IntN(3) {
			var rules []string
			for range 1 + r.IntN(3) {
				rules = append(rules, fmt.Sprintf(`{names: ["%s"], ports: [%d-%d]}`, patterns[r.IntN(len(patterns))], 1+r.IntN(3), 4+r.IntN(3)))
			}
			docs = append(docs, named(fmt.Sprintf("p%d", i), "mode: enforce", "network: {egress: {default: deny, allow: ["+strings.Join(rules, ",")+"]}}"))
		}
		s := mustSet(t, docs...)
		e := s.Floor()
		for range 30 {
			name, port := names[r.IntN(len(names))], uint16(1+r.IntN(6))
			want := verdict.Allow
			for _, p := range s.Policies() {
				if !slices.ContainsFunc(p.Spec.Network.Egress.Allow, func(x NetRule) bool {
					return NameMatches(x.Names[0], name) && inRanges(x.Ports, port)
				}) {
					want = verdict.Deny
				}
			}
			if got := namesVerdict(t, e, fmt.Sprintf("198.51.100.1:%d", port), name); got != want {
				t.Fatalf("%s port %d: %v, want %v, of\n%s", name, port, got, want, strings.Join(docs, "---\n"))
			}
		}
	}
}

func TestNetworkNamesErrors(t *testing.T) {
	allow := func(names string) string {
		return "{egress: {default: deny, allow: [{names: [" + names + "]}]}}"
	}
	for in, want := range map[string]string{
		allow("bücher.example"):               "punycode",
		allow("'api.*.example.org'"):          "not its first label",
		allow("'*'"):                          "not its first label",
		allow("'*api.example.org'"):           "not its first label",
		allow("10.0.0.1"):                     "write it under to",
		allow("'2001:db8::1'"):                "write it under to",
		allow("'api.example.org:443'"):        "no port and no URL",
		allow("'https://example.org/'"):       "no port and no URL",
		allow("a..b"):                         "is not a name",
		allow("-a.b"):                         "is not a name",
		allow("localhost"):                    "loopback is not judged",
		allow(strings.Repeat("a", 64)):        "is not a name",
		allow(strings.Repeat("a.", 31) + "a"): "labels",
		allow(""):                             "empty list",
		"{egress: {default: deny, allow: [{names: [a.b], to: [10.0.0.1]}]}}":             "two rules",
		"{egress: {deny: [{names: [a.b]}]}}":                                             `unknown field "names"`,
		"{ingress: {default: deny, allow: [{names: [a.b]}]}}":                            `unknown field "names"`,
		"{dns: {servers: [10.0.0.1]}, egress: {default: deny}}":                          "dns has no effect",
		"{dns: {servers: [resolver]}, egress: {default: deny, allow: [{names: [a.b]}]}}": "not an address",
		"{dns: {servers: []}, egress: {default: deny, allow: [{names: [a.b]}]}}":         "empty list",
		"{egress: {default: deny, allow: [{to: [api.example.org]}]}}":                    "allow rules take names",
	} {
		_, err := Parse("p.yaml", []byte(named("p", "mode: audit", "network: "+in)))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "p.yaml:") {
			t.Errorf("%.90s: %v, want %q", in, err, want)
		}
	}
}

func TestNetworkNamesCanonical(t *testing.T) {
	a := mustSet(t, named("p", "mode: audit", "network: {dns: {servers: [10.0.0.2, '::ffff:10.0.0.1']}, egress: {default: deny, allow: [{names: [b.Example.org., a.example.org, A.example.org]}]}}"))
	b := mustSet(t, string(a.Canonical()))
	if a.Revision() != b.Revision() || !strings.Contains(string(a.Canonical()), "- a.example.org") || !strings.Contains(string(a.Canonical()), "- 10.0.0.1\n") {
		t.Errorf("normal form:\n%s", a.Canonical())
	}
}

// The largest lists of names that are accepted compile in no time to speak of.
func TestNetworkNamesLimits(t *testing.T) {
	var rules []string
	for i := range 500 {
		rules = append(rules, fmt.Sprintf("{names: [a%d.example.org], ports: [%d]}", i, 1+2*i))
	}
	doc := func(rs []string) string {
		return named("p", "mode: enforce", "network: {egress: {default: deny, allow: ["+strings.Join(rs, ",")+"]}}")
	}
	e := mustSet(t, doc(rules)).Floor()
	if len(e.NetNames) != 500 || len(e.NetNameRules) != 500 {
		t.Errorf("%d names and %d rules on them", len(e.NetNames), len(e.NetNameRules))
	}
}

// network-names.yaml: what its service may reach, and by which names.
func TestShippedNames(t *testing.T) {
	s, err := ParseFiles("../../policies/network-names.yaml")
	if err != nil {
		t.Fatal(err)
	}
	e := s.Effective(Subject{Known: true, Labels: map[string]string{"app": "payments"}})
	for _, c := range []struct {
		to, name string
		want     verdict.Verdict
	}{
		{"198.51.100.1:443", "api.example.org", verdict.Allow},
		{"198.51.100.1:443", "a.example.net", verdict.Allow},
		{"172.18.0.3:5432", "db", verdict.Allow},
		{"172.18.0.3:443", "db", verdict.Deny},
		{"198.51.100.1:443", "", verdict.Deny},
		{"198.51.100.1:443", "www.example.org", verdict.Deny},
		{"169.254.169.254:443", "api.example.org", verdict.Deny},
	} {
		if got := namesVerdict(t, e, c.to, c.name); got != c.want {
			t.Errorf("%s as %q: %v, want %v", c.to, c.name, got, c.want)
		}
	}
	if e := s.Floor(); e.Rules[0][verdict.RuleEgress].on() || len(e.NetNames) > 0 {
		t.Error("containers without the label are judged too")
	}
}
