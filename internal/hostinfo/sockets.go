package hostinfo

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// SocketAddr reads an address of the lists of sockets in procfs, such as "0100007F:1F90": words of 32 bits in the byte
// order of the host, which is little endian wherever Belay runs, and the port in hexadecimal. An IPv4 address of an IPv6
// socket stays mapped.
//
// Errors: a text of another form. Source: /proc/PID/net/{tcp,tcp6,udp,udp6}, proc_pid_net(5).
func SocketAddr(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, perr := hex.DecodeString(port)
	if !ok || err != nil || perr != nil || len(n) != 2 || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %.80q: want hexadecimal digits", s)
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(n[0])<<8|uint16(n[1])), nil
}
