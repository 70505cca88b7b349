package ci

import (
	"net"
	"net/netip"
	"sync"
)

// maxPerAddress is how many TCP connections one address, or one network of IPv6, has.
const maxPerAddress = 16

// LimitListener closes TCP connections beyond n at a time, and beyond some of one address: who
// has shown nothing yet must not keep others out.
func LimitListener(l net.Listener, n int) net.Listener {
	return &limitListener{Listener: l, most: n, open: map[string]int{}}
}

type limitListener struct {
	net.Listener
	most int

	// mu guards what follows.
	mu   sync.Mutex
	open map[string]int
	all  int
}

// Accept implements [net.Listener].
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		share := ""
		if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			share = shareOfAddress(a.Addr())
		}
		if l.take(share) {
			return &limitConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(share) })}, nil
		}
		c.Close()
	}
}

func (l *limitListener) take(share string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.most || l.open[share] >= maxPerAddress {
		return false
	}
	l.all++
	l.open[share]++
	return true
}

func (l *limitListener) leave(share string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[share]--; l.open[share] <= 0 {
		delete(l.open, share)
	}
}

type limitConn struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (c *limitConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
