package proxy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/policy"
)

// decide looks up what the request names, asks the policies, and does what they oblige
// the gate to do.
func (x *exchange) decide() *refusal {
	call := &x.req.Call
	if !x.hopeless() {
		if r := x.resolve(); r != nil {
			return r
		}
	}
	x.elevate(call)
	d := x.rules.Decide(call, x.start)
	x.dec = d
	x.ev.Policy, x.ev.Revision, x.ev.Rule, x.ev.Reason, x.ev.Checks = d.Policy, d.Revision, d.Rule, d.Reason, d.Checks
	for i := range call.Resources {
		if id := call.Resources[i].ID; id != "" {
			x.ev.IDs = append(x.ev.IDs, id)
		}
	}
	if !d.Allowed {
		x.c.s.counts.denied.Add(1)
		return x.denial()
	}
	if x.hold != nil { // told to those only who may start it
		return x.hold
	}
	if !x.rules.Enforced() {
		// All policies audit: they say what they would deny, and the daemon's own rule holds.
		if r := x.daemonRule(); r != nil {
			return r
		}
	}
	if x.ev.Decision = Allowed; d.Audit {
		x.ev.Decision = WouldDeny
	}
	if r := x.absent(); r != nil { // the answer to a call that may be made: no denial
		return r
	}
	if d.Scope.Filter && !canFilter(call.Action) {
		x.ev.Decision = Denied
		x.c.s.counts.unfiltered.Add(1)
		return &refusal{status: http.StatusForbidden, cause: "cannot_filter",
			msg: "belay: " + call.Action + " is allowed for some things only, and its answer cannot be narrowed to them"}
	}
	if call.Action == "image.build" && x.req.Query.Get("version") == "2" && x.req.Query.Get("session") != "" && !x.maySession() {
		// The build would end at its session, with an error that says nothing.
		x.ev.Decision = Denied
		x.c.s.counts.denied.Add(1)
		return &refusal{status: http.StatusForbidden, cause: "buildkit", msg: msgBuildKit}
	}
	if r := x.hidesEnvironment(); r != nil {
		x.ev.Decision = Denied
		x.c.s.counts.denied.Add(1)
		return r
	}
	if r := x.fixedFrontend(); r != nil {
		x.ev.Decision = Denied
		x.c.s.counts.denied.Add(1)
		return r
	}
	x.owe()
	if err := errors.Join(x.oblige(), x.mark()); err != nil {
		x.ev.Decision = Denied
		return x.unparsed(err)
	}
	return nil
}

// hopeless tells whether the caller may neither do this to anything nor see what it is about. Then
// nothing is looked up for it: the answer is the same, and costs nothing.
func (x *exchange) hopeless() bool {
	call := &x.req.Call
	if x.rules.Grants(&call.Subject, call.Action) {
		return false
	}
	if len(call.Resources) == 0 {
		return true
	}
	group, ok := groupOf(call.Resources[0].Kind)
	return !ok || !x.rules.Grants(&call.Subject, group+".inspect") && !x.rules.Grants(&call.Subject, group+".list")
}

// maySession tells whether the caller may open a session of BuildKit.
func (x *exchange) maySession() bool {
	if x.rules == nil {
		return true
	}
	call := &apicall.Call{Subject: x.c.sub, Action: "build.session", Method: http.MethodPost, Path: "/session"}
	x.elevate(call)
	return x.rules.Decide(call, x.start).Allowed
}

// denial words a denial. What the caller may not even see does not exist for it.
func (x *exchange) denial() *refusal {
	call, d := &x.req.Call, &x.dec
	if len(call.Resources) > 0 {
		if res := &call.Resources[0]; x.hides(res) {
			return &refusal{status: http.StatusNotFound, cause: "hidden", msg: notFound(res)}
		}
	}
	if x.match.Route.Stream == dockerapi.Upgrade {
		return &refusal{status: http.StatusForbidden, cause: "buildkit", msg: msgBuildKit}
	}
	msg := "belay: " + wordDenial(call.Action, d)
	if d.NeedSecondFactor {
		msg += x.elevateHint(call.Action)
	}
	return &refusal{status: http.StatusForbidden, msg: msg}
}

// wordDenial says which rule denies an action, and why.
func wordDenial(action string, d *policy.AccessDecision) string {
	var b strings.Builder
	b.WriteString(action + " is denied")
	if d.Policy != "" {
		b.WriteString(" by policy " + d.Policy)
		if d.Rule != "" {
			b.WriteString(", rule " + d.Rule)
		}
	}
	if d.Reason != "" {
		b.WriteString(": " + d.Reason)
	}
	if len(d.Checks) > 0 {
		b.WriteString(": " + strings.Join(d.Checks, "; "))
	}
	return b.String()
}

// hides tells whether a thing is not there for the caller, or not there at all.
func (x *exchange) hides(res *apicall.Resource) bool {
	group, ok := groupOf(res.Kind)
	if !ok || strings.HasSuffix(x.req.Call.Action, ".create") { // it names things to join or to make
		return false
	}
	if res.ID == "" {
		return true
	}
	sub := &x.c.sub
	return !x.rules.Visible(sub, group+".inspect", res) && !x.rules.Visible(sub, group+".list", res)
}

// groupOf returns the beginning of the names of actions about things of a kind.
func groupOf(k apicall.ResourceKind) (string, bool) {
	switch k {
	case apicall.ResourceContainer, apicall.ResourceExec:
		return "container", true
	case apicall.ResourceVolume:
		return "volume", true
	case apicall.ResourceNetwork:
		return "network", true
	case apicall.ResourceService:
		return "service", true
	case apicall.ResourceSecret:
		return "secret", true
	case apicall.ResourceConfig:
		return "config", true
	}
	return "", false
}

// notFound is what the daemon itself says of a thing that does not exist.
func notFound(res *apicall.Resource) string {
	switch res.Kind {
	case apicall.ResourceContainer:
		return "No such container: " + res.Asked
	case apicall.ResourceExec:
		return "No such exec instance: " + res.Asked
	case apicall.ResourceVolume:
		return "get " + res.Asked + ": no such volume"
	case apicall.ResourceNetwork:
		return "network " + res.Asked + " not found"
	case apicall.ResourceService:
		return "service " + res.Asked + " not found"
	case apicall.ResourceSecret:
		return "secret " + res.Asked + " not found"
	case apicall.ResourceConfig:
		return "config " + res.Asked + " not found"
	}
	return "not found: " + res.Asked
}

// absent answers a call about a thing that is not there as the daemon would: by the time that the
// daemon looks, its name may stand for a thing that nobody judged. A volume's name is all that it
// has, and what a create makes is not among what it names. What it joins the daemon looks for when the
// container starts: a name that is nobody's yet would be whoever's it is then. Of a create 404 would
// mean its image, which clients pull then.
func (x *exchange) absent() *refusal {
	call := &x.req.Call
	for i := range call.Resources {
		res := &call.Resources[i]
		if _, named := groupOf(res.Kind); !named || res.ID != "" || res.Kind == apicall.ResourceVolume {
			continue
		}
		if call.Action == "network.disconnect" && res.Kind == apicall.ResourceContainer {
			continue // by force, of a container that is gone
		}
		if call.Action == "network.create" && call.Facts.Scope == "swarm" {
			continue // each node has the configuration that it takes
		}
		status := http.StatusNotFound
		if call.Action == "container.create" {
			status = http.StatusBadRequest
			if res.Kind == apicall.ResourceNetwork {
				ctx, cancel := x.lookup()
				worker, err := x.c.s.worker(ctx)
				cancel()
				if err != nil {
					return x.daemonGone(err)
				}
				if worker {
					continue // managers know it
				}
			}
		}
		return &refusal{status: status, cause: "absent", msg: notFound(res)}
	}
	return nil
}

// oblige changes the request as the decision demands.
func (x *exchange) oblige() error { return applyObligations(x.req, &x.dec) }

// starts tells whether a call can run a container's program for the first time.
func starts(action string) bool {
	return action == "container.start" || action == "container.restart"
}

// mayNotStart says why a container that is there must not start; nil: it may.
func (x *exchange) mayNotStart(ctx context.Context, f *found) *refusal {
	judged := f.Labels[policy.ImageLabel]
	if judged != "" && judged != f.ImageID {
		x.c.s.counts.unresolved.Add(1)
		return &refusal{status: http.StatusConflict, cause: "image_changed",
			msg: "belay: the image's name was given to another image while the container was created; create it again"}
	}
	if judged != "" {
		if r := x.turned(ctx, f); r != nil {
			return r
		}
		if r := x.strays(f); r != nil {
			return r
		}
	}
	return x.unbound(f)
}

// resolve asks the daemon and the host for what the request's names stand for.
func (x *exchange) resolve() *refusal {
	call := &x.req.Call
	if len(call.Resources) == 0 && call.Facts.Image == "" && len(call.Facts.HostMounts) == 0 {
		return nil
	}
	ctx, cancel := x.lookup()
	defer cancel()
	s := x.c.s
	for i := range call.Resources {
		res := &call.Resources[i]
		f, err := s.find(ctx, res.Kind, res.Asked)
		switch {
		case errors.Is(err, errNotFound):
			continue // it may be what the call makes; the policy knows it by its empty ID
		case errors.Is(err, errNotResolved):
			continue // a kind that has no names
		case errors.Is(err, errDaemon):
			return x.daemonGone(err)
		case err != nil:
			s.counts.unresolved.Add(1)
			s.o.Log.Warn("a name in a request cannot be resolved", attr.Error, err.Error())
			return &refusal{status: http.StatusForbidden, cause: "unresolved", msg: "belay: " + err.Error()}
		}
		if f.Kind == apicall.ResourceContainer && starts(call.Action) {
			x.hold = x.mayNotStart(ctx, f)
		}
		if call.Action == "container.exec" && f.Kind == apicall.ResourceContainer {
			x.resolveUser(f)
		}
		if f.Kind == apicall.ResourceNetwork && slices.ContainsFunc(call.Resources[:i], func(r apicall.Resource) bool { return r.Kind == res.Kind && r.ID == f.ID }) {
			// Named once more, as by the id in an endpoint.
			call.Facts.Networks = slices.DeleteFunc(call.Facts.Networks, func(n string) bool { return n == res.Asked })
		}
		f.fill(res)
		x.req.SetResource(i, f.ID)
		if f.Kind == apicall.ResourceVolume {
			// A volume that was made before can stand for any place of the host.
			noteVolume(&call.Facts, res.Asked, f)
		}
	}
	if r := x.resolveImage(ctx); r != nil {
		return r
	}
	if r := x.resolveMounts(); r != nil {
		return r
	}
	return x.rerouteSocket()
}
