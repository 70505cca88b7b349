package proxy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/gate/wire"
	"github.com/belay-project/belay/internal/policy"
)

// exchange is one request and its answer. It lives in its connection and is used again.
type exchange struct {
	c     *conn
	start time.Time
	match dockerapi.Match
	req   *dockerapi.Request
	rules Rules // nil: no access policy is configured
	dec   policy.AccessDecision
	ev    Event
	resp  wire.Response

	// What is sent to the daemon.
	target string
	header http.Header
	body   []byte
	kind   ticket.Body
	looked bool       // the beginning of stream was read
	stream *wire.Body // of the client, passed on; nil: body is all
	length int64      // of stream; -1: chunked

	// What a create is worth in the kernel, and what of it must be bound.
	own  []*policy.RuntimePolicy
	owed string
	hold *refusal // of a start that policies allow

	told     hold              // of the memory for what the daemon says of what is judged
	shown    hold              // of that for answers
	see      *apicall.Resource // scratch for filters
	bodyRead bool              // the client's body was read to its end
	b        *backend
	w        *watcher
}

// run answers the request in c.req. It returns whether the connection can be used again.
func (x *exchange) run(c *conn) (keep bool) {
	see := x.see
	if see == nil {
		see = new(apicall.Resource)
	}
	*x = exchange{c: c, start: time.Now(), see: see}
	c.sub, c.token = c.peer, "" // of the request before it could be a token
	x.ev = Event{Time: x.start, Subject: &c.sub, Method: c.req.Method, Path: cut(c.req.Path), Decision: Denied,
		TraceParent: c.req.Get("Traceparent")}
	defer c.held.leave()
	defer x.told.leave()
	defer x.shown.leave()
	r := x.admit()
	if r == nil && c.req.Path == NodePath {
		return x.describe()
	}
	if container, ok := digested(c.req.Path); r == nil && ok {
		return x.digestVolume(container)
	}
	if r == nil {
		r = x.judge(c.req.Path)
	}
	if r != nil {
		return x.deny(r)
	}
	x.forget()
	return x.forward()
}

// forget drops what was looked up to judge the request: a stream may be open for days, and a client
// take its time with any answer.
func (x *exchange) forget() {
	if x.told.n == 0 {
		return
	}
	if x.req != nil {
		for i := range x.req.Call.Resources {
			x.req.Call.Resources[i].Labels = nil
		}
	}
	x.told.leave()
}

// admit tells whether the caller may ask anything at all, and as whom.
func (x *exchange) admit() *refusal {
	c := x.c
	s := c.s
	if !s.callers.take(c.caller) {
		s.counts.rate.Add(1)
		return &refusal{status: http.StatusTooManyRequests, cause: "rate", msg: "belay: too many requests", retryAfter: true}
	}
	if c.req.Origin != "" && c.peer.Kind == apicall.Certificate && !slices.Contains(s.o.Origins, c.req.Origin) {
		s.counts.refused.Add(1)
		return &refusal{status: http.StatusForbidden, cause: "origin", msg: "belay: requests of web pages are not taken"}
	}
	return x.authenticate()
}

// judge does all that comes before the daemon is sent anything that acts, for the request in c.req as one for path.
func (x *exchange) judge(path string) *refusal {
	c := x.c
	s := c.s
	var err error
	if x.match, err = dockerapi.FindRoute(c.req.Method, path); err != nil {
		return x.unparsed(err)
	}
	x.ev.Action = x.match.Route.Action
	raw, r := x.readBody()
	if r != nil {
		return r
	}
	c.req.Header(c.header)
	x.rules = s.o.Policies()
	x.req, err = dockerapi.Parse(x.match, c.req.RawQuery, c.header, raw, x.options())
	if err != nil {
		return x.unparsed(err)
	}
	x.ev.Action = x.req.Call.Action
	x.req.Call.Subject = c.sub
	if r := x.lookInto(); r != nil {
		return r
	}
	if r := x.permit(); r != nil {
		return r
	}
	if r := x.cordoned(); r != nil {
		return r
	}
	if r := x.judgeImage(); r != nil {
		return r
	}
	return x.encode()
}

// permit asks the policies, or where there are none whether the daemon would listen.
func (x *exchange) permit() *refusal {
	if x.rules != nil {
		return x.decide()
	}
	if r := x.daemonRule(); r != nil {
		return r
	}
	if err := errors.Join(x.oblige(), x.mark()); err != nil {
		return x.unparsed(err)
	}
	return nil
}

func (x *exchange) options() dockerapi.Options {
	o := x.c.s.o.Parse
	o.Limits.BodyBytes = x.c.s.o.Limits.BodyBytes
	// What no API version knows the daemon does not read: without policies a newer client
	// passes as it would there.
	o.DropUnknown = o.DropUnknown || x.rules == nil
	x.readAs(&o)
	return o
}

// unparsed refuses what the parser did not take.
func (x *exchange) unparsed(err error) *refusal {
	x.c.s.counts.refused.Add(1)
	var de *dockerapi.Error
	if !errors.As(err, &de) {
		return &refusal{status: http.StatusBadRequest, cause: "not_parsed", msg: "belay: " + err.Error()}
	}
	return &refusal{status: de.Status, cause: de.Code, msg: "belay: " + de.Error()}
}

// readBody reads a body that is to be parsed, and prepares one that is a stream.
func (x *exchange) readBody() ([]byte, *refusal) {
	c := x.c
	f := c.req.Framing
	if x.match.Route.HasStream() {
		body := wire.NewBody(&c.r, f)
		x.stream, x.length = &body, f.Length
		if f.Chunked {
			x.length = -1
		}
		return nil, nil
	}
	if f.Empty() {
		x.bodyRead = true
		return nil, nil
	}
	l := &c.s.o.Limits
	if f.Length > int64(l.BodyBytes) {
		return nil, x.tooLarge()
	}
	if c.req.Continue {
		if _, err := c.nc.Write([]byte(goOn)); err != nil {
			return nil, &refusal{cause: "client_gone"}
		}
	}
	// What came with the head is not waited for.
	waits := f.Chunked || f.Length > int64(len(c.r.Buffered()))
	if waits {
		_ = c.nc.SetReadDeadline(time.Now().Add(l.BodyTime))
	}
	raw, err := readBodyIn(&c.r, f, l.BodyBytes, x.growBody)
	if waits {
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	switch {
	case err == nil:
		x.bodyRead = true
		return raw, nil
	case errors.Is(err, errTooLong):
		return nil, x.tooLarge()
	case errors.Is(err, errNoRoom):
		c.s.counts.noRoom.Add(1)
		return nil, &refusal{status: http.StatusTooManyRequests, cause: "memory", retryAfter: true,
			msg: "belay: too many large requests are under way"}
	}
	return nil, x.unread(err)
}

func (x *exchange) growBody(n int) bool { return x.c.held.grow(&x.c.s.bodies, x.c.caller.key, n) }

// unread refuses a body that could not be read.
func (x *exchange) unread(err error) *refusal {
	var we *wire.Error
	if errors.As(err, &we) {
		x.c.s.counts.malformed.Add(1)
		return &refusal{status: we.Status, cause: we.Code, msg: "belay: " + we.Msg}
	}
	x.c.s.counts.canceled.Add(1)
	return &refusal{status: http.StatusRequestTimeout, cause: "body_time", msg: "belay: the request's body did not come in time"}
}

// lookInto looks at the beginning of an archive that is to be copied into a container:
// what it is compressed with the daemon finds out there, whatever the headers say (A4).
func (x *exchange) lookInto() *refusal {
	if x.stream == nil || x.rules == nil || x.req.Call.Action != "container.copy.in" {
		return nil
	}
	c := x.c
	if c.req.Continue {
		if _, err := c.nc.Write([]byte(goOn)); err != nil {
			return &refusal{cause: "client_gone"}
		}
		c.req.Continue = false
	}
	x.looked = true
	_ = c.nc.SetReadDeadline(time.Now().Add(c.s.o.Limits.BodyTime))
	begin, err := x.stream.Peek(10)
	_ = c.nc.SetReadDeadline(time.Time{})
	if err != nil {
		return x.unread(err)
	}
	if how := dockerapi.DetectCompression(begin); how != "" {
		x.req.Call.Facts.Compressed = how
	}
	return nil
}

const goOn = "HTTP/1.1 100 Continue\r\n\r\n"

func (x *exchange) tooLarge() *refusal {
	x.c.s.counts.refused.Add(1)
	return &refusal{status: http.StatusRequestEntityTooLarge, cause: dockerapi.CodeBodyTooLarge, msg: "belay: the request's body is too large"}
}

// daemonRule is what holds on a host where no access policy was ever configured: who
// may open the daemon's own socket passes, and it is recorded.
func (x *exchange) daemonRule() *refusal {
	sub := &x.c.sub
	x.ev.Unmanaged = true
	if sub.Kind == apicall.User && (sub.UID == 0 || x.c.s.o.GID != 0 && inGroup(sub, uint32(x.c.s.o.GID))) {
		x.c.s.counts.unmanaged.Add(1)
		x.ev.Decision = Allowed
		return nil
	}
	x.c.s.counts.denied.Add(1)
	return &refusal{status: http.StatusForbidden, cause: "no_policy",
		msg: "belay: no access policy is configured, and only root and members of the socket's group may call Docker then"}
}

func inGroup(sub *apicall.Subject, gid uint32) bool {
	return sub.GID == gid || slices.Contains(sub.GIDs, gid)
}

// encode writes the request for the daemon.
func (x *exchange) encode() *refusal {
	var err error
	if x.target, x.header, x.body, err = x.req.Encode(); err != nil {
		return x.unparsed(err)
	}
	switch {
	case x.stream != nil && !x.req.TakesStream():
		// Such as a pull, whose route can also import.
		if !x.stream.Done() {
			x.c.s.counts.refused.Add(1)
			return &refusal{status: http.StatusBadRequest, cause: dockerapi.CodeUnexpectedBody, msg: "belay: the request takes no body"}
		}
		x.stream, x.bodyRead = nil, true
	case x.stream != nil:
		x.kind = ticket.Stream
	}
	if len(x.body) > 0 {
		x.kind = ticket.Digest
	}
	x.freshSession()
	return nil
}

// deny answers a refusal, records it, and tells whether the connection can be used again.
func (x *exchange) deny(r *refusal) bool {
	c := x.c
	x.forget()
	if r.status == 0 { // the client is gone
		x.record(0)
		return false
	}
	x.ev.Cause = r.cause
	if x.ev.Reason == "" {
		x.ev.Reason = r.msg
	}
	closing := !x.drained()
	x.record(r.status)
	c.answer(r, closing)
	if closing {
		c.linger()
	}
	return !closing
}

// drained tells whether the request's body is out of the way. A small one that was
// not read is read now: the client may send its next request after it.
func (x *exchange) drained() bool {
	if x.bodyRead || x.c.req.Framing.Empty() {
		return true
	}
	if x.stream == nil || x.looked {
		return false // given up half-way
	}
	f := x.c.req.Framing
	if x.c.req.Continue || f.Chunked || f.Length > int64(len(x.c.r.Buffered())) {
		return false
	}
	x.c.r.Consume(int(f.Length))
	x.bodyRead = true
	return true
}

func (x *exchange) record(status int) {
	x.ev.Status = status
	if x.ev.Duration == 0 {
		x.ev.Duration = time.Since(x.start)
	}
	if rec := x.c.s.o.Recorder; rec != nil {
		rec.Record(&x.ev)
	}
}

// lookup is the context of questions to the daemon, whose answers take of the caller's room.
func (x *exchange) lookup() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithValue(context.Background(), askerKey{}, x), askTimeout)
}

type askerKey struct{}

// growOf returns what a large answer takes its memory of; nil: the question is the gate's own.
func growOf(ctx context.Context) func(n int) bool {
	x, ok := ctx.Value(askerKey{}).(*exchange)
	if !ok {
		return nil
	}
	return x.growTold
}

func (x *exchange) growTold(n int) bool { return x.told.grow(&x.c.s.lookups, x.c.caller.key, n) }

func (x *exchange) growShown(n int) bool { return x.shown.grow(&x.c.s.answers, x.c.caller.key, n) }

func (x *exchange) daemonGone(err error) *refusal {
	if errors.Is(err, errNoRoom) {
		x.c.s.counts.noRoom.Add(1)
		return &refusal{status: http.StatusTooManyRequests, cause: "memory", retryAfter: true, msg: "belay: too many large things are looked up"}
	}
	x.c.s.counts.daemonErrors.Add(1)
	x.c.s.o.Log.Warn("the Docker daemon does not answer", attr.Error, err.Error())
	return &refusal{status: http.StatusBadGateway, cause: "daemon", msg: "belay: the Docker daemon cannot be reached. Is it running?"}
}
