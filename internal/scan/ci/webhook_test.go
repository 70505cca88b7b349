package ci

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const secret = "0123456789abcdef"

func awaitHook(t *testing.T, w *world, id string) string {
	t.Helper()
	for range 500 {
		if r := w.wait("alice", id); r.Webhook != hookPending {
			return r.Webhook
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the webhook is never done")
	return ""
}

// follow asks for what links of a scan lead to, in the forms that pipelines show.
func (w *world) follow(who string, links map[string]string) {
	w.t.Helper()
	for form, part := range map[string]string{"self": `"verdict"`, "junit": "<testsuite", "sarif": `"version": "2.1.0"`} {
		if code, text := w.call(who, "GET", links[form], "", nil, nil); code != 200 || !strings.Contains(text, part) {
			w.t.Errorf("the link %s, %q: %d, %s", form, links[form], code, text)
		}
	}
}

func hookBody(t *testing.T, to string) string {
	t.Helper()
	b, err := json.Marshal(Request{Image: "app:1", FailOn: "high", Webhook: &Webhook{URL: to, Secret: secret}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestWebhook: a result is delivered, signed, and tried again while its receiver fails.
func TestWebhook(t *testing.T) {
	var tries atomic.Int32
	got := make(chan Scan, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		b, _ := io.ReadAll(r.Body)
		if r.Header.Get(HeaderSignature) != Sign([]byte(secret), r.Header.Get(HeaderTimestamp), b) {
			t.Error("the signature is wrong")
		}
		if strings.Contains(string(b), secret) {
			t.Error("the secret is in the body")
		}
		var s Scan
		if err := json.Unmarshal(b, &s); err != nil || r.Header.Get(HeaderDelivery) != s.ID {
			t.Errorf("%v: %s", err, b)
		}
		got <- s
	}))
	defer srv.Close()
	w := start(t, func(o *Options) { o.WebhookHosts = []string{strings.TrimPrefix(srv.URL, "http://")} })
	id := w.create("alice", hookBody(t, srv.URL+"/hook")).ID
	s := <-got
	if s.ID != id || s.Verdict != VerdictFail || s.State != StateDone {
		t.Errorf("%+v", s)
	}
	w.follow("alice", s.Links)
	if state := awaitHook(t, w, id); state != hookSent {
		t.Errorf("the delivery is %s", state)
	}
	if code, text := w.call("alice", "GET", "/v1/scans/"+id, "", nil, nil); code != 200 || strings.Contains(text, secret) {
		t.Errorf("the secret is shown: %s", text)
	}
}

// TestWebhookRedirect: a receiver cannot send a result on, to another host or to this one.
func TestWebhookRedirect(t *testing.T) {
	var other atomic.Int32
	there := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { other.Add(1) }))
	defer there.Close()
	srv := httptest.NewServer(http.RedirectHandler(there.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	w := start(t, func(o *Options) { o.WebhookHosts = []string{"127.0.0.1"} })
	if state := awaitHook(t, w, w.create("alice", hookBody(t, srv.URL)).ID); state != hookFailed || other.Load() != 0 {
		t.Errorf("the delivery is %s, %d requests elsewhere", state, other.Load())
	}
}

// TestWebhookAddress: a name that leads to this host or to a metadata service is refused when it
// is connected to; an address that the operator has named is not.
func TestWebhookAddress(t *testing.T) {
	var hits atomic.Int32
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer srv.Close()
	w := start(t, func(o *Options) { o.WebhookHosts = []string{"*"} })
	if state := awaitHook(t, w, w.create("alice", hookBody(t, srv.URL)).ID); state != hookFailed || hits.Load() != 0 {
		t.Errorf("the delivery is %s, %d requests", state, hits.Load())
	}
	if code, _ := w.call("alice", "POST", "/v1/scans", hookBody(t, "http://ci.example/"), nil, nil); code != 403 {
		t.Errorf("plain HTTP to anybody: %d", code)
	}
	for host, bad := range map[string][]string{
		"ci.example":      {"127.0.0.1:443", "[::1]:443", "169.254.169.254:80", "[fe80::1]:80", "0.0.0.0:80", "[::ffff:127.0.0.1]:80", "[64:ff9b::a9fe:a9fe]:80", "100.100.100.200:80", "[fd00:ec2::254]:80", "[::]:80"},
		"169.254.169.254": {"127.0.0.1:80"},
		"localhost":       {"169.254.169.254:80"},
	} {
		for _, a := range bad {
			if err := (&hook{host: host, named: true}).reaches(a); err == nil {
				t.Errorf("%s leads to %s", host, a)
			}
		}
	}
	for host, good := range map[string]string{"ci.example": "10.1.2.3:443", "169.254.169.254": "169.254.169.254:80", "localhost": "127.0.0.1:80", "::1": "[::1]:80"} {
		if err := (&hook{host: host, named: true}).reaches(good); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if !special(netip.MustParseAddr("169.254.1.1")) || special(netip.MustParseAddr("192.0.2.1")) {
		t.Error("special")
	}
}
