package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clearEnv takes the machine's own settings away.
func clearEnv(t *testing.T) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name   string
		o      Options
		env    map[string]string
		want   map[signal]string
		prom   string
		refuse string // in the error
	}{
		{name: "off by default"},
		{name: "an endpoint", o: Options{Endpoint: "https://c:4318"}, want: map[signal]string{logs: protocolHTTP, traces: protocolHTTP, metrics: protocolHTTP}},
		{name: "grpc", o: Options{Endpoint: "https://c:4317", Protocol: "grpc"}, want: map[signal]string{logs: protocolGRPC, traces: protocolGRPC, metrics: protocolGRPC}},
		{
			name: "by environment", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf"},
			want: map[signal]string{logs: protocolHTTP, traces: protocolGRPC, metrics: protocolGRPC},
		},
		{name: "one signal", env: map[string]string{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c"}, want: map[signal]string{logs: protocolHTTP}},
		{name: "none of one", o: Options{Endpoint: "http://c"}, env: map[string]string{"OTEL_TRACES_EXPORTER": "none"}, want: map[signal]string{logs: protocolHTTP, metrics: protocolHTTP}},
		{name: "disabled", o: Options{Endpoint: "http://c", Prometheus: ":1"}, env: map[string]string{"OTEL_SDK_DISABLED": "true"}},
		{name: "prometheus", o: Options{Prometheus: ":9464"}, prom: "127.0.0.1:9464"},
		{name: "prometheus by environment", env: map[string]string{"OTEL_METRICS_EXPORTER": "prometheus"}, prom: "127.0.0.1:9464"},
		{name: "unknown exporter", env: map[string]string{"OTEL_LOGS_EXPORTER": "console"}, refuse: "OTEL_LOGS_EXPORTER=console"},
		{name: "unknown protocol", o: Options{Endpoint: "http://c", Protocol: "http/json"}, refuse: "http/json"},
		{name: "no URL", o: Options{Endpoint: "c:4317"}, refuse: "want a URL"},
		{name: "a password", o: Options{Endpoint: "https://u:hunter2@c"}, refuse: "OTEL_EXPORTER_OTLP_HEADERS"},
		{name: "no port", o: Options{Prometheus: "9464"}, refuse: "HOST:PORT"},
		{name: "no such CA", o: Options{Endpoint: "https://c", CAFile: "/nowhere"}, refuse: "/nowhere"},
		{name: "no such CA by environment", o: Options{Endpoint: "https://c"}, env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": "/nowhere"}, refuse: "/nowhere"},
		{name: "no certificate by environment", o: Options{Endpoint: "https://c"}, env: map[string]string{"OTEL_EXPORTER_OTLP_CLIENT_KEY": "/nowhere"}, refuse: "needs its key"},
		{name: "no key", o: Options{Endpoint: "https://c", CertFile: "x"}, refuse: "needs its key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clearEnv(t)
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			p, err := tt.o.plan()
			if tt.refuse != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refuse) {
					t.Fatalf("got %v, want %q in it", err, tt.refuse)
				}
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the error tells a password: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(p.otlp) != len(tt.want) || p.prometheus != tt.prom || p.off() != (len(tt.want) == 0 && tt.prom == "") {
				t.Errorf("got %v %q, want %v %q", p.otlp, p.prometheus, tt.want, tt.prom)
			}
			for s, proto := range tt.want {
				if p.otlp[s] != proto {
					t.Errorf("%s: got %q, want %q", s, p.otlp[s], proto)
				}
			}
		})
	}
}

func TestEmptyCA(t *testing.T) {
	clearEnv(t)
	f := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(f, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Options{Endpoint: "https://c", CAFile: f}).plan(); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("got %v", err)
	}
}

// TestExportTime: a time limit of 0 is none, one that is no number is said and is the default, and neither keeps the
// exports of any signal from starting, over either protocol.
func TestExportTime(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  time.Duration
		said  bool
	}{
		{"", 10 * time.Second, false},
		{"0", 0, false},
		{"250", 250 * time.Millisecond, false},
		{"10s", 10 * time.Second, true},
		{"-1", 10 * time.Second, true},
	} {
		for _, protocol := range []string{protocolHTTP, protocolGRPC} {
			t.Run(protocol+" "+tt.value, func(t *testing.T) {
				clearEnv(t)
				t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", tt.value)
				var log bytes.Buffer
				o := &Options{Endpoint: "http://127.0.0.1:1", Protocol: protocol, Log: slog.New(slog.NewTextHandler(&log, nil))}
				p, err := o.plan()
				if err != nil {
					t.Fatal(err)
				}
				_, errL := o.logExporter(t.Context(), p)
				_, errT := o.spanExporter(t.Context(), p)
				_, errM := o.metricExporter(t.Context(), p)
				if err := errors.Join(errL, errT, errM); err != nil {
					t.Error(err)
				}
				for _, s := range []signal{logs, traces, metrics} {
					if said := strings.Contains(log.String(), "signal="+strings.ToLower(string(s))); said != tt.said {
						t.Errorf("%s: said %v, want %v: %s", s, said, tt.said, log.String())
					}
					if got := o.exportTime(s); got != tt.want {
						t.Errorf("%s: %v, want %v", s, got, tt.want)
					}
				}
			})
		}
	}
}
