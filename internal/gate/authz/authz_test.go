package authz

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/gate/ticket"
)

func start(t *testing.T, record func(Denial)) (*ticket.Keeper, *http.Client) {
	t.Helper()
	k := ticket.New(nil)
	socket := filepath.Join(t.TempDir(), "plugins", "belay.sock")
	p, err := Listen(Options{Socket: socket, Tickets: k, Record: record})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}
	t.Cleanup(tr.CloseIdleConnections)
	return k, &http.Client{Transport: tr}
}

func ask(t *testing.T, c *http.Client, path, body string) string {
	t.Helper()
	r, err := c.Post("http://plugin"+path, contentType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestActivate(t *testing.T) {
	_, c := start(t, nil)
	if got := ask(t, c, "/Plugin.Activate", "{}"); got != `{"Implements":["authz"]}` {
		t.Errorf("got %s", got)
	}
	if got := ask(t, c, "/AuthZPlugin.AuthZRes", "{}"); got != `{"Allow":true}` {
		t.Errorf("answers: got %s", got)
	}
}

func TestJudge(t *testing.T) {
	var denied []Denial
	k, c := start(t, func(d Denial) { denied = append(denied, d) })
	const uri = "/v1.41/containers/create?name=x"
	body := []byte(`{"Image":"x","HostConfig":{"Privileged":true}}`)
	fresh := func(kind ticket.Body) string { return string(k.Append(nil, "POST", uri, kind, body)) }
	used := fresh(ticket.Digest)
	for _, q := range []struct {
		name, ticket, header, uri string
		body                      []byte
		raw                       string
		cause                     string // "": allowed
	}{
		{name: "with a ticket", ticket: used, body: body},
		{name: "in another case", ticket: fresh(ticket.Digest), header: "x-belay-ticket", body: body},
		{name: "used again", ticket: used, body: body, cause: "bad_ticket"},
		{name: "without a ticket", body: body, cause: "no_ticket"},
		{name: "A1 the daemon shows no body", ticket: fresh(ticket.Digest), cause: "no_body"},
		{name: "A2 another body", ticket: fresh(ticket.Digest), body: []byte(`{}`), cause: "bad_ticket"},
		{name: "another request", ticket: fresh(ticket.Digest), uri: "/v1.41/plugins/x/disable", body: body, cause: "bad_ticket"},
		{name: "D17 disabling a plugin", uri: "/v1.41/plugins/belay/disable", cause: "no_ticket"},
		{name: "no JSON", raw: "{", cause: "unreadable"},
		{name: "a list", raw: "[]", cause: "unreadable"},
		{name: "too large", raw: `{"User":"` + strings.Repeat("x", maxQuestion) + `"}`, cause: "unreadable"},
		{name: "empty", raw: "", cause: "unreadable"},
	} {
		t.Run(q.name, func(t *testing.T) {
			denied = nil
			raw := q.raw
			if raw == "" && q.name != "empty" {
				h := map[string]string{}
				if q.header == "" {
					q.header = ticket.Header
				}
				if q.ticket != "" {
					h[q.header] = q.ticket
				}
				if q.uri == "" {
					q.uri = uri
				}
				b, err := json.Marshal(question{RequestMethod: "POST", RequestURI: q.uri, RequestBody: q.body, RequestHeaders: h})
				if err != nil {
					t.Fatal(err)
				}
				raw = string(b)
			}
			var a answer
			if err := json.NewDecoder(bytes.NewReader([]byte(ask(t, c, "/AuthZPlugin.AuthZReq", raw)))).Decode(&a); err != nil {
				t.Fatal(err)
			}
			if a.Allow != (q.cause == "") {
				t.Errorf("got %+v, want cause %q", a, q.cause)
			}
			if q.cause != "" && (len(denied) != 1 || denied[0].Cause != q.cause || a.Msg == "") {
				t.Errorf("recorded %+v, want %s; answered %q", denied, q.cause, a.Msg)
			}
		})
	}
}
