package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/pump"
)

// Stage is a part of an [Operation].
type Stage struct {
	Name       string
	Start, End time.Time
	Attributes map[string]string
	Err        error
}

// Operation is something that was done: a scan, a move, a reload of the policies.
type Operation struct {
	Name        string
	Start, End  time.Time
	Attributes  map[string]string
	Stages      []Stage
	Err         error
	TraceParent string // of the caller's span, which it is below; W3C Trace Context
}

// Doing is an operation under way, of one goroutine. Nobody is told of a nil one.
type Doing struct {
	Operation
	at time.Time // the end of the last stage
}

// Begin begins an operation now.
func Begin(name string, attributes map[string]string) *Doing {
	now := time.Now()
	return &Doing{Operation: Operation{Name: name, Start: now, Attributes: attributes}, at: now}
}

// Ended closes a stage; the next one begins.
func (d *Doing) Ended(stage string) {
	if d == nil {
		return
	}
	now := time.Now()
	d.Stages = append(d.Stages, Stage{Name: stage, Start: d.at, End: now})
	d.at = now
}

// Done ends the operation now.
func (d *Doing) Done(err error) Operation {
	d.End, d.Err = time.Now(), err
	return d.Operation
}

// Report sends an operation as spans to the collector that the options and the OTEL_* variables
// name, for a program that ends after it. Where they name none it does nothing. It takes
// Options.StopTime at most. Options.Health may be nil.
//
// Errors: settings that have no meaning; a certificate that cannot be read; not all was sent.
func Report(ctx context.Context, o Options, op Operation) error {
	if o.Health == nil {
		o.Health = health.New(nil)
	}
	if err := o.setDefaults(); err != nil {
		return err
	}
	p, err := o.plan()
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	if p.otlp[traces] == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.StopTime)
	defer cancel()
	exporter, err := o.spanExporter(ctx, p)
	if err != nil {
		return describe(traces, err)
	}
	defer func() { _ = exporter.Shutdown(ctx) }() // nothing waits in it
	res, err := o.resource(ctx)
	if err != nil {
		return describe(traces, err)
	}
	trouble := errors.New("there was no time for it")
	spans := pump.New(o.pump(o.Batch), exporter.ExportSpans, func(err error) {
		if err != nil {
			trouble = err
		}
	})
	provider := sdktrace.NewTracerProvider(append(tracerOptions(), sdktrace.WithResource(res), sdktrace.WithSpanProcessor(spanSink{spans}))...)
	t := tracer{Tracer: provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))}
	t.operation(&op)
	fed, end := context.WithCancel(ctx)
	end()
	spans.Run(fed, ctx)
	if spans.Sent() < spans.Offered() {
		return describe(traces, trouble)
	}
	return nil
}
