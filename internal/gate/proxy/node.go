package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
)

// NodePath is where the gate itself answers, and describes its node.
const NodePath = "/belay/v1/node"

// actionNode is the action of that call.
const actionNode = "node.read"

// maxAskedImages bounds how many images are asked about at once.
const maxAskedImages = 256

// describe answers a question about the node: who may ask policies decide, as of every call.
func (x *exchange) describe() (keep bool) {
	c := x.c
	x.ev.Action = actionNode
	if r := x.mayDescribe(); r != nil {
		return x.deny(r)
	}
	images, r := x.askedImages()
	if r != nil {
		return x.deny(r)
	}
	if c.s.o.Node == nil {
		return x.deny(&refusal{status: http.StatusNotImplemented, cause: "no_node", msg: "belay: this gate does not describe its node"})
	}
	ctx, cancel := x.lookup()
	defer cancel()
	body, err := c.s.o.Node(ctx, images)
	if err != nil {
		c.s.o.Log.Warn("the node cannot be described", attr.Error, err.Error())
		return x.deny(&refusal{status: http.StatusServiceUnavailable, cause: "node", msg: "belay: the node cannot be described: " + err.Error()})
	}
	c.s.counts.described.Add(1)
	x.count(http.StatusOK)
	out := append(c.out[:0], "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"...)
	out = append(appendLength(out, int64(len(body))), "\r\n"...)
	c.out = append(out, body...)
	_ = c.nc.SetWriteDeadline(time.Now().Add(answerTime))
	_, err = c.nc.Write(c.out)
	_ = c.nc.SetWriteDeadline(time.Time{})
	return err == nil
}

func (x *exchange) mayDescribe() *refusal {
	c := x.c
	if c.req.Method != http.MethodGet || !c.req.Framing.Empty() {
		c.s.counts.refused.Add(1)
		return &refusal{status: http.StatusMethodNotAllowed, cause: "method", msg: "belay: " + NodePath + " takes GET without a body"}
	}
	x.bodyRead = true
	if x.rules = c.s.o.Policies(); x.rules == nil {
		return x.daemonRule()
	}
	call := &apicall.Call{Subject: c.sub, Action: actionNode, Method: c.req.Method, Path: NodePath}
	x.elevate(call)
	d := x.rules.Decide(call, x.start)
	x.dec = d
	x.ev.Policy, x.ev.Revision, x.ev.Rule, x.ev.Reason, x.ev.Checks = d.Policy, d.Revision, d.Rule, d.Reason, d.Checks
	if !d.Allowed {
		c.s.counts.denied.Add(1)
		msg := "belay: " + wordDenial(actionNode, &d)
		if d.NeedSecondFactor {
			msg += x.elevateHint(actionNode)
		}
		return &refusal{status: http.StatusForbidden, msg: msg}
	}
	if !x.rules.Enforced() {
		if r := x.daemonRule(); r != nil {
			return r
		}
	}
	if x.ev.Decision = Allowed; d.Audit {
		x.ev.Decision = WouldDeny
	}
	return nil
}

// askedImages returns the IDs of images that the question names.
func (x *exchange) askedImages() ([]string, *refusal) {
	bad := func(msg string) ([]string, *refusal) {
		x.ev.Decision = Denied
		x.c.s.counts.refused.Add(1)
		return nil, &refusal{status: http.StatusBadRequest, cause: "query", msg: "belay: " + NodePath + ": " + msg}
	}
	q, err := url.ParseQuery(x.c.req.RawQuery)
	if err != nil {
		return bad("the query cannot be read")
	}
	for key := range q {
		if key != "image" {
			return bad("the only key is image, an ID such as sha256:…, any number of times")
		}
	}
	images := q["image"]
	if len(images) > maxAskedImages {
		return bad("too many images are asked about at once")
	}
	for _, id := range images {
		if hex, ok := strings.CutPrefix(id, "sha256:"); !ok || !isID(hex) {
			return bad("an image is asked about by its ID, sha256: and 64 digits")
		}
	}
	return images, nil
}
