package proxy

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/policy"
)

// ImageJudge decides which images may start. Its methods are called from many goroutines.
type ImageJudge interface {
	// Judges tells cheaply whether there is any policy on images.
	Judges() bool
	// JudgeImage may wait for as long as a policy lets it, for a scan.
	JudgeImage(ctx context.Context, q *ImageQuery) policy.ImageDecision
}

// imageTimeout is more than the longest deadline that a policy can set.
const imageTimeout = 3 * time.Minute

// ImageQuery is a question about one image.
type ImageQuery struct {
	ID    string // as the daemon has it; "" for a pull
	Asked string // reference that the request, or the container's create, named
	// Labels are those of the container.
	Labels map[string]string
	Pull   bool
}

// judgeImage asks the policies on images, after all else was allowed: who may not call at
// all learns nothing of them, and has nothing scanned.
func (x *exchange) judgeImage() *refusal {
	j := x.c.s.o.Images
	if j == nil || !j.Judges() {
		return nil
	}
	q, r := x.imageQuery()
	if q == nil {
		return r
	}
	ctx, cancel := context.WithTimeout(context.Background(), imageTimeout)
	defer cancel()
	d := j.JudgeImage(ctx, q)
	if d.Allowed && !d.Audit {
		return nil
	}
	x.ev.Policy, x.ev.Revision, x.ev.Rule, x.ev.Reason = d.Policy, d.Revision, d.Rule, "image "+q.Asked+": "+d.Reason
	x.ev.Checks = append(append([]string{}, d.Details...), d.Expired...)
	if d.Allowed {
		x.c.s.counts.imageWould.Add(1)
		x.ev.Decision = WouldDeny
		return nil
	}
	x.c.s.counts.imageDenied.Add(1)
	x.ev.Decision = Denied
	var b strings.Builder
	b.WriteString("belay: image " + q.Asked + " is denied by " + d.Who() + ": " + d.Reason)
	for _, s := range x.ev.Checks {
		b.WriteString("; " + s)
	}
	return &refusal{status: http.StatusForbidden, cause: "image", msg: b.String()}
}

// imageQuery returns what is asked about a call; nil with no refusal: nothing is.
func (x *exchange) imageQuery() (*ImageQuery, *refusal) {
	call := &x.req.Call
	switch {
	case call.Action == "container.create":
		if call.Facts.ImageDigest == "" {
			ctx, cancel := x.lookup()
			defer cancel()
			if r := x.resolveImage(ctx); r != nil {
				return nil, r
			}
		}
		return &ImageQuery{ID: call.Facts.ImageDigest, Asked: call.Facts.Image, Labels: call.Facts.Labels}, nil
	case starts(call.Action):
		for i := range call.Resources {
			if res := &call.Resources[i]; res.Kind == apicall.ResourceContainer {
				return x.startQuery(cmp.Or(res.ID, res.Asked)) // the one that was judged
			}
		}
	case call.Action == "image.pull":
		if call.Facts.Image != "" {
			return &ImageQuery{Asked: call.Facts.Image, Pull: true}, nil
		}
	}
	return nil, nil
}

// startQuery asks about the image of a container that is to start.
func (x *exchange) startQuery(name string) (*ImageQuery, *refusal) {
	ctx, cancel := x.lookup()
	defer cancel()
	f, err := x.c.s.findContainer(ctx, name)
	switch {
	case errors.Is(err, errNotFound):
		return nil, nil // the daemon says so
	case errors.Is(err, errDaemon):
		return nil, x.daemonGone(err)
	case err != nil:
		x.c.s.counts.unresolved.Add(1)
		return nil, &refusal{status: http.StatusForbidden, cause: "unresolved", msg: "belay: " + err.Error()}
	}
	// What the container really has, whatever its name stands for by now.
	return &ImageQuery{ID: f.ImageID, Asked: f.Image, Labels: f.Labels}, nil
}
