package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/buildkit"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/gate/wire"
	"github.com/belay-project/belay/internal/policy"
)

// actionTunnel is the action of a connection to BuildKit that is not looked into.
const actionTunnel = "build.tunnel"

// sessionHeader names the session that a client opens.
const sessionHeader = "X-Docker-Expose-Session-Uuid"

// mediated tells whether the connection that becomes a stream is one to BuildKit whose
// messages are judged: with policies always, but for who may have a tunnel.
func (x *exchange) mediated() bool {
	switch x.req.Call.Action {
	case "build.grpc", "build.session":
	default:
		return false
	}
	if x.rules == nil {
		return false
	}
	call := &apicall.Call{Subject: x.c.sub, Action: actionTunnel, Method: http.MethodPost, Path: x.req.Call.Path}
	x.elevate(call)
	d := x.rules.Decide(call, x.start)
	// A policy that only audits denies nothing, and so gives nothing either.
	return !d.Allowed || d.Audit
}

// mediate carries a connection to BuildKit message by message, until its end.
func (c *conn) mediate(action string, early []byte, daemon net.Conn, ahead []byte) {
	client := &prefixed{Conn: c.nc, first: early}
	upstream := &prefixed{Conn: daemon, first: ahead}
	serve := buildkit.ServeControl
	if action == "build.session" {
		serve = buildkit.ServeSession
	}
	// What was allowed may stay open for long: closing the server closes the connections.
	if err := serve(context.Background(), client, upstream, &buildJudge{c: c}, buildkit.Rooms{
		Held: callerRoom{&c.s.messages, c.caller.key}, Coming: callerRoom{&c.s.coming, c.caller.key},
	}); err != nil {
		c.s.o.Log.Warn("a connection to BuildKit ended", attr.Error, err.Error())
	}
}

// callerRoom is what one caller has of a room.
type callerRoom struct {
	in  *room
	key string
}

// Take implements [buildkit.Room].
func (r callerRoom) Take(n int) (leave func(), ok bool) {
	var h hold
	if !h.grow(r.in, r.key, n) {
		return nil, false
	}
	return sync.OnceFunc(h.leave), true
}

// sharedKeyHeader says which files of former sessions the daemon may take for those of this
// one, if they look the same from outside.
const sharedKeyHeader = "X-Docker-Expose-Session-Sharedkey"

// freshSession keeps a session whose files are changed on their way apart from those that
// were not: the daemon would not ask for a Dockerfile again that it has.
func (x *exchange) freshSession() {
	if x.rules == nil || x.req.Call.Action != "build.session" {
		return
	}
	if j := (&buildJudge{c: x.c}); !j.Ask(buildkit.AnyFrontend()).Allowed {
		x.header.Set(sharedKeyHeader, x.c.s.sessions.key()+x.header.Get(sharedKeyHeader))
	}
}

// fixedFrontend refuses a build by BuildKit whose session is not the caller's, or whose
// Dockerfile the gate cannot keep from naming a frontend: one that the daemon fetches, or
// that is in an archive. Files of a session pass the gate (see [buildkit.ServeSession]).
func (x *exchange) fixedFrontend() *refusal {
	q := x.req.Query
	if x.req.Call.Action != "image.build" || q.Get("version") != "2" {
		return nil
	}
	if id := q.Get("session"); id != "" {
		ctx, cancel := x.lookup()
		defer cancel()
		if !x.c.s.sessions.owned(ctx, id, callerKey(&x.c.sub)) {
			return &refusal{status: http.StatusForbidden, cause: buildkit.CauseForeign, msg: msgSession}
		}
	}
	if q.Get("remote") == "client-session" {
		return nil
	}
	j := &buildJudge{c: x.c}
	if j.Ask(buildkit.AnyFrontend()).Allowed {
		return nil
	}
	return &refusal{status: http.StatusForbidden, cause: "frontend", msg: msgFrontend}
}

// prefixed is a connection of which something was read already.
type prefixed struct {
	net.Conn
	first []byte
}

// Read implements [net.Conn].
func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// serveHTTP2 serves a client that speaks gRPC from its first byte. The daemon is spoken to
// over an upgrade, which engines know that do not know the other.
func (c *conn) serveHTTP2() {
	rules := c.s.o.Policies()
	if rules == nil {
		c.refuseHTTP2(msgHTTP2)
		return
	}
	j := &buildJudge{c: c}
	if v := j.Ask(&buildkit.Question{Method: "PRI", Action: "build.grpc"}); !v.Allowed {
		c.refuseHTTP2(msgHTTP2)
		return
	}
	b, ahead, err := c.s.up.upgrade("/grpc")
	if err != nil {
		c.s.counts.daemonErrors.Add(1)
		c.s.o.Log.Warn("the Docker daemon does not answer", attr.Error, err.Error())
		c.goAway("belay: the Docker daemon cannot be reached, or has no BuildKit")
		return
	}
	defer b.nc.Close()
	c.due.Store(0)
	c.holds(b.nc)
	defer c.releases()
	c.s.images.forget(asBefore)
	defer c.s.images.forget(asBefore)
	c.s.counts.streams.Add(1)
	early := append([]byte(nil), c.r.Buffered()...)
	c.r, c.out = wire.Reader{}, nil
	c.mediate("build.grpc", early, b.nc, ahead)
}

func (c *conn) refuseHTTP2(msg string) {
	c.s.counts.http2.Add(1)
	c.report("http2", http.StatusHTTPVersionNotSupported, msg)
	c.goAway(msg)
}

// upgrade asks the daemon for a connection of gRPC. ahead is what it has sent on it already.
func (u *upstream) upgrade(target string) (b *backend, ahead []byte, err error) {
	if b, err = u.dial(); err != nil {
		return nil, nil, err
	}
	if err := b.nc.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		b.nc.Close()
		return nil, nil, err
	}
	head := u.appendHead(make([]byte, 0, 512), http.MethodPost, target, ticket.None, nil)
	head = append(head, "Connection: Upgrade\r\nUpgrade: h2c\r\n"...)
	head = append(appendLength(head, 0), "\r\n"...)
	var resp wire.Response
	if _, err = b.nc.Write(head); err == nil {
		err = b.r.ReadResponse(&resp, http.MethodPost)
	}
	if err == nil && resp.Status != http.StatusSwitchingProtocols {
		err = errors.New("no upgrade to gRPC")
	}
	if err == nil {
		err = b.nc.SetDeadline(time.Time{})
	}
	if err != nil {
		b.nc.Close()
		return nil, nil, errors.Join(errDaemon, err)
	}
	b.r.Consume(len(resp.Raw))
	ahead = bytes.Clone(b.r.Buffered())
	b.r = wire.Reader{}
	return b, ahead, nil
}

// buildJudge answers for one connection what may be done on it. Policies are read anew for
// each question: the connection may outlive them.
type buildJudge struct{ c *conn }

// Ask implements [buildkit.Judge].
func (j *buildJudge) Ask(q *buildkit.Question) buildkit.Verdict {
	c := j.c
	now := time.Now()
	call := &apicall.Call{Subject: c.sub, Action: q.Action, Method: "GRPC", Path: q.Method, Facts: q.Facts}
	if q.Ref != "" {
		res := apicall.Resource{Kind: apicall.ResourceBuild, Asked: q.Ref, ID: q.Ref}
		if q.Own {
			res.Owner = policy.Owner(&c.sub)
		}
		call.Resources = append(call.Resources, res)
	}
	for _, t := range q.Facts.Tags {
		call.Resources = append(call.Resources, apicall.Resource{Kind: apicall.ResourceImage, Asked: t})
	}
	ev := &Event{Time: now, Subject: &c.sub, Action: q.Action, Method: "GRPC", Path: cut(q.Method), Decision: Denied}
	v := buildkit.Verdict{Message: "the token that this connection was opened with is not valid any more"}
	if c.stillValid(now) {
		v = j.decide(call, ev, now)
	} else {
		ev.Cause = "token"
	}
	if q.Hypothetical {
		return v
	}
	if v.Allowed && !c.s.callers.take(c.caller) {
		c.s.counts.rate.Add(1)
		ev.Decision, ev.Cause, ev.Status = Denied, "rate", http.StatusTooManyRequests
		j.record(ev)
		return buildkit.Verdict{Message: "too many requests"}
	}
	switch {
	case !v.Allowed:
		c.s.counts.denied.Add(1)
		ev.Status = http.StatusForbidden
	case ev.Decision == WouldDeny:
		c.s.counts.wouldDeny.Add(1)
		ev.Status = http.StatusOK
	default:
		c.s.counts.allowed.Add(1)
		ev.Status = http.StatusOK
	}
	j.record(ev)
	return v
}

func (j *buildJudge) decide(call *apicall.Call, ev *Event, now time.Time) buildkit.Verdict {
	x := exchange{c: j.c, start: now}
	if x.rules = j.c.s.o.Policies(); x.rules == nil {
		if r := x.daemonRule(); r != nil {
			return buildkit.Verdict{Message: r.msg}
		}
		ev.Decision, ev.Unmanaged = Allowed, true
		return buildkit.Verdict{Allowed: true}
	}
	x.elevate(call)
	ev.Elevation = x.ev.Elevation
	d := x.rules.Decide(call, now)
	ev.Policy, ev.Revision, ev.Rule, ev.Reason, ev.Checks = d.Policy, d.Revision, d.Rule, d.Reason, d.Checks
	if !d.Allowed {
		msg := wordDenial(call.Action, &d)
		if d.NeedSecondFactor {
			msg += x.elevateHint(call.Action)
		}
		return buildkit.Verdict{Message: msg}
	}
	if d.Scope.Filter || len(d.Scope.Labels) > 0 {
		ev.Cause = "cannot_filter"
		j.c.s.counts.unfiltered.Add(1)
		return buildkit.Verdict{Message: call.Action + " is allowed for some things only, and cannot be narrowed to them"}
	}
	if !x.rules.Enforced() {
		if r := x.daemonRule(); r != nil {
			return buildkit.Verdict{Message: r.msg}
		}
	}
	if ev.Decision = Allowed; d.Audit {
		ev.Decision = WouldDeny
	}
	return buildkit.Verdict{Allowed: true}
}

// ClaimBuild implements [buildkit.Judge].
func (j *buildJudge) ClaimBuild(ref string) bool { return j.c.s.builds.claim(ref, callerKey(&j.c.sub)) }

// OwnsBuild implements [buildkit.Judge].
func (j *buildJudge) OwnsBuild(ref string) bool { return j.c.s.builds.owned(ref, callerKey(&j.c.sub)) }

// OwnsSession implements [buildkit.Judge].
func (j *buildJudge) OwnsSession(ctx context.Context, id string) bool {
	return j.c.s.sessions.owned(ctx, id, callerKey(&j.c.sub))
}

// Refused implements [buildkit.Judge].
func (j *buildJudge) Refused(method, cause, msg string) {
	j.c.s.counts.grpcRefused.Add(1)
	j.record(&Event{
		Time: time.Now(), Subject: &j.c.sub, Method: "GRPC", Path: cut(method), Decision: Denied, Cause: cause,
		Reason: msg, Status: http.StatusForbidden,
	})
}

func (j *buildJudge) record(ev *Event) {
	ev.Duration = time.Since(ev.Time)
	if rec := j.c.s.o.Recorder; rec != nil {
		rec.Record(ev)
	}
}

// maxClaims bounds the builds whose owners are remembered.
const maxClaims = 1 << 14

// claims knows whose builds are: of who named them first.
type claims struct {
	// mu guards what follows.
	mu sync.Mutex
	of *lru.Cache[string, string] // nil: none yet
}

func (c *claims) claim(ref, key string) bool {
	if ref == "" || len(ref) > buildkit.MaxRef {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of, _ = lru.New[string, string](maxClaims) // an error only for a size below 1
	}
	if was, ok, _ := c.of.PeekOrAdd(ref, key); ok {
		return was == key
	}
	return true
}

func (c *claims) owned(ref, key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		return false
	}
	was, ok := c.of.Peek(ref)
	return ok && was == key
}

// sessionWait is how long a build waits for its session: clients ask for both at once.
// BuildKit waits as long itself.
const sessionWait = 5 * time.Second

// sessions knows who opened which of the sessions that are open.
type sessions struct {
	// mu guards what follows.
	mu     sync.Mutex
	of     map[string]string // callerKey by session
	opened chan struct{}     // closed, and made anew, at the next one; nil: nobody waits
	prefix string            // of shared keys; nobody can know it before
}

func (s *sessions) key() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prefix == "" {
		s.prefix = "belay-" + rand.Text() + "-"
	}
	return s.prefix
}

// open notes a session. It returns false if another has it open.
func (s *sessions) open(id, key string) bool {
	if id == "" || len(id) > buildkit.MaxRef {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.of[id]; ok {
		return false
	}
	if s.of == nil {
		s.of = map[string]string{}
	}
	s.of[id] = key
	if s.opened != nil {
		close(s.opened)
		s.opened = nil
	}
	return true
}

func (s *sessions) close(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, id)
}

func (s *sessions) owned(ctx context.Context, id, key string) bool {
	late := time.NewTimer(sessionWait)
	defer late.Stop()
	for {
		s.mu.Lock()
		owner, ok := s.of[id]
		if s.opened == nil {
			s.opened = make(chan struct{})
		}
		opened := s.opened
		s.mu.Unlock()
		if ok {
			return owner == key
		}
		select {
		case <-opened:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
