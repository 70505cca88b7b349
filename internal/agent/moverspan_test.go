package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/load/carry"
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
	a := &Agent{cfg: Config{Mover: "/bin/true", StateDir: t.TempDir()}, telemetry: tel, log: slog.New(slog.DiscardHandler)}
	if err := a.runMover(t.Context(), "0", []string{"move"}); err != nil {
		t.Fatal(err)
	}
	a.cfg.Mover = "/bin/false"
	if err := a.runMover(t.Context(), "0", []string{"move"}); err == nil {
		t.Fatal("it failed, and no error")
	}
	a.cfg.Mover = "none" // which is no run
	if err := a.runMover(t.Context(), "0", []string{"move"}); err == nil {
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

// TestMoversStepsAreSpans: the trace of a move has the steps that its mover's journal tells of, and the move's ID.
func TestMoversStepsAreSpans(t *testing.T) {
	sent := make(chan string, 16)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			t.Error(err)
		}
		sent <- string(body)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.URL)
	tel, err := telemetry.Open(t.Context(), telemetry.Options{
		Health: health.New(nil), Log: slog.New(slog.DiscardHandler), Observe: func() telemetry.Observed { return telemetry.Observed{} }, Linger: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); tel.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	a := &Agent{cfg: Config{StateDir: t.TempDir()}, telemetry: tel, log: slog.New(slog.DiscardHandler)}
	if err := os.MkdirAll(a.cfg.movesDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	a.cfg.Mover = filepath.Join(t.TempDir(), "belay")
	script := fmt.Sprintf(`#!/bin/sh
now=$(date -u +%%FT%%T.%%NZ)
cat >%s/0123456789abcdef.json <<END
{"schema": "belay.dev/move/v1", "id": "0123456789abcdef", "phase": "taken back", "history": [
 {"at": "2020-01-01T00:00:00Z", "step": "create", "text": "begun"},
 {"at": "$now", "step": "lease", "text": "begun"}, {"at": "$now", "step": "image", "text": "begun"},
 {"at": "$now", "step": "image", "text": "goes back: no such image"}, {"at": "$now", "step": "image", "text": "taken back"}]}
END
exit 3
`, a.cfg.movesDir())
	if err := os.WriteFile(a.cfg.Mover, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	err = a.runMover(t.Context(), "0123456789abcdef", []string{"move"})
	if ended, ok := errors.AsType[*carry.MoverError](err); !ok || ended.Status != 3 {
		t.Fatalf("it ended with exit status 3, and the error is %v", err)
	}
	var all string
	for _, want := range []string{"move lease", "move image", "no such image", "move back", "belay.move.id", "0123456789abcdef"} {
		for !strings.Contains(all, want) {
			select {
			case body := <-sent:
				all += body
			case <-time.After(20 * time.Second):
				t.Fatalf("no %q in the spans: %q", want, all)
			}
		}
	}
	if strings.Contains(all, "move create") {
		t.Error("a step of an earlier run is in the trace of this one")
	}
}

// TestLeaveMayTakeBack: when the agent ends, a leave is asked to end, and a move is killed.
func TestLeaveMayTakeBack(t *testing.T) {
	tel, err := telemetry.Open(t.Context(), telemetry.Options{
		Health: health.New(nil), Log: slog.New(slog.DiscardHandler), Observe: func() telemetry.Observed { return telemetry.Observed{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: Config{StateDir: t.TempDir()}, telemetry: tel, log: slog.New(slog.DiscardHandler)}
	dir := t.TempDir()
	a.cfg.Mover = filepath.Join(dir, "belay")
	script := fmt.Sprintf("#!/bin/sh\ntrap 'echo >%[1]s/back-$1; exit 1' TERM\necho >%[1]s/begun-$1\nwhile :; do sleep 0.05; done\n", dir)
	if err := os.WriteFile(a.cfg.Mover, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	there := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	for what, want := range map[string]bool{"load": true, "move": false} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.runMover(ctx, "0123456789abcdef", []string{what}) }()
		for !there("begun-"+what) && len(ended) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || there("back-"+what) != want {
			t.Errorf("%s: %v, took back: %v", what, err, there("back-"+what))
		}
	}
}
