package proxy

import (
	"errors"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/policy"
)

// place is how a path of the host lies to the daemon's socket.
type place int

const (
	elsewhere place = iota
	isGate          // the gate's own socket
	isSocket        // the daemon's
	isAbove         // a directory that has the daemon's in it
)

// rerouteSocket does what policies say of mounts of the daemon's socket, before the call is
// judged: what is judged is what is mounted.
func (x *exchange) rerouteSocket() *refusal {
	if x.rules == nil || len(x.req.Call.Facts.HostMounts) == 0 {
		return nil
	}
	what, by := x.rules.DockerSocket(&x.c.sub)
	if what == "" {
		return nil
	}
	mounts := x.req.Call.Facts.HostMounts
	for i := range mounts {
		m := &mounts[i]
		at, err := x.c.s.placeOf(m)
		if err != nil {
			x.c.s.counts.unresolved.Add(1)
			x.c.s.o.Log.Warn("a mount cannot be compared with the daemon's socket", attr.Error, err.Error())
			return &refusal{status: http.StatusForbidden, cause: "unresolved_mount", msg: "belay: a mount's source cannot be resolved: " + err.Error()}
		}
		plain := m.Via == "bind" && x.req.Call.Action == "container.create"
		switch {
		case at == elsewhere, at == isGate && what != policy.SocketReplace:
		case at == isGate && plain:
			m.GateSocket = true
		case at == isSocket && what == policy.SocketReplace && plain:
			if r := x.replaceSocket(i); r != nil {
				return r
			}
		default:
			return x.refuseSocket(m, by)
		}
	}
	return nil
}

func (x *exchange) replaceSocket(i int) *refusal {
	s := x.c.s
	m := &x.req.Call.Facts.HostMounts[i]
	gate, err := s.gateSocket()
	if err == nil {
		err = x.req.SetMountSource(i, gate)
	}
	if err != nil {
		s.counts.unresolved.Add(1)
		return &refusal{status: http.StatusForbidden, cause: "docker_socket", msg: "belay: the daemon's socket cannot be replaced by the gate's: " + err.Error()}
	}
	m.GateSocket = true
	s.counts.replaced.Add(1)
	if !s.outlives() {
		s.notKept.Do(func() {
			s.o.Log.Warn("the gate's socket is in containers and is not kept over a restart of the agent: they have to be restarted after it; " +
				"run the agent under systemd with FileDescriptorStoreMax, or with a socket unit")
		})
	}
	return nil
}

func (x *exchange) refuseSocket(m *apicall.HostMount, by *policy.AccessPolicy) *refusal {
	x.c.s.counts.denied.Add(1)
	x.ev.Policy, x.ev.Revision, x.ev.Rule = by.Name, by.Revision, "dockerSocket"
	return &refusal{status: http.StatusForbidden, cause: "docker_socket",
		msg: "belay: " + x.req.Call.Action + " is denied by policy " + by.Name + ", dockerSocket: " + m.Via + " " + m.Source +
			" would give the container the daemon's socket; mount the socket itself where the policy replaces it"}
}

// gateSocket returns the path of the gate's own socket without links.
func (s *Server) gateSocket() (string, error) {
	if s.o.Socket == "" {
		return "", errors.New("the gate has no unix socket")
	}
	real, err := realPath(s.o.Socket)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Lstat(real, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return "", errors.New("the gate's socket is not there")
	}
	if err := s.checkPlace(); err != nil {
		return "", err
	}
	return real, nil
}

// outlives tells whether the gate's socket stays the same over a restart of the agent:
// somebody else has opened it, or keeps it. A mount of it is of the socket itself and not
// of its path, so it would lead nowhere after a restart that makes another.
func (s *Server) outlives() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept || s.inherits(s.o.Socket)
}

// placeOf compares all that a mount shows of the host with the daemon's socket.
func (s *Server) placeOf(m *apicall.HostMount) (place, error) {
	paths := []string{m.Resolved}
	if m.Via != "bind" {
		if m.Resolved == "" {
			paths[0] = m.Source
		}
		for _, v := range m.Options {
			paths = append(paths, strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == '=' || r == ':' })...)
		}
	}
	worst := elsewhere
	for _, p := range paths {
		if !path.IsAbs(p) {
			continue
		}
		real, err := realPath(p)
		if err != nil {
			return isAbove, err
		}
		at, err := s.compare(real)
		if err != nil {
			return isAbove, err
		}
		worst = max(worst, at)
	}
	return worst, nil
}

// compare says how a path without links lies to the daemon's socket: by name, and by what
// is there, which finds another mount of it.
func (s *Server) compare(p string) (place, error) {
	socket, err := realPath(s.o.Upstream)
	if err != nil {
		return isAbove, err
	}
	if p == socket {
		return isSocket, nil
	}
	if p == "/" || strings.HasPrefix(socket, p+"/") {
		return isAbove, nil
	}
	var st unix.Stat_t
	switch err := unix.Lstat(p, &st); {
	case errors.Is(err, fs.ErrNotExist):
		return elsewhere, nil // the daemon makes a directory there
	case err != nil:
		return isAbove, err
	}
	is := func(q string) bool {
		var other unix.Stat_t
		return unix.Lstat(q, &other) == nil && other.Dev == st.Dev && other.Ino == st.Ino
	}
	if is(socket) {
		return isSocket, nil
	}
	for dir := path.Dir(socket); ; dir = path.Dir(dir) {
		if is(dir) {
			return isAbove, nil
		}
		if dir == "/" {
			break
		}
	}
	if gate, err := s.gateSocket(); err == nil && (p == gate || is(gate)) {
		return isGate, nil
	}
	return elsewhere, nil
}
