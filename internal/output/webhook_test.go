package output

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/hooksig"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

const secret = "0123456789abcdef-the-secret"

func secretFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// hook is a receiver of webhooks that can be killed and started again.
type hook struct {
	t      *testing.T
	addr   string
	got    *received
	answer func(n int) int // status of the n-th request; nil: 204

	mu  sync.Mutex // guards n
	n   int
	srv *http.Server
	wg  sync.WaitGroup
}

func (h *hook) start() {
	h.t.Helper()
	var l net.Listener
	var err error
	for range 500 {
		if l, err = net.Listen("tcp", h.addr); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.addr = l.Addr().String()
	h.srv = &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	h.wg.Go(func() { _ = h.srv.Serve(l) })
}

func (h *hook) kill() {
	h.srv.Close()
	h.wg.Wait()
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was killed
	}
	h.mu.Lock()
	h.n++
	n := h.n
	h.mu.Unlock()
	if h.answer != nil {
		if status := h.answer(n); status/100 != 2 {
			w.WriteHeader(status)
			return
		}
	}
	stamp := r.Header.Get(hooksig.HeaderTimestamp)
	sec, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || time.Since(time.Unix(sec, 0)).Abs() > time.Minute {
		h.t.Errorf("time stamp %q", stamp)
	}
	if got := r.Header.Get(hooksig.HeaderSignature); got != hooksig.Sign([]byte(secret), stamp, body) {
		h.t.Errorf("signature %q does not hold", got)
	}
	if r.Header.Get(hooksig.HeaderDelivery) == "" || r.URL.Path != "/T0K3N" {
		h.t.Errorf("delivery %q, path %s", r.Header.Get(hooksig.HeaderDelivery), r.URL.Path)
	}
	if len(body) > maxBody+64<<10 {
		h.t.Errorf("a body of %d bytes", len(body))
	}
	var b struct {
		Schema, Format string
		Events         []json.RawMessage
	}
	if err := json.Unmarshal(body, &b); err != nil || b.Schema != journal.WebhookSchema || b.Format != FormatBelay {
		h.t.Errorf("body %.200q: %v", body, err)
	}
	for _, e := range b.Events {
		if err := h.got.add(e); err != nil {
			h.t.Error(err)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// TestWebhookSurvivesItsReceiver: killed in the middle, away, refusing for now: in the end it has
// every record, each signed; nothing says its URL or its secret.
func TestWebhookSurvivesItsReceiver(t *testing.T) {
	h := &hook{t: t, addr: "127.0.0.1:0", got: newReceived(), answer: func(n int) int {
		return []int{204, 204, 503, 429, 404, 302}[min(n%7, 5)]
	}}
	h.start()
	w, end := begin(t, Options{Specs: []string{"webhook:http://" + h.addr + "/T0K3N,secret=" + secretFile(t)}, Version: "v1"})
	for range 3 {
		w.append(400)
		time.Sleep(20 * time.Millisecond)
		h.kill()
		w.append(300)
		waitFor(t, "the trouble to be told", func() bool { return w.out.Status()[0].Error != "" })
		h.start()
	}
	total := len(w.ids())
	waitFor(t, "all records", func() bool { return w.out.Status()[0].Sent == uint64(total) })
	end()
	h.kill()
	w.wantAll(h.got)
	said, err := json.Marshal([]any{w.out.Status(), w.health.Snapshot(), w.log.String()})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"T0K3N", secret, "hunter2"} {
		if strings.Contains(string(said), s) {
			t.Errorf("%s is in the status or the log: %s", s, said)
		}
	}
}

// TestWebhookRefuses: what a receiver refuses for good is counted, and the rest goes on.
func TestWebhookRefuses(t *testing.T) {
	h := &hook{t: t, addr: "127.0.0.1:0", got: newReceived(), answer: func(n int) int {
		if n <= 12 { // more than it takes to come to single records
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	}}
	h.start()
	w, end := begin(t, Options{Specs: []string{"webhook:http://" + h.addr + "/T0K3N,secret=" + secretFile(t)}})
	w.append(10)
	waitFor(t, "the refusal", func() bool { return w.out.Status()[0].Dropped["refused"] > 0 })
	w.append(10)
	waitFor(t, "the rest", func() bool { st := w.out.Status()[0]; return st.Sent+st.Dropped["refused"] == 20 })
	end()
	h.kill()
	if st := w.out.Status()[0]; st.Sent != uint64(h.got.distinct()) || st.Sent < 10 {
		t.Errorf("sent %d, received %d", st.Sent, h.got.distinct())
	}
}

// TestWebhookPoison: one record that a receiver cannot take takes no others along.
func TestWebhookPoison(t *testing.T) {
	var got atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || strings.Contains(string(b), "POISON") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		got.Add(int64(strings.Count(string(b), `"seq":`)))
	}))
	defer srv.Close()
	spec, err := Parse("webhook:" + srv.URL + ",secret=" + secretFile(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := newWebhook(spec, belay(t), "v1")
	if err != nil {
		t.Fatal(err)
	}
	batch := records(200)
	for _, i := range []int{0, 99, 100, 199} {
		batch[i].Message = "POISON"
	}
	refused := new(pump.Partly)
	if err := s.send(t.Context(), batch); !errors.As(err, &refused) || refused.Refused != 4 || got.Load() != 196 {
		t.Errorf("%v; %d of 196 received", err, got.Load())
	}
}

// TestWebhookParts: a batch of long records goes in requests that receivers take, each record once.
func TestWebhookParts(t *testing.T) {
	h := &hook{t: t, addr: "127.0.0.1:0", got: newReceived(), answer: func(n int) int {
		if n == 3 {
			return http.StatusBadGateway
		}
		return http.StatusOK
	}}
	h.start()
	spec, err := Parse("webhook:http://" + h.addr + "/T0K3N,secret=" + secretFile(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := newWebhook(spec, belay(t), "v1")
	if err != nil {
		t.Fatal(err)
	}
	batch := records(200)
	for _, r := range batch {
		r.Message = strings.Repeat("x", 14<<10)
	}
	left := new(pump.Partly)
	if err := s.send(t.Context(), batch); !errors.As(err, &left) || left.Left == 0 {
		t.Fatalf("the third request failed, and the batch is told as sent: %v", err)
	}
	if err := s.send(t.Context(), batch[len(batch)-left.Left:]); err != nil {
		t.Fatal(err)
	}
	h.kill()
	for id, n := range h.got.ids {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
	if h.got.distinct() != 200 {
		t.Errorf("%d of 200", h.got.distinct())
	}
}

// TestExposedWebhook: that events leave this machine without TLS is in the log, wherever the URL is from.
func TestExposedWebhook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "url")
	for url, want := range map[string]bool{"http://192.0.2.1/T0K3N": true, "https://192.0.2.1/T0K3N": false, "http://127.0.0.1/T0K3N": false} {
		if err := os.WriteFile(path, []byte(url+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, target := range []string{url, "@" + path} {
			var log syncBuffer
			_, err := Open(Options{Specs: []string{"webhook:" + target + ",secret=" + secretFile(t)}, Health: health.New(nil), Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			if said := log.String(); strings.Contains(said, "without TLS") != want || strings.Contains(said, "T0K3N") {
				t.Errorf("%s of %s: %s", target, url, said)
			}
		}
	}
}

// TestSecretFiles: a secret that others may read, or that is short, keeps the agent from starting.
func TestSecretFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for _, tt := range []struct {
		content string
		mode    os.FileMode
		want    string
	}{
		{secret, 0o644, "chmod 0600"},
		{secret, 0o660, "chmod 0600"},
		{"short\n", 0o600, "16 to 256"},
		{strings.Repeat("x", 300), 0o600, "more than 256"},
		{secret, 0o640, ""},
	} {
		os.Remove(path)
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		spec, err := Parse("webhook:https://h.example/x,secret=" + path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = newWebhook(spec, belay(t), "v1")
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%q %o: got %v, want %q", tt.content, tt.mode, err, tt.want)
		}
	}
}

// TestPartsAreCounted: of a batch that was given up half-way counts as sent what the receiver has.
func TestPartsAreCounted(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "e.json")
	if err := os.MkdirAll(filepath.Join(path+".1", "taken"), 0o700); err != nil { // no next file can begin
		t.Fatal(err)
	}
	h := &hook{t: t, addr: "127.0.0.1:0", got: newReceived(), answer: func(n int) int {
		return []int{http.StatusOK, http.StatusServiceUnavailable}[min(n-1, 1)]
	}}
	h.start()
	defer h.kill()
	for _, tt := range []struct {
		name, spec string
		got        func(t *testing.T) int
	}{
		{"webhook", "webhook:http://" + h.addr + "/T0K3N,secret=" + secretFile(t), func(*testing.T) int { return h.got.distinct() }},
		{"file", "file:" + path + ",size=64KiB,keep=2", func(t *testing.T) int { return lines(t, path) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := OpenReplay(Options{Specs: []string{tt.spec}, Pump: pump.Options{GiveUp: 1}, Log: discard()})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			batch := records(200)
			for _, rec := range batch {
				rec.Message = strings.Repeat("x", 14<<10)
			}
			r.Deliver(t.Context(), batch)
			if got := uint64(tt.got(t)); got == 0 || r.Sent() != got || r.Drops()[pump.CauseGivenUp] != 200-got { //nolint:gosec // not negative
				t.Errorf("%d received: sent %d, dropped %v", got, r.Sent(), r.Drops())
			}
		})
	}
}
