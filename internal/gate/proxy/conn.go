package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/wire"
)

// handshakeTime bounds a TLS handshake.
const handshakeTime = 10 * time.Second

// conn serves one client's connection, in one goroutine.
type conn struct {
	s      *Server
	nc     net.Conn
	r      wire.Reader
	peer   apicall.Subject // who connected
	sub    apicall.Subject // who calls: the peer, or the token that the request has
	token  string          // of sub, its secret; "": none
	caller *caller         // of the peer
	req    wire.Request
	header http.Header  // of req; its map is used again
	out    []byte       // what is about to be written
	busy   atomic.Bool  // a request is under way
	due    atomic.Int64 // when what is read must be there, in Unix nanoseconds; 0: no matter
	gone   bool         // the client has ended its side
	held   hold         // of the memory that is for all requests

	// watching is held while the watcher of an answer is started. asked is when the daemon
	// was asked, in Unix nanoseconds, while nobody watches; 0 otherwise.
	watching sync.Mutex
	asked    atomic.Int64

	x exchange

	// mu guards what follows.
	mu      sync.Mutex
	closing bool       // after the request that is under way
	peers   []net.Conn // to be closed by abort
}

// idleOut is how large a buffer an idle connection keeps for its next answer.
const idleOut = 16 << 10

// requestBuffer holds a usual create with its head.
const requestBuffer = 8 << 10

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// drain ends the connection as soon as no request is under way.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if !c.busy.Load() {
		_ = c.nc.SetReadDeadline(past)
	}
}

// abort ends the connection, and what it has open at the daemon.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	c.nc.Close()
	for _, p := range c.peers {
		p.Close()
	}
}

// holds enters a connection to the daemon that abort is to close.
func (c *conn) holds(nc net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing && !c.busy.Load() {
		nc.Close()
	}
	c.peers = append(c.peers[:0], nc)
}

func (c *conn) releases() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers = c.peers[:0]
}

func (c *conn) serve() {
	if tc, ok := c.nc.(*tls.Conn); ok {
		if !c.shake(tc) {
			return
		}
	}
	sub, err := c.s.who.Of(c.nc)
	if err != nil {
		c.s.counts.noIdentity.Add(1)
		c.s.o.Log.Warn("a caller cannot be identified and is refused", attr.Error, err.Error())
		c.refuse(&refusal{status: http.StatusForbidden, cause: "no_identity", msg: "belay: " + err.Error()})
		return
	}
	c.peer, c.sub = sub, sub
	k, ok := c.s.callers.open(&c.peer)
	if !ok {
		c.s.counts.limited.Add(1)
		c.refuse(&refusal{status: http.StatusTooManyRequests, cause: "too_many_connections", msg: "belay: too many connections are open"})
		return
	}
	c.caller = k
	defer c.s.callers.close(k)
	c.r.Initial = requestBuffer
	c.r.Reset(c.nc)
	c.header = http.Header{}
	for c.next() {
	}
}

// shake takes the caller's certificate. Who has not shown one yet has no name to be bounded
// by, but its address.
func (c *conn) shake(tc *tls.Conn) bool {
	host, _, _ := net.SplitHostPort(tc.RemoteAddr().String())
	var place hold
	if !place.grow(&c.s.shaking, host, 1) {
		c.s.counts.limited.Add(1)
		return false
	}
	defer place.leave()
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		c.s.counts.noIdentity.Add(1)
		return false
	}
	return true
}

// survive ends one connection, and not the agent, where serving it panics. Nothing that was
// not sent before is sent.
func (c *conn) survive() {
	v := recover()
	if v == nil {
		return
	}
	c.s.counts.failures.Add(1)
	c.s.o.Log.Error("serving a request failed inside the gate", attr.Error, fmt.Sprint(v), attr.Stack, string(debug.Stack()))
	c.abort()
	c.held.leave()
	c.x.told.leave()
	c.x.shown.leave()
	c.report("internal_failure", http.StatusInternalServerError, "an internal failure")
}

// next reads and answers one request. It returns whether another may follow.
func (c *conn) next() bool {
	if !c.await() {
		return false
	}
	err := c.readHead()
	if err != nil {
		c.badHead(err)
		return false
	}
	c.due.Store(0)
	keep := c.x.run(c)
	c.busy.Store(false)
	c.mu.Lock()
	closing := c.closing
	c.mu.Unlock()
	if !keep || closing || c.req.Close || c.gone {
		return false
	}
	c.r.Shrink()
	if cap(c.out) > idleOut {
		c.out = nil
	}
	return true
}

// await waits for the first byte of a request.
func (c *conn) await() bool {
	l := &c.s.o.Limits
	// Timers cost more than all the parsing of a small request: the server's own clock looks
	// after these two (see clock.go).
	if len(c.r.Buffered()) == 0 {
		c.due.Store(time.Now().Add(l.IdleTime).UnixNano())
		c.mu.Lock()
		closing := c.closing
		c.mu.Unlock()
		if closing || c.r.Fill(l.HeadBytes) != nil {
			return false
		}
	}
	c.busy.Store(true)
	c.due.Store(time.Now().Add(l.HeadTime).UnixNano())
	return true
}

// readHead reads a head; a large one takes of the room that all have.
func (c *conn) readHead() error {
	limit := c.s.o.Limits.HeadBytes
	err := c.r.ReadRequest(&c.req, min(limit, freeHead))
	var we *wire.Error
	if limit <= freeHead || !errors.As(err, &we) || we.Code != wire.CodeHeadTooLarge || !c.held.grow(&c.s.bodies, c.caller.key, limit) {
		return err
	}
	return c.r.ReadRequest(&c.req, limit)
}

func (c *conn) badHead(err error) {
	c.held.leave()

	var we *wire.Error
	switch {
	case errors.Is(err, wire.ErrHTTP2):
		c.serveHTTP2()
	case errors.As(err, &we):
		c.s.counts.malformed.Add(1)
		c.report(we.Code, we.Status, we.Msg)
		c.refuse(&refusal{status: we.Status, cause: we.Code, msg: "belay: " + we.Msg})
	default: // gone, or too slow
	}
}

// report records a request whose head was refused.
func (c *conn) report(cause string, status int, msg string) {
	if c.s.o.Recorder == nil {
		return
	}
	c.s.o.Recorder.Record(&Event{
		Time: time.Now(), Subject: &c.peer, Method: c.req.Method, Path: cut(c.req.Path), Decision: Denied,
		Cause: cause, Status: status, Reason: msg,
	})
}

const maxPathKept = 512

func cut(s string) string { return s[:min(len(s), maxPathKept)] }

// refuse answers and ends the connection.
func (c *conn) refuse(r *refusal) {
	c.answer(r, true)
	c.linger()
}

// answer writes an error as the daemon's own look: {"message": "..."}.
func (c *conn) answer(r *refusal, closing bool) {
	body := appendMessage(make([]byte, 0, 64+len(r.msg)), r.msg)
	out := append(c.out[:0], "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(r.status), 10)
	out = append(out, ' ')
	out = append(out, http.StatusText(r.status)...)
	out = append(out, "\r\nContent-Type: application/json\r\n"...)
	if r.retryAfter {
		out = append(out, "Retry-After: 1\r\n"...)
	}
	// Docker's clients take an answer with this field for a stream when they have asked for
	// one, whatever its status.
	if closing && c.req.Upgrade == "" {
		out = append(out, "Connection: close\r\n"...)
	}
	out = appendLength(out, int64(len(body)))
	out = append(out, "\r\n"...)
	if c.req.Method != http.MethodHead {
		out = append(out, body...)
	}
	c.out = out
	_ = c.nc.SetWriteDeadline(time.Now().Add(answerTime))
	_, _ = c.nc.Write(out) // whoever is gone needs no answer
	_ = c.nc.SetWriteDeadline(time.Time{})
}

// answerTime bounds the sending of the gate's own short answers.
const answerTime = 10 * time.Second

const (
	lingerBytes = 4 << 20
	lingerTime  = 2 * time.Second
)

type closeWriter interface{ CloseWrite() error }

// linger lets a client that is still sending read our answer: closing with unread data
// would reset the connection under it.
func (c *conn) linger() {
	if cw, ok := c.nc.(closeWriter); !ok || cw.CloseWrite() != nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c.nc, lingerBytes), make([]byte, 4<<10))
}

// refusal is why a request is not forwarded, as the client is told.
type refusal struct {
	status     int
	cause      string
	msg        string
	retryAfter bool
}

// appendMessage appends {"message": msg}, escaped as JSON.
func appendMessage(dst []byte, msg string) []byte {
	dst = append(dst, `{"message":"`...)
	for _, r := range msg {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ' || r == 0x7f || r == 0xfffd || r == 0x2028 || r == 0x2029:
			dst = append(dst, '?')
		default:
			dst = append(dst, string(r)...)
		}
	}
	return append(dst, '"', '}', '\n')
}
