package engine

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/load/plan"
)

// Bounds of what is read of sockets. What listens comes before connections.
const (
	maxSockets   = 4 << 20 // bytes of one list
	maxListening = 4096
)

// ephemeral is where the ports begin that a kernel gives to sockets that asked for none: those of UDP there are mostly of
// clients, gone in a moment.
//
// Source: ip_local_port_range, Documentation/networking/ip-sysctl.rst of Linux.
const ephemeral = 32768

// Listening returns the ports that something listens on in the network namespace of a process directory of /proc, such
// as /proc/self, in order. An address that is not for all is in [plan.Port.IP].
//
// Errors: a list that cannot be read or has a line of another form. A kernel without IPv6 has no list of it.
func Listening(proc string) ([]plan.Port, error) {
	var out []plan.Port
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		path := filepath.Join(proc, "net", name)
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, "6") {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("what listens: %w", err)
		}
		ports, err := listening(strings.TrimSuffix(name, "6"), io.LimitReader(f, maxSockets))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("what listens: %s: %w", path, err)
		}
		out = append(out, ports...)
	}
	slices.SortFunc(out, func(a, b plan.Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.IP, b.IP))
	})
	out = slices.Compact(out)
	return out[:min(len(out), maxListening)], nil
}

// listening reads one list: sl local_address rem_address st and more, after a line of titles. TCP listens in state 0A, and
// an UDP socket that is not connected is in 07 (include/net/tcp_states.h).
func listening(protocol string, r io.Reader) (out []plan.Port, err error) {
	state := map[string]string{"tcp": "0A", "udp": "07"}[protocol]
	lines := bufio.NewScanner(r)
	lines.Scan()
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] != state {
			continue
		}
		addr, err := hostinfo.SocketAddr(f[1])
		if err != nil {
			return nil, err
		}
		n := addr.Port()
		if n == 0 || protocol == "udp" && n >= ephemeral {
			continue
		}
		p := plan.Port{Port: int(n), Protocol: protocol}
		if ip := addr.Addr(); !ip.IsUnspecified() {
			p.IP = ip.Unmap().String()
		}
		out = append(out, p)
	}
	return out, lines.Err()
}
