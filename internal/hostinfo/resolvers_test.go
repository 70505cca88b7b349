package hostinfo

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestResolvers(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for path, text := range map[string]string{
		a: "# servers\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nsearch example.org\nnameserver\nnameserver nobody\n",
		b: "nameserver 192.0.2.1\n nameserver\t::ffff:192.0.2.1\noptions edns0\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Resolvers(a, b, filepath.Join(t.TempDir(), "none"))
	want := []netip.Addr{netip.MustParseAddr("127.0.0.53"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := Resolvers(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
}
