package proxy

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/load/recreate"
)

// cordoned refuses what would put a new container onto a node that takes none: its create, and
// its first start. What was here before starts again, and so do moves that are under way: a
// container that helps one to read a volume, the copy whose create was let through, a source that
// goes back.
func (x *exchange) cordoned() *refusal {
	cordon := x.c.s.o.Cordon
	action := x.req.Call.Action
	if cordon == nil || action != "container.create" && !starts(action) {
		return nil
	}
	why := cordon()
	if why == "" || x.ofMove() {
		return nil
	}
	if starts(action) {
		switch before, r := x.ranBefore(); {
		case r != nil:
			return r
		case before:
			return nil
		}
	}
	x.c.s.counts.cordoned.Add(1)
	x.ev.Decision, x.ev.Rule, x.ev.Reason = Denied, "cordon", why
	return &refusal{status: http.StatusServiceUnavailable, cause: "cordon", msg: "belay: this node takes no new containers: " + why}
}

// ofMove tells whether the call makes what a move needs on the host that a container leaves. A
// label can be set by anybody, so it counts from those alone who carry moves out.
func (x *exchange) ofMove() bool {
	call := &x.req.Call
	return call.Action == "container.create" && mayMove(&call.Subject) && call.Facts.Labels[recreate.LabelHelper] != "" && call.Facts.Labels[recreate.LabelMove] != ""
}

func mayMove(sub *apicall.Subject) bool {
	return sub.Kind == apicall.User && sub.UID == 0 || sub.Kind == apicall.Certificate
}

// ranBefore tells whether the container that is to start has run here, or is a move's.
func (x *exchange) ranBefore() (bool, *refusal) {
	for i := range x.req.Call.Resources {
		res := &x.req.Call.Resources[i]
		if res.Kind != apicall.ResourceContainer {
			continue
		}
		ctx, cancel := x.lookup()
		defer cancel()
		f, err := x.c.s.findContainer(ctx, cmp.Or(res.ID, res.Asked))
		switch {
		case errors.Is(err, errNotFound):
			return true, nil // the daemon says so
		case errors.Is(err, errDaemon):
			return false, x.daemonGone(err)
		case err != nil:
			return false, nil
		}
		return f.Ran || mayMove(&x.c.sub) && f.Labels[recreate.LabelMove] != "" && f.Labels[recreate.LabelHelper] == "", nil // a helper never starts
	}
	return false, nil
}
