package main

import (
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestCommandsAreTold: what is scanned and moved by hand is a span with its stages below the caller's, and a collector that
// is away changes no exit status.
func TestCommandsAreTold(t *testing.T) {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	var got []string // the spans of a command, with what failed, sorted
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		req := new(coltracepb.ExportTraceServiceRequest)
		if err = errors.Join(err, proto.Unmarshal(raw, req)); err != nil {
			t.Error(err)
		}
		for _, rs := range req.ResourceSpans {
			for _, s := range rs.ScopeSpans[0].Spans {
				if hex.EncodeToString(s.TraceId) != trace {
					t.Errorf("%s is of another trace than the caller's", s.Name)
				}
				got = append(got, strings.TrimSpace(s.Name+" "+s.Status.GetMessage()))
			}
		}
	}))
	defer collector.Close()
	f, r := newScanFixture(t), newTestRegistry(t)
	r.push(t, "app", "v1", f.root)
	dir := t.TempDir()
	none := "unix://" + filepath.Join(dir, "none.sock")
	scanned := []string{"--db", f.db, "--scanner", f.scanner, "--fail-on", "high"}
	scan := append([]string{"scan", f.root}, scanned...)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("TRACEPARENT", "00-"+trace+"-b7ad6b7169203331-01")
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   []string
	}{
		{"a scan", scan, exitFindings, []string{"scan", "scan match", "scan read", "scan resolve"}},
		{"nothing to scan", append([]string{"scan", filepath.Join(dir, "nowhere.tar")}, scanned...), exitFailed, []string{"scan"}},
		{"a registry", append([]string{"registry", "scan", r.host, "--platform", "linux/amd64", "--rate", "0"}, scanned...), exitFindings,
			[]string{"registry scan", "registry scan image"}},
		{"a move", []string{"move", "web", "--from", none, "--to", none, "--state-dir", dir}, exitFailed, []string{"move"}},
	} {
		got = nil
		code, _, msg := belay(t, tt.args...)
		slices.Sort(got)
		same := slices.EqualFunc(got, tt.want, func(g, w string) bool { return g == w || code == exitFailed && strings.HasPrefix(g, w+" ") })
		if code != tt.status || !same {
			t.Errorf("%s: status %d, want %d, spans %q, want %q\n%s", tt.name, code, tt.status, got, tt.want, msg)
		}
	}

	collector.Close()
	began := time.Now()
	code, out, msg := belay(t, scan...)
	if code != exitFindings || !strings.Contains(out, "CVE-2024-28085") || !strings.Contains(msg, "! the trace of this was not sent") {
		t.Errorf("with a collector that is away: status %d, want %d\n%s%s", code, exitFindings, out, msg)
	}
	t.Logf("with a collector that is away it took %v", time.Since(began))
}
