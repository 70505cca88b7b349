package enforce

import (
	"net/netip"
	"testing"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// The tries' keys have protocol and port in network byte order, so that their first bits count.
func TestEncodeNetwork(t *testing.T) {
	k, v := encodeNetAddr(7, policy.NetAddr{Kind: 3, Prefix: netip.MustParsePrefix("::ffff:10.0.0.0/104"), List: 2, Verdict: verdict.Allow, Policy: 9})
	if k.Prefixlen != 64+104 || k.Set != 7 || k.Kind != 3 || k.Addr != [16]uint8{10: 0xff, 11: 0xff, 12: 10} || v.List != 2 || v.Verdict != 1 || v.Policy != 9 {
		t.Errorf("address: %+v %+v", k, v)
	}
	p, r := encodeNetPort(7, policy.NetPort{List: 2, Protocol: 6, Port: 0x1234, Bits: 15, Verdict: verdict.Deny, Policy: 1})
	if p.Prefixlen != 80+15 || p.Proto != 0x0600 || p.Port != 0x3412 || r.Verdict != 0 || r.Policy != 1 {
		t.Errorf("port: %+v %+v", p, r)
	}
}

// Packets are judged only where a rule is about them: packet sockets alone cost no packet anything.
func TestHasNetwork(t *testing.T) {
	for spec, want := range map[string]bool{
		"network: {packetSockets: deny}":                    false,
		"network: {rawSockets: deny}":                       true,
		"network: {listen: deny}":                           true,
		"exec: {drift: deny}":                               false,
		"network: {egress: {deny: [{to: [192.0.2.0/24]}]}}": true,
	} {
		ps, err := policy.Parse("p.yaml", []byte("apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: p}\nspec: {mode: audit, "+spec+"}\n"))
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		set, err := policy.NewSet(ps)
		if err != nil {
			t.Fatal(err)
		}
		if got := hasNetwork(set.Floor()); got != want {
			t.Errorf("%s: %v", spec, got)
		}
	}
}
