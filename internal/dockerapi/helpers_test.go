package dockerapi

import (
	"net/http"
	"testing"
)

// call is a request as it comes in.
type call struct {
	method, path, query, body string
	header                    http.Header
	opt                       Options
}

// parse runs a call through the router and the parser.
func parse(c call) (*Request, error) {
	m, err := FindRoute(c.method, c.path)
	if err != nil {
		return nil, err
	}
	h := http.Header{}
	for k, v := range c.header {
		h[k] = v
	}
	if c.body != "" && m.Route.HasJSON() && h["Content-Type"] == nil {
		h.Set("Content-Type", "application/json")
	}
	var body []byte
	if c.body != "" {
		body = []byte(c.body)
	}
	return Parse(m, c.query, h, body, c.opt)
}

func mustParse(t *testing.T, c call) *Request {
	t.Helper()
	r, err := parse(c)
	if err != nil {
		t.Fatalf("%s %s?%s %s: %v", c.method, c.path, c.query, c.body, err)
	}
	return r
}

// encode returns target and body of a request that must encode.
func encode(t *testing.T, r *Request) (string, string) {
	t.Helper()
	target, _, body, err := r.Encode()
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	return target, string(body)
}

// code returns the reason code of an error, "" for none.
func code(err error) string {
	if c := codeOf(err); c != "" {
		return c
	}
	if err != nil {
		return "not an *Error: " + err.Error()
	}
	return ""
}

// create is a containers/create of API 1.44 with a body.
func create(body string) call {
	return call{method: "POST", path: "/v1.44/containers/create", body: body}
}
