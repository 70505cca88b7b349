package dockerapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"

	"github.com/belay-project/belay/internal/apicall"
)

// Options are what the gate's operator chooses. The zero value is the strictest.
type Options struct {
	Limits Limits
	// DropUnknown drops JSON fields and query keys that no API version knows, and
	// records them in Facts.DroppedFields, where the default is to refuse them.
	DropUnknown bool
	// DropRegistryAuth drops X-Registry-Auth and X-Registry-Config: callers then
	// use no registry credentials of their own.
	DropRegistryAuth bool
	// CgroupUnified says that the daemon's host has cgroup v2 only. Where it has
	// not, clients older than API 1.41 get the host's cgroup namespace by default.
	CgroupUnified bool
	// DaemonMinor is the number after "1." of the API version that the daemon uses
	// for a request that names none; 0 stands for the newest.
	DaemonMinor int
}

// Request is a request that has one reading. It is not safe for concurrent use.
type Request struct {
	Match
	// Query has only keys that the route knows, in one spelling each.
	Query Query
	// Header has what is passed on.
	Header http.Header
	// Body is a pointer to the daemon's own type, decoded from our encoding of the
	// body; nil if the route takes no JSON or an optional body was not there. It is
	// what was asked: changes to it are not sent, and those of the Set methods and
	// the loss of reserved labels are not in it.
	Body any
	// Call is what policies judge. Parse fills in all but the subject and what has
	// to be looked up.
	Call apicall.Call

	opt   Options
	minor int // the API version that the daemon will use
	names [2]string
	root  *node
	// encoded is our encoding of root; nil after a change.
	encoded []byte
	size    int     // that it will most likely have
	refs    [][]ref // parallel to Call.Resources
	mounts  []mountRef
	stream  bool
	// nameErr is the first name that is none; describe returns it.
	nameErr error
}

// Parse reads a request whose route is known. rawQuery is what follows "?", header
// as net/http canonicalised it. body is the whole body where the route takes JSON or
// none at all, and nil where [Route.HasStream] says that it is a stream. Errors are
// *[Error]; every error means deny.
func Parse(m Match, rawQuery string, header http.Header, body []byte, opt Options) (*Request, error) {
	if m.Route == nil {
		return nil, errNoRoute
	}
	r := &Request{Match: m, opt: opt, minor: m.Minor(), stream: m.Route.HasStream()}
	if r.minor == 0 {
		if r.minor = opt.DaemonMinor; r.minor == 0 {
			r.minor = MaxMinor
		}
	}
	var dropped []string
	var err error
	if r.Query, dropped, err = parseQuery(rawQuery, m.Route.keys, opt); err != nil {
		return nil, err
	}
	r.Call.Facts.DroppedFields = dropped
	body, err = r.checkBody(body)
	if err != nil {
		return nil, err
	}
	if r.Header, err = parseHeader(m.Route, header, body != nil, opt); err != nil {
		return nil, err
	}
	if body != nil {
		if err := r.readBody(body); err != nil {
			return nil, err
		}
	}
	return r, r.describe()
}

// Vars returns the i-th variable of the path as the caller wrote it, decoded.
func (r *Request) Vars(i int) string { return r.names[i] }

// TakesStream reports whether a body has to be passed on as a stream. It is less than
// what [Route.HasStream] says: a pull takes none where an import does, and its caller
// must refuse one.
func (r *Request) TakesStream() bool { return r.stream }

// bareBody is how long a body may be that says nothing.
const bareBody = 64

// checkBody returns the JSON body to read, nil if there is none. Where a route takes
// no body an empty object or null is one too: some clients send it with every POST.
func (r *Request) checkBody(body []byte) ([]byte, error) {
	if len(body) > r.opt.Limits.bodyBytes() {
		return nil, errorf(http.StatusRequestEntityTooLarge, CodeBodyTooLarge, "", "more than %d bytes", r.opt.Limits.bodyBytes())
	}
	trimmed := string(bytes.Trim(body[:min(len(body), bareBody)], " \t\r\n"))
	if r.Route.HasJSON() {
		if trimmed == "" && len(body) <= bareBody {
			if r.Route.body.optional {
				return nil, nil
			}
			return nil, badRequest(CodeMissingBody, "", "the route needs a body")
		}
		return body, nil
	}
	switch {
	case len(body) > bareBody:
	case trimmed == "", r.Route.Method == http.MethodPost && (trimmed == "{}" || trimmed == "null"):
		return nil, nil
	}
	return nil, badRequest(CodeUnexpectedBody, "", "the route takes no body")
}

func (r *Request) readBody(body []byte) error {
	target := r.Route.body.json()
	s := schemaOf(reflect.TypeOf(target))
	n, dropped, err := readJSON(body, s, r.opt, "")
	if err != nil {
		return err
	}
	if n.kind == nullNode && s.shape == structShape {
		if !r.Route.body.optional {
			return badRequest(CodeMissingBody, "", "the route needs a body")
		}
		return nil
	}
	r.root = n
	r.Call.Facts.DroppedFields = append(r.Call.Facts.DroppedFields, dropped...)
	// Our own encoding is read back with the daemon's types: what is judged is what
	// is sent.
	r.size = len(body) + 512 // of what may be set
	text, env := r.encodeApart(n, target, len(body))
	if err := json.Unmarshal(text, target); err != nil {
		return badRequest(CodeBadValue, "", "the body has a value that the API does not take: %s", typeErrorField(err))
	}
	if env != nil {
		setEnv(target, env)
	}
	r.Body = target
	return nil
}

// changed says that the body is another than the one that was encoded.
func (r *Request) changed() { r.encoded = nil }

// typeErrorField names the field at fault and not its value.
func typeErrorField(err error) string {
	if te, ok := err.(*json.UnmarshalTypeError); ok { //nolint:errorlint // encoding/json returns it bare
		return te.Field
	}
	return "an address, port or encoded value"
}

// describe fills in the call.
func (r *Request) describe() error {
	c := &r.Call
	c.Action, c.Method, c.Version = r.Route.Action, r.Route.Method, r.Version
	for i := range r.names {
		r.names[i] = r.Var(i)
	}
	c.Path = string(r.appendPath(nil, false))
	if r.Route.Vars() > 0 && r.Route.Kind != apicall.ResourceSystem {
		r.addResource(r.Route.Kind, r.names[0], ref{kind: pathRef})
	}
	c.Facts.Force = r.Query.Bool("force")
	if err := r.readFilters(); err != nil {
		return err
	}
	if err := r.readPlatforms(); err != nil {
		return err
	}
	if r.Route.facts != nil {
		if err := r.Route.facts(r); err != nil {
			return err
		}
	}
	return r.nameErr
}

// appendPath writes the path without its version.
func (r *Request) appendPath(b []byte, escape bool) []byte {
	p := &r.Route.pat
	b = append(b, p.prefix...)
	if p.vars == 0 {
		return b
	}
	b = appendName(b, r.names[0], escape)
	if p.vars == 2 {
		return appendName(append(b, p.middle...), r.names[1], escape)
	}
	return append(b, p.suffix...)
}

// appendName writes a path variable. "/" stands for itself: only names that may have
// one have come so far.
func appendName(b []byte, name string, escape bool) []byte {
	for i := 0; i < len(name); i++ {
		c := name[i]
		if !escape || c == '/' || pathByte[c] {
			b = append(b, c)
			continue
		}
		b = append(b, '%', upperHex[c>>4], upperHex[c&15])
	}
	return b
}

const upperHex = "0123456789ABCDEF"

// Encode writes the request for the daemon: the target with version and query, the
// headers to send and the body (nil if there is none or it is a stream; not to be
// written to). The caller
// adds what belongs to the connection: Host, length, Upgrade.
func (r *Request) Encode() (target string, header http.Header, body []byte, err error) {
	b := make([]byte, 0, 128)
	if r.Version != "" {
		b = append(append(b, "/v"...), r.Version...)
	}
	b = r.appendPath(b, true)
	if len(r.Query) > 0 {
		b = r.Query.appendTo(append(b, '?'))
	}
	if r.root != nil && r.encoded == nil {
		r.encoded = appendJSON(make([]byte, 0, r.size), r.root)
	}
	header = r.Header.Clone()
	if r.Route.HasStream() && !r.stream {
		delete(header, "Content-Type")
		delete(header, "Content-Encoding")
	}
	return string(b), header, r.encoded, nil
}
