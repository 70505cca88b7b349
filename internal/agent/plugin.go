package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/authz"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// pluginRetry is short: while the plugin does not answer the engine refuses every request.
const pluginRetry = time.Second

// runPlugin serves the authorisation plugin until ctx ends.
func (a *Agent) runPlugin(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.servePlugin(ctx); err != nil {
			a.health.SetFailed("authz", err.Error())
			a.log.Error("the authorisation plugin does not answer; the engine refuses every request", attr.Error, err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(pluginRetry):
		}
	}
}

func (a *Agent) servePlugin(ctx context.Context) error {
	o := authz.Options{
		Socket: a.cfg.AuthzSocket, Tickets: a.tickets, Gate: a.cfg.GateSocket,
		Upstream:   strings.TrimPrefix(a.cfg.DockerHost, "unix://"),
		BreakGlass: a.cfg.breakGlass(), BreakGlassFor: a.cfg.BreakGlassFor,
		Record: a.recordAuthz, Note: a.note, Health: a.health, Log: a.log,
		Policies: func() authz.Rules {
			if r := a.gateRules(); r != nil {
				return r
			}
			return nil
		},
	}
	if a.cfg.AuthzClientCA != "" {
		// Without it nobody may come directly, and everybody can through the gate.
		var err error
		if o.DirectCAs, err = readCAs(a.cfg.AuthzClientCA); err != nil {
			a.health.SetDegraded("authz-client-ca", err.Error())
			a.log.Error("no certificate is taken on the engine's own listener", attr.Error, err.Error())
		} else {
			a.health.SetOK("authz-client-ca")
		}
	}
	p, err := authz.Listen(o)
	if err != nil {
		return err
	}
	a.health.SetOK("authz")
	a.log.Info("the authorisation plugin answers", attr.Socket, a.cfg.AuthzSocket)
	return p.Run(ctx)
}

// maxCAFile bounds a file of certificates.
const maxCAFile = 1 << 20

func readCAs(file string) (*x509.CertPool, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("certificates that sign direct callers': %w", err)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err != nil {
		return nil, fmt.Errorf("certificates that sign direct callers': %w", err)
	}
	if len(pem) > maxCAFile {
		return nil, fmt.Errorf("%s has more than %d bytes: it would be read in part", file, maxCAFile)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

// sign returns what puts a ticket on the agent's own questions to the engine; nil without
// the plugin. They have no body.
func (a *Agent) sign() func(h http.Header, method, target string) {
	if a.tickets == nil {
		return nil
	}
	return func(h http.Header, method, target string) {
		h.Set(ticket.Header, string(a.tickets.Append(nil, method, target, ticket.None, nil)))
	}
}

// recordAuthz puts what the plugin refused, or let pass without a ticket, into the journal.
func (a *Agent) recordAuthz(ev *authz.Event) {
	cut := func(s string) string { return s[:min(len(s), maxRecordedText)] }
	r := &journal.Record{
		BootID: a.host.BootID, Host: a.host.Hostname, Time: ev.Time, Kind: journal.KindAPI,
		Decision: verdict.Decision(ev.Decision), Message: cut(ev.Reason),
		API: &journal.API{
			Action: ev.Action, Method: ev.Method, Path: ev.Path, Cause: ev.Cause, DurationUS: ev.Duration.Microseconds(), Direct: true,
		},
	}
	for _, id := range ev.IDs[:min(len(ev.IDs), maxRecordedIDs)] {
		r.API.Resources = append(r.API.Resources, cut(id))
	}
	for _, c := range ev.Checks[:min(len(ev.Checks), maxRecordedChecks)] {
		r.API.Checks = append(r.API.Checks, cut(c))
	}
	a.describeCaller(&ev.Subject, nil, r)
	if ev.Subject.Kind == apicall.Nobody {
		r.API.Caller = ev.User
	}
	if ev.Decision == authz.Denied {
		r.API.Status = http.StatusForbidden
	}
	if ev.Policy != "" {
		r.Policy = &journal.Policy{Name: ev.Policy, Revision: ev.Revision, Rule: ev.Rule, Mode: verdict.ModeEnforce.String()}
		if ev.Decision == authz.WouldDeny {
			r.Policy.Mode = verdict.ModeAudit.String()
		}
	}
	a.journal.Append(r)
}
