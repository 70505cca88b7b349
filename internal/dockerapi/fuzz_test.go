package dockerapi

import (
	"net/http"
	"net/url"
	"path"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// muxRoute is a route as the daemon's router has it: a regular expression on the
// decoded path.
type muxRoute struct {
	route *Route
	re    *regexp.Regexp
}

var braces = regexp.MustCompile(`\{(\w+)(?::([^}]*))?\}`)

// newMux builds what the daemon's router builds from the same patterns: each with the
// version and without, in order.
func newMux() []muxRoute {
	var out []muxRoute
	for _, r := range Routes() {
		expr := braces.ReplaceAllStringFunc(r.Pattern, func(v string) string {
			p := braces.FindStringSubmatch(v)
			if p[2] == "" {
				p[2] = "[^/]+"
			}
			return "(" + p[2] + ")"
		})
		if r.Method != MethodGRPC {
			out = append(out, muxRoute{r, regexp.MustCompile("^/v[0-9.]+" + expr + "$")})
		}
		out = append(out, muxRoute{r, regexp.MustCompile("^" + expr + "$")})
	}
	return out
}

// FuzzFindRoute asserts that the daemon's router takes a path that we accept as it is,
// and for the same route with the same names (B1 to B5).
func FuzzFindRoute(f *testing.F) {
	for _, e := range readEndpoints(f) {
		f.Add(e.method, e.path)
		f.Add(e.method, "/v1.44"+e.path)
	}
	f.Add("GET", "/containers/x/att%61ch/ws")
	f.Add("POST", "//containers/create")
	f.Add("GET", "/images/a%3Ab/json")
	mux := newMux()
	f.Fuzz(func(t *testing.T, method, escaped string) {
		m, err := FindRoute(method, escaped)
		if err != nil {
			return
		}
		decoded, err := url.PathUnescape(escaped)
		if err != nil {
			t.Fatalf("%q is accepted and has a broken escape", escaped)
		}
		clean := path.Clean(decoded)
		if strings.HasSuffix(decoded, "/") && clean != "/" {
			clean += "/"
		}
		if clean != decoded {
			t.Fatalf("%q is accepted; the daemon would redirect to %q", escaped, clean)
		}
		for _, r := range mux {
			if r.route.Method != method {
				continue
			}
			groups := r.re.FindStringSubmatch(decoded)
			if groups == nil {
				continue
			}
			if r.route != m.Route {
				t.Fatalf("%s %q: got %s, the daemon takes %s", method, escaped, m.Route.Pattern, r.route.Pattern)
			}
			for i, v := range groups[1:] {
				if m.Var(i) != v {
					t.Fatalf("%s %q: variable %d is %q, to the daemon %q", method, escaped, i, m.Var(i), v)
				}
			}
			return
		}
		t.Fatalf("%s %q: got %s, the daemon has no route", method, escaped, m.Route.Pattern)
	})
}

// FuzzQuery asserts that the daemon's reading of the query that we send is its reading
// of the original, but for the spelling of booleans and of JSON.
func FuzzQuery(f *testing.F) {
	routes := Routes()
	for _, q := range []string{
		"", "all=1&limit=5", "a=1&a=2", "name=x;y=z", "force=true&v=1", "t=a&t=b&q=1", "%6eame=x", "name=%00", "name=+a%2Bb",
		`filters={"label":["a=b"]}`, `filters={"label":{"a=b":true}}`, "changes=ENV+a%3Db&changes=USER+x&container=c", "&&all=&", "all",
		"fromImage=alpine&tag=3", "fromSrc=-&repo=x", "container=x", "path=/", "remote=x&name=y", "name=a",
	} {
		for i := range routes {
			if len(routes[i].keys) > 0 && (i+len(q))%4 == 0 {
				f.Add(uint8(i), q)
			}
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, raw string) {
		r := routes[int(i)%len(routes)]
		q, _, err := parseQuery(raw, r.keys, Options{})
		if err != nil {
			return
		}
		theirs, err := url.ParseQuery(raw)
		if err != nil {
			t.Fatalf("%q is accepted and the daemon refuses it: %v", raw, err)
		}
		ours, err := url.ParseQuery(string(q.appendTo(nil)))
		if err != nil {
			t.Fatalf("%q is sent as %q, which has an error: %v", raw, q.appendTo(nil), err)
		}
		for _, k := range r.keys {
			a, b := theirs[k.name], ours[k.name]
			switch {
			case k.kind == ignoredValue:
				continue
			case k.kind == boolValue && len(a) == 1 && len(b) == 1:
				if boolOf(a[0]) != boolOf(b[0]) || (a[0] == "") != (b[0] == "") {
					t.Fatalf("%s %q: %s is %q, sent as %q", r.Pattern, raw, k.name, a, b)
				}
			case !reflect.DeepEqual(a, b):
				t.Fatalf("%s %q: %s is %q, sent as %q", r.Pattern, raw, k.name, a, b)
			}
			delete(ours, k.name)
		}
		if len(ours) != 0 {
			t.Fatalf("%q: sent beside what was asked: %v", raw, ours)
		}
	})
}

// boolOf reads a value as the daemon's BoolValue does.
func boolOf(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// FuzzBody asserts for every route that takes JSON that the daemon reads what we send
// as it would read the original, and that what we send is read by us alike.
func FuzzBody(f *testing.F) {
	var routes []*Route
	for _, r := range Routes() {
		if r.HasJSON() {
			f.Add(uint8(len(routes)), sample(schemaOf(reflect.TypeOf(r.body.json())), 0))
			routes = append(routes, r)
		}
	}
	eachField(func(r *Route, path string, _ *schema, fl field, wrap func(string) string) {
		if strings.Count(path, ".") > 4 {
			return
		}
		for i := range routes {
			if routes[i] == r {
				f.Add(uint8(i), wrap(`{"`+fl.name+`":`+sample(fl.s, 0)+`}`))
			}
		}
	})
	for _, s := range []string{"null", "[]", "{} ", `{"Cmd":"x"}`, `{"a":1}{`, "\ufeff{}", `{"Image":"\ud83d\ude00"}`} {
		f.Add(uint8(0), s)
	}
	f.Fuzz(func(t *testing.T, i uint8, raw string) {
		r := routes[int(i)%len(routes)]
		m := Match{Route: r, vars: [2]string{"n1", "c1"}}
		query := ""
		if r.keys.find("remote") != nil {
			query = "remote=example.org/plugin:1"
		}
		req, err := Parse(m, query, http.Header{"Content-Type": {"application/json"}}, []byte(raw), Options{})
		if err != nil || req.root == nil {
			return
		}
		_, _, own, err := req.Encode()
		if err != nil {
			t.Fatalf("%s %q: accepted and not encoded: %v", r.Pattern, raw, err)
		}
		if len(req.Call.Facts.DroppedFields) > 0 {
			return // labels of ours: the daemon does read more in the original
		}
		if why := differs(r, []byte(raw), own); why != "" {
			t.Fatalf("%s: %s", r.Pattern, why)
		}
		again, err := Parse(m, query, http.Header{"Content-Type": {"application/json"}}, own, Options{})
		if err != nil {
			t.Fatalf("%s %q: we refuse our own encoding %s: %v", r.Pattern, raw, own, err)
		}
		if !reflect.DeepEqual(again.Call, req.Call) {
			t.Fatalf("%s %q: our own encoding %s says another thing", r.Pattern, raw, own)
		}
	})
}
