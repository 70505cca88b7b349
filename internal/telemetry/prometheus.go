package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"golang.org/x/net/netutil"

	"github.com/belay-project/belay/internal/attr"
)

// Export implements [sdkmetric.Exporter].
func (e *toldExporter) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	err := e.Exporter.Export(ctx, rm)
	e.told(err)
	return nil // it is told; the SDK's handler would tell it again
}

const (
	maxScrapes   = 8 // connections at a time
	scrapeTime   = 10 * time.Second
	scrapeHeader = 16 << 10
)

// promServer is the endpoint that Prometheus scrapes. Whoever reaches it may read: it has
// no secrets, but it tells what runs here and which policies deny.
type promServer struct {
	l      net.Listener
	reader *otelprom.Exporter
	srv    *http.Server
}

// listenProm opens the endpoint. enforcing answers /healthz, which an orchestrator asks: one bit, so
// that it may be asked by whoever may read the metrics.
func listenProm(addr string, enforcing func() bool, log *slog.Logger) (*promServer, error) {
	reg := prometheus.NewRegistry()
	reader, err := otelprom.New(otelprom.WithRegisterer(reg))
	if err != nil {
		return nil, fmt.Errorf("metrics for Prometheus: %w", err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("endpoint for Prometheus: %w", err)
	}
	if !loopback(addr) {
		log.Warn("the Prometheus endpoint is open to other machines, without TLS and for everybody", attr.Addr, addr)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: 2, Timeout: scrapeTime, // OpenMetrics has the exemplars
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !enforcing() {
			http.Error(w, "not enforcing; see belay status", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "enforcing")
	})
	return &promServer{l: netutil.LimitListener(l, maxScrapes), reader: reader, srv: &http.Server{
		Handler: mux, ReadHeaderTimeout: scrapeTime, ReadTimeout: scrapeTime, WriteTimeout: 2 * scrapeTime, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: scrapeHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// serve answers until ctx ends.
func (s *promServer) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { s.srv.Close() })
	defer stop()
	_ = s.srv.Serve(s.l) // it ends when it is closed
}

func (s *promServer) close() error {
	if s == nil {
		return nil
	}
	return s.l.Close()
}
