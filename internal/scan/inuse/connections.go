package inuse

import (
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/ident"
)

// maxConnections bounds the connections of a host.
const maxConnections = 50_000

// Connection is one end of an established TCP connection, which a container holds.
type Connection struct {
	Container     ident.ContainerID
	Local, Remote netip.AddrPort
	// Accepted says that this is the end that was connected to: its namespace listens on the port.
	Accepted bool
	// Peer is the container that holds the other end; empty: none of those that were looked at,
	// or more than one could.
	Peer ident.ContainerID
}

// Connections returns the connections of containers, whose processes are given; whole is false if
// there may be more. A container is told of the sockets that its own processes hold: others may
// share its network namespace.
//
// Source: /proc/PID/net/{tcp,tcp6}, proc_pid_net(5).
func (p Proc) Connections(of map[ident.ContainerID][]int) (all []Connection, whole bool) {
	s := connectionsLook{proc: p, whole: true, spaces: map[string]*streams{}, holders: map[end]*holder{}}
	for _, id := range slices.Sorted(maps.Keys(of)) {
		s.container(id, of[id])
	}
	return s.joined(), s.whole
}

// end is how one end of a connection names both. Loopback addresses are the network namespace's own.
type end struct {
	space         string // of a loopback address
	local, remote netip.AddrPort
}

func (e end) other() end { return end{e.space, e.remote, e.local} }

// holder is the container that holds an end.
type holder struct {
	id     ident.ContainerID // empty: networks of two have the same addresses
	listen bool              // its namespace listens on the local port
}

// connectionsLook collects what containers hold.
type connectionsLook struct {
	proc    Proc
	whole   bool
	spaces  map[string]*streams
	holders map[end]*holder
	ends    []end
	of      []ident.ContainerID // of ends
}

func (s *connectionsLook) container(id ident.ContainerID, pids []int) {
	if len(pids) > maxProcesses {
		pids, s.whole = pids[:maxProcesses], false
	}
	bounds, seen := new(Look), map[string]bool{}
	for _, pid := range pids {
		inodes, whole, err := s.proc.descriptors(bounds, strconv.Itoa(pid), func(string, How) {})
		if !whole || err != nil && !ended(err) {
			s.whole = false
		}
		if len(inodes) == 0 {
			continue
		}
		space := s.streams(strconv.Itoa(pid))
		for _, inode := range inodes {
			e, ok := space.joined[inode]
			if !ok || seen[inode] { // the process was forked with it
				continue
			}
			if seen[inode] = true; len(s.ends) == maxConnections {
				s.whole = false
				return
			}
			s.ends, s.of = append(s.ends, e), append(s.of, id)
			if s.holders[e] != nil {
				s.holders[e].id = ""
				continue
			}
			s.holders[e] = &holder{id, space.listen[e.local.Port()]}
		}
	}
}

func (s *connectionsLook) joined() []Connection {
	all := make([]Connection, 0, len(s.ends))
	for i, e := range s.ends {
		here, there := s.holders[e], s.holders[e.other()]
		c := Connection{Container: s.of[i], Local: e.local, Remote: e.remote, Accepted: here.listen}
		if there != nil && there.id != "" {
			c.Peer = there.id
			if here.listen == there.listen { // who listened may do so no more
				c.Accepted = e.local.Port() < e.remote.Port() || e.local.Port() == e.remote.Port() && e.local.Compare(e.remote) < 0
			}
		}
		all = append(all, c)
	}
	return all
}

// streams are the TCP sockets of a network namespace.
type streams struct {
	listen map[uint16]bool
	joined map[string]end // by the inode of the socket
}

// streams returns those of a process's network namespace, which it reads once; none of a process that
// has ended meanwhile.
func (s *connectionsLook) streams(pid string) *streams {
	space, err := os.Readlink(s.proc.path(pid, "ns", "net"))
	if err != nil {
		s.whole = s.whole && ended(err)
		return &streams{}
	}
	if known := s.spaces[space]; known != nil {
		return known
	}
	list := &streams{listen: map[uint16]bool{}, joined: map[string]end{}}
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := s.proc.socketList(pid, name)
		switch {
		case err != nil && name == "tcp6" && os.IsNotExist(err): // a kernel without IPv6
			continue
		case err != nil:
			s.whole = s.whole && ended(err)
			return &streams{}
		case len(text) == maxNetBytes:
			s.whole = false
		}
		for l := range socketLines(text) {
			local, err := hostinfo.SocketAddr(l.local)
			if err != nil {
				continue
			}
			switch l.state {
			case stateListen:
				list.listen[local.Port()] = true
			case stateEstablished:
				remote, err := hostinfo.SocketAddr(l.remote)
				if err != nil {
					continue
				}
				e := end{local: unmapped(local), remote: unmapped(remote)}
				if e.local.Addr().IsLoopback() {
					e.space = space
				}
				list.joined[l.inode] = e
			}
		}
	}
	s.spaces[space] = list
	return list
}
