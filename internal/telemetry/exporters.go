package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
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
	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
)

// The exporters read the OTEL_EXPORTER_OTLP_* variables themselves; what the options say
// goes before them. They do not try again by themselves: the pumps do, and count.

func (o *Options) logExporter(ctx context.Context, p *plan) (sdklog.Exporter, error) {
	if p.otlp[logs] == protocolGRPC {
		opts := []otlploggrpc.Option{otlploggrpc.WithRetry(otlploggrpc.RetryConfig{}), otlploggrpc.WithTimeout(o.exportTime(logs))}
		if o.Endpoint != "" {
			opts = append(opts, otlploggrpc.WithEndpointURL(o.Endpoint))
		}
		if p.tls[logs] != nil {
			opts = append(opts, otlploggrpc.WithTLSCredentials(credentials.NewTLS(p.tls[logs])))
		}
		return otlploggrpc.New(ctx, append(opts, otlploggrpc.WithDialOption(grpc.WithChainUnaryInterceptor(readAnswer, putEncoded)))...)
	}
	opts := []otlploghttp.Option{otlploghttp.WithRetry(otlploghttp.RetryConfig{}), otlploghttp.WithHTTPClient(o.httpClient(p, logs))}
	if o.Endpoint != "" {
		opts = append(opts, otlploghttp.WithEndpointURL(o.path("v1/logs")))
	}
	if p.tls[logs] != nil {
		opts = append(opts, otlploghttp.WithTLSClientConfig(p.tls[logs]))
	}
	return otlploghttp.New(ctx, opts...)
}

func (o *Options) spanExporter(ctx context.Context, p *plan) (sdktrace.SpanExporter, error) {
	if p.otlp[traces] == protocolGRPC {
		opts := []otlptracegrpc.Option{otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{}), otlptracegrpc.WithTimeout(o.exportTime(traces))}
		if o.Endpoint != "" {
			opts = append(opts, otlptracegrpc.WithEndpointURL(o.Endpoint))
		}
		if p.tls[traces] != nil {
			opts = append(opts, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(p.tls[traces])))
		}
		return otlptracegrpc.New(ctx, append(opts, otlptracegrpc.WithDialOption(grpc.WithChainUnaryInterceptor(readAnswer)))...)
	}
	opts := []otlptracehttp.Option{otlptracehttp.WithRetry(otlptracehttp.RetryConfig{}), otlptracehttp.WithHTTPClient(o.httpClient(p, traces))}
	if o.Endpoint != "" {
		opts = append(opts, otlptracehttp.WithEndpointURL(o.path("v1/traces")))
	}
	if p.tls[traces] != nil {
		opts = append(opts, otlptracehttp.WithTLSClientConfig(p.tls[traces]))
	}
	return otlptracehttp.New(ctx, opts...)
}

// metricExporter leaves retries to the exporter: sums are cumulative, so that the next
// export says what a lost one did not.
func (o *Options) metricExporter(ctx context.Context, p *plan) (sdkmetric.Exporter, error) {
	if p.otlp[metrics] == protocolGRPC {
		opts := []otlpmetricgrpc.Option{otlpmetricgrpc.WithTimeout(o.exportTime(metrics))}
		if o.Endpoint != "" {
			opts = append(opts, otlpmetricgrpc.WithEndpointURL(o.Endpoint))
		}
		if p.tls[metrics] != nil {
			opts = append(opts, otlpmetricgrpc.WithTLSCredentials(credentials.NewTLS(p.tls[metrics])))
		}
		return otlpmetricgrpc.New(ctx, opts...)
	}
	opts := []otlpmetrichttp.Option{otlpmetrichttp.WithTimeout(o.exportTime(metrics))}
	if o.Endpoint != "" {
		opts = append(opts, otlpmetrichttp.WithEndpointURL(o.path("v1/metrics")))
	}
	if p.tls[metrics] != nil {
		opts = append(opts, otlpmetrichttp.WithTLSClientConfig(p.tls[metrics]))
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

// httpClient is the way of a signal to its collector over HTTP. It has what an exporter leaves to a client that it is
// given: TLS and the time limit.
func (o *Options) httpClient(p *plan, s signal) *http.Client {
	way := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // net/http says that it is
	way.TLSClientConfig, way.MaxResponseHeaderBytes = p.tls[s], maxAnswer
	return &http.Client{Timeout: o.exportTime(s), Transport: &collectorHTTP{way, func() proto.Message {
		if s == traces {
			return new(coltracepb.ExportTraceServiceResponse)
		}
		return new(collogpb.ExportLogsServiceResponse)
	}}}
}

// describe wraps an error of an export for the operator.
func describe(s signal, err error) error {
	return fmt.Errorf("export %s: %w", strings.ToLower(string(s)), err)
}
