package load

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
)

var sampleAlert = Alert{
	Event: EventOver, Policy: "node", Cap: "memory", Time: t0.Add(time.Minute), Since: t0, Percent: 91.4, Limit: 85,
	Causes: []Cause{{Subject: Subject{ID: fakeID(1), Name: "web\nBcc: x@example.org", Image: "web:1"}, Now: 4 << 30, Grew: 3 << 30, Unit: "bytes", Since: t0}},
}

func notified(t *testing.T, o NotifyOptions, p *policy.LoadPolicy, done func(*health.Registry) bool) *health.Registry {
	t.Helper()
	o.Host, o.Health, o.Log = "web-1", health.New(nil), slog.New(slog.DiscardHandler)
	n := NewNotifier(o)
	n.retries = []time.Duration{time.Millisecond, time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	a := sampleAlert
	n.Offer(&a, p)
	for range 500 {
		if done(o.Health) {
			break
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // it waits for another goroutine
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return o.Health
}

func counted(name string) func(*health.Registry) bool {
	return func(h *health.Registry) bool { return h.Counter(name).Load() > 0 }
}

func TestWebhook(t *testing.T) {
	tries := 0
	var got Message
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	p := parsePolicies(t, `{caps: {memory: 85%}, actions: [alert], alerts: {webhook: "`+srv.URL+`/x"}}`)[0]
	h := notified(t, NotifyOptions{Client: srv.Client()}, p, counted("load_alerts_delivered"))
	if tries != 2 || got.Schema != MessageSchema || got.Host != "web-1" || got.Percent != 91.4 || len(got.Causes) != 1 || got.Causes[0].Grew != 3<<30 {
		t.Errorf("after %d tries: got %+v", tries, got)
	}
	if c, _ := h.Component(alertsComponent); c.State != health.OK {
		t.Errorf("health: %+v", c)
	}
}

// TestWebhookFails: what is not delivered is counted and in health; a certificate that nobody
// knows, a redirect and a refusal are failures.
func TestWebhookFails(t *testing.T) {
	other := 0
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { other++ }))
	defer elsewhere.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"redirected": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"certificate": nil,
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewTLSServer(answer)
			srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			defer srv.Close()
			o := NotifyOptions{}
			if answer != nil {
				o.Client = srv.Client()
				o.Client.CheckRedirect = NewNotifier(o).o.Client.CheckRedirect
			}
			if name == "redirected" {
				own := NewNotifier(NotifyOptions{}).o.Client
				o.Client.CheckRedirect = own.CheckRedirect
			}
			p := parsePolicies(t, `{caps: {memory: 85%}, actions: [alert], alerts: {webhook: "`+srv.URL+`"}}`)[0]
			h := notified(t, o, p, counted("load_alerts_failed"))
			if c, _ := h.Component(alertsComponent); c.State != health.Degraded || h.Counter("load_alerts_failed").Load() != 1 {
				t.Errorf("health: %+v", c)
			}
		})
	}
	if other != 0 {
		t.Error("a redirect was followed")
	}
}

func TestEmail(t *testing.T) {
	var args []string
	var message string
	run := func(_ context.Context, path string, a []string, in []byte, _ time.Duration) error {
		args, message = append([]string{path}, a...), string(in)
		return nil
	}
	p := parsePolicies(t, `{caps: {memory: 85%}, actions: [alert], alerts: {email: {command: /usr/sbin/sendmail, to: [a@example.org, b@example.org]}}}`)[0]
	notified(t, NotifyOptions{Run: run}, p, counted("load_alerts_delivered"))
	if got := strings.Join(args, " "); got != "/usr/sbin/sendmail a@example.org b@example.org" {
		t.Errorf("got %s", got)
	}
	head, body, _ := strings.Cut(message, "\n\n")
	if !strings.HasPrefix(head, "To: a@example.org, b@example.org\nSubject: [belay] web-1: memory over\n") || strings.Contains(message, "\nBcc:") ||
		!strings.Contains(body, "memory is over its cap: 91% of 85%") || !strings.Contains(body, "grew by 3.0 GiB to 4.0 GiB since 12:00:00Z") {
		t.Errorf("got %s", message)
	}
	h := notified(t, NotifyOptions{Run: func(context.Context, string, []string, []byte, time.Duration) error {
		return errors.New("no such program")
	}}, p, counted("load_alerts_failed"))
	if c, _ := h.Component(alertsComponent); !strings.Contains(c.Reason, "no such program") {
		t.Errorf("health: %+v", c)
	}
}
