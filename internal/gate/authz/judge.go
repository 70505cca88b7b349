package authz

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/gate/ticket"
)

// hiddenBody is the action whose body daemons show no plugin, because it holds a password.
// It gives nobody a container, and the ticket says that the proxy has judged it.
const hiddenBody = "registry.login"

// judge answers one question.
func (p *Plugin) judge(ctx context.Context, q *question, start time.Time) answer {
	ev := &Event{Time: start}
	if p.tampers(q) {
		p.counts.tampering.Add(1)
		ev.Cause, ev.Reason = CauseTamper, "it aims at Belay's own plugin, which nobody may change through the API"
		return p.deny(q, ev)
	}
	if t, ok := q.header[ticket.Header]; ok {
		return p.judgeTicket(q, t, ev)
	}
	if reason, ok := p.glassBroken(); ok {
		p.counts.broken.Add(1)
		ev.Decision, ev.Cause, ev.Reason = Allowed, CauseBreakGlass, "break-glass: "+reason
		p.record(q, ev)
		return answer{Allow: true}
	}
	if len(q.certs) > 0 && p.o.DirectCAs != nil {
		return p.judgeDirect(ctx, q, ev)
	}
	ev.Cause, ev.Reason = CauseNoTicket, ticket.ErrMissing.Error()
	return p.deny(q, ev)
}

// judgeTicket takes the ticket of a request. One that is no good is never looked over:
// who sends it has tried something.
func (p *Plugin) judgeTicket(q *question, t string, ev *Event) answer {
	err := p.o.Tickets.Take(t, q.method, q.uri, q.body)
	if errors.Is(err, ticket.ErrNoBody) && actionOf(q) == hiddenBody {
		err = nil
	}
	switch {
	case err == nil:
		p.counts.allowed.Add(1)
		return answer{Allow: true}
	case errors.Is(err, ticket.ErrMissing):
		ev.Cause = CauseNoTicket
	case errors.Is(err, ticket.ErrNoBody):
		ev.Cause = CauseNoBody
	default:
		ev.Cause = CauseBadTicket
	}
	ev.Reason = err.Error()
	return p.deny(q, ev)
}

func actionOf(q *question) string {
	path, _ := q.split()
	m, err := dockerapi.FindRoute(q.method, path)
	if err != nil {
		return ""
	}
	return m.Route.Action
}

// maxPath bounds what of a path is recorded: callers choose it.
const maxPath = 512

// record completes an event and hands it on.
func (p *Plugin) record(q *question, ev *Event) {
	path, _ := q.split()
	ev.Method, ev.Path, ev.User = q.method, path[:min(len(path), maxPath)], q.user[:min(len(q.user), maxPath)]
	if ev.Action == "" {
		ev.Action = actionOf(q)
	}
	ev.Duration = p.o.now().Sub(ev.Time)
	p.o.Record(ev)
}

// deny counts, records and words a denial.
func (p *Plugin) deny(q *question, ev *Event) answer {
	p.counts.denied.Add(1)
	ev.Decision = Denied
	p.record(q, ev)
	var b strings.Builder
	b.WriteString("belay: ")
	if ev.Action != "" {
		b.WriteString(ev.Action + " is denied")
	} else {
		b.WriteString("denied")
	}
	if ev.Policy != "" {
		b.WriteString(" by policy " + ev.Policy)
		if ev.Rule != "" {
			b.WriteString(", rule " + ev.Rule)
		}
	}
	b.WriteString(": " + ev.Reason)
	if len(ev.Checks) > 0 {
		b.WriteString(": " + strings.Join(ev.Checks, "; "))
	}
	if ev.Subject.Kind == apicall.Nobody || ev.Cause == CauseObligation || ev.Cause == CauseNoBody {
		b.WriteString("; use the gate")
		if p.o.Gate != "" {
			b.WriteString(": DOCKER_HOST=unix://" + p.o.Gate)
		}
	}
	return answer{Msg: b.String()}
}
