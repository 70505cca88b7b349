package control

import (
	"net"
	"sync"
)

// UsersSocketName is the name in the run directory of the socket that others than root
// and the control socket's group may open, if the agent offers it.
const UsersSocketName = "users.sock"

// maxPerUser is how many connections one user may have to the socket for users.
const maxPerUser = 8

// limitUsers closes connections of users that have n already, so that none of them keeps
// the others out.
func limitUsers(l net.Listener, n int) net.Listener {
	return &userListener{Listener: l, most: n, open: map[uint32]int{}}
}

// userListener wraps a [limitedListener].
type userListener struct {
	net.Listener
	most int

	// mu guards open.
	mu   sync.Mutex
	open map[uint32]int
}

// Accept implements [net.Listener].
func (l *userListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p := readPeer(c)
		if p.err != nil || !l.take(p.uid) {
			c.Close()
			continue
		}
		return &userConn{limitedConn: c.(*limitedConn), leave: sync.OnceFunc(func() { l.leave(p.uid) })}, nil
	}
}

func (l *userListener) take(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[uid] >= l.most {
		return false
	}
	l.open[uid]++
	return true
}

func (l *userListener) leave(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[uid]--; l.open[uid] <= 0 {
		delete(l.open, uid)
	}
}

type userConn struct {
	*limitedConn
	leave func()
}

// Close implements [net.Conn].
func (c *userConn) Close() error {
	defer c.leave()
	return c.limitedConn.Close()
}
