package inuse

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/hostinfo"
)

// Endpoint is what a process listens on.
type Endpoint struct {
	Proto string         `json:"proto"` // tcp, udp
	Addr  netip.AddrPort `json:"addr"`
}

// String is "tcp 0.0.0.0:443".
func (e Endpoint) String() string { return e.Proto + " " + e.Addr.String() }

func (e Endpoint) compare(o Endpoint) int {
	return cmp.Or(cmp.Compare(e.Proto, o.Proto), e.Addr.Compare(o.Addr))
}

// maxEndpoints bounds those of one file.
const maxEndpoints = 16

func union(a, b []Endpoint) []Endpoint {
	for _, e := range b {
		if len(a) < maxEndpoints && !slices.Contains(a, e) {
			a = append(a, e)
		}
	}
	return a
}

// listeners are the endpoints of a network namespace by the inode of their socket.
type listeners map[string][]Endpoint

// listeners returns those of a process's network namespace, which it reads once; ok is false
// if not all could be read.
//
// Source: /proc/PID/net/{tcp,tcp6,udp,udp6}, proc_pid_net(5).
func (p Proc) listeners(nets map[string]listeners, pid string) (list listeners, ok bool) {
	ns, err := os.Readlink(p.path(pid, "ns", "net"))
	if err != nil {
		return nil, false
	}
	if list, ok := nets[ns]; ok {
		return list, list != nil
	}
	if len(nets) >= maxNamespaces {
		return nil, false
	}
	list, ok = listeners{}, true
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := p.socketList(pid, name)
		if err != nil {
			// A kernel without IPv6 has no such file.
			ok = ok && strings.HasSuffix(name, "6") && os.IsNotExist(err)
			continue
		}
		// Connections come behind what listens: of TCP nothing is missed in what is left.
		ok = ok && (len(text) < maxNetBytes || strings.HasPrefix(name, "tcp"))
		list.read(name, text)
	}
	nets[ns] = list
	return list, ok
}

// socketList returns one list of sockets of a process's network namespace, up to maxNetBytes.
func (p Proc) socketList(pid, name string) (string, error) {
	b, err := readUpTo(p.path(pid, "net", name), maxNetBytes)
	return string(b), err
}

// States of sockets: include/net/tcp_states.h. An UDP socket that is not connected is closed.
const (
	stateEstablished = "01"
	stateClose       = "07"
	stateListen      = "0A"
)

// socketLine is a line of a list: addresses as [hostinfo.SocketAddr] reads them.
type socketLine struct{ local, remote, state, inode string }

// socketLines returns the lines of one list: sl local_address rem_address st tx:rx tr:when
// retrnsmt uid timeout inode ...
func socketLines(text string) iter.Seq[socketLine] {
	return func(yield func(socketLine) bool) {
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) >= 10 && !yield(socketLine{f[1], f[2], f[3], f[9]}) {
				return
			}
		}
	}
}

// unmapped returns an IPv4 address of an IPv6 socket as what it is.
func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// read takes one list.
func (l listeners) read(name, text string) {
	proto := strings.TrimSuffix(name, "6")
	for s := range socketLines(text) {
		if s.state != stateListen && (proto != "udp" || s.state != stateClose) {
			continue
		}
		addr, err := hostinfo.SocketAddr(s.local)
		if err != nil || addr.Port() == 0 {
			continue
		}
		l[s.inode] = append(l[s.inode], Endpoint{proto, unmapped(addr)})
	}
}

// Port is a port of a container that the engine publishes on the host.
type Port struct {
	Proto   string         `json:"proto"`
	Host    netip.AddrPort `json:"host"`
	Private uint16         `json:"private"`
}

// Ports is what is known of the published ports of a container.
type Ports struct {
	Known bool `json:"known,omitempty"`
	// Host says that it has the host's network: what listens there is as reachable as the host.
	Host bool   `json:"host,omitempty"`
	List []Port `json:"list,omitempty"`
}

// reach returns how an endpoint is reached from outside of the host: "tcp 0.0.0.0:8443->443".
// One that listens on a loopback address is not, nor one that is published on one.
func (p *Ports) reach(e Endpoint) []string {
	if e.Addr.Addr().IsLoopback() {
		return nil
	}
	if p.Host {
		return []string{e.String()}
	}
	var out []string
	for _, port := range p.List {
		if port.Proto == e.Proto && port.Private == e.Addr.Port() && !port.Host.Addr().IsLoopback() {
			out = append(out, fmt.Sprintf("%s %s->%d", port.Proto, port.Host, port.Private))
		}
	}
	return out
}
