package hostinfo

import (
	"net/netip"
	"testing"
)

func TestSocketAddr(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:0947":                         "127.0.0.1:2375",
		"0000000000000000FFFF00000100007F:01BB": "[::ffff:127.0.0.1]:443",
		"00000000000000000000000001000000:0948": "[::1]:2376",
	} {
		if got, err := SocketAddr(in); err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("%s: got %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "01:1", "0100007F", "xx00007F:1", "0100007F:zz"} {
		if got, err := SocketAddr(in); err == nil {
			t.Errorf("%q: got %v", in, got)
		}
	}
}
