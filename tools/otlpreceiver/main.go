// Command otlpreceiver is the OTLP receiver of the OpenTelemetry Collector, with a mind that
// tests can change: it takes what comes, is slow, or refuses. It writes what it took to a
// file, an item a line, and counts. It ends with its standard input.
//
// It is a module of its own, so that Belay does not depend on the Collector.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

func main() {
	grpc := flag.String("grpc", "127.0.0.1:0", "address of OTLP over gRPC")
	web := flag.String("http", "127.0.0.1:0", "address of OTLP over HTTP")
	control := flag.String("control", "127.0.0.1:0", "address of the control: GET /counts, POST /mode/{take,slow,refuse,reject}")
	out := flag.String("out", "", "file that items are written to")
	cert := flag.String("cert", "", "certificate; empty: no TLS")
	key := flag.String("key", "", "key of the certificate")
	flag.Parse()
	if err := run(*grpc, *web, *control, *out, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, "otlpreceiver:", err)
		os.Exit(1)
	}
}

func run(grpc, web, control, out, cert, key string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	ended, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // who started this is gone when its end of the pipe is
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	s := &sink{counts: map[string]int{}, names: map[string]int{}}
	if out != "" {
		f, err := os.OpenFile(out, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		s.enc = json.NewEncoder(f)
	}
	var err error
	if grpc, err = settle(grpc); err != nil {
		return err
	}
	if web, err = settle(web); err != nil {
		return err
	}
	end, err := s.receive(ctx, grpc, web, cert, key)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", control)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ended, func() { srv.Close() })
	// Who started this reads where it listens.
	fmt.Printf("grpc=%s http=%s control=%s\n", grpc, web, l.Addr())
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return end()
}

// settle picks a free port where the address has none: the receiver does not tell its own.
func settle(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// receive starts the Collector's receiver for all signals.
func (s *sink) receive(ctx context.Context, grpc, web, cert, key string) (end func() error, err error) {
	f := otlpreceiver.NewFactory()
	cfg := f.CreateDefaultConfig().(*otlpreceiver.Config)
	g, h := cfg.Protocols.GRPC.GetOrInsertDefault(), cfg.Protocols.HTTP.GetOrInsertDefault()
	g.NetAddr.Endpoint, h.ServerConfig.NetAddr.Endpoint = grpc, web
	if cert != "" {
		tls := g.TLS.GetOrInsertDefault()
		tls.CertFile, tls.KeyFile = cert, key
		g.TLS, h.ServerConfig.TLS = configoptional.Some(*tls), configoptional.Some(*tls)
	}
	set := receivertest.NewNopSettings(f.Type())
	logs, err := consumer.NewLogs(s.logs)
	if err != nil {
		return nil, err
	}
	traces, err := consumer.NewTraces(s.traces)
	if err != nil {
		return nil, err
	}
	metrics, err := consumer.NewMetrics(s.metrics)
	if err != nil {
		return nil, err
	}
	l, err := f.CreateLogs(ctx, set, cfg, logs)
	if err != nil {
		return nil, err
	}
	t, err := f.CreateTraces(ctx, set, cfg, traces)
	if err != nil {
		return nil, err
	}
	m, err := f.CreateMetrics(ctx, set, cfg, metrics)
	if err != nil {
		return nil, err
	}
	host := componenttest.NewNopHost()
	if err := errors.Join(l.Start(ctx, host), t.Start(ctx, host), m.Start(ctx, host)); err != nil {
		return nil, err
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return errors.Join(l.Shutdown(ctx), t.Shutdown(ctx), m.Shutdown(ctx))
	}, nil
}

// sink is what the receiver gives to.
type sink struct {
	mode atomic.Pointer[string]

	mu     sync.Mutex // guards what follows
	counts map[string]int
	names  map[string]int // of metrics, spans and events
	enc    *json.Encoder  // nil: nothing is written
}

// slowness is how long a slow receiver takes for an export.
const slowness = 2 * time.Second

func (s *sink) mood(ctx context.Context) error {
	m := s.mode.Load()
	if m == nil {
		return nil
	}
	switch *m {
	case "slow":
		select {
		case <-time.After(slowness):
		case <-ctx.Done():
			return ctx.Err()
		}
	case "refuse":
		return errors.New("the test refuses for now")
	case "reject":
		return consumererror.NewPermanent(errors.New("the test rejects for good"))
	}
	return nil
}

func (s *sink) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /counts", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{"counts": s.counts, "names": s.names})
	})
	mux.HandleFunc("POST /mode/{mode}", func(_ http.ResponseWriter, r *http.Request) {
		m := r.PathValue("mode")
		s.mode.Store(&m)
	})
	return mux
}

// take writes one item down; s.mu is held.
func (s *sink) take(kind, name string, item map[string]any) {
	s.counts[kind]++
	s.names[kind+" "+name]++
	if s.enc != nil {
		item["signal"], item["name"] = kind, name
		_ = s.enc.Encode(item)
	}
}

func (s *sink) logs(ctx context.Context, in plog.Logs) error {
	if err := s.mood(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rl := range in.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				s.take("log", r.EventName(), map[string]any{
					"resource": rl.Resource().Attributes().AsRaw(), "attributes": r.Attributes().AsRaw(), "body": r.Body().AsString(),
					"severity": r.SeverityText(), "trace": r.TraceID().String(), "span": r.SpanID().String(), "time": r.Timestamp().AsTime(),
				})
			}
		}
	}
	return nil
}

func (s *sink) traces(ctx context.Context, in ptrace.Traces) error {
	if err := s.mood(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range in.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				var events []string
				for _, e := range sp.Events().All() {
					events = append(events, e.Name())
				}
				s.take("span", sp.Name(), map[string]any{
					"resource": rs.Resource().Attributes().AsRaw(), "attributes": sp.Attributes().AsRaw(), "events": events,
					"links": sp.Links().Len(), "trace": sp.TraceID().String(), "span": sp.SpanID().String(), "parent": sp.ParentSpanID().String(),
					"start": sp.StartTimestamp().AsTime(), "end": sp.EndTimestamp().AsTime(), "error": sp.Status().Message(),
				})
			}
		}
	}
	return nil
}

func (s *sink) metrics(ctx context.Context, in pmetric.Metrics) error {
	if err := s.mood(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rm := range in.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				s.metric(m)
			}
		}
	}
	return nil
}

func (s *sink) metric(m pmetric.Metric) {
	number := func(points pmetric.NumberDataPointSlice) {
		for _, p := range points.All() {
			s.point(m, p.Attributes(), map[string]any{"value": p.DoubleValue()})
		}
	}
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		number(m.Gauge().DataPoints())
	case pmetric.MetricTypeSum:
		number(m.Sum().DataPoints())
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			var traces []string
			for _, e := range p.Exemplars().All() {
				traces = append(traces, e.TraceID().String())
			}
			s.point(m, p.Attributes(), map[string]any{"count": p.Count(), "exemplars": traces})
		}
	}
}

func (s *sink) point(m pmetric.Metric, at pcommon.Map, item map[string]any) {
	item["attributes"], item["unit"] = at.AsRaw(), m.Unit()
	s.take("metric", m.Name(), item)
}
