package telemetry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/pump"
)

// Options says where telemetry goes. Empty fields leave it to the OTEL_* variables of the
// OpenTelemetry specification, which are read too; with neither, [Open] opens nothing.
type Options struct {
	// Endpoint is the collector's URL, such as https://collector:4317; http is without TLS.
	Endpoint string
	// Protocol is grpc or http/protobuf; "": OTEL_EXPORTER_OTLP_PROTOCOL, or http/protobuf.
	Protocol string
	// CAFile signs the collector's certificate, instead of the host's own authorities;
	// CertFile and KeyFile are shown to it.
	CAFile, CertFile, KeyFile string
	// Prometheus is the address of the endpoint that Prometheus scrapes; without a host it
	// is 127.0.0.1. "": none.
	Prometheus string

	Service               string           // of the resource; belay-agent
	Version, Host, BootID string           // of the resource
	Observe               func() Observed  // state at a moment, asked at each collection
	Enforcing             func() bool      // answers /healthz, which anybody may ask often; nil: never
	Health                *health.Registry // required
	Log                   *slog.Logger     // required

	Queue      int           // records that wait at most; 4096
	Batch      int           // of one export of logs, at most; 1024. Of spans an eighth
	Linger     time.Duration // longest wait for a batch to fill; 1 s
	RetryFirst time.Duration // first wait after a failed export, doubled up to RetryMost; 500 ms
	RetryMost  time.Duration // 15 s
	GiveUp     time.Duration // how long one batch is tried; 2 min
	StopTime   time.Duration // how long what waits may take to be sent at the end; 5 s
}

// Names of exporters and protocols in the OTEL_* variables.
const (
	protocolGRPC = "grpc"
	protocolHTTP = "http/protobuf"

	exporterOTLP       = "otlp"
	exporterPrometheus = "prometheus"
	exporterNone       = "none"
)

// signal is one kind of telemetry, by its name in the OTEL_* variables.
type signal string

const (
	traces  signal = "TRACES"
	metrics signal = "METRICS"
	logs    signal = "LOGS"
	// scrapes is no signal of its own: the metrics, as Prometheus fetches them.
	scrapes signal = "PROMETHEUS"
)

// plan is what the options and the environment come to.
type plan struct {
	otlp       map[signal]string // protocol of each signal that is exported
	prometheus string            // address; "": none
	tls        map[signal]*tls.Config
}

func (p *plan) off() bool { return len(p.otlp) == 0 && p.prometheus == "" }

// pump bounds a pump of batches of that size.
func (o *Options) pump(batch int) pump.Options {
	return pump.Options{
		Queue: o.Queue, Batch: batch, Linger: o.Linger, RetryFirst: o.RetryFirst, RetryMost: o.RetryMost, GiveUp: o.GiveUp, Final: isFinal, Partial: asPartial,
	}
}

// setDefaults fills in the bounds.
func (o *Options) setDefaults() error {
	if o.Health == nil || o.Log == nil {
		return errors.New("telemetry: Options.Health and Options.Log are required")
	}
	if o.Queue <= 0 {
		o.Queue = 4096
	}
	if o.Batch <= 0 {
		o.Batch = 1024
	}
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{
		{&o.Linger, time.Second}, {&o.RetryFirst, 500 * time.Millisecond}, {&o.RetryMost, 15 * time.Second},
		{&o.GiveUp, 2 * time.Minute}, {&o.StopTime, 5 * time.Second},
	} {
		if *d.to <= 0 {
			*d.to = d.def
		}
	}
	return nil
}

// plan reads the environment; see docs/telemetry.md for the variables.
func (o *Options) plan() (*plan, error) {
	p := &plan{otlp: map[signal]string{}, tls: map[signal]*tls.Config{}}
	if strings.EqualFold(strings.TrimSpace(os.Getenv("OTEL_SDK_DISABLED")), "true") {
		return p, nil
	}
	if o.Endpoint != "" {
		if err := checkEndpoint(o.Endpoint); err != nil {
			return nil, err
		}
	}
	for _, s := range []signal{traces, metrics, logs} {
		names, err := o.exporters(s)
		if err != nil {
			return nil, err
		}
		if slices.Contains(names, exporterPrometheus) {
			host, port := env("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.1"), env("OTEL_EXPORTER_PROMETHEUS_PORT", "9464")
			p.prometheus = net.JoinHostPort(host, port)
		}
		if slices.Contains(names, exporterOTLP) {
			if p.otlp[s], err = o.protocol(s); err != nil {
				return nil, err
			}
			if p.tls[s], err = o.tls(s); err != nil {
				return nil, err
			}
		}
	}
	if o.Prometheus != "" {
		p.prometheus = o.Prometheus
	}
	if p.prometheus != "" {
		host, port, err := net.SplitHostPort(p.prometheus)
		if err != nil {
			return nil, fmt.Errorf("address of the Prometheus endpoint %q: want HOST:PORT, such as 127.0.0.1:9464: %w", p.prometheus, err)
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			return nil, fmt.Errorf("address of the Prometheus endpoint %q: %w", p.prometheus, err)
		}
		if host == "" {
			host = "127.0.0.1"
		}
		p.prometheus = net.JoinHostPort(host, port)
	}
	return p, nil
}

// exporters returns where a signal goes. It goes nowhere unless an endpoint or an
// exporter is named: an agent that was not told to send evidence away does not.
func (o *Options) exporters(s signal) ([]string, error) {
	name := "OTEL_" + string(s) + "_EXPORTER"
	list := os.Getenv(name)
	if list == "" {
		if o.Endpoint == "" && os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_"+string(s)+"_ENDPOINT") == "" {
			return nil, nil //nolint:nilnil // none is an answer
		}
		return []string{exporterOTLP}, nil
	}
	var out []string
	for n := range strings.SplitSeq(list, ",") {
		switch n = strings.TrimSpace(n); {
		case n == exporterNone, n == "":
		case n == exporterOTLP, n == exporterPrometheus && s == metrics:
			out = append(out, n)
		default:
			return nil, fmt.Errorf("%s=%s: want otlp or none (or, of metrics, prometheus)", name, list)
		}
	}
	return out, nil
}

func (o *Options) protocol(s signal) (string, error) {
	p := o.Protocol
	if p == "" {
		if p = s.env("PROTOCOL"); p == "" {
			p = protocolHTTP
		}
	}
	if p != protocolGRPC && p != protocolHTTP {
		return "", fmt.Errorf("protocol %q of OTLP: want %s or %s", p, protocolGRPC, protocolHTTP)
	}
	return p, nil
}

func env(name, def string) string {
	if v := strings.TrimSpace(os.Getenv(name)); v != "" {
		return v
	}
	return def
}

// env is what the environment says of exports of s.
func (s signal) env(name string) string {
	return env("OTEL_EXPORTER_OTLP_"+string(s)+"_"+name, env("OTEL_EXPORTER_OTLP_"+name, ""))
}

// exportTime is how long one export of s may take; 0: as long as it does. The exporters read the same variable, each
// library of theirs in its own way: what is said here goes before that.
func (o *Options) exportTime(s signal) time.Duration {
	const def = 10 * time.Second // the specification's
	v := s.env("TIMEOUT")
	if v == "" {
		return def
	}
	ms, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		o.Log.Warn("OTEL_EXPORTER_OTLP_TIMEOUT is no number of milliseconds: an export may take 10 s", attr.Signal, strings.ToLower(string(s)), attr.Error, err.Error())
		return def
	}
	return time.Duration(ms) * time.Millisecond
}

func checkEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("OTLP endpoint %q: want a URL such as https://collector:4317, or http:// for no TLS", redacted(s))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("OTLP endpoint %q: want no user, query or fragment; credentials go into OTEL_EXPORTER_OTLP_HEADERS", redacted(s))
	}
	return nil
}

// redacted is a URL without its password and its query, for errors and logs.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not a URL)"
	}
	u.RawQuery, u.Fragment = "", ""
	return u.Redacted()
}

// tls returns the TLS settings of the options, or of the environment; nil if there are none. The exporters read the
// environment's too, but go on without a file that they cannot read.
func (o *Options) tls(s signal) (*tls.Config, error) {
	ca, cert, key := o.CAFile, o.CertFile, o.KeyFile
	if ca+cert+key == "" {
		ca, cert, key = s.env("CERTIFICATE"), s.env("CLIENT_CERTIFICATE"), s.env("CLIENT_KEY")
	}
	if ca+cert+key == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("certificates that sign the collector's: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("a certificate for the collector needs its key, and a key its certificate")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("certificate for the collector: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// loopback tells whether a host, or the host of an address, is this machine by its name alone.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback() || host == "localhost"
}
