package telemetry

import (
	"cmp"
	"compress/gzip"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/pump"
)

// three is a batch of three records.
var three = []entry{{r: denial(1)}, {r: denial(2)}, {r: refusal(3)}}

// sendHTTP sends three logs, or three spans, to a collector over HTTP, once, and returns the error and the counts.
func sendHTTP(t *testing.T, s signal, endpoint string) (told error, sent uint64, drops map[string]uint64) {
	t.Helper()
	o := &Options{Endpoint: endpoint, Protocol: protocolHTTP, GiveUp: 1}
	p, err := o.plan()
	if err != nil {
		t.Fatal(err)
	}
	hear := func(err error) { told = err }
	if s == traces {
		e, err := o.spanExporter(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		all := pump.New(o.pump(3), e.ExportSpans, hear)
		all.Deliver(t.Context(), tracetest.SpanStubs{{Name: "a"}, {Name: "b"}, {Name: "c"}}.Snapshots())
		return told, all.Sent(), all.Drops()
	}
	e, err := o.logExporter(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	all := pump.New(o.pump(3), newLogSink(e).send, hear)
	all.Deliver(t.Context(), three)
	return told, all.Sent(), all.Drops()
}

// TestHTTPAnswers: what a collector answers over HTTP tells what became of an export, and not the words that it uses.
func TestHTTPAnswers(t *testing.T) {
	clearEnv(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("an export went to where the answer said") }))
	defer elsewhere.Close()
	const protobuf, quote = "application/x-protobuf", "OTLP partial success: empty message (2 logs rejected)"
	marshal := func(m proto.Message) string {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for s, partly := range map[signal]struct{ protobuf, json, warning string }{
		logs: {
			marshal(&collogpb.ExportLogsServiceResponse{PartialSuccess: &collogpb.ExportLogsPartialSuccess{RejectedLogRecords: 2}}), `{"partialSuccess":{"rejectedLogRecords":"2"}}`,
			marshal(&collogpb.ExportLogsServiceResponse{PartialSuccess: &collogpb.ExportLogsPartialSuccess{ErrorMessage: "old"}}),
		},
		traces: {
			marshal(&coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: 2}}), `{"partialSuccess":{"rejectedSpans":"2"}}`,
			marshal(&coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{ErrorMessage: "old"}}),
		},
	} {
		for _, tt := range []struct {
			name       string
			status     int
			kind, body string
			sent       uint64
			cause      string // of what was not sent
			told       string // in the error; "": there is none
		}{
			{name: "nothing", status: 200, sent: 3},
			{name: "another kind", status: 202, kind: "text/html", body: "thanks", sent: 3},
			{name: "partly", status: 200, kind: protobuf, body: partly.protobuf, sent: 1, cause: pump.CauseRefused, told: "rejected 2"},
			{name: "partly, as JSON", status: 200, kind: "application/json; charset=utf-8", body: partly.json, sent: 1, cause: pump.CauseRefused, told: "rejected 2"},
			{name: "a warning", status: 200, kind: protobuf, body: partly.warning, sent: 3, told: "old"},
			{name: "what cannot be read", status: 200, kind: protobuf, body: "\xff", sent: 3, told: "cannot be read"},
			{name: "what is too long", status: 200, kind: protobuf, body: "\x0a\xff\xff\x7f" + strings.Repeat("x", maxAnswer), sent: 3, told: "cannot be read"},
			{name: "bad", status: 400, kind: "text/plain", body: "no\x00 such\ntenant", cause: pump.CauseRefused, told: "400 Bad Request: no suchtenant"},
			{name: "who are you", status: 401, cause: pump.CauseRefused, told: "401"},
			{name: "elsewhere", status: 302, cause: pump.CauseRefused, told: "302"},
			{name: "elsewhere, as it is", status: 307, cause: pump.CauseRefused, told: "307"},
			{name: "too much", status: 413, body: quote, cause: pump.CauseRefused, told: "413"},
			{name: "too many", status: 429, cause: pump.CauseGivenUp, told: "429"},
			{name: "away", status: 503, body: quote, cause: pump.CauseGivenUp, told: "503"},
		} {
			t.Run(string(s)+" "+tt.name, func(t *testing.T) {
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", tt.kind)
					w.Header().Set("Location", elsewhere.URL)
					w.WriteHeader(tt.status)
					_, _ = io.WriteString(w, tt.body)
				}))
				defer srv.Close()
				told, sent, drops := sendHTTP(t, s, srv.URL)
				if sent != tt.sent || tt.cause != "" && drops[tt.cause] != 3-tt.sent {
					t.Errorf("sent %d, dropped %v; want %d sent and the rest %s", sent, drops, tt.sent, cmp.Or(tt.cause, "none"))
				}
				if (told != nil) != (tt.told != "") || told != nil && !strings.Contains(told.Error(), tt.told) {
					t.Errorf("told %v, want %q", told, tt.told)
				}
			})
		}
	}
}

// TestGRPCAnswers: a status that quotes a partial success is none.
func TestGRPCAnswers(t *testing.T) {
	quote := status.Error(codes.Unavailable, "OTLP partial success: empty message (2 spans rejected)")
	for _, tt := range []struct {
		name     string
		err      error
		reply    any
		rejected int
		partial  bool
		final    bool
	}{
		{name: "all", reply: new(collogpb.ExportLogsServiceResponse)},
		{name: "logs", reply: &collogpb.ExportLogsServiceResponse{PartialSuccess: &collogpb.ExportLogsPartialSuccess{RejectedLogRecords: 2}}, rejected: 2, partial: true},
		{name: "spans", reply: &coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: 2}}, rejected: 2, partial: true},
		{name: "less than none", reply: &coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: -2}}, partial: true},
		{name: "a quote", err: quote, reply: new(coltracepb.ExportTraceServiceResponse)},
		{name: "what is no answer", reply: new(collogpb.ExportLogsServiceRequest), final: true},
	} {
		err := readAnswer(t.Context(), "", nil, tt.reply, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return tt.err })
		rejected, partial := asPartial(err)
		if rejected != tt.rejected || partial != tt.partial || err != nil && !partial && isFinal(err) != tt.final {
			t.Errorf("%s: %v is partial %v, of %d", tt.name, err, partial, rejected)
		}
	}
}

// TestEncodedOverHTTP: a collector gets over HTTP what it gets over gRPC, with the headers, the compression and over the TLS
// that the environment names.
func TestEncodedOverHTTP(t *testing.T) {
	for _, compression := range []string{"", "gzip"} {
		t.Run(compression, func(t *testing.T) {
			clearEnv(t)
			var got collogpb.ExportLogsServiceRequest
			srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := r.Body, error(nil)
				if compression != "" {
					body, err = gzip.NewReader(body)
				}
				if err != nil {
					t.Error(err)
					return
				}
				raw, err := io.ReadAll(body)
				if err := errors.Join(err, proto.Unmarshal(raw, &got)); err != nil {
					t.Error(err)
				}
				if h := r.Header; h.Get("X-Key") != "k1" || h.Get("Content-Encoding") != compression || h.Get("Content-Type") != "application/x-protobuf" || r.URL.Path != "/in/v1/logs" {
					t.Errorf("%s: %v", r.URL, h)
				}
			}))
			defer srv.Close()
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL+"/in")
			t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere")
			t.Setenv("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", ca)
			t.Setenv("OTEL_TRACES_EXPORTER", exporterNone)
			t.Setenv("OTEL_METRICS_EXPORTER", exporterNone)
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k1")
			t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
			o := &Options{Host: "h", BootID: "boot", Version: "v"}
			p, err := o.plan()
			if err != nil {
				t.Fatal(err)
			}
			e, err := o.logExporter(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			res, err := o.resource(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := newLogSink(e, sdklog.WithResource(res)).send(t.Context(), three); err != nil {
				t.Fatal(err)
			}
			if want := onTheWire(t, three, (*logSink).viaExporter); !proto.Equal(withoutObserved(&got), want) {
				t.Errorf("got %v\nwant %v", &got, want)
			}
		})
	}
}

// TestHTTPTimeLimit: a collector that does not answer costs an export its time, and no more.
func TestHTTPTimeLimit(t *testing.T) {
	clearEnv(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, s := range []signal{logs, traces} {
		began := time.Now()
		_, sent, drops := sendHTTP(t, s, "http://"+l.Addr().String())
		if took := time.Since(began); took > 5*time.Second || sent != 0 || drops[pump.CauseGivenUp] != 3 {
			t.Errorf("%s: sent %d, dropped %v, in %v", s, sent, drops, took)
		}
	}
}
