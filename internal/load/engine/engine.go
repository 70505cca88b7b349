// Package engine asks one Docker engine for what moving a container takes: inspections as they
// are, creates, stops, and streams of images and volumes.
//
// It owns connections to that engine and no other state, keeps no answer, retries nothing, and
// never writes a request or an answer to a log: they hold environment values. Answers are
// bounded; streams are handed through. A method that makes something there fails if it is
// there already, but for volumes, which engines return as they are.
//
// Row: adapter.
package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/system"

	"github.com/belay-project/belay/internal/load/recreate"
)

// Address says how an engine is reached. It holds no secret: keys are files.
type Address struct {
	// URL is unix:///path, tcp://host:port or ssh://[user@]host[:port][/path/of/socket].
	URL string `json:"url"`
	// Files in PEM, for tcp: the authority that signed the engine's certificate, and our own
	// certificate and key.
	CAFile   string `json:"ca,omitempty"`
	CertFile string `json:"cert,omitempty"`
	KeyFile  string `json:"key,omitempty"`
}

// Bounds. An inspection is at most some 100 KB for a container with a thousand variables; a
// list has one entry of some 2 KB a container.
const (
	maxAnswer  = 16 << 20
	maxError   = 8 << 10
	askTimeout = 90 * time.Second // of a request that is no stream; creating can copy files
	stallAfter = 2 * time.Minute  // of a stream on which nothing moves
	connBuffer = 64 << 10         // of a connection, each way: chunks of engines' streams have 32 KiB, and net/http's own 4
	workTime   = 15 * time.Minute // that an engine may be silent for while it packs, unpacks or writes to the disk
)

// newest is the newest API version that this package's types are of, oldest that of Docker
// 19.03.
const (
	newest = 56
	oldest = 40
)

// Engine is one Docker engine. Its methods are safe for concurrent use.
type Engine struct {
	Address Address
	// Info is what the engine said of itself when it was opened.
	Info system.Info
	// API is the minor number of the version that is spoken: 41 is 1.41.
	API int

	http *http.Client
	base string
	ssh  *tunnel // nil: there is none between
	// version is before the path of all that is the engine's own.
	version string
	sign    func(h http.Header, method, target string)
	dead    error
	// trace is the W3C trace context that requests are sent with; nil: none.
	trace atomic.Pointer[string]
	// stall is how long a stream may stand still, work how long while the engine works; 0: stallAfter and workTime.
	stall, work time.Duration
}

// Unreachable returns an engine that answers everything with err.
func Unreachable(a Address, err error) *Engine {
	return &Engine{Address: a, API: oldest, http: &http.Client{}, dead: err}
}

// SetTrace has all requests from now on bear a W3C trace context: a gate before the engine keeps it with what it records
// of them.
func (e *Engine) SetTrace(traceparent string) { e.trace.Store(&traceparent) }

// StatusError is an engine's refusal.
type StatusError struct {
	What    string // what was asked, without values
	Status  int
	Message string
}

// Error returns what the engine said. Engines name things in it, and no environment.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: the engine answers %d: %s", e.What, e.Status, e.Message)
}

// Is reports one of the conditions below.
func (e *StatusError) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrConflict:
		return e.Status == http.StatusConflict
	}
	return false
}

// Conditions of engines' answers.
var (
	ErrNotFound = errors.New("it is not there")
	ErrConflict = errors.New("it is in use, or the name is taken")
)

// Open asks the engine at a for its version and what it has.
//
// Errors: an address that is none, a tcp one without certificates, one over SSH; what the engine says.
func Open(ctx context.Context, a Address) (*Engine, error) { return OpenSigned(ctx, a, nil) }

// OpenSSH is [Open] for addresses over SSH too.
//
// Errors: also [*SSHError].
func OpenSSH(ctx context.Context, a Address, ssh SSH) (*Engine, error) {
	return openOver(ctx, a, ssh, nil)
}

// OpenSigned is [Open] for questions that an authorisation plugin wants signed: sign puts on a
// request without a body what it asks for; nil: nothing. target is what follows the method in the
// request line.
func OpenSigned(ctx context.Context, a Address, sign func(h http.Header, method, target string)) (*Engine, error) {
	return openOver(ctx, a, nil, sign)
}

func openOver(ctx context.Context, a Address, ssh SSH, sign func(h http.Header, method, target string)) (*Engine, error) {
	e, err := reach(a, ssh)
	if err != nil {
		return nil, fmt.Errorf("engine %s: %w", a.URL, &unaskedError{err})
	}
	e.sign = sign
	e.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	var v struct{ APIVersion, MinAPIVersion string }
	if err := e.ask(ctx, "ask for its version", "GET", "/version", nil, nil, &v); err != nil {
		e.Close()
		return nil, fmt.Errorf("engine %s: %w", a.URL, err)
	}
	if e.API, err = choose(v.APIVersion, v.MinAPIVersion); err != nil {
		e.Close()
		return nil, fmt.Errorf("engine %s: %w", a.URL, &unaskedError{err})
	}
	e.version = "/v1." + strconv.Itoa(e.API)
	if err := e.ask(ctx, "ask what it has", "GET", "/info", nil, nil, &e.Info); err != nil {
		e.Close()
		return nil, fmt.Errorf("engine %s: %w", a.URL, err)
	}
	return e, nil
}

// unaskedError is for an engine of which nothing more was asked, for a reason that says nothing of whether it is there.
type unaskedError struct{ err error }

// Error returns the reason.
func (e *unaskedError) Error() string { return e.err.Error() }

// Unwrap returns the reason.
func (e *unaskedError) Unwrap() error { return e.err }

// MayBeGone reports whether err, of [Open], may be for an engine that is gone. It is not if something answered for it (a
// refusal, of our certificate too; a certificate that we do not take; a version that does not fit; an SSH server), nor if the
// reason is on this side: files, permissions, an interrupt.
func MayBeGone(err error) bool {
	if _, ok := errors.AsType[*StatusError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*unaskedError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if over, ok := errors.AsType[*SSHError](err); ok && !over.silent {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" { // a TLS alert: crypto/tls has no type for it
		return false
	}
	return !errors.Is(err, fs.ErrPermission) && !errors.Is(err, context.Canceled)
}

// Close closes idle connections, and ends the ssh of one that is reached over it.
func (e *Engine) Close() {
	e.http.CloseIdleConnections()
	if e.ssh != nil {
		e.ssh.close()
	}
}

// Host returns what an inspection's reading depends on.
func (e *Engine) Host() recreate.Host { return recreate.Host{CgroupV1: e.Info.CgroupVersion != "2"} }

func choose(has, least string) (int, error) {
	h, ok := minor(has)
	if !ok || h < oldest {
		return 0, fmt.Errorf("it speaks API %q, and 1.%d is the least", has, oldest)
	}
	if l, ok := minor(least); ok && l > newest {
		return 0, fmt.Errorf("it speaks API %s and newer, and this belay 1.%d: update belay", least, newest)
	}
	return min(h, newest), nil
}

func minor(v string) (int, bool) {
	n, ok := strings.CutPrefix(v, "1.")
	i, err := strconv.Atoi(n)
	return i, ok && err == nil
}

// Check fails for an address that is none. It opens and asks nothing.
func (a Address) Check() error {
	if path, ok := strings.CutPrefix(a.URL, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return errors.New("want unix:///path/to/docker.sock")
		}
		return nil
	}
	if strings.HasPrefix(a.URL, "ssh://") {
		if a.CAFile+a.CertFile+a.KeyFile != "" {
			return errors.New("ssh takes no certificates: it has keys of its own")
		}
		_, err := parseSSH(a.URL)
		return err
	}
	host, ok := strings.CutPrefix(a.URL, "tcp://")
	if !ok {
		return errors.New("want unix:///path, tcp://host:port or ssh://[user@]host[:port][/path/of/socket]")
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		return fmt.Errorf("want tcp://host:port: %w", err)
	}
	if a.CAFile == "" || a.CertFile == "" || a.KeyFile == "" {
		return errors.New("tcp takes --tlscacert, --tlscert and --tlskey: environment values of containers go over it")
	}
	return nil
}

// reach returns an engine of which nothing was asked.
func reach(a Address, ssh SSH) (*Engine, error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	// No proxy: DOCKER_HOST's users expect none, and it would see the environment.
	t := &http.Transport{MaxIdleConns: askedAtOnce, MaxIdleConnsPerHost: askedAtOnce, IdleConnTimeout: 30 * time.Second, DisableCompression: true, TLSHandshakeTimeout: 20 * time.Second,
		ReadBufferSize: connBuffer, WriteBufferSize: connBuffer}
	d := &net.Dialer{Timeout: 20 * time.Second, KeepAlive: 15 * time.Second}
	e := &Engine{Address: a, http: &http.Client{Transport: t}, base: "http://engine"}
	if path, ok := strings.CutPrefix(a.URL, "unix://"); ok {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
		return e, nil
	}
	if strings.HasPrefix(a.URL, "ssh://") {
		at, err := parseSSH(a.URL)
		if err != nil {
			return nil, err
		}
		if ssh == nil {
			return nil, errors.New("ssh is run by belay move alone; fix: name the address of a gate, tcp://host:port")
		}
		e.ssh = &tunnel{a: at, run: ssh}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return e.ssh.dial(ctx) }
		return e, nil
	}
	ca, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("authority: %s has no certificate in PEM", a.CAFile)
	}
	pair, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	t.DialContext = d.DialContext
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}}
	e.base = "https://" + strings.TrimPrefix(a.URL, "tcp://")
	return e, nil
}

// ask sends a request and decodes the answer into out, unless that is nil.
func (e *Engine) ask(ctx context.Context, what, method, path string, q url.Values, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return e.askAsLong(ctx, what, method, path, q, in, out)
}

func (e *Engine) askAsLong(ctx context.Context, what, method, path string, q url.Values, in, out any) error {
	raw, err := e.raw(ctx, what, method, path, q, in)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: read the answer: %w", what, err)
	}
	return nil
}

func (e *Engine) raw(ctx context.Context, what, method, path string, q url.Values, in any) ([]byte, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := e.send(ctx, what, method, path, q, body, "application/json")
	if err != nil {
		return nil, err
	}
	defer resp.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(io.LimitReader(resp, maxAnswer+1)); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if b.Len() > maxAnswer {
		return nil, fmt.Errorf("%s: the answer has more than %d bytes", what, maxAnswer)
	}
	return b.Bytes(), nil
}

// send returns the body of a successful answer.
func (e *Engine) send(ctx context.Context, what, method, path string, q url.Values, body io.Reader, kind string) (io.ReadCloser, error) {
	if e.dead != nil {
		return nil, fmt.Errorf("%s: %w", what, e.dead)
	}
	u := e.base + path
	if !strings.HasPrefix(path, gatePrefix) {
		u = e.base + e.version + path
	}
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	req.Header.Set("User-Agent", "belay")
	if trace := e.trace.Load(); trace != nil {
		req.Header.Set("Traceparent", *trace)
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	} else if e.sign != nil {
		e.sign(req.Header, method, req.URL.RequestURI())
	}
	resp, err := e.http.Do(req)
	if err != nil {
		// The URL in it says less than what does.
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		if e.ssh != nil {
			err = e.ssh.explain(err)
		}
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 || resp.StatusCode == http.StatusNotModified {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(io.LimitReader(resp.Body, maxError)); err != nil {
		b.WriteString(err.Error())
	}
	var msg struct{ Message string }
	if json.Unmarshal(b.Bytes(), &msg) != nil || msg.Message == "" {
		msg.Message = b.String()
	}
	return nil, &StatusError{What: what, Status: resp.StatusCode, Message: strings.TrimSpace(msg.Message)}
}
