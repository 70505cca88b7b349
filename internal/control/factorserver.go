package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	gatepeer "github.com/belay-project/belay/internal/gate/peer"
	"github.com/belay-project/belay/internal/ratelimit"
)

// Limits of the factor socket, which strangers may open too.
const (
	factorConns = 64
	// factorBurst requests of one share are answered at once, then factorRate in a second.
	factorBurst = 20
	factorRate  = 1
)

// FactorOptions says where the factor socket is.
type FactorOptions struct {
	Path     string
	Workload gatepeer.Workload // knows containers; nil: by the names of cgroups alone
	Refused  func(c *FactorCaller, container, why string)
	Log      *slog.Logger

	identify func(net.Conn) (apicall.Subject, error) // for tests
}

// FactorServer answers on the factor socket. Make one with [ListenFactor].
type FactorServer struct {
	factor Factor
	o      FactorOptions
	who    gatepeer.Identifier
	socket net.Listener
	lock   *os.File
	close  func() error
	rates  *ratelimit.Buckets
}

// ListenFactor takes the socket for second factors. Its mode lets every user of the host
// open it, for nothing but the calls of [Factor]; who calls is known from the kernel. A peer in
// a container, by its cgroup and whatever its uid, and one that cannot be known are refused.
//
// Errors: [ErrInUse].
func ListenFactor(f Factor, o FactorOptions) (*FactorServer, error) {
	l, lock, err := listenUnix(o.Path, os.Getegid(), openMode)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &FactorServer{factor: f, o: o, socket: l, lock: lock, rates: ratelimit.New(factorBurst, factorRate)}
	s.who.Workload = o.Workload
	if o.identify == nil {
		s.o.identify = s.who.Of
	}
	s.close = sync.OnceValue(func() error { return releaseSocket(s.lock, s.socket, s.o.Path) })
	return s, nil
}

// Close removes the socket. It is for a server whose Run is never called.
func (s *FactorServer) Close() error { return s.close() }

// Run answers until ctx ends, then removes the socket and returns nil. It is called once.
func (s *FactorServer) Run(ctx context.Context) error {
	defer s.Close()
	h := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
		IdleTimeout: headerTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:    slog.NewLogLogger(s.o.Log.Handler(), slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, knownKey{}, c.(*userConn).known)
		},
	}
	return serveUntil(ctx, h, limitUsers(s.socket, factorConns, s.o.identify), s.o.Path)
}

// routes is all that the socket answers.
func (s *FactorServer) routes() map[string]func(ctx context.Context, c *FactorCaller, body io.Reader) (any, error) {
	return map[string]func(context.Context, *FactorCaller, io.Reader) (any, error){
		"/v1/factor/enrol":   decoded(s.factor.Enrol),
		"/v1/factor/confirm": decoded(s.factor.Confirm),
		"/v1/factor/remove":  decoded(s.factor.Remove),
		"/v1/factor/elevate": decoded(s.factor.Elevate),
		"/v1/factor/drop":    decoded(s.factor.Drop),
		"/v1/factor/list": decoded(func(ctx context.Context, c *FactorCaller, _ *struct{}) (*Factors, error) {
			return s.factor.Factors(ctx, c)
		}),
	}
}

// decoded reads the body strictly and calls f with it.
func decoded[Q, A any](f func(context.Context, *FactorCaller, *Q) (*A, error)) func(context.Context, *FactorCaller, io.Reader) (any, error) {
	return func(ctx context.Context, c *FactorCaller, body io.Reader) (any, error) {
		q := new(Q)
		dec := json.NewDecoder(body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(q); err != nil {
			return nil, badRequest("the request cannot be read: it is no such document")
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, badRequest("something follows the request")
		}
		return f(ctx, c, q)
	}
}

func (s *FactorServer) handler() http.Handler {
	routes := s.routes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := s.caller(r.Context())
		if err != nil {
			w.Header().Set("Connection", "close")
			answerJSON(w, s.o.Log, statusOf(err), errorBody{err.Error()})
			return
		}
		f, ok := routes[r.URL.Path]
		switch {
		case !ok:
			err = &Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no such path: %.100q", r.URL.Path)}
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			err = &Error{Status: http.StatusMethodNotAllowed, Message: "use POST"}
		case r.URL.RawQuery != "":
			err = badRequest("a request has no parameters here")
		}
		var body any
		if err == nil {
			body, err = f(r.Context(), c, http.MaxBytesReader(w, r.Body, maxBodyBytes))
		}
		if err != nil {
			answerJSON(w, s.o.Log, statusOf(err), errorBody{err.Error()})
			return
		}
		answerJSON(w, s.o.Log, http.StatusOK, body)
	})
}

// caller returns who asks, or why nobody hears it.
func (s *FactorServer) caller(ctx context.Context) (*FactorCaller, error) {
	k, _ := ctx.Value(knownKey{}).(known)
	c := &FactorCaller{UID: k.sub.UID, Name: k.sub.Name, PID: k.sub.PID}
	refuse := func(status int, msg string) (*FactorCaller, error) {
		s.o.Log.Warn("a request about a second factor is refused", attr.UID, c.UID, attr.PID, c.PID, attr.Reason, msg)
		if s.o.Refused != nil {
			s.o.Refused(c, k.sub.ContainerID, msg)
		}
		return nil, &Error{Status: status, Message: msg}
	}
	switch {
	case !s.rates.Take(k.share(), time.Now()): // before anything is noted
		return nil, errTooMany
	case k.err != nil:
		return refuse(http.StatusForbidden, k.err.Error())
	case k.sub.Kind == apicall.Container:
		return refuse(http.StatusForbidden, "a process in a container has no second factor: ask from the host")
	case k.sub.Kind != apicall.User:
		return refuse(http.StatusForbidden, "who is calling is unknown")
	}
	session, err := s.who.Session(&k.sub)
	if err != nil {
		c.NoSession = err.Error()
	}
	c.Session = session
	return c, nil
}
