package buildkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/apicall"
)

const (
	serviceControl = "/moby.buildkit.v1.Control/"
	serviceGateway = "/moby.buildkit.v1.frontend.LLBBridge/"
	actionSolve    = "build.grpc.solve"
)

// buildIDKey is the metadata by which a call of LLBBridge names its build
// (github.com/moby/buildkit, control/gateway).
const buildIDKey = "buildkit-controlapi-buildid"

// maxWait is how long a call about a build waits for that build to be asked for on the same
// connection: clients ask for both at once. BuildKit waits as long itself.
const maxWait = 5 * time.Second

// controlMethod is how a call of the daemon's is treated.
type controlMethod struct {
	action string
	// message makes one of the request's type, for methods whose requests are read.
	message func() proto.Message
	// ref returns the build that a request names.
	ref func(proto.Message) string
	// early: clients call while they ask for the build.
	early bool
	// solve replaces reading and asking.
	solve func(p *controlSide, ctx context.Context, method string, raw []byte) ([]byte, error)
	// within: a part of a build, which must be one of this connection's. No question is asked:
	// it does nothing that asking for the build did not allow.
	within bool
	// drop: it is answered with an empty message, and not passed on.
	drop bool
}

func msg[T any, P interface {
	*T
	proto.Message
}]() proto.Message {
	return P(new(T))
}

// controlMethods are all that pass. Not among them: Control.Session, since a session in a
// stream of bytes has a route of its own; NewContainer and ExecProcess of LLBBridge, which
// run programs in a build from outside.
var controlMethods = map[string]controlMethod{
	serviceControl + "Solve":       {action: actionSolve, solve: (*controlSide).solve},
	serviceControl + "Status":      {action: "build.grpc.status", message: msg[control.StatusRequest], ref: refOf[*control.StatusRequest], early: true},
	serviceControl + "Info":        {action: "build.grpc.info", message: msg[control.InfoRequest]},
	serviceControl + "ListWorkers": {action: "build.grpc.listWorkers", message: msg[control.ListWorkersRequest]},
	serviceControl + "DiskUsage":   {action: "build.grpc.diskUsage", message: msg[control.DiskUsageRequest]},
	serviceControl + "Prune":       {action: "build.grpc.prune", message: msg[control.PruneRequest]},
	serviceControl + "ListenBuildHistory": {
		action: "build.grpc.listenBuildHistory", message: msg[control.BuildHistoryRequest], ref: refOf[*control.BuildHistoryRequest],
	},
	serviceControl + "UpdateBuildHistory": {
		action: "build.grpc.updateBuildHistory", message: msg[control.UpdateBuildHistoryRequest], ref: refOf[*control.UpdateBuildHistoryRequest],
	},
	"/grpc.health.v1.Health/Check": {action: "build.grpc.info"},

	// Clients send spans of their own and do not care what becomes of them.
	"/opentelemetry.proto.collector.trace.v1.TraceService/Export": {drop: true},

	serviceGateway + "Solve":              {action: actionSolve, within: true, solve: (*controlSide).gatewaySolve},
	serviceGateway + "ResolveImageConfig": {action: actionResolve, within: true, solve: (*controlSide).resolveImage},
	serviceGateway + "ResolveSourceMeta":  {action: actionResolve, within: true, solve: (*controlSide).resolveSource},
	serviceGateway + "ReadFile":           {within: true, message: msg[gateway.ReadFileRequest]},
	serviceGateway + "ReadDir":            {within: true, message: msg[gateway.ReadDirRequest]},
	serviceGateway + "StatFile":           {within: true, message: msg[gateway.StatFileRequest]},
	serviceGateway + "Evaluate":           {within: true, message: msg[gateway.EvaluateRequest]},
	serviceGateway + "Ping":               {within: true, message: msg[gateway.PingRequest]},
	serviceGateway + "Return":             {within: true, solve: (*controlSide).returned},
	serviceGateway + "Inputs":             {within: true, message: msg[gateway.InputsRequest]},
	serviceGateway + "Warn":               {within: true, message: msg[gateway.WarnRequest]},
}

func refOf[M interface{ GetRef() string }](m proto.Message) string {
	if t, ok := m.(M); ok {
		return t.GetRef()
	}
	return ""
}

// controlSide is a connection on which the client calls.
type controlSide struct {
	judge  Judge
	builds builds
	turns  chan struct{}
}

// maxTurns bounds the messages of a connection that are taken in at once: a Solve can have
// [MaxMessage], and has it in memory before its length is known here.
const maxTurns = 4

// ServeControl mediates a connection on which the client calls the daemon, until either side
// ends it or ctx does. It owns both connections and closes them. rooms are the caller's.
func ServeControl(ctx context.Context, client, daemon net.Conn, j Judge, rooms Rooms) error {
	return run(ctx, client, daemon, &controlSide{judge: j, turns: make(chan struct{}, maxTurns)}, rooms)
}

func (p *controlSide) begin(ctx context.Context, method string, md metadata.MD) (call, error) {
	m, ok := controlMethods[method]
	if !ok {
		p.judge.Refused(method, CauseUnknownMethod, "not one of the methods that the gate knows")
		return call{}, denied(cutText(method) + " is not open through the gate")
	}
	if m.drop {
		return call{drop: true, turns: p.turns}, nil
	}
	if m.within {
		ids := md.Get(buildIDKey)
		if len(ids) != 1 {
			return call{}, p.foreign(method)
		}
		switch own, refused := p.builds.wait(ctx, ids[0]); {
		case refused != nil:
			return call{}, refused
		case !own:
			return call{}, p.foreign(method)
		}
	}
	first := true
	return call{turns: p.turns, request: func(raw []byte) ([]byte, error) {
		if !first {
			return nil, p.refuse(method, errors.New("more than one message"))
		}
		first = false
		if m.solve != nil {
			return m.solve(p, ctx, method, raw)
		}
		return p.plain(ctx, &m, method, raw)
	}}, nil
}

func (p *controlSide) foreign(method string) error {
	p.judge.Refused(method, CauseForeign, "no build of this connection")
	return denied("the build is not one of this connection")
}

// plain mediates a request that is asked about by its method, and by the build that it names.
func (p *controlSide) plain(ctx context.Context, m *controlMethod, method string, raw []byte) ([]byte, error) {
	var out []byte
	q := &Question{Method: method, Action: m.action}
	if m.message == nil { // a question of gRPC's own, which says nothing
		if len(raw) > 0 {
			return nil, p.refuse(method, errors.New("a message that is not empty"))
		}
	} else {
		t := m.message()
		if err := decode(raw, t); err != nil {
			return nil, p.refuse(method, err)
		}
		if m.ref != nil {
			if q.Ref = m.ref(t); q.Ref != "" {
				if q.Own = p.judge.OwnsBuild(q.Ref); !q.Own && m.early {
					var refused error
					if q.Own, refused = p.builds.wait(ctx, q.Ref); refused != nil {
						return nil, refused
					}
				}
			}
		}
		var err error
		if out, err = proto.Marshal(t); err != nil {
			return nil, p.refuse(method, err)
		}
	}
	if m.within {
		return out, nil
	}
	if v := p.judge.Ask(q); !v.Allowed {
		return nil, denied(v.Message)
	}
	return out, nil
}

// actionResolve is asked before the daemon asks a registry or another server about a source.
const actionResolve = "build.grpc.resolve"

func (p *controlSide) resolveImage(ctx context.Context, method string, raw []byte) ([]byte, error) {
	var m gateway.ResolveImageConfigRequest
	if err := decode(raw, &m); err != nil {
		return nil, p.refuse(method, err)
	}
	var s asked
	s.session(m.SessionID)
	if err := s.readPolicies(m.SourcePolicies); err != nil {
		return nil, p.refuse(method, err)
	}
	return p.resolved(ctx, method, &m, apicall.Facts{Image: m.Ref}, &s)
}

func (p *controlSide) resolveSource(ctx context.Context, method string, raw []byte) ([]byte, error) {
	var m gateway.ResolveSourceMetaRequest
	if err := decode(raw, &m); err != nil {
		return nil, p.refuse(method, err)
	}
	var s asked
	if err := errors.Join(s.readSource(m.Source), s.readPolicies(m.SourcePolicies)); err != nil {
		return nil, p.refuse(method, err)
	}
	return p.resolved(ctx, method, &m, apicall.Facts{}, &s)
}

// resolved asks about the thing that facts name, and about all that s would have fetched.
func (p *controlSide) resolved(ctx context.Context, method string, m proto.Message, facts apicall.Facts, s *asked) ([]byte, error) {
	if s.err != nil {
		return nil, p.refuse(method, s.err)
	}
	for _, id := range s.sessions {
		if !p.judge.OwnsSession(ctx, id) {
			p.judge.Refused(method, CauseForeign, "a session that is not the caller's")
			return nil, denied("the session is not one that the caller opened through the gate")
		}
	}
	for i := range max(1, len(s.remotes)) {
		if err := ctx.Err(); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		if len(s.remotes) > 0 {
			facts.Remote = s.remotes[i]
		}
		if v := p.judge.Ask(&Question{Method: method, Action: actionResolve, Facts: facts}); !v.Allowed {
			return nil, denied(v.Message)
		}
	}
	return proto.Marshal(m)
}

// returned mediates the result of a build that the client steers. Graphs in it say again
// what Solve was asked: the daemon goes by the names that it gave, and gets no more than these.
func (p *controlSide) returned(_ context.Context, method string, raw []byte) ([]byte, error) {
	var m gateway.ReturnRequest
	if err := decode(raw, &m); err != nil {
		return nil, p.refuse(method, err)
	}
	for _, r := range resultRefs(m.Result) {
		if r != nil {
			r.Def = nil
		}
	}
	delete(m.GetResult().GetMetadata(), resultName)
	return proto.Marshal(&m)
}

func resultRefs(r *gateway.Result) []*gateway.Ref {
	out := []*gateway.Ref{r.GetRef()}
	for _, ref := range r.GetRefs().GetRefs() {
		out = append(out, ref)
	}
	for _, as := range r.GetAttestations() {
		for _, a := range as.GetAttestation() {
			out = append(out, a.GetRef())
		}
	}
	return out
}

// refuse notes a message that was not taken, and returns what the caller is told.
func (p *controlSide) refuse(method string, err error) error { return refuse(p.judge, method, err) }

func (p *controlSide) callerCalls() bool { return true }

// passes lets a build's name and traces through. A namespace of containerd's must not reach the engine.
func (p *controlSide) passes(name string) bool {
	switch name {
	case buildIDKey, "traceparent", "tracestate", "baggage":
		return true
	}
	return false
}

func (p *controlSide) note(method, cause, msg string) { p.judge.Refused(method, cause, msg) }

func (p *controlSide) failed(method string, v any) { failed(p.judge, method, v) }

func failed(j Judge, method string, v any) {
	j.Refused(method, CauseInternal, "an internal failure: "+cutText(fmt.Sprint(v)))
}

func refuse(j Judge, method string, err error) error {
	j.Refused(method, CauseMessage, err.Error())
	return denied(cutText(method) + ": " + err.Error())
}

func cutText(s string) string { return s[:min(len(s), 128)] }

// builds are the builds that were asked for on one connection.
type builds struct {
	// mu guards what follows.
	mu    sync.Mutex
	refs  []asking
	added chan struct{} // closed, and made anew, when there is one more; nil: nobody waits
}

// maxBuilds bounds the builds that a connection remembers, newest last. A bake asks for a
// few hundred at most.
const maxBuilds = 4096

type asking struct {
	ref     string
	refused error // nil: it was sent on
}

// add notes that a build was asked for, and why it was refused if it was: all that is asked
// about it is told the same.
func (b *builds) add(ref string, refused error) {
	if ref == "" || len(ref) > MaxRef {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.find(ref); i < 0 {
		b.refs = append(b.refs, asking{ref, refused})
		b.refs = b.refs[max(0, len(b.refs)-maxBuilds):]
	} else if refused == nil {
		b.refs[i].refused = nil
	}
	if b.added != nil {
		close(b.added)
		b.added = nil
	}
}

func (b *builds) find(ref string) int {
	return slices.IndexFunc(b.refs, func(a asking) bool { return a.ref == ref })
}

// wait tells whether the build was asked for here, and why it was refused if it was. It waits
// for that for a moment.
func (b *builds) wait(ctx context.Context, ref string) (own bool, refused error) {
	if ref == "" {
		return false, nil
	}
	late := time.NewTimer(maxWait)
	defer late.Stop()
	for {
		b.mu.Lock()
		i := b.find(ref)
		if i >= 0 {
			refused = b.refs[i].refused
		}
		if b.added == nil {
			b.added = make(chan struct{})
		}
		more := b.added
		b.mu.Unlock()
		if i >= 0 {
			return refused == nil, refused
		}
		select {
		case <-more:
		case <-late.C:
			return false, nil
		case <-ctx.Done():
			return false, nil
		}
	}
}
