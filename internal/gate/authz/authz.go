// Package authz is the gate's tripwire: an authorisation plugin that the Docker daemon
// asks about every request, on whatever socket it came. It lets pass what the proxy has
// put a ticket on and nothing else, so that the daemon's own socket is no way around the
// gate.
//
// It speaks the daemon's plugin protocol with a server of its own, which bounds what it
// reads and answers every doubt with a denial. It knows no policies: the proxy has asked
// them. It owns the plugin's socket. Row: feature; it imports gate/ticket, dockerapi,
// health and attr.
//
// Source of the protocol: docs.docker.com/engine/extend/plugins_authorization and
// moby's pkg/authorization.
package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/health"
)

const (
	// maxQuestion bounds a question: the daemon sends bodies of up to 4 MiB, in base64,
	// and headers.
	maxQuestion  = 8 << 20
	questionTime = 30 * time.Second
	idleTime     = 5 * time.Minute
)

// Denial is a request that did not come through the gate.
type Denial struct {
	Time   time.Time
	Method string
	Path   string // without the query, at most 512 bytes
	Action string // "" if no endpoint has the path
	User   string // what the daemon knows of the caller: a certificate's common name
	Reason string
	Cause  string // stable: no_ticket, bad_ticket, no_body, unreadable
}

// Options are those of a plugin.
type Options struct {
	// Socket is where the daemon finds the plugin: <name>.sock below /run/docker/plugins.
	Socket  string
	Tickets *ticket.Keeper   // required
	Record  func(Denial)     // called for every denial; nil: nobody
	Health  *health.Registry // nil: a registry of its own
	Log     *slog.Logger     // nil discards
}

// Plugin is one plugin. Make one with [Listen].
type Plugin struct {
	o       Options
	socket  net.Listener
	allowed *health.Counter
	denied  *health.Counter
}

// Listen opens the plugin's socket, for root only. A file that is there is replaced if
// nobody listens on it.
func Listen(o Options) (*Plugin, error) {
	if o.Tickets == nil {
		return nil, errors.New("authz: Options.Tickets is required")
	}
	if o.Health == nil {
		o.Health = health.New(nil)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := listen(o.Socket)
	if err != nil {
		return nil, err
	}
	return &Plugin{o: o, socket: l, allowed: o.Health.Counter("authz_allowed"), denied: o.Health.Counter("authz_denied")}, nil
}

func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the plugin's directory: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("something answers on %s already", path)
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("look at the plugin's socket: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is in the way and no socket", path)
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove what is left of an earlier start: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the plugin's socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("put the plugin's socket in its place: %w", err)
	}
	return l, nil
}

// Run answers until ctx ends, then returns nil. The socket's file stays: without it the
// daemon could not tell a plugin that is down from one that was taken away. While nobody
// answers on it the daemon refuses every request.
func (p *Plugin) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler: http.HandlerFunc(p.serve), ReadTimeout: questionTime, WriteTimeout: questionTime, IdleTimeout: idleTime,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(p.o.Log.Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(p.socket) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the authorisation plugin: %w", err)
	case <-ctx.Done():
	}
	srv.Close()
	<-done
	return nil
}

// Close gives the socket back. It is for a plugin whose Run is never called.
func (p *Plugin) Close() error { return p.socket.Close() }

// question is what the daemon asks; see authorization.Request of moby.
type question struct {
	User           string
	RequestMethod  string
	RequestURI     string `json:"RequestUri"`
	RequestBody    []byte
	RequestHeaders map[string]string
}

// answer is what it is told. The zero value denies.
type answer struct {
	Allow bool
	Msg   string `json:",omitempty"`
	Err   string `json:",omitempty"`
}

const contentType = "application/vnd.docker.plugins.v1.2+json"

func (p *Plugin) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "use POST", http.StatusMethodNotAllowed)
		return
	}
	switch r.URL.Path {
	case "/Plugin.Activate":
		p.write(w, map[string][]string{"Implements": {"authz"}})
	case "/AuthZPlugin.AuthZReq":
		p.write(w, p.judge(r))
	case "/AuthZPlugin.AuthZRes":
		// The request was judged; answers are filtered by the proxy.
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxQuestion))
		p.write(w, answer{Allow: true})
	default:
		http.NotFound(w, r)
	}
}

func (p *Plugin) write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", contentType)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.o.Log.Warn("the daemon did not take an answer", attr.Error, err.Error())
	}
}

// judge answers one question. Whatever cannot be read is denied.
func (p *Plugin) judge(r *http.Request) answer {
	var q question
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxQuestion))
	if err == nil {
		err = json.Unmarshal(raw, &q)
	}
	if err != nil {
		return p.deny(&q, "unreadable", fmt.Errorf("the daemon's question cannot be read: %w", err))
	}
	t := ""
	for k, v := range q.RequestHeaders {
		if http.CanonicalHeaderKey(k) == ticket.Header {
			t = v
		}
	}
	err = p.o.Tickets.Take(t, q.RequestMethod, q.RequestURI, q.RequestBody)
	switch {
	case err == nil:
		p.allowed.Add(1)
		return answer{Allow: true}
	case errors.Is(err, ticket.ErrMissing):
		return p.deny(&q, "no_ticket", err)
	case errors.Is(err, ticket.ErrNoBody):
		return p.deny(&q, "no_body", err)
	}
	return p.deny(&q, "bad_ticket", err)
}

func (p *Plugin) deny(q *question, cause string, err error) answer {
	p.denied.Add(1)
	path, _, _ := strings.Cut(q.RequestURI, "?")
	d := Denial{
		Time: time.Now(), Method: q.RequestMethod, Path: path[:min(len(path), 512)], User: q.User, Reason: err.Error(), Cause: cause,
	}
	if m, err := dockerapi.FindRoute(q.RequestMethod, path); err == nil {
		d.Action = m.Route.Action
	}
	if p.o.Record != nil {
		p.o.Record(d)
	}
	return answer{Msg: "belay: " + err.Error() + "; use the gate's socket"}
}
