package agent

import (
	"context"
	"net/http"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/authz"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// runPlugin serves the authorisation plugin until ctx ends. While it does not, the engine
// refuses every request, so it is tried again and again.
func (a *Agent) runPlugin(ctx context.Context) {
	for ctx.Err() == nil {
		p, err := authz.Listen(authz.Options{Socket: a.cfg.AuthzSocket, Tickets: a.tickets, Record: a.recordBypass, Health: a.health, Log: a.log})
		if err == nil {
			a.health.SetOK("authz")
			err = p.Run(ctx)
		}
		if err != nil {
			a.health.SetFailed("authz", err.Error())
			a.log.Error("the authorisation plugin does not answer; the engine refuses every request", attr.Error, err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(gateRetry / 10):
		}
	}
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

// recordBypass puts a request that did not come through the gate into the journal.
func (a *Agent) recordBypass(d authz.Denial) {
	a.journal.Append(&journal.Record{
		BootID: a.host.BootID, Host: a.host.Hostname, Time: d.Time, Kind: journal.KindAPI, Decision: verdict.Denied,
		Message: d.Reason,
		API: &journal.API{
			Action: d.Action, Method: d.Method, Path: d.Path, CallerKind: "nobody", Caller: d.User, Cause: d.Cause, Status: http.StatusForbidden,
		},
	})
}
