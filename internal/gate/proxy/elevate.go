package proxy

import (
	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/policy"
)

// elevate notes on a call whether a live elevation of its caller covers it. It is asked anew
// for each call, so that one that has ended does not live on in an open connection; who has
// none costs nothing. A login session that cannot be known has none.
func (x *exchange) elevate(call *apicall.Call) {
	s, sub := x.c.s, &x.c.sub
	if s.o.Elevations == nil || sub.Kind != apicall.User || !s.o.Elevations.Any(sub.UID) {
		return
	}
	session, err := s.who.Session(sub)
	if err != nil {
		s.counts.noSession.Add(1)
		s.o.Log.Warn("the login session of a caller is not known: no elevation counts", attr.PID, sub.PID, attr.Error, err.Error())
		return
	}
	id, ok := s.o.Elevations.Covering(sub.UID, session, call.Action, containersOf(call), x.start)
	if !ok {
		return
	}
	s.counts.elevated.Add(1)
	call.Elevated, x.ev.Elevation = true, id
}

// containersOf returns the full ids of the containers that a call is about. One that was not
// found is "", which is nobody's target.
func containersOf(call *apicall.Call) []string {
	var out []string
	for i := range call.Resources {
		switch res := &call.Resources[i]; res.Kind {
		case apicall.ResourceContainer:
			out = append(out, res.ID)
		case apicall.ResourceExec:
			out = append(out, res.ContainerID)
		}
	}
	return out
}

// elevateHint says how a caller comes by the second factor that would let the call pass.
func (x *exchange) elevateHint(action string) string {
	if x.c.sub.Kind != apicall.User {
		return " (only a user of this host can show a second factor, on the gate's own socket)"
	}
	return " (allowed after: belay elevate --action " + policy.ElevationHint(action) + ")"
}
