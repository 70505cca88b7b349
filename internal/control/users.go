package control

import (
	"io/fs"
	"net"
	"strconv"
	"sync"

	"github.com/belay-project/belay/internal/apicall"
	gatepeer "github.com/belay-project/belay/internal/gate/peer"
	"github.com/belay-project/belay/internal/ratelimit"
)

// UsersSocketName is the name in the run directory of the socket that others than root
// and the control socket's group may open, if the agent offers it.
const UsersSocketName = "users.sock"

const (
	// maxPerUser is how many connections one share may have to a socket for users.
	maxPerUser = 8
	// keptForRoot is how many connections nobody but root of the host has, so that an
	// administrator gets in whatever users do.
	keptForRoot = 8
	// usersBurst requests of one share are answered at once, then usersRate in a second.
	usersBurst = 60
	usersRate  = 4
)

// rootShare is of uid 0 of the host, for whom nothing but the socket's own bound holds.
const rootShare = ratelimit.Unbounded

// shareOf says who a caller's connections and requests are counted for. The uids of a user
// namespace are as many as its owner likes and have no names in the host's database, and
// containers are made at will: each of these kinds has one share, as one user has.
func shareOf(sub *apicall.Subject, err error) string {
	switch {
	case err == nil && sub.Kind == apicall.Container:
		return "containers"
	case err != nil || sub.Kind != apicall.User:
		return "unknown"
	case sub.UID == 0:
		return rootShare
	case sub.Name == "":
		return "nameless"
	}
	return "uid " + strconv.FormatUint(uint64(sub.UID), 10)
}

// known is who is at the other end of a connection, when it was accepted.
type known struct {
	sub apicall.Subject
	err error
}

func (k *known) share() string { return shareOf(&k.sub, k.err) }

type knownKey struct{}

// limitUsers closes connections of shares that have [maxPerUser] already, and of all but root
// that would take the last [keptForRoot] of total. identify says who calls.
func limitUsers(l net.Listener, total int, identify func(net.Conn) (apicall.Subject, error)) net.Listener {
	return &userListener{
		Listener: limitConns(l, total), identify: identify, places: ratelimit.Places{Most: maxPerUser, Shared: total - keptForRoot},
	}
}

// userListener wraps a [limitedListener].
type userListener struct {
	net.Listener
	identify func(net.Conn) (apicall.Subject, error)
	places   ratelimit.Places
}

// Accept implements [net.Listener].
func (l *userListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var k known
		k.sub, k.err = l.identify(c)
		share := k.share()
		if !l.places.Take(share) {
			c.Close()
			continue
		}
		return &userConn{limitedConn: c.(*limitedConn), known: k, leave: sync.OnceFunc(func() { l.places.Leave(share) })}, nil
	}
}

// ListenShared takes the socket at path for another server than [Server], with the bounds of
// the socket for users: group gid may open it besides root, everybody if open is set. identify
// says who calls. release closes and removes it.
//
// Errors: [ErrInUse] if another agent has the socket.
func ListenShared(path string, gid int, open bool, identify func(net.Conn) (apicall.Subject, error)) (l net.Listener, release func() error, err error) {
	mode := fs.FileMode(socketMode)
	if open {
		mode = openMode
	}
	socket, lock, err := listenUnix(path, gid, mode)
	if err != nil {
		return nil, nil, err
	}
	return limitUsers(socket, maxConnections, identify), sync.OnceValue(func() error { return releaseSocket(lock, socket, path) }), nil
}

type userConn struct {
	*limitedConn
	known known
	leave func()
}

var _ gatepeer.Accepted = (*userConn)(nil)

// Accepted implements [gatepeer.Accepted].
func (c *userConn) Accepted() (apicall.Subject, error) { return c.known.sub, c.known.err }

// Close implements [net.Conn].
func (c *userConn) Close() error {
	defer c.leave()
	return c.limitedConn.Close()
}
