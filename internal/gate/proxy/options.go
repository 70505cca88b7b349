package proxy

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/gate/peer"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
)

// Recorder takes a record of every decision. Record is called once for each request,
// must not block, and must not keep ev.
type Recorder interface {
	Record(ev *Event)
}

// The outcomes of a decision.
const (
	Allowed   = "allowed"
	Denied    = "denied"
	WouldDeny = "would_deny" // denied by a policy that audits: it was forwarded
)

// Event is one decision.
type Event struct {
	Time     time.Time
	Subject  *apicall.Subject
	Action   string // "" if the request has no route
	Method   string
	Path     string // as sent, without the query, cut to 512 bytes
	IDs      []string
	Decision string // Allowed, Denied, WouldDeny
	Policy   string // name; "" if no policy decided
	Revision string
	Rule     string
	Reason   string // for people
	Cause    string // stable word for what the gate itself refused; "" otherwise
	Checks   []string
	Status   int           // answered; 0: the client was gone before
	Duration time.Duration // until the head of the answer
	// Unmanaged: no AccessPolicy is configured, and the daemon's own rule was applied.
	Unmanaged bool
	Elevation string // under which the call was made; "": none
	// Peer is who connected, if Subject is a token; nil else.
	Peer *apicall.Subject
	// TraceParent is the W3C trace context that the client sent, as it sent it; "": none.
	TraceParent string
}

// Policies gives the access policies in force, nil if none was ever configured.
type Policies func() Rules

// Rules is what a set of access policies answers; *policy.Access is one.
type Rules interface {
	Decide(call *apicall.Call, now time.Time) policy.AccessDecision
	// Grants tells whether any rule could let the caller do an action, whatever it is about.
	Grants(sub *apicall.Subject, action string) bool
	// VisibleTo tells whether the caller may see a thing in the answer to a call that
	// was allowed with Scope.Filter.
	VisibleTo(call *apicall.Call, res *apicall.Resource, now time.Time) bool
	// Visible is that for a call without facts.
	Visible(sub *apicall.Subject, action string, res *apicall.Resource) bool
	// RuntimeFor is what the checks of a create are worth in the kernel.
	RuntimeFor(call *apicall.Call, now time.Time) []*policy.RuntimePolicy
	// DockerSocket is what becomes of a mount of the daemon's socket, and who says so.
	DockerSocket(sub *apicall.Subject) (what string, by *policy.AccessPolicy)
	// Enforced tells whether any policy is enforced. If none is, the daemon's own rule holds.
	Enforced() bool
}

// Elevations knows who has shown a second factor. It is asked for users of the host only:
// a certificate, a token and a container have nobody who could show one.
type Elevations interface {
	// Any tells cheaply whether a user may have one.
	Any(uid uint32) bool
	// Covering returns the ID of a live elevation of the user in the login session for an
	// action on containers, which are the full ids of those that the call is about.
	Covering(uid uint32, session, action string, containers []string, now time.Time) (id string, ok bool)
}

// Tokens knows the bearer tokens by which programs call.
type Tokens interface {
	// Verify returns the name of the token that secret is.
	Verify(secret string, now time.Time) (name string, err error)
}

// Options says what a gate listens on and what is behind it. Zero values have the
// defaults that the fields name.
type Options struct {
	// Upstream is the path of the daemon's socket. Required.
	Upstream string

	// Socket is the path of the gate's own socket; "" if there is none. Its group is GID
	// and its mode Mode (0660).
	Socket string
	GID    int
	Mode   fs.FileMode
	// Inherited are sockets that somebody else has opened: systemd, or the gate before. They are
	// the server's from a [Listen] that succeeds on, which closes those for which there is no room ([maxSockets]).
	Inherited []net.Listener
	// TLS is the TCP listener; nil: none.
	TLS *TLSOptions
	// Origins are the values of the Origin header that are taken on TCP. A browser sends one;
	// others do not.
	Origins []string

	Policies Policies
	// Elevations are live second factors; nil: nobody has one.
	Elevations Elevations
	// Tokens are the bearer tokens that are taken; nil: none is.
	Tokens   Tokens
	Workload peer.Workload
	Recorder Recorder         // nil: nobody
	Health   *health.Registry // nil: a registry of its own
	Binder   Binder           // nil: checks hold in the API alone
	Images   ImageJudge       // nil: no image is judged
	Tickets  *ticket.Keeper   // nil: requests get no ticket
	// Node describes the node in JSON, with verdicts on images by their IDs; nil: it is not described.
	Node func(ctx context.Context, images []string) ([]byte, error)
	// Cordon says in words why no new container starts here now, or nothing; nil: nothing ever.
	// It is asked for each create and start, and must be quick.
	Cordon func() string
	Log    *slog.Logger // nil discards

	// Parse is what the operator leaves to the parser; its limit of a body is Limits.BodyBytes.
	Parse dockerapi.Options

	Limits Limits

	proc string // where procfs is, for tests
}

// Limits bounds what callers may cost. 0 is the default that the field names; a
// negative number of requests is no bound.
type Limits struct {
	HeadBytes int           // 64 KiB
	BodyBytes int           // of bodies that are parsed; 4 MiB
	HeadTime  time.Duration // from the first byte to the end of the head; 10 s
	BodyTime  time.Duration // for a body that is parsed; 30 s
	IdleTime  time.Duration // between requests; 3 min
	// SendTime is how long a streamed request body may make no progress; 5 min.
	SendTime time.Duration
	// TakeTime is how long a client may take in what is held in memory for it; 1 min.
	TakeTime time.Duration

	Conns          int // open connections, of all callers; 8192. Root of the host alone has the last 64
	ConnsPerCaller int // 2048; of all containers together too
	// Rate is requests per second of one caller, with Burst at once; 0: no bound.
	Rate, Burst float64
	// FilterBytes bounds an answer that is filtered in memory; 16 MiB.
	FilterBytes int
}

func (o *Options) fill() error {
	if o.Upstream == "" {
		return errors.New("gate: Options.Upstream is required")
	}
	if o.Policies == nil {
		o.Policies = func() Rules { return nil }
	}
	if o.Health == nil {
		o.Health = health.New(nil)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Mode == 0 {
		o.Mode = 0o660
	}
	o.Limits.fill()
	return nil
}

func (l *Limits) fill() {
	for _, d := range []struct {
		to  *int
		def int
	}{
		{&l.HeadBytes, 64 << 10},
		{&l.BodyBytes, 4 << 20},
		{&l.Conns, 8192},
		{&l.ConnsPerCaller, 2048},
		{&l.FilterBytes, 16 << 20},
	} {
		if *d.to <= 0 {
			*d.to = d.def
		}
	}
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{
		{&l.HeadTime, 10 * time.Second},
		{&l.BodyTime, 30 * time.Second},
		{&l.IdleTime, 3 * time.Minute},
		{&l.SendTime, 5 * time.Minute},
		{&l.TakeTime, time.Minute},
	} {
		if *d.to <= 0 {
			*d.to = d.def
		}
	}
	if l.Rate > 0 && l.Burst < 1 {
		l.Burst = max(1, l.Rate)
	}
}
