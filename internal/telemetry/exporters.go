package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/belay-project/belay/internal/pump"
)

// The exporters read the OTEL_EXPORTER_OTLP_* variables themselves; what the options say
// goes before them. They do not try again by themselves: the pumps do, and count.

func (o *Options) logExporter(ctx context.Context, p *plan) (sdklog.Exporter, error) {
	if p.otlp[logs] == protocolGRPC {
		opts := []otlploggrpc.Option{otlploggrpc.WithRetry(otlploggrpc.RetryConfig{})}
		if o.Endpoint != "" {
			opts = append(opts, otlploggrpc.WithEndpointURL(o.Endpoint))
		}
		if p.tls != nil {
			opts = append(opts, otlploggrpc.WithTLSCredentials(credentials.NewTLS(p.tls)))
		}
		return newGRPCLogs(ctx, opts...)
	}
	opts := []otlploghttp.Option{otlploghttp.WithRetry(otlploghttp.RetryConfig{})}
	if o.Endpoint != "" {
		opts = append(opts, otlploghttp.WithEndpointURL(o.path("v1/logs")))
	}
	if p.tls != nil {
		opts = append(opts, otlploghttp.WithTLSClientConfig(p.tls))
	}
	return otlploghttp.New(ctx, opts...)
}

func (o *Options) spanExporter(ctx context.Context, p *plan) (sdktrace.SpanExporter, error) {
	if p.otlp[traces] == protocolGRPC {
		opts := []otlptracegrpc.Option{otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{})}
		if o.Endpoint != "" {
			opts = append(opts, otlptracegrpc.WithEndpointURL(o.Endpoint))
		}
		if p.tls != nil {
			opts = append(opts, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(p.tls)))
		}
		return otlptracegrpc.New(ctx, opts...)
	}
	opts := []otlptracehttp.Option{otlptracehttp.WithRetry(otlptracehttp.RetryConfig{})}
	if o.Endpoint != "" {
		opts = append(opts, otlptracehttp.WithEndpointURL(o.path("v1/traces")))
	}
	if p.tls != nil {
		opts = append(opts, otlptracehttp.WithTLSClientConfig(p.tls))
	}
	return otlptracehttp.New(ctx, opts...)
}

// metricExporter leaves retries to the exporter: sums are cumulative, so that the next
// export says what a lost one did not.
func (o *Options) metricExporter(ctx context.Context, p *plan) (sdkmetric.Exporter, error) {
	if p.otlp[metrics] == protocolGRPC {
		var opts []otlpmetricgrpc.Option
		if o.Endpoint != "" {
			opts = append(opts, otlpmetricgrpc.WithEndpointURL(o.Endpoint))
		}
		if p.tls != nil {
			opts = append(opts, otlpmetricgrpc.WithTLSCredentials(credentials.NewTLS(p.tls)))
		}
		return otlpmetricgrpc.New(ctx, opts...)
	}
	var opts []otlpmetrichttp.Option
	if o.Endpoint != "" {
		opts = append(opts, otlpmetrichttp.WithEndpointURL(o.path("v1/metrics")))
	}
	if p.tls != nil {
		opts = append(opts, otlpmetrichttp.WithTLSClientConfig(p.tls))
	}
	return otlpmetrichttp.New(ctx, opts...)
}

// path returns the endpoint with a signal's path, as the specification has it of
// OTEL_EXPORTER_OTLP_ENDPOINT.
func (o *Options) path(p string) string {
	s, err := url.JoinPath(o.Endpoint, p)
	if err != nil {
		return o.Endpoint
	}
	return s
}

// isPartial tells whether the collector took an export but for some, which must not be sent
// again (OTLP 1.x, "Partial Success"). The exporters' own type for it is internal to each;
// its text is all that they share.
func isPartial(err error) bool { return strings.Contains(err.Error(), "partial success") }

var rejectedCount = regexp.MustCompile(`\((\d{1,9}) [a-z ]+ rejected\)`)

// rejected is how many items of an export the collector did not take, by the end of what the exporters say
// of a partial success; the collector's own text is before it.
func rejected(err error) int {
	all := rejectedCount.FindAllStringSubmatch(err.Error(), -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1][1]) // digits alone
	return n
}

// isFinal tells whether an export must not be tried again: OTLP 1.x, "Failures", lists the
// gRPC codes that may be. Over HTTP the exporters do not say the status; such an export is
// tried until it is given up.
func isFinal(err error) bool {
	if errors.Is(err, pump.ErrRefused) {
		return true
	}
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch st.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return false
	}
	return true
}

// describe wraps an error of an export for the operator.
func describe(s signal, err error) error {
	return fmt.Errorf("export %s: %w", strings.ToLower(string(s)), err)
}
