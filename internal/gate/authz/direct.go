package authz

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/policy"
)

// judgeDirect judges a request that came to the daemon's own TLS listener. The policies are
// the gate's; but nothing can be changed on the way, so that what they want changed,
// narrowed or hidden is denied.
func (p *Plugin) judgeDirect(ctx context.Context, q *question, ev *Event) answer {
	if why := p.verify(q.certs, ev.Time); why != "" {
		ev.Cause, ev.Reason = CauseUnverified, why
		return p.deny(q, ev)
	}
	ev.Subject = subjectOf(q.certs[0])
	rules := p.o.Policies()
	if rules == nil || !rules.Enforced() {
		ev.Cause, ev.Reason = CauseNoPolicy, "no AccessPolicy is enforced, and without one nobody may call the daemon itself"
		return p.deny(q, ev)
	}
	req := p.parse(q, ev)
	if req == nil {
		return p.deny(q, ev)
	}
	req.Call.Subject, ev.Action = ev.Subject, req.Call.Action
	if cause, why := p.lookUp(ctx, req); cause != "" {
		p.counts.unresolved.Add(1)
		ev.Cause, ev.Reason = cause, why
		return p.deny(q, ev)
	}
	for i := range req.Call.Resources {
		if id := req.Call.Resources[i].ID; id != "" {
			ev.IDs = append(ev.IDs, id)
		}
	}
	d := rules.Decide(&req.Call, ev.Time)
	ev.Policy, ev.Revision, ev.Rule, ev.Reason, ev.Checks = d.Policy, d.Revision, d.Rule, d.Reason, d.Checks
	if !d.Allowed {
		if d.NeedSecondFactor {
			// Nobody can show one with a certificate: who holds it may be a program.
			ev.Reason += ", which only a user of this host can show, at the gate"
		}
		return p.deny(q, ev)
	}
	why := unmet(req, &d)
	if why == "" && req.Call.Action == "container.create" && policy.Owed(rules.RuntimeFor(&req.Call, ev.Time)) != "" {
		why = "its checks have to hold in the kernel too, and only the gate binds them to what it makes (apiOnly leaves that out)"
	}
	if why != "" {
		ev.Cause, ev.Reason, ev.Checks = CauseObligation, why, nil
		return p.deny(q, ev)
	}
	if ctx.Err() != nil {
		ev.Cause, ev.Reason = CauseLate, "the judgement took too long"
		return p.deny(q, ev)
	}
	if ev.Decision = Allowed; d.Audit {
		ev.Decision = WouldDeny
	}
	p.counts.direct.Add(1)
	p.record(q, ev)
	return answer{Allow: true}
}

// verify tells why the caller's certificate is none of ours; "": it is. The daemon has
// verified it too, but by a CA that is the daemon's.
func (p *Plugin) verify(certs []*x509.Certificate, now time.Time) string {
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots: p.o.DirectCAs, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return "the client certificate is none that may call the daemon itself"
	}
	if certs[0].Subject.CommonName == "" {
		return "the client certificate has no common name"
	}
	return ""
}

func subjectOf(c *x509.Certificate) apicall.Subject {
	sub := apicall.Subject{Kind: apicall.Certificate, CN: c.Subject.CommonName, Orgs: c.Subject.Organization}
	sub.SANs = append(append(sub.SANs, c.DNSNames...), c.EmailAddresses...)
	for _, u := range c.URIs {
		sub.SANs = append(sub.SANs, u.String())
	}
	for _, ip := range c.IPAddresses {
		sub.SANs = append(sub.SANs, ip.String())
	}
	return sub
}

// parse reads the request as the proxy would. nil: it is refused, and ev says why.
func (p *Plugin) parse(q *question, ev *Event) *dockerapi.Request {
	path, query := q.split()
	m, err := dockerapi.FindRoute(q.method, path)
	if err != nil {
		return refuse(ev, err)
	}
	ev.Action = m.Route.Action
	if m.Route.Stream == dockerapi.Upgrade {
		ev.Cause, ev.Reason = CauseTunnel, "it opens a tunnel that cannot be looked into"
		return nil
	}
	if len(q.body) == 0 && !q.bodiless() {
		ev.Cause, ev.Reason = CauseNoBody, "the daemon does not show the request's body, and what is in it matters"
		return nil
	}
	header := make(http.Header, len(q.header))
	for k, v := range q.header {
		header[k] = []string{v}
	}
	body := q.body
	if m.Route.HasStream() {
		body = nil
	}
	req, err := dockerapi.Parse(m, query, header, body, p.o.Parse)
	if err != nil {
		return refuse(ev, err)
	}
	switch {
	case req.TakesStream():
		ev.Cause, ev.Reason = CauseNoBody, "the daemon shows no such body, and what is in it matters"
		return nil
	case m.Route.HasStream() && len(q.body) > 0:
		ev.Cause, ev.Reason = dockerapi.CodeUnexpectedBody, "the request takes no body"
		return nil
	case len(req.Call.Facts.DroppedFields) > 0:
		ev.Cause, ev.Reason = CauseReserved, "the gate would have to leave out "+strings.Join(req.Call.Facts.DroppedFields, ", ")
		return nil
	}
	return req
}

func refuse(ev *Event, err error) *dockerapi.Request {
	ev.Cause, ev.Reason = CauseInternal, "the request cannot be read"
	if de, ok := errors.AsType[*dockerapi.Error](err); ok {
		ev.Cause, ev.Reason = de.Code, de.Error()
	}
	return nil
}

// unmet says what the decision demands and cannot be done here; "": nothing.
func unmet(req *dockerapi.Request, d *policy.AccessDecision) string {
	facts := &req.Call.Facts
	def := &d.Obligations.Defaults
	switch {
	case d.Scope.Filter || len(d.Scope.Labels) > 0:
		return "it is allowed for some things only, and the daemon's own answer has all"
	case len(d.Obligations.RedactEnv) > 0 && req.Route.ReadOnly():
		return "its answer may hold values that the policy hides"
	case d.Obligations.DockerSocket != "" && len(facts.HostMounts) > 0:
		return "the policy says what becomes of mounts of the daemon's socket, and only the gate tells and replaces them"
	case len(d.Labels) > 0:
		return "the policy puts labels on what is made"
	case def.MemoryBytes > 0 && facts.Limits.MemoryBytes == 0, def.PIDs > 0 && facts.Limits.PIDs <= 0,
		def.NanoCPUs > 0 && facts.Limits.NanoCPUs == 0 && facts.Limits.CPUQuota == 0,
		def.User != "" && facts.User == "", def.NoNewPrivileges && !facts.NoNewPrivileges, def.ReadOnlyRoot && !facts.ReadOnly:
		return "the policy has defaults that the request does not set itself"
	}
	return ""
}
