package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
)

func TestHealthz(t *testing.T) {
	enforcing := false
	s, err := openProm("127.0.0.1:0", func() bool { return enforcing }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr := (*s.l.Load()).Addr().String()
	go s.serve(t.Context(), time.Minute, func(error) {})
	for _, want := range []int{http.StatusServiceUnavailable, http.StatusOK} {
		r, err := http.Get("http://" + addr + "/healthz") //nolint:noctx // a test's own server
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("enforcing %v: status %d, want %d", enforcing, r.StatusCode, want)
		}
		enforcing = true
	}
}

// TestPortTaken: another program on the endpoint's port does not keep telemetry, and so the agent, from
// starting; health says so, and the endpoint is there once the port is free.
func TestPortTaken(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	reg := health.New(nil)
	tel, err := Open(t.Context(), Options{
		Prometheus: other.Addr().String(), RetryMost: 5 * time.Millisecond, Health: reg, Log: slog.New(slog.DiscardHandler),
		Observe: func() Observed { return Observed{} },
	})
	if err != nil {
		t.Fatalf("a port that is taken: %v", err)
	}
	defer tel.Close()
	state := func() health.State { return reg.Snapshot().Components[0].State }
	if got := state(); got != health.Degraded {
		t.Errorf("health is %v, want degraded", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); tel.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); tel.PrometheusAddr() == nil || state() != health.OK; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it listens at %v and health is %v", tel.PrometheusAddr(), state())
		}
	}
	r, err := http.Get("http://" + tel.PrometheusAddr().String() + "/metrics") //nolint:noctx // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("status %d", r.StatusCode)
	}
}

// TestOperationsHaveExemplars: from the time that scans take, a backend leads to the trace of one.
func TestOperationsHaveExemplars(t *testing.T) {
	tel, err := Open(t.Context(), Options{
		Endpoint: "http://127.0.0.1:1", Prometheus: "127.0.0.1:0", Health: health.New(nil), Log: slog.New(slog.DiscardHandler),
		Observe: func() Observed { return Observed{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Close()
	go tel.prom.serve(t.Context(), time.Minute, func(error) {})
	now := time.Now()
	tel.Did(Operation{Name: "scan", Start: now.Add(-time.Second), End: now})
	tel.Did(Operation{Name: "policy reload", Start: now.Add(-time.Second), End: now, Err: errors.New("no")})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tel.PrometheusAddr().String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"scan", "policy reload"} {
		var led bool
		for _, line := range regexp.MustCompile(`(?m)^belay_operation_duration_seconds_bucket\{.*$`).FindAllString(string(body), -1) {
			led = led || regexp.MustCompile(`belay_operation="`+op+`".* # \{.*trace_id="[0-9a-f]{32}"`).MatchString(line)
		}
		if !led {
			t.Errorf("nothing leads from the time of a %s to its trace:\n%s", op, body)
		}
	}
}
