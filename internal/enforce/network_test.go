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
