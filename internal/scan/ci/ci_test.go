package ci

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// fakeImages has one image of this host, "app:1", and what it is told of registries. gate, if
// not nil, holds every scan until something is received from it.
type fakeImages struct {
	gate chan struct{}

	mu         sync.Mutex
	asked      []string
	incomplete bool
	noDB       bool
	config     *inventory.Result // what the image shows beside packages
	sev        vulndb.Severity
}

func (f *fakeImages) read(ctx context.Context, what string) (*inventory.Result, error) {
	f.mu.Lock()
	f.asked = append(f.asked, what)
	incomplete, config := f.incomplete, f.config
	f.mu.Unlock()
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	res := &inventory.Result{OS: inventory.OS{ID: "debian", VersionID: "12"}, Packages: []inventory.Package{{Kind: "deb", Name: "bsdutils", Version: "1"}}}
	if config != nil {
		res.ConfigRead, res.Misconfigurations, res.Unsearched = config.ConfigRead, config.Misconfigurations, config.Unsearched
		res.Skipped = config.Skipped
	}
	if incomplete {
		res.Notes = []inventory.Note{{Path: "x", Text: "could not be read", Count: 1}}
	}
	return res, nil
}

func (f *fakeImages) Local(ctx context.Context, ref, _ string) (*inventory.Result, string, error) {
	if ref != "app:1" {
		return nil, "", ErrNoImage
	}
	res, err := f.read(ctx, "local "+ref)
	return res, digestA, err
}

func (f *fakeImages) Remote(ctx context.Context, ref, _, authority string) (*inventory.Result, string, error) {
	if authority != "" {
		ref += " with " + authority
	}
	res, err := f.read(ctx, "remote "+ref)
	return res, digestB, err
}

func (f *fakeImages) Match(context.Context, *inventory.Result) (*report.Database, *vulndb.Matches, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noDB {
		return nil, nil, errors.New("there is no vulnerability database; fix: belay db update")
	}
	return &report.Database{Built: time.Unix(1, 0), Records: 1}, &vulndb.Matches{Findings: []vulndb.Finding{
		{IDs: []string{"CVE-2024-1"}, Severity: f.sev, State: "fixed", Fixed: "2"},
	}}, nil
}

// fakeAccess lets all do all to their own scans; root reads those of others. It denies who is
// called mallory.
type fakeAccess struct{}

func (fakeAccess) Ask(sub *apicall.Subject, action string, _ apicall.Facts, res ...apicall.Resource) error {
	if sub.Name == "mallory" {
		return fmt.Errorf("%w: %s", ErrDenied, action)
	}
	for _, r := range res {
		if action == ActRead && !(fakeAccess{}).Sees(sub, r) {
			return ErrDenied
		}
	}
	return nil
}

func (fakeAccess) Grants(sub *apicall.Subject, _ string) bool { return sub.Name != "mallory" }

func (fakeAccess) Sees(sub *apicall.Subject, r apicall.Resource) bool {
	return sub.Kind == apicall.User && sub.UID == 0 || r.Owner == policy.Owner(sub)
}

type world struct {
	t      *testing.T
	s      *Service
	images *fakeImages
	health *health.Registry
	stop   func()
	addrs  map[string]string // by the name of whoever is at the other end
}

var people = map[string]apicall.Subject{
	"root":    {Kind: apicall.User, Name: "root"},
	"alice":   {Kind: apicall.User, UID: 1000, Name: "alice"},
	"bob":     {Kind: apicall.User, UID: 1001, Name: "bob"},
	"mallory": {Kind: apicall.User, UID: 1002, Name: "mallory"},
}

func start(t *testing.T, change func(*Options)) *world {
	t.Helper()
	w := &world{t: t, images: &fakeImages{sev: vulndb.SeverityHigh}, health: health.New(nil), addrs: map[string]string{}}
	byAddr := map[string]string{}
	var listeners []net.Listener
	for _, name := range []string{"root", "alice", "bob", "mallory", "nobody"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w.addrs[name], byAddr[l.Addr().String()] = "http://"+l.Addr().String(), name
		listeners = append(listeners, l)
	}
	o := Options{
		Access: fakeAccess{}, Images: w.images, Dir: t.TempDir() + "/scans", Health: w.health,
		Identify: func(c net.Conn) (apicall.Subject, error) {
			if sub, ok := people[byAddr[c.LocalAddr().String()]]; ok {
				return sub, nil
			}
			return apicall.Subject{}, errors.New("who is calling is unknown")
		},
		Verify: func(secret string, _ time.Time) (string, error) {
			if secret == "good" {
				return "pipeline", nil
			}
			return "", errors.New("wrong")
		},
		Registries: []string{"reg.example"}, retry: []time.Duration{time.Millisecond, time.Millisecond},
	}
	if change != nil {
		change(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	w.s = s
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, listeners...) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// call makes one request and returns the answer. into may be nil.
func (w *world) call(who, method, path, body string, header http.Header, into any) (int, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.addrs[who]+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			w.t.Fatalf("%s %s: %d, %s: %v", method, path, res.StatusCode, b, err)
		}
	}
	return res.StatusCode, string(b)
}

func (w *world) wait(who, id string) *Result {
	w.t.Helper()
	for range 500 {
		var r Result
		if code, text := w.call(who, "GET", "/v1/scans/"+id, "", nil, &r); code != 200 {
			w.t.Fatalf("%d, %s", code, text)
		}
		if r.Over() {
			return &r
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatal("the scan is never over")
	return nil
}

func (w *world) create(who, body string) Scan {
	w.t.Helper()
	var s Scan
	if code, text := w.call(who, "POST", "/v1/scans", body, nil, &s); code != http.StatusAccepted {
		w.t.Fatalf("%d, %s", code, text)
	}
	return s
}

func TestVerdicts(t *testing.T) {
	tests := []struct {
		name, body string
		incomplete bool
		noDB       bool
		state      string
		verdict    string
		digest     string
	}{
		{"nothing asked", `{"image":"app:1"}`, false, false, StateDone, VerdictPass, digestA},
		{"fails", `{"image":"app:1","failOn":"high"}`, false, false, StateDone, VerdictFail, digestA},
		{"fails by an expression", `{"image":"app:1","failOn":"severity >= high && fixable"}`, false, false, StateDone, VerdictFail, digestA},
		{"passes", `{"image":"app:1","failOn":"critical"}`, false, false, StateDone, VerdictPass, digestA},
		{"incomplete", `{"image":"app:1","failOn":"critical"}`, true, false, StateDone, VerdictIncomplete, digestA},
		{"incomplete, nothing asked", `{"image":"app:1"}`, true, false, StateDone, VerdictIncomplete, digestA},
		{"incomplete and allowed", `{"image":"app:1","failOn":"critical","allowIncomplete":true}`, true, false, StateDone, VerdictPass, digestA},
		{"findings go before incomplete", `{"image":"app:1","failOn":"high"}`, true, false, StateDone, VerdictFail, digestA},
		{"no database", `{"image":"app:1"}`, false, true, StateFailed, "", ""},
		{"no image", `{"image":"app:2"}`, false, false, StateFailed, "", ""},
		{"from its registry", `{"image":"reg.example/app:2"}`, false, false, StateDone, VerdictPass, digestB},
		{"from its registry only", `{"image":"registry:reg.example/app:2"}`, false, false, StateDone, VerdictPass, digestB},
		{"of a registry that is not permitted", `{"image":"other.example/app:2"}`, false, false, StateFailed, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, nil)
			w.images.incomplete, w.images.noDB = tt.incomplete, tt.noDB
			r := w.wait("alice", w.create("alice", tt.body).ID)
			if r.State != tt.state || r.Verdict != tt.verdict || r.Digest != tt.digest || (r.Error != "") != (tt.state == StateFailed) {
				t.Errorf("%s, %q, %s, %q; want %s, %q, %s", r.State, r.Verdict, r.Digest, r.Error, tt.state, tt.verdict, tt.digest)
			}
			if tt.state == StateDone && (len(r.Findings) != 1 || r.Findings[0].Package != "bsdutils" || r.Counts.Findings["high"] != 1 || r.Counts.Fixable != 1) {
				t.Errorf("findings %+v, counts %+v", r.Findings, r.Counts)
			}
		})
	}
}

// TestConfigVerdicts: a rule about the configuration and the files is asked about them, and does
// not pass what it could not be asked about.
func TestConfigVerdicts(t *testing.T) {
	secret := []inventory.Misconfiguration{{ID: inventory.FileSecret, Severity: inventory.SeverityHigh, Text: "a private key", Where: "app/k.pem:1", Path: "app/k.pem"}}
	for _, tt := range []struct {
		name, failOn, verdict string
		config                *inventory.Result
	}{
		{"a secret", `misconfiguration == 'secret-in-file'`, VerdictFail, &inventory.Result{ConfigRead: true, Misconfigurations: secret}},
		{"another fault", `misconfiguration == 'root-user'`, VerdictPass, &inventory.Result{ConfigRead: true, Misconfigurations: secret}},
		{"a rule of findings", `critical`, VerdictPass, &inventory.Result{Misconfigurations: secret}},
		{"no configuration", `misconfiguration == 'root-user'`, VerdictIncomplete, &inventory.Result{}},
		{"secrets were not looked for", `misconfiguration == 'secret-in-file'`, VerdictIncomplete, &inventory.Result{ConfigRead: true, Skipped: []string{inventory.ScannerSecret}}},
		{"files that were not searched", `misconfiguration == 'secret-in-file'`, VerdictIncomplete, &inventory.Result{ConfigRead: true, Unsearched: &inventory.Note{Path: "x", Text: "large", Count: 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, nil)
			w.images.config = tt.config
			id := w.create("alice", `{"image":"app:1","failOn":"`+tt.failOn+`"}`).ID
			if r := w.wait("alice", id); r.Verdict != tt.verdict {
				t.Errorf("%q, want %q", r.Verdict, tt.verdict)
			}
			want := map[bool]string{true: `failures="0"`, false: `failures="1"`}[tt.verdict == VerdictPass]
			if code, text := w.call("alice", "GET", "/v1/scans/"+id+"?format=junit", "", nil, nil); code != 200 || !strings.Contains(text, want) {
				t.Errorf("junit: %d, %s, want %s", code, text, want)
			}
		})
	}
}

// TestAcceptedFaults: what a caller accepts of the configuration and the files does not fail, and is shown so.
func TestAcceptedFaults(t *testing.T) {
	config := &inventory.Result{ConfigRead: true, Misconfigurations: []inventory.Misconfiguration{
		{ID: inventory.FileSecret, Severity: inventory.SeverityHigh, Text: "a private key", Where: "app/k.pem:1", Path: "app/k.pem", Ignored: "the scanner says so", Known: true},
	}}
	rule := func(path string) string {
		return "ignore:\n- id: secret-in-file\n  path: " + path + "\n  reason: of a test\n"
	}
	known := `{"schema":"belay.dev/scan/v1","database":{},"findings":[],"misconfigurations":[{"id":"secret-in-file","severity":"high","text":"a private key","where":"app/k.pem:1"}]}`
	for _, tt := range []struct {
		name, ignore, baseline, verdict string
		want                            Misconfiguration
	}{
		{"nothing", "", "", VerdictFail, Misconfiguration{}},
		{"ignored", rule("app/*"), "", VerdictPass, Misconfiguration{Ignored: "of a test", IgnoredBy: "ignore:2"}},
		{"another file", rule("srv/*"), "", VerdictFail, Misconfiguration{}},
		{"known", "", known, VerdictPass, Misconfiguration{Known: true}},
		{"another was known", "", strings.Replace(known, "k.pem", "l.pem", 1), VerdictFail, Misconfiguration{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, nil)
			w.images.config = config
			r := w.wait("alice", w.create("alice", body(t, Request{Image: "app:1", FailOn: "misconfiguration != ''", Ignore: tt.ignore, Baseline: json.RawMessage(tt.baseline)})).ID)
			want := tt.want
			want.ID, want.Severity, want.Where, want.Text = inventory.FileSecret, "high", "app/k.pem:1", "a private key"
			if r.Verdict != tt.verdict || len(r.Misconfigurations) != 1 || r.Misconfigurations[0] != want {
				t.Errorf("%s, %+v, want %s, %+v", r.Verdict, r.Misconfigurations, tt.verdict, want)
			}
			if pass := tt.verdict == VerdictPass; (r.Counts.Ignored+r.Counts.Known == 1) != pass || (r.Counts.Failing == 0) != pass {
				t.Errorf("counts %+v", r.Counts)
			}
			skipped := map[bool]string{true: `skipped="1"`, false: `skipped="0"`}[tt.verdict == VerdictPass]
			if code, text := w.call("alice", "GET", "/v1/scans/"+r.ID+"?format=junit", "", nil, nil); code != 200 || !strings.Contains(text, skipped) {
				t.Errorf("junit: %d, %s, want %s", code, text, skipped)
			}
		})
	}
}

func TestFormats(t *testing.T) {
	w := start(t, nil)
	id := w.create("alice", `{"image":"app:1"}`).ID
	w.wait("alice", id)
	for form, part := range map[string]string{"report": report.Schema, "sarif": `"version": "2.1.0"`, "junit": `failures="1"`, "cyclonedx": "pkg:deb/debian/bsdutils", "json": "CVE-2024-1"} {
		if code, text := w.call("alice", "GET", "/v1/scans/"+id+"?format="+form, "", nil, nil); code != 200 || !strings.Contains(text, part) {
			t.Errorf("%s: %d, %s", form, code, text)
		}
	}
	if code, _ := w.call("alice", "GET", "/v1/scans/"+id+"?format=pdf", "", nil, nil); code != 400 {
		t.Errorf("an unknown format: %d", code)
	}
}

func TestRefused(t *testing.T) {
	w := start(t, func(o *Options) { o.WebhookHosts = []string{"ci.example"} })
	tests := []struct {
		name, who, method, path, body string
		header                        http.Header
		code                          int
		want                          string
	}{
		{"a caller whom no policy lets", "mallory", "POST", "/v1/scans", `{"image":"app:1"}`, nil, 403, "denied"},
		{"a list of theirs", "mallory", "GET", "/v1/scans", "", nil, 403, "denied"},
		{"nobody", "nobody", "POST", "/v1/scans", `{"image":"app:1"}`, nil, 401, "belay token create"},
		{"a wrong token", "nobody", "POST", "/v1/scans", `{"image":"app:1"}`, http.Header{"Authorization": {"Bearer bad"}}, 401, "no valid bearer token"},
		{"a wrong token of one who may", "alice", "POST", "/v1/scans", `{"image":"app:1"}`, http.Header{"Authorization": {"Bearer bad"}}, 401, "no valid"},
		{"two tokens", "nobody", "POST", "/v1/scans", `{"image":"app:1"}`, http.Header{"Authorization": {"Bearer good", "Bearer good"}}, 401, "no valid"},
		{"basic", "nobody", "POST", "/v1/scans", `{"image":"app:1"}`, http.Header{"Authorization": {"Basic good"}}, 401, "no valid"},
		{"a web page", "alice", "POST", "/v1/scans", `{"image":"app:1"}`, http.Header{"Origin": {"https://evil.example"}}, 403, "web pages"},
		{"no image", "alice", "POST", "/v1/scans", `{}`, nil, 400, "image"},
		{"an option for an image", "alice", "POST", "/v1/scans", `{"image":"--help"}`, nil, 400, "no name"},
		{"a file", "alice", "POST", "/v1/scans", `{"image":"/etc/shadow"}`, nil, 400, "no name"},
		{"a line break", "alice", "POST", "/v1/scans", `{"image":"a\nb"}`, nil, 400, "no name"},
		{"a registry that is not permitted", "alice", "POST", "/v1/scans", `{"image":"registry:nginx"}`, nil, 403, "--scan-registry docker.io"},
		{"one that hides in a path", "alice", "POST", "/v1/scans", `{"image":"registry:evil.example/reg.example/app"}`, nil, 403, "--scan-registry evil.example"},
		{"an ID in a registry", "alice", "POST", "/v1/scans", `{"image":"registry:` + digestA + `"}`, nil, 400, "HOST/NAME@DIGEST"},
		{"an expression that is none", "alice", "POST", "/v1/scans", `{"image":"app:1","failOn":"cvss > 7"}`, nil, 400, "undeclared"},
		{"a platform", "alice", "POST", "/v1/scans", `{"image":"app:1","platform":"--x"}`, nil, 400, "os/arch"},
		{"an unknown field", "alice", "POST", "/v1/scans", `{"image":"app:1","failon2":"high"}`, nil, 400, "unknown field"},
		{"two documents", "alice", "POST", "/v1/scans", `{"image":"app:1"}{}`, nil, 400, "more than one"},
		{"a large body", "alice", "POST", "/v1/scans", `{"image":"` + strings.Repeat("x", maxLarge) + `"}`, nil, 413, "too large"},
		{"a webhook elsewhere", "alice", "POST", "/v1/scans", `{"image":"app:1","webhook":{"url":"https://evil.example/","secret":"0123456789abcdef"}}`, nil, 403, "--scan-webhook-host"},
		{"one that looks alike", "alice", "POST", "/v1/scans", `{"image":"app:1","webhook":{"url":"https://ci.example@evil.example/","secret":"0123456789abcdef"}}`, nil, 400, "password"},
		{"one without a secret", "alice", "POST", "/v1/scans", `{"image":"app:1","webhook":{"url":"https://ci.example/"}}`, nil, 400, "secret"},
		{"one that is a file", "alice", "POST", "/v1/scans", `{"image":"app:1","webhook":{"url":"file:///etc/shadow","secret":"0123456789abcdef"}}`, nil, 400, "https"},
		{"an unknown parameter", "alice", "GET", "/v1/scans?owner=bob", "", nil, 400, "unknown parameter"},
		{"an unknown path", "alice", "GET", "/v1/scans/../status", "", nil, 404, "no such path"},
		{"a method", "alice", "DELETE", "/v1/scans", "", nil, 404, "no such path"},
		{"no such scan", "alice", "GET", "/v1/scans/" + strings.Repeat("0", 32), "", nil, 404, "no such scan"},
		{"a body where none is", "alice", "GET", "/v1/scans", "x", nil, 400, "no body"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if code, text := w.call(tt.who, tt.method, tt.path, tt.body, tt.header, nil); code != tt.code || !strings.Contains(text, tt.want) {
				t.Errorf("%d, %s; want %d, %q", code, text, tt.code, tt.want)
			}
		})
	}
	if len(w.images.asked) > 0 {
		t.Errorf("images were read: %q", w.images.asked)
	}
}

// TestOwn: a caller sees its own scans, and those of others are not there.
func TestOwn(t *testing.T) {
	w := start(t, nil)
	id := w.create("alice", `{"image":"app:1"}`).ID
	w.wait("alice", id)
	for _, path := range []string{"/v1/scans/" + id, "/v1/scans/" + id + "?format=sarif", "/v1/scans/" + id + "/events"} {
		if code, text := w.call("bob", "GET", path, "", nil, nil); code != 404 || strings.Contains(text, "CVE") {
			t.Errorf("bob, %s: %d, %s", path, code, text)
		}
	}
	for who, want := range map[string]int{"alice": 1, "bob": 0, "root": 1} {
		var l List
		if code, text := w.call(who, "GET", "/v1/scans?image=app:1", "", nil, &l); code != 200 || len(l.Scans) != want {
			t.Errorf("%s: %d, %s", who, code, text)
		}
	}
	// A token is a caller of its own, whoever shows it.
	header := http.Header{"Authorization": {"bearer good"}}
	var s Scan
	if code, text := w.call("nobody", "POST", "/v1/scans", `{"image":"app:1"}`, header, &s); code != 202 || s.Owner != "token:pipeline" {
		t.Errorf("%d, %s", code, text)
	}
	if code, _ := w.call("alice", "GET", "/v1/scans/"+s.ID, "", header, nil); code != 200 {
		t.Errorf("alice with the token: %d", code)
	}
	if code, _ := w.call("alice", "GET", "/v1/scans/"+s.ID, "", nil, nil); code != 404 {
		t.Errorf("alice without: %d", code)
	}
}

// TestBounds: what one caller asks for is bounded, and keeps no other out.
func TestBounds(t *testing.T) {
	w := start(t, func(o *Options) { o.MaxPending, o.MaxQueue, o.MaxPerOwner = 3, 4, 2 })
	w.images.gate = make(chan struct{})
	var ids []string
	for range 3 {
		ids = append(ids, w.create("alice", `{"image":"app:1"}`).ID)
	}
	if code, text := w.call("alice", "POST", "/v1/scans", `{"image":"app:1"}`, nil, nil); code != 429 {
		t.Errorf("a fourth: %d, %s", code, text)
	}
	bobs := w.create("bob", `{"image":"app:1"}`).ID
	// The first of alice runs, and bob's goes before her others.
	w.images.gate <- struct{}{}
	w.images.gate <- struct{}{}
	if r := w.wait("bob", bobs); r.State != StateDone {
		t.Errorf("bob's: %s", r.State)
	}
	close(w.images.gate)
	w.wait("alice", ids[2])
	if code, _ := w.call("alice", "GET", "/v1/scans/"+ids[0], "", nil, nil); code != 404 {
		t.Errorf("the oldest of three results is kept: %d", code)
	}
	if n := w.health.Counter("scan_api_full").Load(); n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestRate(t *testing.T) {
	w := start(t, func(o *Options) { o.Burst, o.Rate = 5, 0.001 })
	codes := map[int]int{}
	for range 8 {
		code, _ := w.call("alice", "GET", "/v1/scans", "", nil, nil)
		codes[code]++
	}
	if codes[200] != 5 || codes[429] != 3 {
		t.Errorf("%v", codes)
	}
	if code, _ := w.call("bob", "GET", "/v1/scans", "", nil, nil); code != 200 {
		t.Errorf("bob: %d", code)
	}
	// Tokens cannot be guessed at will.
	clear(codes)
	for range 15 {
		code, _ := w.call("nobody", "GET", "/v1/scans", "", http.Header{"Authorization": {"Bearer bad"}}, nil)
		codes[code]++
	}
	if codes[401] != 10 || codes[429] != 5 {
		t.Errorf("guesses: %v", codes)
	}
}

func TestEvents(t *testing.T) {
	w := start(t, nil)
	w.images.gate = make(chan struct{})
	id := w.create("alice", `{"image":"app:1","failOn":"high"}`).ID
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.addrs["alice"]+"/v1/scans/"+id+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("header %v", res.Header)
	}
	var last Scan
	lines := bufio.NewScanner(res.Body)
	let := sync.OnceFunc(func() { close(w.images.gate) })
	n := 0
	for lines.Scan() {
		if data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: ")); ok {
			n++
			last = Scan{}
			if err := json.Unmarshal(data, &last); err != nil {
				t.Fatal(err)
			}
			let()
		}
	}
	if n < 2 || last.State != StateDone || last.Verdict != VerdictFail {
		t.Errorf("%d events, the last %+v", n, last)
	}
	w.follow("alice", last.Links)
}

// TestTimeout: a scan that takes too long has failed, and the next is made.
func TestTimeout(t *testing.T) {
	w := start(t, func(o *Options) { o.ScanTimeout = 50 * time.Millisecond })
	w.images.gate = make(chan struct{})
	if r := w.wait("alice", w.create("alice", `{"image":"app:1"}`).ID); r.State != StateFailed || !strings.Contains(r.Error, "more than 50ms") || r.Verdict != "" {
		t.Errorf("%+v", r.Scan)
	}
	close(w.images.gate)
	if r := w.wait("alice", w.create("alice", `{"image":"app:1"}`).ID); r.State != StateDone {
		t.Errorf("%+v", r.Scan)
	}
}

// TestPermits: "*" is not for what listens on this host or answers on its link.
func TestPermits(t *testing.T) {
	for list, hosts := range map[string]map[string]bool{
		"*":           {"reg.example": true, "reg.example:5000": true, "localhost": false, "localhost:5000": false, "127.0.0.1:2375": false, "[::1]:80": false, "169.254.169.254": false},
		"localhost:5": {"localhost:5": true, "localhost": false, "localhost:6": false},
		"reg.example": {"REG.example": true, "reg.example:443": false, "evil.example": false, "reg.example.evil": false},
	} {
		s := &Service{o: Options{Registries: []string{list}}}
		for host, want := range hosts {
			if got := s.permits(host); got != want {
				t.Errorf("%s, with %s: %v", host, list, got)
			}
		}
	}
}

func TestParseImage(t *testing.T) {
	for text, want := range map[string]reference{
		"app:1":                                  {"app:1", "", false},
		"team/app":                               {"team/app", "", false},
		digestA:                                  {digestA, "", false},
		"REG.example/team/app:1":                 {"reg.example/team/app:1", "reg.example", false},
		"localhost/app":                          {"localhost/app", "localhost", false},
		"registry:nginx":                         {"nginx", dockerHub, true},
		"registry:index.docker.io/library/nginx": {"index.docker.io/library/nginx", dockerHub, true},
		"reg.example:5000/a@" + digestA:          {"reg.example:5000/a@" + digestA, "reg.example:5000", false},
	} {
		if got, err := parseImage(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "registry:", "-x", "../x", "a b", "a.b@c/d", "a.b:99999999/d", "$(x)", "a\x00"} {
		if got, err := parseImage(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
