package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
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
	addr   string
	l      atomic.Pointer[net.Listener] // nil: it does not listen now
	reader *otelprom.Exporter
	srv    *http.Server
	log    *slog.Logger
}

// openProm makes the endpoint; it does not listen yet. enforcing answers /healthz, which an orchestrator
// asks: one bit, so that it may be asked by whoever may read the metrics.
func openProm(addr string, enforcing func() bool, log *slog.Logger) (*promServer, error) {
	reg := prometheus.NewRegistry()
	reader, err := otelprom.New(otelprom.WithRegisterer(reg))
	if err != nil {
		return nil, fmt.Errorf("metrics for Prometheus: %w", err)
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
	return &promServer{addr: addr, reader: reader, log: log, srv: &http.Server{
		Handler: mux, ReadHeaderTimeout: scrapeTime, ReadTimeout: scrapeTime, WriteTimeout: 2 * scrapeTime, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: scrapeHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// listen opens the socket. An address that this host does not have yet, or a port that another program
// has, is no reason not to enforce: it is tried again by serve.
func (s *promServer) listen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second) // of the name's lookup
	defer cancel()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("endpoint for Prometheus: %w", err)
	}
	limited := netutil.LimitListener(l, maxScrapes)
	s.l.Store(&limited)
	s.log.Info("metrics are offered to Prometheus", attr.Addr, l.Addr().String())
	return nil
}

// serve answers until ctx ends. It tells how it goes, and tries again after each failure.
func (s *promServer) serve(ctx context.Context, again time.Duration, told func(error)) {
	stop := context.AfterFunc(ctx, func() { s.srv.Close() })
	defer stop()
	for ctx.Err() == nil {
		var err error
		if s.l.Load() == nil {
			err = s.listen(ctx)
		}
		if l := s.l.Load(); l != nil {
			told(nil)
			err = s.srv.Serve(*l)
			_ = s.close() // Serve has closed it, but for a server that was closed before
		}
		if ctx.Err() != nil {
			return
		}
		told(err)
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

func (s *promServer) close() error {
	if s == nil {
		return nil
	}
	if l := s.l.Swap(nil); l != nil {
		return (*l).Close()
	}
	return nil
}
