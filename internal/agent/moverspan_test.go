package agent

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/telemetry"
)

// TestMoverIsTold: each run of the mover is an operation, by its outcome.
func TestMoverIsTold(t *testing.T) {
	tel, err := telemetry.Open(t.Context(), telemetry.Options{
		Prometheus: "127.0.0.1:0", Health: health.New(nil), Log: slog.New(slog.DiscardHandler), Observe: func() telemetry.Observed { return telemetry.Observed{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	addr := tel.PrometheusAddr().String()
	go func() { defer close(ended); tel.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	a := &Agent{cfg: Config{Mover: "/bin/true"}, telemetry: tel}
	if err := a.runMover(t.Context(), []string{"move"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	a.cfg.Mover = "/bin/false"
	if err := a.runMover(t.Context(), []string{"move"}, time.Minute); err == nil {
		t.Fatal("it failed, and no error")
	}
	a.cfg.Mover = "none" // which is no run
	if err := a.runMover(t.Context(), []string{"move"}, time.Minute); err == nil {
		t.Fatal("there is no mover, and it ran")
	}
	r, err := http.Get("http://" + addr + "/metrics") //nolint:noctx // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`belay_operation="move",belay_outcome="ok"`, `belay_operation="move",belay_outcome="failed"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no operation %s in\n%s", want, raw)
		}
	}
	if !regexp.MustCompile(`_count\{[^}]*belay_outcome="failed"[^}]*\} 1\n`).Match(raw) {
		t.Errorf("a mover that is not there is told in\n%s", raw)
	}
}
