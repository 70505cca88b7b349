package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/gate/wire"
)

// forward sends the request to the daemon and passes its answer on.
func (x *exchange) forward() (keep bool) {
	c := x.c
	if x.tunnels() && !x.req.Call.Facts.Detach {
		share := c.caller.share
		if !c.s.streams.Take(share) {
			c.s.counts.noRoom.Add(1)
			x.ev.Decision = Denied
			return x.deny(&refusal{status: http.StatusTooManyRequests, cause: "streams", retryAfter: true, msg: "belay: too many streams are open"})
		}
		defer c.s.streams.Leave(share)
	}
	if changesImages(x.req.Call.Action) {
		c.s.images.forget(asBefore)
		defer c.s.images.forget(asBefore)
	}
	method := x.match.Route.Method
	again := (method == http.MethodGet || method == http.MethodHead) && !x.tunnels()
	for attempt := 0; ; attempt++ {
		b, err := c.s.up.get(!again || attempt > 0)
		if err != nil {
			return x.deny(x.daemonGone(err))
		}
		if err = x.send(b); err == nil {
			x.b = b
			err = x.await()
			if err == nil || !stale(err) || !b.used || !again || x.w != nil {
				return x.answered(err)
			}
			c.releases()
		}
		b.nc.Close()
		// A connection that the daemon closed while it was idle took nothing.
		if !b.used || attempt > 0 {
			return x.deny(x.daemonGone(err))
		}
	}
}

// stale tells whether the other side had closed the connection before it was used.
func stale(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// send writes the request's head, and its body if that is not a stream.
func (x *exchange) send(b *backend) error {
	out := x.c.s.up.appendHead(x.c.out[:0], x.match.Route.Method, x.target, x.kind, x.body)
	for name, values := range x.header {
		for _, v := range values {
			out = append(out, name...)
			out = append(out, ": "...)
			out = append(out, v...)
			out = append(out, "\r\n"...)
		}
	}
	out = x.appendUpgrade(out)
	switch {
	case x.stream != nil && x.length < 0:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case x.stream != nil:
		out = appendLength(out, x.length)
	case len(x.body) > 0 || x.match.Route.Method != http.MethodGet && x.match.Route.Method != http.MethodHead:
		out = appendLength(out, int64(len(x.body)))
	}
	out = append(out, "\r\n"...)
	out = append(out, x.body...)
	x.c.out = out
	_, err := b.nc.Write(out)
	return err
}

// appendUpgrade asks the daemon for what the client asked for, where the route has it.
func (x *exchange) appendUpgrade(out []byte) []byte {
	want := x.c.req.Upgrade
	switch x.match.Route.Stream {
	case dockerapi.Hijack:
		if want == "tcp" {
			return append(out, "Connection: Upgrade\r\nUpgrade: tcp\r\n"...)
		}
	case dockerapi.Upgrade:
		if want == "h2c" {
			return append(out, "Connection: Upgrade\r\nUpgrade: h2c\r\n"...)
		}
	case dockerapi.WebSocket:
		if want == "websocket" {
			out = append(out, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
			for _, name := range []string{"Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol", "Origin"} {
				if v := x.c.req.Get(name); v != "" {
					out = append(append(append(append(out, name...), ": "...), v...), "\r\n"...)
				}
			}
		}
	}
	return out
}

// await reads the head of the answer into x.resp. Where that takes its time the client
// is watched meanwhile, and its leaving ends the daemon's work.
func (x *exchange) await() error {
	c, b := x.c, x.b
	c.holds(b.nc)
	method := x.match.Route.Method
	if x.stream != nil || x.tunnels() {
		x.watch()
		return b.r.ReadResponse(&x.resp, method)
	}
	c.asked.Store(x.start.UnixNano())
	err := b.r.ReadResponse(&x.resp, method)
	c.watching.Lock()
	defer c.watching.Unlock()
	unwatched := c.asked.Swap(0) != 0
	if err == nil && unwatched && !x.short() {
		x.watch()
	}
	return err
}

// short tells whether the answer is most likely there already, so that nobody needs to
// watch the client while it is passed on.
func (x *exchange) short() bool {
	if x.match.Route.Stream == dockerapi.ResponseBody || x.match.Route.Stream == dockerapi.Both {
		return false
	}
	return x.resp.Framing.Chunked || x.resp.Framing.Length >= 0
}

func (x *exchange) tunnels() bool {
	switch x.match.Route.Stream {
	case dockerapi.Hijack, dockerapi.WebSocket, dockerapi.Upgrade:
		return true
	}
	return false
}

// answered passes the answer on, or says that none came.
func (x *exchange) answered(err error) (keep bool) {
	c, b := x.c, x.b
	defer c.releases()
	if err != nil {
		x.unwatch()
		b.nc.Close()
		if c.gone {
			c.s.counts.canceled.Add(1)
			x.record(0)
			return false
		}
		return x.deny(x.daemonGone(err))
	}
	if x.upgraded() {
		x.count(x.resp.Status)
		return x.becomeTunnel()
	}
	if x.created() {
		return x.passCreated()
	}
	x.count(x.resp.Status)
	whole, err := x.passOn()
	sent := x.unwatch()
	switch {
	case whole && !x.resp.Close && sent && !c.gone: // the watcher closes it when the client leaves
		c.s.up.put(b)
	default:
		b.nc.Close()
	}
	if err != nil {
		return false
	}
	if !sent { // the daemon answered before it had the whole body
		c.linger()
		return false
	}
	return whole
}

// count records the decision with the daemon's status.
func (x *exchange) count(status int) {
	if x.ev.Decision == WouldDeny {
		x.c.s.counts.wouldDeny.Add(1)
	} else {
		x.c.s.counts.allowed.Add(1)
	}
	x.record(status)
}

// upgraded tells whether the connection is a raw stream from here on. Clients older than
// the Upgrade header get 200 and the stream (B12).
func (x *exchange) upgraded() bool {
	if !x.tunnels() {
		return false
	}
	if x.resp.Status == http.StatusSwitchingProtocols {
		return true
	}
	return x.match.Route.Stream == dockerapi.Hijack && x.resp.Status == http.StatusOK &&
		!x.resp.Framing.Chunked && x.resp.Framing.Length < 0
}

// becomeTunnel passes the head on as it came and carries bytes from then on.
func (x *exchange) becomeTunnel() bool {
	c, b := x.c, x.b
	x.unwatch()
	c.s.counts.streams.Add(1)
	head := append([]byte(nil), x.resp.Raw...)
	b.r.Consume(len(x.resp.Raw))
	ahead := append(head, b.r.Buffered()...)
	early := append([]byte(nil), c.r.Buffered()...)
	// Buffers of a stream that may stay for days are of no use to it.
	c.r, b.r, c.out = wire.Reader{}, wire.Reader{}, nil
	action, session := x.req.Call.Action, x.header.Get(sessionHeader)
	mediated := x.mediated()
	x.req, x.header, x.body = nil, nil, nil
	c.held.leave()
	if c.gone { // the client ended its side while it waited
		if len(early) > 0 {
			_, _ = b.nc.Write(early)
		}
		_ = b.nc.CloseWrite()
		early = nil
	}
	if session != "" && action == "build.session" {
		key := callerKey(&c.sub)
		if !c.s.sessions.open(session, key) { // two with one name: the daemon takes one of them
			b.nc.Close()
			return false
		}
		defer c.s.sessions.close(session)
	}
	if mediated {
		// The head tells the client that what follows is gRPC.
		if _, err := c.nc.Write(head); err != nil {
			b.nc.Close()
			return false
		}
		c.mediate(action, early, b.nc, ahead[len(head):])
		return false
	}
	tunnel(c.nc, early, b.nc, ahead)
	return false
}

// passOn sends the answer to the client. It returns whether both connections are at the
// end of a message.
func (x *exchange) passOn() (whole bool, err error) {
	c, b := x.c, x.b
	if f := x.filter(); f != nil {
		return x.passFiltered(f)
	}
	scan := wire.NewScanner(x.resp.Framing)
	if x.req.Call.Action == "system.ping" {
		x.downgradeBuilder()
	}
	if x.resp.Hops {
		c.out = x.resp.AppendHead(c.out[:0], true, "")
		b.r.Consume(len(x.resp.Raw))
		if _, err := c.nc.Write(c.out); err != nil {
			return false, err
		}
	} else {
		// Head and the beginning of the body lie side by side.
		buf := b.r.Buffered()
		head := len(x.resp.Raw)
		n, err := scan.Scan(buf[head:])
		if err != nil {
			return false, err
		}
		if _, err := c.nc.Write(buf[:head+n]); err != nil {
			return false, err
		}
		b.r.Consume(head + n)
	}
	for !scan.Done() {
		if err := x.passMore(&scan); err != nil {
			if errors.Is(err, io.EOF) && scan.Forever() {
				return false, nil
			}
			return false, err
		}
	}
	return true, nil
}

var builder2 = []byte("\r\nBuilder-Version: 2\r\n")

// downgradeBuilder tells a client that may not open BuildKit's session to use the builder
// that needs none. Clients ask before each build.
func (x *exchange) downgradeBuilder() {
	if i := bytes.Index(x.resp.Raw, builder2); i >= 0 && !x.maySession() {
		x.resp.Raw[i+len(builder2)-3] = '1'
	}
}

// passMore passes on what the next read gives. It never waits for more than is there: a
// line of a log that is followed goes on at once.
func (x *exchange) passMore(scan *wire.Scanner) error {
	c, b := x.c, x.b
	if len(b.r.Buffered()) == 0 {
		return x.passLarge(scan)
	}
	buf := b.r.Buffered()
	n, err := scan.Scan(buf)
	if err != nil {
		return err
	}
	if _, err := c.nc.Write(buf[:n]); err != nil {
		return err
	}
	b.r.Consume(n)
	return nil
}

// passLarge reads with a large buffer until the body's end.
func (x *exchange) passLarge(scan *wire.Scanner) error {
	p, ok := buffers.Get().(*[]byte)
	if !ok {
		return errors.New("no buffer")
	}
	defer buffers.Put(p)
	for !scan.Done() {
		n, err := x.b.nc.Read(*p)
		if n > 0 {
			m, serr := scan.Scan((*p)[:n])
			if serr != nil {
				return serr
			}
			if _, werr := x.c.nc.Write((*p)[:m]); werr != nil {
				return werr
			}
			if m < n {
				x.resp.Close = true // bytes after the end: nothing that we asked for
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeChunk sends p as one chunk.
func (c *conn) writeChunk(p []byte) error {
	out := strconv.AppendInt(c.out[:0], int64(len(p)), 16)
	out = append(out, "\r\n"...)
	out = append(out, p...)
	out = append(out, "\r\n"...)
	c.out = out
	_, err := c.nc.Write(out)
	return err
}
