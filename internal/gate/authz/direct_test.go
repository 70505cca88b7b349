package authz

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/policy"
)

// ca signs certificates for tests.
type ca struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCA(t *testing.T) *ca {
	t.Helper()
	c := &ca{}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &c.key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

// issue returns a client certificate as daemons show it.
func (c *ca) issue(t *testing.T, cn string, change ...func(*x509.Certificate)) [][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn, Organization: []string{"ops"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, DNSNames: []string{"alice.example.org"},
	}
	for _, f := range change {
		f(tpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, c.cert, &key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

type rules struct {
	*policy.Access
	enforced bool
}

func (r rules) Enforced() bool { return r.enforced }

func parseRules(t *testing.T, text string) rules {
	t.Helper()
	file := filepath.Join(t.TempDir(), "access.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.ParseFiles(file)
	if err != nil {
		t.Fatal(err)
	}
	return rules{set.Access(), strings.Contains(text, "mode: enforce")}
}

const direct = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: direct}
spec:
  mode: enforce
  subjects: {certificates: [{cn: alice}]}
  rules:
    - {name: look, effect: allow, actions: [system.ping, image.list, image.inspect, registry.login]}
    - {name: create, effect: allow, actions: [container.create], checks: [notPrivileged, {notRoot: {apiOnly: true, numeric: true}}, hostMounts]}
    - {name: web, effect: allow, actions: [container.stop, container.exec, container.attach, container.copy.in], resources: {names: [web]}}
    - {name: mine, effect: allow, actions: [container.list], resources: {own: true}}
    - {name: streams, effect: allow, actions: [image.build, image.pull, image.load, build.session, "plugin.*", "service.*"]}
`

const (
	webID = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	dbID  = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// fakeDaemon answers inspections. It models: containers by name and id, images with a user,
// a volume that stands for a host path; and that every question must have a ticket.
func fakeDaemon(t *testing.T, take func(r *http.Request) error) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	things := map[string]string{
		"/containers/web/json":           `{"Id":"` + webID + `","Name":"/web","Image":"sha256:1","Config":{"Image":"app"}}`,
		"/containers/" + webID + "/json": `{"Id":"` + webID + `","Name":"/web","Image":"sha256:1","Config":{"Image":"app"}}`,
		"/containers/db/json":            `{"Id":"` + dbID + `","Name":"/db","Image":"sha256:1","Config":{"Image":"app"}}`,
		"/containers/broken/json":        `{"Id":`,
		"/images/app/json":               `{"Id":"sha256:1","RepoTags":["app:latest"],"Config":{"User":"1000"}}`,
		"/images/root/json":              `{"Id":"sha256:2","RepoTags":["root:latest"],"Config":{"User":""}}`,
		"/images/forged/json":            `{"Id":"sha256:3","Config":{"User":"1000","Labels":{"belay.dev/owner":"cert:bob"}}}`,
		"/images/example.org/t/app/json": `{"Id":"sha256:4","Config":{"User":"1000"}}`,
		"/volumes/hostvol":               `{"Name":"hostvol","Driver":"local","Options":{"type":"none","o":"bind","device":"/etc"}}`,
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := take(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		body, ok := things[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, body)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return socket
}

func startDirect(t *testing.T, authority *ca, text string) *plugin {
	t.Helper()
	var p *plugin
	socket := fakeDaemon(t, func(r *http.Request) error {
		return p.tickets.Take(r.Header.Get(ticket.Header), r.Method, r.RequestURI, nil)
	})
	p = start(t, func(o *Options) {
		o.DirectCAs = x509.NewCertPool()
		o.DirectCAs.AddCert(authority.cert)
		o.Upstream = socket
		if text != "" {
			r := parseRules(t, text)
			o.Policies = func() Rules { return r }
		}
	})
	return p
}

func TestDirect(t *testing.T) {
	authority := newCA(t)
	p := startDirect(t, authority, direct)
	alice := authority.issue(t, "alice")
	jsonType := map[string]string{"Content-Type": "application/json"}
	for _, c := range []struct {
		name, method, uri, body string
		header                  map[string]string
		cause, reason           string // of a denial
		allow                   bool
	}{
		{name: "a read", method: "GET", uri: "/v1.41/images/json", allow: true},
		{name: "no route", method: "GET", uri: "/v1.41/nothing", cause: "no_route"},
		{name: "B1 an unclean path", method: "GET", uri: "/v1.41//images/json", cause: "unclean_path"},
		{name: "B2 an encoded path", method: "POST", uri: "/v1.41/containers/w%65b/stop", header: map[string]string{"Content-Length": "0"}, cause: "encoded_path"},
		{name: "B13 an absolute target", method: "GET", uri: "http://docker/v1.41/images/json", cause: "bad_path"},
		{name: "not allowed", method: "POST", uri: "/v1.41/containers/web/kill", header: map[string]string{"Content-Length": "0"}, reason: policy.ReasonNoRule},
		{name: "a create", method: "POST", uri: createURI, body: `{"Image":"app"}`, header: jsonType, allow: true},
		{name: "an image of a registry", method: "POST", uri: createURI, body: `{"Image":"example.org/t/app"}`, header: jsonType, allow: true},
		{name: "privileged", method: "POST", uri: createURI, body: `{"Image":"app","HostConfig":{"Privileged":true}}`, header: jsonType, reason: policy.ReasonChecks},
		{name: "D10 root by the image", method: "POST", uri: createURI, body: `{"Image":"root"}`, header: jsonType, reason: policy.ReasonChecks},
		{name: "D1 a bind", method: "POST", uri: createURI, body: `{"Image":"app","HostConfig":{"Binds":["/srv:/srv"]}}`, header: jsonType, reason: policy.ReasonChecks},
		{name: "D1 a volume that is a bind", method: "POST", uri: createURI, body: `{"Image":"app","HostConfig":{"Binds":["hostvol:/v"]}}`, header: jsonType, reason: policy.ReasonChecks},
		{name: "C4 a key twice", method: "POST", uri: createURI, body: `{"Image":"app","HostConfig":{"Privileged":true},"HostConfig":{}}`, header: jsonType, cause: "duplicate_key"},
		{name: "D20 a forged owner", method: "POST", uri: createURI, body: `{"Image":"app","Labels":{"belay.dev/owner":"cert:bob"}}`, header: jsonType, cause: CauseReserved},
		{name: "D20 an owner forged by the image", method: "POST", uri: createURI, body: `{"Image":"forged"}`, header: jsonType, cause: CauseReserved},
		{name: "D6 namespaces of a container that is not there", method: "POST", uri: createURI, body: `{"Image":"app","HostConfig":{"NetworkMode":"container:ghost"}}`, header: jsonType, cause: CauseUnresolved},
		{name: "no such image", method: "POST", uri: createURI, body: `{"Image":"gone"}`, header: jsonType, cause: CauseUnresolved},
		{name: "A1 a body of no said length", method: "POST", uri: createURI, header: jsonType, cause: CauseNoBody},
		{name: "A2 a body that is too long to be shown", method: "POST", uri: createURI, header: map[string]string{"Content-Type": "application/json", "Content-Length": "2000000"}, cause: CauseNoBody},
		// The daemon goes by the first of two content types and shows the last: C1 in hiding.
		{name: "B15 a form behind a second content type", method: "POST", uri: "/v1.41/images/create?fromImage=app", header: map[string]string{"Content-Type": "application/json", "Content-Length": "40"}, cause: CauseNoBody},
		{name: "C7 a body hidden by the target's end", method: "POST", uri: "/v1.41/containers/create?name=/auth", header: map[string]string{"Content-Type": "application/json", "Content-Length": "40"}, cause: CauseNoBody},
		{name: "C7 a form", method: "POST", uri: createURI, body: `{"Image":"app"}`, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, cause: "content_type"},
		{name: "C7 a login", method: "POST", uri: "/v1.41/auth", header: map[string]string{"Content-Type": "application/json", "Content-Length": "40"}, cause: CauseNoBody},
		{name: "a pull", method: "POST", uri: "/v1.41/images/create?fromImage=app&tag=1", header: map[string]string{"Content-Length": "0"}, allow: true},
		{name: "a build", method: "POST", uri: "/v1.41/build?t=x", header: map[string]string{"Content-Type": "application/x-tar"}, cause: CauseNoBody},
		{name: "a load", method: "POST", uri: "/v1.41/images/load", header: map[string]string{"Content-Length": "0"}, cause: CauseNoBody},
		{name: "B11 a tunnel", method: "POST", uri: "/session", header: map[string]string{"Content-Length": "0"}, cause: CauseTunnel},
		{name: "D17 disabling the plugin", method: "POST", uri: "/v1.41/plugins/belay/disable", header: map[string]string{"Content-Length": "0"}, cause: CauseTamper},
		{name: "a kind that is not looked up", method: "DELETE", uri: "/v1.41/services/x", cause: CauseUnresolved},
		{name: "by name", method: "POST", uri: "/v1.41/containers/web/stop", header: map[string]string{"Content-Length": "0"}, allow: true},
		{name: "by id", method: "POST", uri: "/v1.41/containers/" + webID + "/stop", header: map[string]string{"Content-Length": "0"}, allow: true},
		{name: "another's", method: "POST", uri: "/v1.41/containers/db/stop", header: map[string]string{"Content-Length": "0"}, reason: policy.ReasonNoRule},
		{name: "B5 a link's alias", method: "POST", uri: "/v1.41/containers/web/db/stop", header: map[string]string{"Content-Length": "0"}, cause: "slash_in_name"},
		{name: "the daemon speaks nonsense", method: "POST", uri: "/v1.41/containers/broken/stop", header: map[string]string{"Content-Length": "0"}, cause: CauseUnresolved},
		{name: "a list that would be filtered", method: "GET", uri: "/v1.41/containers/json", cause: CauseObligation},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := p.ask(t, asked{
				User: "alice", RequestMethod: c.method, RequestURI: c.uri, RequestBody: []byte(c.body), RequestHeaders: c.header,
				RequestPeerCertificates: alice,
			})
			ev := p.last(t)
			if a.Allow != c.allow || ev.Cause != c.cause || c.reason != "" && ev.Reason != c.reason {
				t.Fatalf("got %+v, recorded %+v", a, ev)
			}
			if c.allow && (ev.Decision != Allowed || ev.Policy != "direct" || ev.Rule == "") {
				t.Errorf("recorded %+v", ev)
			}
			if c.cause != CauseTamper && (ev.Subject.Kind != apicall.Certificate || ev.Subject.CN != "alice" || !slices.Contains(ev.Subject.SANs, "alice.example.org")) {
				t.Errorf("caller: %+v", ev.Subject)
			}
		})
	}
}

// Nobody comes in by what the daemon says of a certificate alone.
func TestDirectCallers(t *testing.T) {
	authority, other := newCA(t), newCA(t)
	p := startDirect(t, authority, direct)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	for _, c := range []struct {
		name  string
		certs [][]byte
		user  string
		cause string
		allow bool
	}{
		{name: "alice", certs: authority.issue(t, "alice"), allow: true},
		{name: "bob", certs: authority.issue(t, "bob"), user: "alice"},
		{name: "a name and no certificate", user: "alice", cause: CauseNoTicket},
		{name: "of another CA", certs: other.issue(t, "alice"), cause: CauseUnverified},
		{name: "expired", certs: authority.issue(t, "alice", expired), cause: CauseUnverified},
		{name: "for a server", certs: authority.issue(t, "alice", server), cause: CauseUnverified},
		{name: "without a name", certs: authority.issue(t, ""), cause: CauseUnverified},
		{name: "a good one behind a bad one", certs: append(other.issue(t, "alice"), authority.issue(t, "alice")...), cause: CauseUnverified},
	} {
		a := p.ask(t, asked{User: c.user, RequestMethod: "GET", RequestURI: "/_ping", RequestPeerCertificates: c.certs})
		if ev := p.last(t); a.Allow != c.allow || ev.Cause != c.cause {
			t.Errorf("%s: got %+v, recorded %+v", c.name, a, ev)
		}
	}
}

func TestDirectWithoutPolicies(t *testing.T) {
	authority := newCA(t)
	q := asked{RequestMethod: "GET", RequestURI: "/_ping", RequestPeerCertificates: authority.issue(t, "alice")}
	for name, text := range map[string]string{"none": "", "in audit mode": strings.Replace(direct, "mode: enforce", "mode: audit", 1)} {
		p := startDirect(t, authority, text)
		if a := p.ask(t, q); a.Allow || p.last(t).Cause != CauseNoPolicy {
			t.Errorf("policies %s: %+v", name, a)
		}
	}
	p := start(t, func(o *Options) { r := parseRules(t, direct); o.Policies = func() Rules { return r } })
	if a := p.ask(t, q); a.Allow || p.last(t).Cause != CauseNoTicket {
		t.Errorf("without a CA: %+v", a)
	}
}

// What the gate would do to a request or its answer is denied here, where it cannot be done.
func TestDirectObligations(t *testing.T) {
	authority := newCA(t)
	alice := authority.issue(t, "alice")
	for _, c := range []struct {
		name, obligations, body string
		allow                   bool
	}{
		{"none", "", `{"Image":"app"}`, true},
		{"an owner", "{owner: true}", `{"Image":"app"}`, false},
		{"labels", "{labels: {belay.dev/team: web}}", `{"Image":"app"}`, false},
		{"a limit that is not set", "{setDefault: {memory: 64Mi}}", `{"Image":"app"}`, false},
		{"a limit that is set", "{setDefault: {memory: 64Mi}}", `{"Image":"app","HostConfig":{"Memory":1048576}}`, true},
		{"a user", "{setDefault: {user: \"1000\"}}", `{"Image":"app"}`, false},
		{"no new privileges", "{setDefault: {noNewPrivileges: true}}", `{"Image":"app","HostConfig":{"SecurityOpt":["no-new-privileges"]}}`, true},
	} {
		text := direct
		if c.obligations != "" {
			text = strings.Replace(direct, "  rules:\n", "  obligations: "+c.obligations+"\n  rules:\n", 1)
		}
		p := startDirect(t, authority, text)
		a := p.ask(t, asked{
			RequestMethod: "POST", RequestURI: createURI, RequestBody: []byte(c.body), RequestPeerCertificates: alice,
			RequestHeaders: map[string]string{"Content-Type": "application/json"},
		})
		if ev := p.last(t); a.Allow != c.allow || !c.allow && ev.Cause != CauseObligation {
			t.Errorf("%s: got %+v, recorded %+v", c.name, a, ev)
		}
	}
	// What only the gate can do for a create is refused, and not left out.
	socket := strings.Replace(direct, ", hostMounts]", "]", 1)
	for _, c := range []struct{ name, policy, body string }{
		{"a check with a kernel half", strings.Replace(direct, "{notRoot: {apiOnly: true, numeric: true}}", "notRoot", 1), `{"Image":"app","User":"1000"}`},
		{"a mount, where the daemon's socket is replaced", strings.Replace(socket, "  rules:\n", "  obligations: {dockerSocket: replace}\n  rules:\n", 1),
			`{"Image":"app","User":"1000","HostConfig":{"Binds":["/srv/docker.sock:/s"]}}`},
	} {
		p := startDirect(t, authority, c.policy)
		a := p.ask(t, asked{
			RequestMethod: "POST", RequestURI: createURI, RequestBody: []byte(c.body), RequestPeerCertificates: alice,
			RequestHeaders: map[string]string{"Content-Type": "application/json"},
		})
		if ev := p.last(t); a.Allow || ev.Cause != CauseObligation {
			t.Errorf("%s: got %+v, recorded %+v", c.name, a, ev)
		}
	}
	p := startDirect(t, authority, strings.Replace(direct, "  rules:\n", "  obligations: {redactEnv: [\"*KEY*\"]}\n  rules:\n", 1))
	if a := p.ask(t, asked{RequestMethod: "GET", RequestURI: "/v1.41/images/app/json", RequestPeerCertificates: alice}); a.Allow {
		t.Error("an answer with values to hide passes")
	}
}

// A daemon that does not answer questions is a denial, in time.
func TestDirectDaemonGone(t *testing.T) {
	authority := newCA(t)
	p := start(t, func(o *Options) {
		o.DirectCAs = x509.NewCertPool()
		o.DirectCAs.AddCert(authority.cert)
		o.Upstream = filepath.Join(t.TempDir(), "none.sock")
		r := parseRules(t, direct)
		o.Policies = func() Rules { return r }
	})
	a := p.ask(t, asked{
		RequestMethod: "POST", RequestURI: "/v1.41/containers/web/stop", RequestPeerCertificates: authority.issue(t, "alice"),
		RequestHeaders: map[string]string{"Content-Length": "0"},
	})
	if a.Allow || p.last(t).Cause != CauseDaemon {
		t.Errorf("got %+v", a)
	}
}
