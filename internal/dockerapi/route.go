package dockerapi

import (
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// Stream says how a route's bytes flow after the request's head.
type Stream uint8

// The kinds of streams.
const (
	Plain        Stream = iota // bounded request and response
	RequestBody                // a large request body: build, load, import, copy in, plugin create
	ResponseBody               // a large or endless response: logs, events, stats, pull, save, export
	Both                       // both at once: build with its progress, import
	Hijack                     // the connection becomes a raw stream: attach, exec start
	WebSocket                  // attach over a WebSocket
	Upgrade                    // the connection becomes HTTP/2: session, grpc
)

var streamNames = [...]string{"plain", "requestBody", "responseBody", "both", "hijack", "webSocket", "upgrade"}

// String returns the stream's name.
func (s Stream) String() string {
	if int(s) >= len(streamNames) {
		return "unknown"
	}
	return streamNames[s]
}

// Route is one endpoint of the API. Routes are constants: never change one.
type Route struct {
	// Method is the HTTP method, or [MethodGRPC].
	Method string
	// Pattern is the path in the notation of the daemon's router: {name} is one
	// segment, {name:.*} may hold slashes.
	Pattern string
	// Action is the name that policies use: "container.create". One route can do
	// two things (images/create pulls or imports): the call's Action is what the
	// request asks for, this one is its name without the request.
	Action string
	// Operation is the name in the API's specification, "" if it is not in there.
	Operation string
	// Kind is the kind of the first path variable, and of what the route makes.
	Kind apicall.ResourceKind
	// Stream says how bytes flow after the head.
	Stream Stream
	// Experimental routes are served by a daemon in experimental mode only.
	Experimental bool

	query string // query keys, see newQuerySpec
	body  bodySpec
	facts func(*Request) error

	pat  pattern
	keys querySpec
}

// bodySpec says what body a route takes.
type bodySpec struct {
	// json returns a new value of the type that the daemon decodes into; nil if
	// the route takes no JSON.
	json func() any
	// optional bodies may be missing or null.
	optional bool
	// tar bodies are streams that the gate passes on unread.
	tar bool
}

func jsonBody[T any]() bodySpec { return bodySpec{json: func() any { return new(T) }} }

func optionalBody[T any]() bodySpec {
	return bodySpec{json: func() any { return new(T) }, optional: true}
}

var tarBody = bodySpec{tar: true}

// HasJSON reports whether the route takes a JSON body: read it whole, within
// [Limits.BodyBytes], and give it to [Parse].
func (r *Route) HasJSON() bool { return r.body.json != nil }

// HasStream reports whether the route takes a body that is passed on as a stream,
// not given to [Parse].
func (r *Route) HasStream() bool { return r.body.tar }

// Vars returns the number of variables in the path.
func (r *Route) Vars() int { return r.pat.vars }

// Routes returns the table in the daemon's matching order.
func Routes() []*Route {
	out := make([]*Route, len(routes))
	for i := range routes {
		out[i] = &routes[i]
	}
	return out
}

// Actions returns every action name that a request can have, sorted, each once.
func Actions() []string {
	out := []string{actionImport}
	for i := range routes {
		out = append(out, routes[i].Action)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ReadOnly reports whether no request of the route changes or sends anything into
// what it names. GET is not the same: attach over a WebSocket is a GET.
func (r *Route) ReadOnly() bool {
	return (r.Method == "GET" || r.Method == "HEAD") && r.Stream != WebSocket
}

// valueKind says how the daemon reads a query value.
type valueKind uint8

const (
	textValue valueKind = iota
	boolValue
	intValue
	jsonValue    // looked at by the route's facts
	ignoredValue // sent by clients, read by no daemon: dropped
)

type queryKey struct {
	name  string
	kind  valueKind
	multi bool
}

type querySpec []queryKey

func (s querySpec) find(name string) *queryKey {
	for i := range s {
		if s[i].name == name {
			return &s[i]
		}
	}
	return nil
}

// newQuerySpec reads a list such as "name all! limit# filters{ t* hijack-": a boolean
// has "!", an integer "#", JSON "{", a key that may be repeated "*", and one that
// clients send though no daemon reads it "-".
func newQuerySpec(list string) querySpec {
	var out querySpec
	for _, f := range strings.Fields(list) {
		k := queryKey{}
		k.name = strings.TrimRight(f, "!#{*-")
		for _, c := range f[len(k.name):] {
			switch c {
			case '!':
				k.kind = boolValue
			case '#':
				k.kind = intValue
			case '{':
				k.kind = jsonValue
			case '-':
				k.kind = ignoredValue
			case '*':
				k.multi = true
			}
		}
		out = append(out, k)
	}
	return out
}
