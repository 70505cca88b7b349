package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/peer"
	"github.com/belay-project/belay/internal/ratelimit"
)

// tlsListener accepts TCP connections that are yet to shake hands.
type tlsListener struct {
	net.Listener
	config *tls.Config
}

func newTLSListener(addr string, config *tls.Config) (*tlsListener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for TLS: %w", err)
	}
	return &tlsListener{Listener: l, config: config}, nil
}

// Accept implements [net.Listener].
func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(c, l.config), nil
}

// Server is one gate. Make one with [Listen].
type Server struct {
	o         Options
	up        *upstream
	who       peer.Identifier
	callers   callers
	bodies    room // of requests
	messages  room // of BuildKit's
	coming    room // of those that are not whole
	answers   room
	lookups   room
	streams   ratelimit.Places // raw ones
	shaking   room             // handshakes, by address
	counts    counters
	images    images
	left      leftovers
	guesses   guesses
	builds    claims
	sessions  sessions
	digests   chan struct{} // as many as are made at one time; guards pace
	pace      pace
	about     atomic.Pointer[aboutDaemon] // nil: not known
	listeners []net.Listener
	own       *net.UnixListener // the socket that is ours to remove
	dropped   bool              // a socket that was handed over: there were too many
	ownStat   os.FileInfo       // of the socket at Options.Socket, ours or handed over

	notKept sync.Once // says that containers lose the socket at a restart

	life  context.Context // until Close
	end   context.CancelFunc
	clock sync.WaitGroup

	// mu guards what follows.
	mu       sync.Mutex
	open     map[*conn]struct{}
	draining bool
	kept     bool // somebody else holds the sockets too
	wg       sync.WaitGroup
}

// Listen opens the sockets. Callers that connect before [Server.Run] wait.
//
// Errors: [ErrInUse] if another process answers on the socket. Options.Inherited stay the caller's then.
func Listen(o Options) (*Server, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	s := &Server{o: o, open: map[*conn]struct{}{}, digests: make(chan struct{}, digestsAtOnce)}
	s.life, s.end = context.WithCancel(context.Background())
	s.up = &upstream{path: o.Upstream, tickets: o.Tickets}
	s.who.Workload, s.who.Proc = o.Workload, o.proc
	s.callers = newCallers(&s.o.Limits)
	s.bodies.all, s.bodies.each = requestRoom, requestRoomEach
	s.answers.all, s.answers.each = answerRoom, answerRoomEach
	s.lookups.all, s.lookups.each = lookupRoom, lookupRoomEach
	s.streams.Shared, s.streams.Most = streamRoom, streamRoomEach
	s.messages.all, s.messages.each = messageRoom, messageRoomEach
	s.coming.all, s.coming.each = comingRoom, comingRoomEach
	s.shaking.all, s.shaking.each = maxShaking, maxShakingEach
	s.counts.init(o.Health)
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	s.inherit()
	return s, nil
}

// sockets counts those that somebody else can hold over a restart.
func (s *Server) sockets() (n int) {
	for _, l := range s.listeners {
		if _, ok := l.(*net.UnixListener); ok {
			n++
		}
	}
	return n
}

// maxSockets is how many unix sockets a gate has: FileDescriptorStoreMax of the agent's unit.
const maxSockets = 4

// inherit takes what was handed over. A socket of which another has the place since may still be mounted in containers: of
// those, the last that there is room for.
func (s *Server) inherit() {
	var gone []net.Listener
	for _, l := range s.o.Inherited {
		if inPlace(l) {
			s.listeners = append(s.listeners, l)
		} else {
			gone = append(gone, l)
		}
	}
	slices.SortStableFunc(gone, lostLast)
	for _, l := range gone {
		if s.sockets() < maxSockets {
			s.listeners = append(s.listeners, l)
			continue
		}
		s.o.Log.Warn("a former socket of the gate is closed, there are too many: containers that mount it have to be restarted", attr.Socket, l.Addr().String())
		l.Close()
		s.dropped = true
	}
}

func (s *Server) listen() error {
	// A socket that was handed to us is at the same path already.
	if s.o.Socket != "" && !s.inherits(s.o.Socket) {
		l, err := listenUnix(s.o.Socket, s.o.GID, s.o.Mode)
		if err != nil {
			return err
		}
		s.own = l
		s.listeners = append(s.listeners, l)
	}
	if s.o.Socket != "" {
		var err error
		if s.ownStat, err = os.Stat(s.o.Socket); err != nil {
			return fmt.Errorf("look at the gate's socket: %w", err)
		}
	}
	if s.o.TLS != nil {
		l, err := listenTLS(s.o.TLS, s.o.Log)
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
	}
	if len(s.listeners)+len(s.o.Inherited) == 0 {
		return errors.New("gate: there is nothing to listen on")
	}
	return nil
}

// inherits tells whether the socket that lies at path was handed over.
func (s *Server) inherits(path string) bool {
	return slices.ContainsFunc(s.o.Inherited, func(l net.Listener) bool {
		ul, ok := l.(*net.UnixListener)
		return ok && liesAt(ul, path)
	})
}

// Changed tells whether the unix sockets are others than those that were handed over: whoever holds them over a restart
// needs what [Server.Files] returns, in place of what he has.
func (s *Server) Changed() bool { return s.own != nil || s.dropped }

// Files returns copies of the sockets on which unix connections are taken, the one that the server
// made first, for whoever is to hold them over a restart. From then on the socket's file stays when the gate
// stops: a client that connects meanwhile waits for the next gate.
func (s *Server) Files() ([]*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*os.File
	for _, l := range s.listeners {
		ul, ok := l.(*net.UnixListener)
		if !ok {
			continue
		}
		f, err := ul.File()
		if err != nil {
			return out, fmt.Errorf("copy the gate's socket: %w", err)
		}
		out = append(out, f)
	}
	s.kept = true
	return out, nil
}

// Addr returns the address of the TCP listener; nil without one.
func (s *Server) Addr() net.Addr {
	for _, l := range s.listeners {
		if l.Addr().Network() == "tcp" {
			return l.Addr()
		}
	}
	return nil
}

// Run answers until ctx ends, and returns nil then. Requests and streams that are open
// at that moment go on until [Server.Drain] or [Server.Close].
func (s *Server) Run(ctx context.Context) error {
	errs := make(chan error, len(s.listeners))
	var accepting sync.WaitGroup
	for _, l := range s.listeners {
		accepting.Go(func() { errs <- s.accept(l) })
	}
	// It goes on while streams drain, and ends with the server.
	s.clock.Go(func() { s.keepTime(s.life) })
	s.clock.Go(func() { s.watchImages(s.life) })
	sweep := time.NewTicker(15 * time.Second)
	defer sweep.Stop()
	var err error
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case err = <-errs:
			done = true
		case now := <-sweep.C:
			if s.o.Socket != "" {
				err = s.checkPlace()
				done = err != nil
			}
			s.up.reap(now)
			s.callers.forget(now)
			s.guesses.forget(now)
		}
	}
	stopped := s.stopAccepting()
	accepting.Wait()
	switch {
	case ctx.Err() != nil || !stopped:
		return nil
	case errors.Is(err, ErrReplaced):
		return err
	}
	return fmt.Errorf("accept connections: %w", err)
}

// accept takes connections until its listener is closed.
func (s *Server) accept(l net.Listener) error {
	for delay := time.Millisecond; ; {
		nc, err := l.Accept()
		if err == nil {
			delay = time.Millisecond
			s.start(nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Out of descriptors, most likely: what is open must end first.
		s.counts.acceptErrors.Add(1)
		s.o.Log.Warn("connection not accepted", attr.Error, err.Error())
		time.Sleep(delay) //nolint:forbidigo // nothing else can be waited for
		delay = min(2*delay, time.Second)
	}
}

func (s *Server) start(nc net.Conn) {
	c := &conn{s: s, nc: nc}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		nc.Close()
		return
	}
	s.open[c] = struct{}{}
	s.wg.Go(func() {
		defer s.forget(c)
		defer c.survive()
		c.serve()
	})
}

func (s *Server) forget(c *conn) {
	c.nc.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// checkPlace returns [ErrReplaced] unless the socket at the gate's path is still the gate's: a daemon that is told to
// listen there too takes the path away. A path that cannot be looked at says nothing of the kind.
func (s *Server) checkPlace() error {
	st, err := os.Stat(s.o.Socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is gone", ErrReplaced, s.o.Socket)
	case err == nil && !os.SameFile(st, s.ownStat):
		return fmt.Errorf("%w: %s is another's, who is asked in the gate's stead; see the hosts of the daemon (docs/gate.md)", ErrReplaced, s.o.Socket)
	}
	return nil
}

// stopAccepting closes the listeners and ends connections between two requests. It
// returns false if that was done before.
func (s *Server) stopAccepting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.draining = true
	// The path is removed first: a client must not find a socket that nobody serves. It may
	// be another gate's by now.
	if s.own != nil && !s.kept {
		if s.checkPlace() == nil {
			os.Remove(s.o.Socket)
		}
	}
	for _, l := range s.listeners {
		l.Close()
	}
	for c := range s.open {
		c.drain()
	}
	return true
}

// Drain waits until what is open has ended, or ctx ends.
func (s *Server) Drain(ctx context.Context) {
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Close ends everything at once, streams included, and waits for it.
func (s *Server) Close() {
	s.stopAccepting()
	s.mu.Lock()
	for c := range s.open {
		c.abort()
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.end()
	s.clock.Wait()
	s.up.close()
}

// Open returns the number of open connections.
func (s *Server) Open() int { return s.callers.total() }
