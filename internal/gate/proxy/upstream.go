package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/gate/wire"
)

const (
	dialTimeout = 5 * time.Second
	// askTimeout bounds the gate's own questions to the daemon.
	askTimeout = 30 * time.Second
	maxIdle    = 32
	idleKept   = time.Minute
	// backendBuffer holds a usual list of containers at once.
	backendBuffer = 16 << 10
)

// errDaemon is wrapped by every error that is the daemon's or its socket's.
var errDaemon = errors.New("the Docker daemon cannot be reached")

// upstream is the pool of connections to the daemon. Connections are used newest first,
// so that the others grow old.
type upstream struct {
	path    string
	tickets *ticket.Keeper

	// mu guards what follows.
	mu     sync.Mutex
	idle   []*backend
	closed bool
}

// backend is one connection to the daemon, used for one request at a time.
type backend struct {
	nc    *net.UnixConn
	raw   syscall.RawConn
	r     wire.Reader
	since time.Time // idle since
	used  bool      // for a request before
	one   [1]byte
	// alive is the callback of usable, made once.
	alive func(fd uintptr) bool
	ok    bool
}

// get returns a connection from the pool, or a new one. With checked false it may be one
// that the daemon has closed meanwhile: for requests that can be sent again.
func (u *upstream) get(checked bool) (*backend, error) {
	for {
		u.mu.Lock()
		n := len(u.idle)
		if n == 0 {
			u.mu.Unlock()
			return u.dial()
		}
		b := u.idle[n-1]
		u.idle[n-1] = nil
		u.idle = u.idle[:n-1]
		u.mu.Unlock()
		if !checked || b.usable() {
			b.used = true
			return b, nil
		}
		b.nc.Close()
	}
}

func (u *upstream) dial() (*backend, error) {
	c, err := net.DialTimeout("unix", u.path, dialTimeout)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDaemon, err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%w: %s is no unix socket", errDaemon, u.path)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%w: %w", errDaemon, err)
	}
	b := &backend{nc: uc, raw: raw}
	b.r.Initial = backendBuffer
	b.r.Reset(uc)
	b.alive = func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), b.one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		b.ok = errors.Is(err, unix.EAGAIN)
		return true
	}
	return b, nil
}

// usable tells whether the daemon still listens at the other end and has not spoken out
// of turn.
func (b *backend) usable() bool {
	b.ok = false
	return len(b.r.Buffered()) == 0 && b.raw.Read(b.alive) == nil && b.ok
}

// put gives back a connection whose answer was read to its end.
func (u *upstream) put(b *backend) {
	if len(b.r.Buffered()) > 0 {
		b.nc.Close()
		return
	}
	b.r.Shrink()
	b.since = time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.idle) >= maxIdle {
		b.nc.Close()
		return
	}
	u.idle = append(u.idle, b)
}

// reap closes connections that were not used for a while.
func (u *upstream) reap(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for n < len(u.idle) && now.Sub(u.idle[n].since) > idleKept {
		u.idle[n].nc.Close()
		n++
	}
	if n > 0 {
		u.idle = append(u.idle[:0], u.idle[n:]...)
	}
}

func (u *upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, b := range u.idle {
		b.nc.Close()
	}
	u.idle = nil
}

// appendHead appends the head of a request to the daemon, but for its end.
func (u *upstream) appendHead(dst []byte, method, target string, kind ticket.Body, body []byte) []byte {
	dst = append(dst, method...)
	dst = append(dst, ' ')
	dst = append(dst, target...)
	dst = append(dst, " HTTP/1.1\r\nHost: docker\r\n"...)
	if u.tickets != nil {
		dst = append(dst, ticket.Header+": "...)
		dst = u.tickets.Append(dst, method, target, kind, body)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// ask puts a question of the gate's own, and returns the answer's body, which must be no
// longer than limit.
//
// Errors: wrap errDaemon.
func (u *upstream) ask(ctx context.Context, target string, limit int) (status int, body []byte, err error) {
	return u.do(ctx, http.MethodGet, target, limit)
}

// do is ask for a method that may be sent twice.
func (u *upstream) do(ctx context.Context, method, target string, limit int) (status int, body []byte, err error) {
	for attempt := 0; ; attempt++ {
		b, err := u.get(attempt > 0)
		if err != nil {
			return 0, nil, err
		}
		status, body, err := u.askOn(ctx, b, method, target, limit)
		if err == nil {
			return status, body, nil
		}
		b.nc.Close()
		// A connection may have died just when it was taken from the pool.
		if b.used && attempt == 0 && stale(err) {
			continue
		}
		return 0, nil, fmt.Errorf("%w: %s: %w", errDaemon, target, err)
	}
}

func (u *upstream) askOn(ctx context.Context, b *backend, method, target string, limit int) (int, []byte, error) {
	deadline := time.Now().Add(askTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := b.nc.SetDeadline(deadline); err != nil {
		return 0, nil, err
	}
	head := u.appendHead(make([]byte, 0, 512), method, target, ticket.None, nil)
	if method != http.MethodGet {
		head = appendLength(head, 0)
	}
	head = append(head, "\r\n"...)
	if _, err := b.nc.Write(head); err != nil {
		return 0, nil, err
	}
	var resp wire.Response
	if err := b.r.ReadResponse(&resp, method); err != nil {
		return 0, nil, err
	}
	status, closing, framing := resp.Status, resp.Close, resp.Framing
	b.r.Consume(len(resp.Raw))
	body, err := readBodyIn(&b.r, framing, limit, growOf(ctx))
	if err != nil {
		return 0, nil, err
	}
	if closing || framing.Length < 0 && !framing.Chunked {
		b.nc.Close()
		return status, body, nil
	}
	if err := b.nc.SetDeadline(time.Time{}); err != nil {
		b.nc.Close()
		return status, body, nil //nolint:nilerr // the answer is whole
	}
	u.put(b)
	return status, body, nil
}

// errTooLong is returned for a body that does not fit its bound.
var errTooLong = errors.New("the body is too long")

// errNoRoom is returned for a body that others leave no room for.
var errNoRoom = errors.New("too much is held in memory at one time")

// readBody reads a body of at most limit bytes.
func readBody(r *wire.Reader, f wire.Framing, limit int) ([]byte, error) {
	return readBodyIn(r, f, limit, nil)
}

// readBodyIn is readBody; grow is asked for each further part of a body that is larger than
// [freeBody].
func readBodyIn(r *wire.Reader, f wire.Framing, limit int, grow func(n int) bool) ([]byte, error) {
	if f.Length > int64(limit) {
		return nil, errTooLong
	}
	body := wire.NewBody(r, f)
	size := 512
	if f.Length > 0 {
		size = int(f.Length) + 1
	}
	if grow != nil && size > freeBody && !grow(size) {
		return nil, errNoRoom
	}
	return readAll(&body, make([]byte, 0, size), limit, freeBody, grow)
}

// readAll appends what is left of src to dst. grow, if there is one, is asked for what dst
// grows by beyond free bytes.
func readAll(src io.Reader, dst []byte, limit, free int, grow func(n int) bool) (_ []byte, err error) {
	for end := false; !end && err == nil; {
		dst, end, err = readMore(src, dst, limit, free, grow)
	}
	return dst, err
}

// readMore is one step of readAll; end says that there is no other.
func readMore(src io.Reader, dst []byte, limit, free int, grow func(n int) bool) (_ []byte, end bool, err error) {
	if len(dst) == cap(dst) {
		was := cap(dst)
		dst = append(dst, 0)[:len(dst)]
		if grow != nil && cap(dst) > free && !grow(cap(dst)-was) {
			return nil, false, errNoRoom
		}
	}
	n, err := src.Read(dst[len(dst):cap(dst)])
	dst = dst[:len(dst)+n]
	if len(dst) > limit {
		return nil, false, errTooLong
	}
	if errors.Is(err, io.EOF) {
		return dst, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	return dst, false, nil
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}
