package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
)

// TestAnchorsEachMinute: in each minute in which the journal grew the heads of its chain go to the collector and to
// syslog, though nobody asked for it, and are those of the journal that is there.
func TestAnchorsEachMinute(t *testing.T) {
	var mu sync.Mutex
	var bodies []string // of logs that the collector took
	collector := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		var req collogpb.ExportLogsServiceRequest
		if err = errors.Join(err, proto.Unmarshal(raw, &req)); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rl := range req.ResourceLogs {
			for _, sl := range rl.ScopeLogs {
				for _, l := range sl.LogRecords {
					bodies = append(bodies, l.Body.GetStringValue())
				}
			}
		}
	}))
	// A connection that stays open has somebody who reads from it, and the clock below waits for that one.
	collector.Config.SetKeepAlivesEnabled(false)
	collector.Start()
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", collector.URL)
	logger, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "log"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer logger.Close()

	log := slog.New(slog.DiscardHandler)
	a := &Agent{log: log, health: health.New(nil), cfg: Config{
		StateDir: t.TempDir(), RunDir: t.TempDir(), Outputs: []string{"syslog:" + logger.LocalAddr().String()}, Log: log,
	}}
	a.host.BootID, a.host.Hostname = "boot", "web1"
	var began time.Time
	synctest.Test(t, func(t *testing.T) {
		if err := errors.Join(a.openTelemetry(), a.openOutputs(), a.openJournal(), a.checkAnchor()); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		stopLogs, stopOutputs := a.runTelemetry(t.Context()), a.runOutputs(t.Context())
		a.note("agent started")
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { a.keepAnchored(ctx) })
		time.Sleep(30 * time.Second)
		a.note("in the first minute")
		time.Sleep(3 * time.Minute) // nothing comes in the second and third
		a.note("in the fourth")
		time.Sleep(time.Minute)
		cancel()
		wg.Wait()
		stopLogs()
		stopOutputs()
		if err := a.journal.Close(); err != nil {
			t.Error(err)
		}
	})

	var lines []string
	for range 6 {
		if err := logger.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16<<10)
		n, err := logger.Read(buf)
		if err != nil {
			t.Fatalf("%v, after %q", err, lines)
		}
		lines = append(lines, string(buf[:n]))
	}
	for place, got := range map[string][]string{"OTLP": bodies, "syslog": lines} {
		f, err := journal.ReadAnchors(strings.NewReader(strings.Join(got, "\n")), a.host.Hostname)
		if err != nil {
			t.Fatal(err)
		}
		var at []time.Duration
		for _, r := range f.Anchors {
			at = append(at, r.Time.Sub(began))
		}
		if want := []time.Duration{0, time.Minute, 4 * time.Minute}; !slices.Equal(at, want) || f.Lines != 6 {
			t.Errorf("%s: anchors at %v in %d lines, want %v in 6", place, at, f.Lines, want)
		}
		rep, err := journal.VerifyAnchors(a.records, f.Anchors)
		if err != nil || !rep.OK() || rep.Rings[0].Found != 3 {
			t.Errorf("%s: the heads are not the journal's: %+v, %v", place, rep, err)
		}
	}
}
