package buildkit

import (
	"context"
	"fmt"
	"strings"

	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/apicall"
)

// The frontends that are part of BuildKit.
const (
	frontendDockerfile = "dockerfile.v0"
	frontendGateway    = "gateway.v0" // runs the image that the attribute source names
	// frontendLLB is how policies name a build that is a graph, without a frontend.
	frontendLLB = "llb"
	// anyFrontend stands for an image that nobody can know before: what a Dockerfile names.
	anyFrontend = "?"
)

const syntaxArg = "build-arg:BUILDKIT_SYNTAX"

// build is a request for a build, of either of the two methods that make one.
type build struct {
	asked
	frontend *string
	attrs    *map[string]string
	inputs   map[string]*pb.Definition
	def      *pb.Definition
	policies []*spb.Policy
	judge    Judge
	method   string
}

// solve mediates Control.Solve.
func (p *controlSide) solve(ctx context.Context, method string, raw []byte) ([]byte, error) {
	var m control.SolveRequest
	if err := decode(raw, &m); err != nil {
		return nil, p.refuse(method, err)
	}
	if len(m.Ref) > MaxRef {
		return nil, p.refuse(method, fmt.Errorf("%w: the name of a build with more than %d bytes", ErrMessage, MaxRef))
	}
	b := &build{
		frontend: &m.Frontend, attrs: &m.FrontendAttrs, inputs: m.FrontendInputs, def: m.Definition, judge: p.judge, method: method,
	}
	if m.SourcePolicy != nil {
		b.policies = append(b.policies, m.SourcePolicy)
	}
	b.facts.BuildKit, b.facts.SessionID = true, m.Session
	b.session(m.Session)
	b.session(m.SourcePolicySession)
	for _, e := range m.Entitlements {
		b.entitle(e)
	}
	b.exporter(m.ExporterDeprecated, m.ExporterAttrsDeprecated)
	for _, e := range m.Exporters {
		b.exporter(e.GetType(), e.GetAttrs())
	}
	if m.EnableSessionExporter {
		b.output("exporters of the session")
	}
	if c := m.Cache; c != nil {
		for _, ref := range c.ImportRefsDeprecated {
			b.cacheImport("registry", map[string]string{"ref": ref})
		}
		for _, e := range c.Imports {
			b.cacheImport(e.GetType(), e.GetAttrs())
		}
		for _, e := range c.Exports {
			b.cacheExport(e.GetType(), e.GetAttrs())
		}
		b.add(&b.pushes, c.ExportRefDeprecated)
	}
	if err := b.decide(ctx, p, m.SourcePolicySession != ""); err != nil {
		p.builds.add(m.Ref, err) // who waits for it need not wait longer
		return nil, err
	}
	if !p.judge.ClaimBuild(m.Ref) {
		p.judge.Refused(method, CauseForeign, "the name of another's build")
		return nil, denied("the name of the build is another's")
	}
	p.builds.add(m.Ref, nil)
	return proto.Marshal(&m)
}

// gatewaySolve mediates LLBBridge.Solve, by which clients that steer a build themselves, as
// buildx does, ask for its parts.
func (p *controlSide) gatewaySolve(ctx context.Context, method string, raw []byte) ([]byte, error) {
	var m gateway.SolveRequest
	if err := decode(raw, &m); err != nil {
		return nil, p.refuse(method, err)
	}
	b := &build{
		frontend: &m.Frontend, attrs: &m.FrontendOpt, inputs: m.FrontendInputs, def: m.Definition, policies: m.SourcePolicies,
		judge: p.judge, method: method,
	}
	b.facts.BuildKit = true
	for _, e := range m.CacheImports {
		b.cacheImport(e.GetType(), e.GetAttrs())
	}
	if err := b.decide(ctx, p, false); err != nil {
		return nil, err
	}
	return proto.Marshal(&m)
}

// decide reads what both requests have, asks, and fixes the frontend. The request is
// changed: it is what must be sent on.
func (b *build) decide(ctx context.Context, p *controlSide, policed bool) error {
	if err := b.read(); err != nil {
		return p.refuse(b.method, err)
	}
	questions, err := b.questions(b.method, actionSolve)
	if err != nil {
		return p.refuse(b.method, err)
	}
	free := b.judge.Ask(&Question{
		Method: b.method, Action: actionSolve, Facts: apicall.Facts{Frontend: anyFrontend, BuildKit: true}, Hypothetical: true,
	}).Allowed
	if !free && b.facts.Frontend != frontendDockerfile && b.facts.Frontend != "" && (policed || converts(b.policies) || b.contexts > 0) {
		// Both can put another image in the place of the one that is allowed.
		return p.refuse(b.method, fmt.Errorf("%w: a source policy that changes sources, or a named context, with a frontend that is an image", ErrMessage))
	}
	for _, id := range b.sessions {
		if !b.judge.OwnsSession(ctx, id) {
			p.judge.Refused(b.method, CauseForeign, "a session that is not the caller's")
			return denied("the session is not one that the caller opened through the gate")
		}
	}
	if err := askAll(ctx, b.judge, questions); err != nil {
		return err
	}
	b.fix(free)
	return nil
}

// askAll asks until one thing is denied or ctx ends.
func askAll(ctx context.Context, j Judge, questions []*Question) error {
	for _, q := range questions {
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		if v := j.Ask(q); !v.Allowed {
			return denied(v.Message)
		}
	}
	return nil
}

func (b *build) read() error {
	s := &b.asked
	attrs := *b.attrs
	s.facts.Frontend = *b.frontend
	switch *b.frontend {
	case "":
		if len(b.def.GetDef()) > 0 {
			s.facts.Frontend = frontendLLB
		}
	case frontendDockerfile:
		if v := strings.TrimSpace(attrs[syntaxArg]); v != "" {
			image, _, _ := strings.Cut(v, " ")
			s.facts.Frontend = apicall.FrontendImage(image)
		}
	case frontendGateway:
		if _, devel := attrs["gateway-devel"]; attrs["source"] != "" && !devel {
			s.facts.Frontend = apicall.FrontendImage(attrs["source"])
		}
	default: // BuildKit has no other, and policies would take it for an image
		return fmt.Errorf("%w: the frontend %.64q", ErrMessage, *b.frontend)
	}
	if err := s.readAttrs(attrs, *b.frontend == frontendDockerfile || *b.frontend == ""); err != nil {
		return err
	}
	if err := s.readDefinition(b.def); err != nil {
		return err
	}
	for _, d := range b.inputs {
		if err := s.readDefinition(d); err != nil {
			return err
		}
	}
	return s.readPolicies(b.policies)
}

// readPolicies adds what source policies put in the place of the build's own sources: the
// daemon fetches that, whatever was in the graph or in the Dockerfile.
func (s *asked) readPolicies(policies []*spb.Policy) error {
	for _, p := range policies {
		for _, r := range p.GetRules() {
			if r.GetAction() != spb.PolicyAction_CONVERT {
				continue
			}
			if err := s.readSourceAttrs(r.GetUpdates().GetAttrs()); err != nil {
				return err
			}
			// It can have parts of what is replaced in it, also as its scheme. Without one what is
			// matched becomes what the selector says, be that a pattern.
			id := r.GetUpdates().GetIdentifier()
			if id == "" {
				if matchesItselfOnly(r.GetSelector()) {
					continue // a pin: the source stays what it is
				}
				id = r.GetSelector().GetIdentifier()
			}
			switch scheme, _, _ := strings.Cut(id, "://"); scheme {
			case "", "docker-image", "local", "oci-layout":
			default:
				s.remote(id)
			}
		}
	}
	return nil
}

// matchesItselfOnly tells whether what a selector matches is what it says, so that a rule without an identifier of its own
// changes nothing but attributes. Source: sourcepolicy (matcher.go, formatter.go) of github.com/moby/buildkit.
func matchesItselfOnly(s *spb.Selector) bool {
	switch s.GetMatchType() {
	case spb.MatchType_EXACT:
		return true
	case spb.MatchType_WILDCARD:
		return !strings.ContainsAny(s.GetIdentifier(), `*$\`)
	default:
		return false
	}
}

// fix has the frontend that was judged be the one that runs. BuildKit's Dockerfile frontend
// looks for another in a build argument and in the Dockerfile's first lines, unless the
// attribute cmdline is there, which says that this was done (github.com/moby/buildkit,
// frontend/dockerfile/builder, build.go, v0.8 to v0.33). With it a syntax line is a comment.
//
// A frontend in the build argument becomes what the Dockerfile frontend would make of it, as
// BuildKit before v0.11 does not know the argument.
func (b *build) fix(free bool) {
	if free || *b.frontend != frontendDockerfile {
		return
	}
	attrs := *b.attrs
	if attrs == nil {
		attrs = map[string]string{}
		*b.attrs = attrs
	}
	v := strings.TrimSpace(attrs[syntaxArg])
	if v == "" {
		delete(attrs, syntaxArg)
		attrs["cmdline"] = frontendDockerfile
		return
	}
	*b.frontend = frontendGateway
	attrs["source"], attrs["cmdline"] = b.facts.Frontend, v
}

// converts tells whether source policies put other sources in the place of those asked for.
func converts(ps []*spb.Policy) bool {
	for _, p := range ps {
		for _, r := range p.GetRules() {
			if r.GetAction() != spb.PolicyAction_ALLOW && r.GetAction() != spb.PolicyAction_DENY {
				return true
			}
		}
	}
	return false
}
