package authz

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/health"
)

// plugin is a plugin that runs, with the daemon's end of it.
type plugin struct {
	*Plugin
	tickets *ticket.Keeper
	client  *http.Client
	health  *health.Registry

	// mu guards what follows.
	mu     sync.Mutex
	events []Event
	notes  []string
}

func start(t *testing.T, change ...func(*Options)) *plugin {
	t.Helper()
	p := &plugin{tickets: ticket.New(nil), health: health.New(nil)}
	o := Options{
		Socket: filepath.Join(t.TempDir(), "plugins", "belay.sock"), Tickets: p.tickets, Health: p.health,
		Record: func(ev *Event) { p.mu.Lock(); defer p.mu.Unlock(); p.events = append(p.events, *ev) },
		Note:   func(s string) { p.mu.Lock(); defer p.mu.Unlock(); p.notes = append(p.notes, s) },
	}
	for _, f := range change {
		f(&o)
	}
	var err error
	if p.Plugin, err = Listen(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", o.Socket) }}
	p.client = &http.Client{Transport: tr}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// last returns the one event that there is, and forgets it.
func (p *plugin) last(t *testing.T) Event {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.events) != 1 {
		t.Fatalf("%d events, want 1: %+v", len(p.events), p.events)
	}
	ev := p.events[0]
	p.events = nil
	return ev
}

func (p *plugin) post(t *testing.T, path, body string) string {
	t.Helper()
	r, err := p.client.Post("http://plugin"+path, contentType, strings.NewReader(body))
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

// asked is a question as daemons write it.
type asked struct {
	User                    string            `json:",omitempty"`
	UserAuthNMethod         string            `json:",omitempty"`
	RequestMethod           string            `json:",omitempty"`
	RequestURI              string            `json:"RequestUri,omitempty"`
	RequestBody             []byte            `json:",omitempty"`
	RequestHeaders          map[string]string `json:",omitempty"`
	RequestPeerCertificates [][]byte          `json:",omitempty"`
}

func (p *plugin) ask(t *testing.T, q asked) answer {
	t.Helper()
	b, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	return p.askRaw(t, string(b))
}

func (p *plugin) askRaw(t *testing.T, raw string) answer {
	t.Helper()
	var a answer
	if err := json.NewDecoder(bytes.NewReader([]byte(p.post(t, "/AuthZPlugin.AuthZReq", raw)))).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestActivate(t *testing.T) {
	p := start(t)
	if got := p.post(t, "/Plugin.Activate", "{}"); got != `{"Implements":["authz"]}` {
		t.Errorf("got %s", got)
	}
	for _, body := range []string{"{}", "", strings.Repeat("x", 9<<20)} {
		if got := p.post(t, "/AuthZPlugin.AuthZRes", body); got != `{"Allow":true}` {
			t.Errorf("an answer of %d bytes: got %s", len(body), got)
		}
	}
	for _, path := range []string{"/", "/AuthZPlugin.authzreq", "/AuthZPlugin.AuthZReq/"} {
		if got := p.post(t, path, "{}"); strings.Contains(got, "Allow") {
			t.Errorf("%s: got %s", path, got)
		}
	}
}

const (
	createURI  = "/v1.41/containers/create?name=x"
	privileged = `{"Image":"x","HostConfig":{"Privileged":true}}`
)

func TestTickets(t *testing.T) {
	p := start(t, func(o *Options) { o.Gate = "/run/belay/docker.sock" })
	body := []byte(privileged)
	fresh := func(kind ticket.Body) string { return string(p.tickets.Append(nil, "POST", createURI, kind, body)) }
	used := fresh(ticket.Digest)
	auth := string(p.tickets.Append(nil, "POST", "/v1.41/auth", ticket.Digest, []byte(`{"username":"u"}`)))
	for _, c := range []struct {
		name, ticket, header, uri string
		body                      []byte
		cause                     string // "": allowed
	}{
		{name: "with a ticket", ticket: used, body: body},
		{name: "in another case", ticket: fresh(ticket.Digest), header: "x-belay-ticket", body: body},
		{name: "a stream", ticket: fresh(ticket.Stream)},
		{name: "used again", ticket: used, body: body, cause: CauseBadTicket},
		{name: "without a ticket", body: body, cause: CauseNoTicket},
		{name: "an empty ticket", header: ticket.Header, body: body, cause: CauseNoTicket},
		{name: "another gate's", ticket: string(ticket.New(nil).Append(nil, "POST", createURI, ticket.Digest, body)), body: body, cause: CauseBadTicket},
		// The daemon takes a chunked body along and shows none.
		{name: "A1 the daemon shows no body", ticket: fresh(ticket.Digest), cause: CauseNoBody},
		{name: "A2 a body over 1 MiB is not shown", ticket: fresh(ticket.Digest), cause: CauseNoBody},
		{name: "A2 another body", ticket: fresh(ticket.Digest), body: []byte(`{}`), cause: CauseBadTicket},
		{name: "A1 a body where the gate sent none", ticket: fresh(ticket.None), body: body, cause: CauseBadTicket},
		{name: "C7 the target's end hides the body", uri: createURI + "/auth", ticket: fresh(ticket.Digest), cause: CauseBadTicket},
		{name: "another request", ticket: fresh(ticket.Digest), uri: "/v1.41/containers/create?name=y", body: body, cause: CauseBadTicket},
		{name: "another version", ticket: fresh(ticket.Digest), uri: "/containers/create?name=x", body: body, cause: CauseBadTicket},
		// Daemons show no plugin a body with a password.
		{name: "C7 a login", uri: "/v1.41/auth", ticket: auth},
		{name: "C7 a login again", uri: "/v1.41/auth", ticket: auth, cause: CauseBadTicket},
		{name: "C7 a login without a ticket", uri: "/v1.41/auth", cause: CauseNoTicket},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := map[string]string{"Content-Type": "application/json"}
			if c.header == "" && c.ticket != "" {
				c.header = ticket.Header
			}
			if c.header != "" {
				h[c.header] = c.ticket
			}
			if c.uri == "" {
				c.uri = createURI
			}
			a := p.ask(t, asked{RequestMethod: "POST", RequestURI: c.uri, RequestBody: c.body, RequestHeaders: h})
			if a.Allow != (c.cause == "") || a.Err != "" {
				t.Fatalf("got %+v, want cause %q", a, c.cause)
			}
			if c.cause == "" {
				return
			}
			ev := p.last(t)
			if ev.Cause != c.cause || ev.Decision != Denied || ev.Subject.Kind != apicall.Nobody || strings.Contains(ev.Path, "?") {
				t.Errorf("recorded %+v, want %s", ev, c.cause)
			}
			if !strings.HasPrefix(a.Msg, "belay: ") || !strings.Contains(a.Msg, "DOCKER_HOST=unix:///run/belay/docker.sock") {
				t.Errorf("answered %q", a.Msg)
			}
		})
	}
}

// D17: a managed plugin of this one's name would be asked in its stead.
func TestTampering(t *testing.T) {
	p := start(t)
	for _, c := range []struct {
		method, uri string
		tamper      bool
	}{
		{"POST", "/v1.41/plugins/belay/disable", true},
		{"POST", "/v1.41/plugins/belay/disable?force=1", true},
		{"POST", "/v1.41/plugins/belay:latest/disable", true},
		{"POST", "/plugins/docker.io/library/belay:1/set", true},
		{"POST", "/plugins/index.docker.io/library/belay@sha256:0/upgrade?remote=x", true},
		{"POST", "/plugins/other/upgrade?remote=belay", true},
		{"DELETE", "/v1.41/plugins/belay?force=1", true},
		{"POST", "/v1.41/plugins/belay/enable", true},
		{"POST", "/v1.41/plugins/create?name=belay", true},
		{"POST", "/v1.41/plugins/create?name=x&name=BELAY:2", true},
		{"POST", "/v1.41/plugins/create?name=%62elay", true},
		{"POST", "/v1.41/plugins/pull?remote=vieux/x&name=belay", true},
		{"POST", "/v1.41/plugins/pull?remote=belay:latest", true},
		{"POST", "/v1.41/plugins/pull?remote=%zz", true},
		{"POST", "/v1.41/plugins/other/disable", false},
		{"POST", "/v1.41/plugins/pull?remote=vieux/sshfs&name=sshfs", false},
		{"POST", "/v1.41/plugins/example.org/team/belay/disable", false},
		{"GET", "/v1.41/plugins/belay/json", false},
		{"POST", "/v1.41/containers/belay/stop", false},
	} {
		// A ticket says that a policy of the gate would have let it pass.
		h := map[string]string{ticket.Header: string(p.tickets.Append(nil, c.method, c.uri, ticket.Stream, nil))}
		a := p.ask(t, asked{RequestMethod: c.method, RequestURI: c.uri, RequestHeaders: h})
		if a.Allow != !c.tamper {
			t.Errorf("%s %s with a ticket: %+v", c.method, c.uri, a)
		}
		if c.tamper {
			if ev := p.last(t); ev.Cause != CauseTamper {
				t.Errorf("%s %s: recorded %+v", c.method, c.uri, ev)
			}
		}
		if a := p.ask(t, asked{RequestMethod: c.method, RequestURI: c.uri}); a.Allow {
			t.Errorf("%s %s without a ticket: %+v", c.method, c.uri, a)
		}
		p.last(t)
	}
}

// A service of the plugin runtime has swarm install a plugin on every node.
func TestTamperingBySwarm(t *testing.T) {
	p := start(t)
	for _, c := range []struct {
		name, uri, body string
		tamper          bool
	}{
		{"by name", "/v1.41/services/create", `{"TaskTemplate":{"Runtime":"plugin","PluginSpec":{"Name":"belay","Remote":"vieux/x"}}}`, true},
		{"by what is pulled", "/services/create", `{"TaskTemplate":{"PluginSpec":{"Name":"x","Remote":"docker.io/library/belay:1"}}}`, true},
		{"in another case", "/services/create", `{"tasktemplate":{"pluginspec":{"name":"BELAY"}}}`, true},
		{"a key twice", "/services/create", `{"TaskTemplate":{"PluginSpec":{"Name":"x"}},"TaskTemplate":{"PluginSpec":{"Name":"belay"}}}`, true},
		{"an update", "/v1.41/services/s1/update?version=1", `{"TaskTemplate":{"PluginSpec":{"Name":"belay"}}}`, true},
		{"no JSON", "/services/create", `{`, true},
		{"another plugin", "/services/create", `{"TaskTemplate":{"PluginSpec":{"Name":"sshfs","Remote":"vieux/sshfs"}}}`, false},
		{"containers", "/services/create", `{"Name":"belay","TaskTemplate":{"ContainerSpec":{"Image":"belay"}}}`, false},
	} {
		h := map[string]string{"Content-Type": "application/json", ticket.Header: string(p.tickets.Append(nil, "POST", c.uri, ticket.Digest, []byte(c.body)))}
		a := p.ask(t, asked{RequestMethod: "POST", RequestURI: c.uri, RequestBody: []byte(c.body), RequestHeaders: h})
		if a.Allow != !c.tamper {
			t.Errorf("%s, with a ticket: %+v", c.name, a)
		}
		if c.tamper {
			if ev := p.last(t); ev.Cause != CauseTamper {
				t.Errorf("%s: recorded %+v", c.name, ev)
			}
		}
	}
}

// What changes the daemon itself or leaves its API has no way past the plugin, with no body
// and with one that the daemon does not show.
func TestNoWayRound(t *testing.T) {
	p := start(t)
	for _, uri := range []string{
		"/swarm/init", "/swarm/join", "/swarm/update?version=1", "/swarm/leave?force=1", "/swarm/unlock", "/services/create", "/secrets/create", "/configs/create",
		"/nodes/n/update?version=1", "/plugins/other/disable", "/containers/x/exec", "/exec/0/start", "/session", "/grpc", "/build", "/images/load", "/commit", "/auth", "/nothing",
	} {
		for name, h := range map[string]map[string]string{
			"no body": {"Content-Length": "0"}, "a chunked body": {"Content-Type": "application/json"},
			"over 1 MiB": {"Content-Type": "application/json", "Content-Length": "1048577"},
		} {
			for _, forged := range []string{"", "x", strings.Repeat("0", 128)} {
				h := maps.Clone(h)
				if forged != "" {
					h[ticket.Header] = forged
				}
				if a := p.ask(t, asked{RequestMethod: "POST", RequestURI: "/v1.41" + uri, RequestHeaders: h}); a.Allow {
					t.Errorf("POST %s with %s and ticket %q is allowed", uri, name, forged)
				}
				if ev := p.last(t); ev.Cause != CauseNoTicket && ev.Cause != CauseBadTicket {
					t.Errorf("POST %s with %s: recorded %+v", uri, name, ev)
				}
			}
		}
	}
}

func TestUnreadable(t *testing.T) {
	p := start(t)
	for name, raw := range map[string]string{
		"empty": "", "no JSON": "{", "a list": "[]", "nothing said": "{}",
		"too large": `{"User":"` + strings.Repeat("x", 8<<20) + `"}`,
	} {
		if a := p.askRaw(t, raw); a.Allow || a.Msg == "" {
			t.Errorf("%s: %+v", name, a)
		}
		if ev := p.last(t); ev.Cause != CauseUnreadable {
			t.Errorf("%s: recorded %+v", name, ev)
		}
	}
}

// Questions that are not read to their end hold room, and others are told so in time.
func TestBusy(t *testing.T) {
	p := start(t, func(o *Options) {
		o.Limits = Limits{QuestionBytes: 1 << 20, HeldBytes: 1 << 20, Wait: 50 * time.Millisecond}
	})
	c, err := net.Dial("unix", p.o.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST /AuthZPlugin.AuthZReq HTTP/1.1\r\nHost: p\r\nContent-Length: 1000000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	busy := func() bool {
		a := p.ask(t, asked{RequestMethod: "GET", RequestURI: "/_ping", User: strings.Repeat("x", 500_000)})
		if a.Allow {
			t.Fatal("it was allowed")
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.events[len(p.events)-1].Cause == CauseBusy
	}
	for start := time.Now(); !busy(); {
		if time.Since(start) > 5*time.Second {
			t.Fatal("a question that is not read to its end costs nothing")
		}
	}
	c.Close()
	for start := time.Now(); busy(); {
		if time.Since(start) > 5*time.Second {
			t.Fatal("room was not given back")
		}
	}
}

// More connections than Limits.Conns wait, and are served when others end.
func TestConnections(t *testing.T) {
	p := start(t, func(o *Options) { o.Limits.Conns = 2 })
	var held []net.Conn
	for range 2 {
		c, err := net.Dial("unix", p.o.Socket)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	got := make(chan string, 1)
	go func() { got <- p.post(t, "/Plugin.Activate", "") }()
	select {
	case <-got:
		t.Error("a third connection was served")
	case <-time.After(100 * time.Millisecond):
	}
	for _, c := range held {
		c.Close()
	}
	select {
	case <-got:
	case <-time.After(5 * time.Second):
		t.Error("room was not given back")
	}
}

func TestListen(t *testing.T) {
	p := start(t)
	st, err := os.Stat(p.o.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if _, err := Listen(Options{Socket: p.o.Socket, Tickets: p.tickets}); err == nil {
		t.Error("a second plugin took the socket of one that answers")
	}
	file := filepath.Join(t.TempDir(), "belay.sock")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Options{Socket: file, Tickets: p.tickets}); err == nil {
		t.Error("a file that is no socket was replaced")
	}
	if _, err := Listen(Options{Socket: file}); err == nil {
		t.Error("it listens without tickets")
	}
}

func BenchmarkTicket(b *testing.B) {
	k := ticket.New(nil)
	p := &Plugin{o: Options{Tickets: k}, counts: newCounts(health.New(nil))}
	if err := p.o.fill(); err != nil {
		b.Fatal(err)
	}
	body := []byte(privileged)
	for b.Loop() {
		raw, err := json.Marshal(asked{RequestMethod: "POST", RequestURI: createURI, RequestBody: body, RequestHeaders: map[string]string{
			ticket.Header: string(k.Append(nil, "POST", createURI, ticket.Digest, body)),
		}})
		if err != nil {
			b.Fatal(err)
		}
		q, err := readQuestion(raw)
		if err != nil {
			b.Fatal(err)
		}
		if a := p.judge(b.Context(), &q, time.Now()); !a.Allow {
			b.Fatal(a.Msg)
		}
	}
}
