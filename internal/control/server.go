package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/ratelimit"
)

// Limits of one server. They keep a broken or unfriendly client from costing the
// agent more than a little.
const (
	maxHeaderBytes  = 8 << 10
	maxBodyBytes    = 4 << 10 // no request has a body that says anything
	maxRefBytes     = 512
	maxConnections  = 128
	maxEventStreams = 32
	headerTimeout   = 5 * time.Second
	requestTimeout  = 15 * time.Second
	idleTimeout     = 30 * time.Second
	shutdownTimeout = 2 * time.Second
	// streamTimeout is how long one record of an event stream may wait for its reader:
	// long enough for a person who has paused the terminal.
	streamTimeout = 10 * time.Minute
)

// Options says where a server listens and for whom.
type Options struct {
	// Path of the socket. Its directory must exist.
	Path string
	// GID is the group that may use the socket besides root, and that owns it. 0, the
	// group of root, gives access to root alone.
	GID int
	// Manage lets callers manage policies; nil: nobody can.
	Manage *ManageOptions
	// Tokens lets root of the host make bearer tokens; nil: nobody can. It needs Manage, which
	// says who calls.
	Tokens Tokens
	// UsersOnly serves what Manage gives and nothing else, to every caller that reaches the
	// socket. Its mode is 0660, or 0666 with GID 0.
	UsersOnly bool
	// Log gets what nobody else hears of; nil discards it.
	Log *slog.Logger
}

// Server answers on the control socket. Make one with [Listen].
type Server struct {
	agent   Agent
	path    string
	gid     int
	log     *slog.Logger
	socket  net.Listener
	lock    *os.File
	streams chan struct{} // a token for each event stream
	manage  *ManageOptions
	tokens  Tokens
	slots   *slots             // of changes
	rates   *ratelimit.Buckets // nil: it serves more than manageRoutes
	timeout time.Duration      // of a request, both ways; tests shorten it
	close   func() error
}

// Listen takes the control socket, so that no other agent can, and returns a server
// that answers once [Server.Run] is called. Callers that connect before wait.
//
// A socket that nobody listens on is replaced.
// Errors: [ErrInUse] if another agent has the socket.
func Listen(agent Agent, o Options) (*Server, error) {
	mode := fs.FileMode(socketMode)
	if o.UsersOnly && o.GID == 0 {
		mode = openMode
	}
	l, lock, err := listenUnix(o.Path, o.GID, mode)
	if err != nil {
		return nil, err
	}
	s := &Server{
		agent: agent, path: o.Path, gid: o.GID, log: o.Log, socket: l, lock: lock,
		streams: make(chan struct{}, maxEventStreams), timeout: requestTimeout,
		manage: o.Manage, tokens: o.Tokens, slots: newSlots(maxChanges),
	}
	if o.UsersOnly {
		s.rates = ratelimit.New(usersBurst, usersRate)
	}
	s.close = sync.OnceValue(s.release)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Run answers until ctx ends, then removes the socket and returns nil. Open event
// streams end with it. It is called once.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	// Requests end before Shutdown waits for them: an event stream has no other end.
	base, cancel := context.WithCancel(ctx)
	defer cancel()
	h := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: min(headerTimeout, s.timeout),
		ReadTimeout:       s.timeout,
		WriteTimeout:      s.timeout + headerTimeout, // what took too long gets an answer that says so
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if u, ok := c.(*userConn); ok {
				ctx = context.WithValue(ctx, knownKey{}, u.known)
			}
			return context.WithValue(context.WithValue(ctx, connKey{}, c), peerKey{}, readPeer(c))
		},
	}
	conns := limitConns(s.socket, maxConnections)
	if s.manage != nil && s.manage.Identify != nil {
		conns = limitUsers(s.socket, maxConnections, s.identify)
	}
	return serveUntil(ctx, h, conns, s.path)
}

// serveUntil answers on l, the socket at path, until ctx ends, then waits for what is under way
// and returns nil.
func serveUntil(ctx context.Context, h *http.Server, l net.Listener, path string) error {
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", path, err)
	case <-ctx.Done():
	}
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer stop()
	if err := h.Shutdown(late); err != nil {
		// Whoever does not read any more is cut off.
		h.Close()
	}
	<-done
	return nil
}

// Close removes the socket. It is for a server whose Run is never called: Run does it
// itself.
func (s *Server) Close() error { return s.close() }

func (s *Server) release() error { return releaseSocket(s.lock, s.socket, s.path) }

func releaseSocket(lock *os.File, socket net.Listener, path string) error {
	// The lock goes last: once it is free the file could be the next agent's.
	defer lock.Close()
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // an operator was quicker
	}
	if cerr := socket.Close(); !errors.Is(cerr, net.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

// answer computes the body of an answer.
type answer func(s *Server, r *http.Request) (any, error)

type route struct {
	method, path string
	params       []string // of the query; any other is an error
	answer       answer   // nil: the event stream
	forAll       bool     // the answer decides by who asks, not the socket
	body         bool     // it has one, of up to maxChangeBytes
}

// routes is all that the socket answers.
var routes = []route{
	{method: http.MethodGet, path: "/v1/status", answer: func(s *Server, r *http.Request) (any, error) {
		return s.agent.Status(r.Context())
	}},
	{method: http.MethodGet, path: "/v1/containers", answer: containers},
	{method: http.MethodGet, path: "/v1/containers/use", params: []string{"container"}, answer: containerUse},
	{method: http.MethodGet, path: "/v1/explain", params: []string{"container"}, answer: explain},
	{method: http.MethodGet, path: "/v1/images", answer: images},
	{method: http.MethodGet, path: "/v1/images/explain", params: []string{"image"}, answer: explainImage},
	{method: http.MethodGet, path: "/v1/load", answer: loadStatus},
	{method: http.MethodGet, path: "/v1/events", params: []string{"since", "follow", "denials"}},
	{method: http.MethodPost, path: "/v1/reload", answer: reload},
	{method: http.MethodPost, path: "/v1/canary", answer: canary},
}

func (s *Server) routes() []route {
	switch {
	case s.rates != nil:
		return manageRoutes
	case s.manage != nil && s.tokens != nil:
		return slices.Concat(routes, loadRoutes, manageRoutes, tokenRoutes)
	case s.manage != nil:
		return slices.Concat(routes, loadRoutes, manageRoutes)
	}
	return routes
}

func containers(s *Server, r *http.Request) (any, error) {
	cs, err := s.agent.Containers(r.Context())
	if cs == nil {
		cs = []Container{} // a list, also when it is empty
	}
	return cs, err
}

func explain(s *Server, r *http.Request) (any, error) {
	ref := r.URL.Query().Get("container")
	if ref == "" || len(ref) > maxRefBytes {
		return nil, badRequest("container: want a name, an ID or the beginning of an ID")
	}
	return s.agent.Explain(r.Context(), ref)
}

func reload(s *Server, r *http.Request) (any, error) {
	who := &Caller{}
	if s.manage != nil && s.manage.Identify != nil {
		var err error
		if who, err = s.caller(r); err != nil {
			return nil, err
		}
	}
	return s.agent.Reload(r.Context(), who)
}

func canary(s *Server, r *http.Request) (any, error) {
	a, ok := s.agent.(CanaryRunner)
	if !ok {
		return nil, &Error{Status: http.StatusNotImplemented, Message: "this agent runs no canary on demand"}
	}
	return a.RunCanary(r.Context())
}

func badRequest(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	served := map[string]route{}
	for _, rt := range s.routes() {
		served[rt.path] = rt
		mux.HandleFunc(rt.path, func(w http.ResponseWriter, r *http.Request) { s.serve(rt, w, r) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, &Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no such path: %.100q", r.URL.Path)})
	})
	own := uint32(os.Geteuid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := peerOf(r.Context())
		rt := served[r.URL.Path]
		if err := s.admit(r, p, own); err != nil && !rt.forAll {
			s.log.Warn("control request refused", attr.UID, p.uid, attr.PID, p.pid, attr.Error, err)
			w.Header().Set("Connection", "close")
			s.fail(w, &Error{Status: http.StatusForbidden, Message: err.Error()})
			return
		}
		if k, ok := r.Context().Value(knownKey{}).(known); ok && s.rates != nil && !s.rates.Take(k.share(), time.Now()) {
			w.Header().Set("Retry-After", "1")
			s.fail(w, errTooMany)
			return
		}
		limit := int64(maxBodyBytes)
		if rt.body {
			limit = maxChangeBytes
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		mux.ServeHTTP(w, r)
	})
}

// admit returns an error unless a peer may ask for what is not decided by who asks: it may open
// the socket, and is known and outside of containers. To root of a container the socket's mode
// says nothing.
func (s *Server) admit(r *http.Request, p peer, own uint32) error {
	if err := p.check(own, s.gid); err != nil || s.manage == nil || s.manage.Identify == nil {
		return err
	}
	who, err := s.caller(r)
	switch {
	case err != nil:
		return err
	case who.Subject.Kind == apicall.User, s.manage.Admit != nil && s.manage.Admit(who):
		return nil
	}
	return errors.New("a process in a container may not use this socket, whatever its uid; fix: ask from the host, or let an access policy allow the container an action policy.*")
}

func (s *Server) serve(rt route, w http.ResponseWriter, r *http.Request) {
	if r.Method != rt.method {
		w.Header().Set("Allow", rt.method)
		s.fail(w, &Error{Status: http.StatusMethodNotAllowed, Message: "use " + rt.method + " for " + rt.path})
		return
	}
	if err := checkQuery(r.URL.RawQuery, rt.params); err != nil {
		s.fail(w, err)
		return
	}
	if rt.answer == nil {
		s.events(w, r)
		return
	}
	// Less than the connection's time, so that the error can still be sent.
	ctx, cancel := context.WithTimeout(r.Context(), s.timeout*9/10)
	defer cancel()
	body, err := rt.answer(s, r.WithContext(ctx))
	if err != nil {
		s.fail(w, err)
		return
	}
	s.write(w, http.StatusOK, body)
}

// fail answers with an error as {"error": "..."}.
func (s *Server) fail(w http.ResponseWriter, err error) {
	s.write(w, statusOf(err), errorBody{err.Error()})
}

type errorBody struct {
	Error string `json:"error"`
}

func (s *Server) write(w http.ResponseWriter, status int, body any) {
	answerJSON(w, s.log, status, body)
}

func answerJSON(w http.ResponseWriter, log *slog.Logger, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		log.Error("control answer cannot be encoded", attr.Error, err)
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client is gone if this fails, and has what it wanted or does not care.
	_, _ = w.Write(append(b, '\n'))
}
