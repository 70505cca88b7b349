package telemetry

import (
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestReport: an operation and its stages come to the collector that the environment names, below the caller's span, and
// a collector that is away is told of in time.
func TestReport(t *testing.T) {
	clearEnv(t)
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	var got []*coltracepb.ExportTraceServiceRequest
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		req := new(coltracepb.ExportTraceServiceRequest)
		if err = errors.Join(err, proto.Unmarshal(raw, req)); err != nil {
			t.Error(err)
		}
		got = append(got, req)
	}))
	defer collector.Close()
	d := Begin("scan", map[string]string{"belay.scan.target": "app.tar"})
	d.Ended("read")
	d.TraceParent = "00-" + trace + "-" + parent + "-00"
	op := d.Done(errors.New("torn"))
	o := Options{Service: "belay", Log: slog.New(slog.DiscardHandler), StopTime: 300 * time.Millisecond}
	if err := Report(t.Context(), o, op); err != nil || len(got) > 0 {
		t.Fatalf("with no collector: %v, %d came", err, len(got))
	}

	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.URL+"/v1/traces")
	long := o
	long.StopTime = 20 * time.Second
	if err := Report(t.Context(), long, op); err != nil || len(got) != 1 {
		t.Fatalf("%v, %d came", err, len(got))
	}
	rs := got[0].ResourceSpans[0]
	spans := rs.ScopeSpans[0].Spans // in the order in which they ended
	if len(spans) != 2 || spans[0].Name != "scan read" || spans[1].Name != "scan" {
		t.Fatalf("got %v", spans)
	}
	if s := spans[1]; hex.EncodeToString(s.TraceId) != trace || hex.EncodeToString(s.ParentSpanId) != parent || s.Status.GetMessage() != "torn" ||
		s.Attributes[0].Value.GetStringValue() != "app.tar" {
		t.Errorf("the scan: %v", s)
	}
	if s := spans[0]; string(s.ParentSpanId) != string(spans[1].SpanId) || s.StartTimeUnixNano != uint64(op.Start.UnixNano()) {
		t.Errorf("its stage: %v", s)
	}
	named := false
	for _, kv := range rs.Resource.Attributes {
		named = named || kv.Key == "service.name" && kv.Value.GetStringValue() == "belay"
	}
	if !named {
		t.Errorf("sent by %v", rs.Resource.Attributes)
	}

	collector.Close()
	began := time.Now()
	if err := Report(t.Context(), o, op); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("a collector that is away: %v after %v", err, time.Since(began))
	}
}
