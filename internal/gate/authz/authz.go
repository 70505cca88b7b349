package authz

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
)

// DefaultSocket is where daemons look for a plugin called belay.
const DefaultSocket = "/run/docker/plugins/belay.sock"

// The outcomes of a judgement.
const (
	Allowed   = "allowed"
	Denied    = "denied"
	WouldDeny = "would_deny" // allowed, and denied by a policy that audits
)

// The causes of judgements that no policy made. They appear in journals: never reuse one.
const (
	CauseNoTicket   = "no_ticket"        // it did not come through the gate
	CauseBadTicket  = "bad_ticket"       // forged, used before, expired, or for another request
	CauseNoBody     = "no_body"          // the daemon did not show a body that matters
	CauseUnreadable = "unreadable"       // the daemon's question is not one
	CauseBusy       = "busy"             // too many questions at once
	CauseTamper     = "tamper"           // it aims at the plugin itself
	CauseBreakGlass = "break_glass"      // let pass while the glass is broken
	CauseUnverified = "unverified"       // a certificate that no CA of ours signed
	CauseUnresolved = "unresolved"       // what a name stands for cannot be told
	CauseDaemon     = "daemon"           // the daemon does not answer questions
	CauseNoPolicy   = "no_policy"        // no AccessPolicy is enforced
	CauseObligation = "cannot_oblige"    // a policy wants the request or its answer changed
	CauseTunnel     = "tunnel"           // a stream that cannot be looked into
	CauseReserved   = "reserved_label"   // labels that only the gate may set
	CauseLate       = "took_too_long"    // the judgement did not end in time
	CauseInternal   = "internal_failure" // a fault of ours
)

// Rules is what the access policies in force answer; *policy.Access is most of one.
type Rules interface {
	Decide(call *apicall.Call, now time.Time) policy.AccessDecision
	// Enforced tells whether any policy is enforced.
	Enforced() bool
	// RuntimeFor returns what a create's checks are worth in the kernel.
	RuntimeFor(call *apicall.Call, now time.Time) []*policy.RuntimePolicy
}

// Event is a judgement that is worth a record: every denial, and whatever passed without a
// ticket. What passed with one is the proxy's to record.
type Event struct {
	Time     time.Time
	Decision string // Allowed, Denied, WouldDeny
	Method   string
	Path     string // without the query, at most 512 bytes
	Action   string // "" if no endpoint has the path
	Subject  apicall.Subject
	// User is what the daemon calls the caller: a certificate's common name, unverified.
	User                   string
	Policy, Revision, Rule string
	Checks                 []string
	IDs                    []string // of what the call is about
	Reason                 string
	Cause                  string // a Cause constant; "" if a policy decided
	Duration               time.Duration
}

// Options are those of a plugin. Zero values have the defaults that the fields name.
type Options struct {
	// Socket is where the daemon finds the plugin: NAME.sock below /run/docker/plugins
	// ([DefaultSocket]), or anywhere if a file NAME.spec names it.
	Socket string
	// Name is what the daemon calls the plugin; the socket's name without ".sock".
	Name    string
	Tickets *ticket.Keeper // required
	// Gate is the gate's own address, for messages; "" if there is none.
	Gate string

	// DirectCAs sign the certificates of callers that may come to the daemon's own TLS
	// listener, if an AccessPolicy lets them; nil: nobody.
	DirectCAs *x509.CertPool
	Policies  func() Rules // nil: there are none
	// Upstream is the daemon's socket, which is asked what the names in requests of direct
	// callers stand for; "": requests with names are denied.
	Upstream string
	Parse    dockerapi.Options

	// BreakGlass is the file that root creates to let everything pass for BreakGlassFor
	// (15 min, at most 1 h) from its modification; "": there is none.
	BreakGlass    string
	BreakGlassFor time.Duration

	Record func(*Event)         // called for every event, must not block; nil: nobody
	Note   func(message string) // told when the glass is broken and mended; nil: nobody
	Health *health.Registry     // nil: a registry of its own
	Log    *slog.Logger         // nil discards
	Limits Limits
	now    func() time.Time // for tests
}

// Limits bounds what the daemon's questions may cost. 0 is the default that the field names.
type Limits struct {
	// QuestionBytes bounds one question: daemons show bodies of up to 4 MiB, in base64,
	// with headers and certificates; 8 MiB.
	QuestionBytes int64
	// HeldBytes bounds all questions that are read and judged at one time; 32 MiB.
	HeldBytes int64
	Conns     int           // open connections; 512
	Wait      time.Duration // for room below HeldBytes; 5 s
	// Time bounds one judgement, the daemon's own answers for it included. It is less
	// than the 30 s that daemons wait; 15 s.
	Time time.Duration
}

func (o *Options) fill() error {
	if o.Tickets == nil {
		return errors.New("authz: Options.Tickets is required")
	}
	if o.Socket == "" {
		o.Socket = DefaultSocket
	}
	if o.Name == "" {
		o.Name = strings.TrimSuffix(filepath.Base(o.Socket), ".sock")
	}
	if o.Policies == nil {
		o.Policies = func() Rules { return nil }
	}
	if o.Record == nil {
		o.Record = func(*Event) {}
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	if o.Health == nil {
		o.Health = health.New(nil)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.BreakGlassFor <= 0 {
		o.BreakGlassFor = 15 * time.Minute
	}
	o.BreakGlassFor = min(o.BreakGlassFor, maxBreakGlass)
	l := &o.Limits
	for _, d := range []struct {
		to  *int64
		def int64
	}{{&l.QuestionBytes, 8 << 20}, {&l.HeldBytes, 32 << 20}} {
		if *d.to <= 0 {
			*d.to = d.def
		}
	}
	l.HeldBytes = max(l.HeldBytes, l.QuestionBytes)
	if l.Conns <= 0 {
		l.Conns = 512
	}
	if l.Wait <= 0 {
		l.Wait = 5 * time.Second
	}
	if l.Time <= 0 {
		l.Time = 15 * time.Second
	}
	return nil
}

// counts are the plugin's counters.
type counts struct {
	allowed, denied, direct, unreadable, busy, strangers, unresolved, tampering, broken, unknownFields, failures *health.Counter
}

func newCounts(r *health.Registry) counts {
	return counts{
		allowed: r.Counter("authz_allowed"), denied: r.Counter("authz_denied"), direct: r.Counter("authz_direct"),
		unreadable: r.Counter("authz_unreadable"), busy: r.Counter("authz_busy"), strangers: r.Counter("authz_strangers"),
		unresolved: r.Counter("authz_unresolved"), tampering: r.Counter("authz_tampering"),
		broken: r.Counter("authz_break_glass"), unknownFields: r.Counter("authz_unknown_fields"),
		failures: r.Counter("authz_failures"),
	}
}

// Plugin is one plugin. Make one with [Listen].
type Plugin struct {
	o      Options
	socket net.Listener
	counts counts
	held   chan struct{} // room below Limits.HeldBytes, in slots of slotBytes
	daemon *daemon       // nil without Options.Upstream
	glass  breakGlass
}

// Listen opens the plugin's socket, for root only. A file that is there is replaced if
// nobody listens on it.
func Listen(o Options) (*Plugin, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	l, err := listen(o.Socket)
	if err != nil {
		return nil, err
	}
	p := &Plugin{o: o, counts: newCounts(o.Health), held: make(chan struct{}, o.Limits.HeldBytes/slotBytes)}
	p.socket = newBounded(l, o.Limits.Conns, p.counts.strangers)
	p.glass = breakGlass{file: o.BreakGlass, lasts: o.BreakGlassFor}
	if o.Upstream != "" {
		p.daemon = newDaemon(o.Upstream, o.Tickets)
	}
	return p, nil
}

// Close gives the socket back. It is for a plugin whose Run is never called.
func (p *Plugin) Close() error { return p.socket.Close() }

// Run answers until ctx ends, then returns nil. The socket's file stays: without it the
// daemon could not tell a plugin that is down from one that was taken away. While nobody
// answers on it the daemon refuses every request.
func (p *Plugin) Run(ctx context.Context) error {
	srv := p.server()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(p.socket) }()
	watched := make(chan struct{})
	wctx, stop := context.WithCancel(ctx)
	go func() { defer close(watched); p.watchGlass(wctx) }()
	defer func() { stop(); <-watched }()
	if p.daemon != nil {
		defer p.daemon.close()
	}
	select {
	case err := <-done:
		return fmt.Errorf("serve the authorisation plugin: %w", err)
	case <-ctx.Done():
	}
	_ = srv.Close() // it closes the socket, whose errors nobody can act upon now
	<-done
	return nil
}
