package control

import (
	"net"
	"sync"
)

// limitConns accepts no more than n connections at a time; others wait in the
// kernel's backlog.
func limitConns(l net.Listener, n int) net.Listener {
	return &limitedListener{Listener: l, tokens: make(chan struct{}, n), closed: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	tokens    chan struct{}
	closed    chan struct{}
	closeOnce sync.Once
}

// Accept implements [net.Listener]. It waits while all connections are taken.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.tokens <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.tokens
		return nil, err
	}
	return &limitedConn{UnixConn: c.(*net.UnixConn), release: sync.OnceFunc(func() { <-l.tokens })}, nil
}

// Close implements [net.Listener]. It also ends an Accept that waits.
func (l *limitedListener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn embeds the unix connection itself, so that its peer can be asked for.
type limitedConn struct {
	*net.UnixConn
	release func()
}

// Close implements [net.Conn]. It makes room for another connection.
func (c *limitedConn) Close() error {
	defer c.release()
	return c.UnixConn.Close()
}
