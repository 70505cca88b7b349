package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

// scope names this instrumentation.
const scope = "github.com/belay-project/belay"

// component is telemetry's name in health.
const component = "telemetry"

// Telemetry sends. Make one with [Open] and run it with [Telemetry.Run]. A nil one is off:
// all methods may be called on it. Safe for concurrent use.
type Telemetry struct {
	o   Options
	log *slog.Logger

	in     chan *journal.Record
	missed atomic.Uint64 // records that found in full

	decisions decisions
	inst      instruments

	logs  *logSink // nil: logs are off
	logOf *pump.Pump[entry]

	tracer   tracer // its Tracer is nil: traces are off
	spans    *pump.Pump[sdktrace.ReadOnlySpan]
	spanTo   sdktrace.SpanExporter
	provider *sdktrace.TracerProvider

	meter *sdkmetric.MeterProvider // nil: metrics are off
	prom  *promServer              // nil: there is no endpoint

	// mu guards troubles, what health is told of them, and lastLog.
	mu       sync.Mutex
	troubles map[signal]string
	lastLog  time.Time
}

// Open makes what the options and the OTEL_* variables ask for, and listens for Prometheus; a listener
// that cannot be opened is told to health, and [Telemetry.Run] tries again. It returns nil if they ask for
// nothing. It connects to nobody.
//
// Errors: settings that have no meaning; a certificate that cannot be read.
func Open(ctx context.Context, o Options) (*Telemetry, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	p, err := o.plan()
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if p.off() {
		return nil, nil //nolint:nilnil // off is a value of its own
	}
	t := &Telemetry{
		o: o, log: o.Log, in: make(chan *journal.Record, o.Queue), decisions: decisions{m: map[decisionKey]*atomic.Uint64{}},
		troubles: map[signal]string{},
	}
	t.tracer.lives = map[ident.ContainerID]*life{}
	if err := t.open(ctx, p); err != nil {
		return nil, fmt.Errorf("telemetry: %w", errors.Join(err, t.prom.close()))
	}
	if len(t.troubles) == 0 {
		o.Health.SetOK(component)
	}
	return t, nil
}

func (t *Telemetry) open(ctx context.Context, p *plan) error {
	res, err := t.o.resource(ctx)
	if err != nil {
		return err
	}
	// The SDK tells its troubles through a handler of the whole process.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(t.say))
	if p.otlp[logs] != "" {
		e, err := t.o.logExporter(ctx, p)
		if err != nil {
			return describe(logs, err)
		}
		t.logs = newLogSink(e, sdklog.WithResource(res))
		t.logOf = pump.New(t.o.pump(t.o.Batch), t.logs.send, func(err error) { t.told(logs, err) })
	}
	if p.otlp[traces] != "" {
		if t.spanTo, err = t.o.spanExporter(ctx, p); err != nil {
			return describe(traces, err)
		}
		// The span of a life can be 10 KiB: an eighth of a batch stays below what collectors take.
		t.spans = pump.New(t.o.pump(max(1, t.o.Batch/8)), t.spanTo.ExportSpans, func(err error) { t.told(traces, err) })
		opts := append(tracerOptions(), sdktrace.WithResource(res), sdktrace.WithSpanProcessor(spanSink{t.spans}))
		t.provider = sdktrace.NewTracerProvider(opts...)
		t.tracer.Tracer = t.provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))
	}
	return t.openMetrics(ctx, p, res)
}

func (t *Telemetry) openMetrics(ctx context.Context, p *plan, res *resource.Resource) error {
	if p.otlp[metrics] == "" && p.prometheus == "" {
		return nil
	}
	opts := []sdkmetric.Option{sdkmetric.WithResource(res)}
	if p.otlp[metrics] != "" {
		e, err := t.o.metricExporter(ctx, p)
		if err != nil {
			return describe(metrics, err)
		}
		// Its interval and its timeout are OTEL_METRIC_EXPORT_INTERVAL and _TIMEOUT.
		opts = append(opts, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(&toldExporter{e, func(err error) { t.told(metrics, err) }})))
	}
	if p.prometheus != "" {
		var err error
		if t.prom, err = openProm(p.prometheus, func() bool { return t.o.Enforcing != nil && t.o.Enforcing() }, t.log); err != nil {
			return err
		}
		if err := t.prom.listen(ctx); err != nil {
			t.trouble(scrapes, err)
		}
		opts = append(opts, sdkmetric.WithReader(t.prom.reader))
	}
	t.meter = sdkmetric.NewMeterProvider(opts...)
	return t.register(t.meter.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL)))
}

// resource says who sends; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before it.
func (o *Options) resource(ctx context.Context) (*resource.Resource, error) {
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithSchemaURL(semconv.SchemaURL), resource.WithAttributes(clean([]attribute.KeyValue{
		semconv.ServiceName(cmp.Or(o.Service, "belay-agent")), semconv.ServiceVersion(o.Version), semconv.HostName(o.Host), semconv.OSTypeLinux,
		attribute.String("belay.boot.id", o.BootID),
	})...), resource.WithFromEnv())
}

// Take sees a record of the journal. It never waits, and does not change r. Denials and what
// else is urgent may use a quarter of each queue that others may not.
func (t *Telemetry) Take(r *journal.Record) {
	if t == nil {
		return
	}
	t.decisions.count(r)
	if !r.Urgent() && len(t.in) >= cap(t.in)-cap(t.in)/4 {
		t.missed.Add(1)
		return
	}
	select {
	case t.in <- r:
	default:
		t.missed.Add(1)
	}
}

// Did tells of something that the agent did.
func (t *Telemetry) Did(op Operation) {
	if t == nil {
		return
	}
	var sc trace.SpanContext
	if t.tracer.Tracer != nil {
		sc = t.tracer.operation(&op)
	}
	if t.inst.scan != nil {
		outcome := "ok"
		if op.Err != nil {
			outcome = "failed"
		}
		t.inst.scan.Record(trace.ContextWithSpanContext(context.Background(), sc), op.End.Sub(op.Start).Seconds(),
			metric.WithAttributes(attribute.String("belay.operation", op.Name), attribute.String("belay.outcome", outcome)))
	}
}

// Run sends until ctx ends, and then for at most Options.StopTime what waits. No goroutine
// of t is left when it returns, but one that the collector's machine keeps in a call.
func (t *Telemetry) Run(ctx context.Context) {
	if t == nil {
		return
	}
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(t.o.StopTime, cancel) })
	defer stop()
	consumed := make(chan struct{})
	// The pumps stop after what feeds them.
	feeding, fed := context.WithCancel(last)
	var wg sync.WaitGroup
	wg.Go(func() {
		t.consume(ctx)
		close(consumed)
		fed()
	})
	if t.logOf != nil {
		wg.Go(func() { t.logOf.Run(feeding, last) })
	}
	if t.spans != nil {
		wg.Go(func() { t.spans.Run(feeding, last) })
	}
	if t.prom != nil {
		wg.Go(func() { t.prom.serve(ctx, t.o.RetryMost, func(err error) { t.told(scrapes, err) }) })
	}
	<-ctx.Done()
	<-consumed
	if t.meter != nil {
		_ = t.meter.Shutdown(last) // told by the exporter
	}
	wg.Wait()
	if t.logs != nil {
		_ = t.logs.provider.Shutdown(last)
	}
	if t.spanTo != nil {
		_ = t.provider.Shutdown(last)
		_ = t.spanTo.Shutdown(last)
	}
}

// Close gives back what [Open] took. After Run it has nothing left to do.
func (t *Telemetry) Close() error {
	if t == nil {
		return nil
	}
	if t.meter != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel() // nothing more is sent
		_ = t.meter.Shutdown(ended)
	}
	if err := t.prom.close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("telemetry: %w", err)
	}
	return nil
}

// consume turns records into what is sent. It waits for records alone.
func (t *Telemetry) consume(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			for {
				select {
				case r := <-t.in:
					t.handle(r)
					continue
				default:
				}
				break
			}
			if t.tracer.Tracer != nil {
				t.tracer.finish(time.Now())
			}
			return
		case r := <-t.in:
			t.handle(r)
		}
	}
}

func (t *Telemetry) handle(r *journal.Record) {
	var sc trace.SpanContext
	if t.tracer.Tracer != nil {
		sc = t.tracer.take(r)
	}
	t.measure(r, sc)
	switch {
	case t.logOf == nil:
	case r.Urgent():
		t.logOf.Offer(entry{r, sc})
	default:
		t.logOf.OfferOrdinary(entry{r, sc})
	}
}

// counted is what is told of a pump.
type counted interface {
	Drops() map[string]uint64
	Sent() uint64
	Waiting() int
}

func (t *Telemetry) pumps() iter.Seq2[signal, counted] {
	return func(yield func(signal, counted) bool) {
		if t.logOf != nil && !yield(logs, t.logOf) {
			return
		}
		if t.spans != nil {
			yield(traces, t.spans)
		}
	}
}

// Counts is how many items of a signal were offered, sent and dropped.
type Counts struct {
	Offered, Sent uint64
	Dropped       map[string]uint64 // by cause
}

// Logs tells what became of the records that t took: Offered is Sent, Dropped and what waits.
func (t *Telemetry) Logs() Counts {
	if t == nil || t.logOf == nil {
		return Counts{}
	}
	c := Counts{Offered: t.logOf.Offered(), Sent: t.logOf.Sent(), Dropped: t.logOf.Drops()}
	c.Offered += t.missed.Load()
	c.Dropped[pump.CauseQueueFull] += t.missed.Load()
	return c
}

// SendsLogs tells whether records go to a collector.
func (t *Telemetry) SendsLogs() bool { return t != nil && t.logs != nil }

// Spans tells the same of spans.
func (t *Telemetry) Spans() Counts {
	if t == nil || t.spans == nil {
		return Counts{}
	}
	c := Counts{Offered: t.spans.Offered(), Sent: t.spans.Sent(), Dropped: t.spans.Drops()}
	missed := t.tracer.missed.Load()
	c.Offered += missed
	c.Dropped[causeLivesFull] = missed
	return c
}

// PrometheusAddr is where the endpoint listens; nil: it does not.
func (t *Telemetry) PrometheusAddr() net.Addr {
	if t == nil || t.prom == nil {
		return nil
	}
	l := t.prom.l.Load()
	if l == nil {
		return nil
	}
	return (*l).Addr()
}

// told keeps health and the log in step with how exports go.
func (t *Telemetry) told(s signal, err error) {
	if err != nil {
		t.trouble(s, describe(s, err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, was := t.troubles[s]; !was {
		return
	}
	delete(t.troubles, s)
	for _, other := range t.troubles {
		t.o.Health.SetDegraded(component, other)
		return
	}
	t.o.Health.SetOK(component)
	t.log.Info("telemetry is sent again")
}

// logEvery bounds how often a collector that is away is in the log.
const logEvery = time.Minute

func (t *Telemetry) trouble(s signal, err error) {
	const longest = 512
	msg := err.Error()
	msg = msg[:min(len(msg), longest)] // the collector chose it
	t.mu.Lock()
	t.troubles[s] = msg
	t.o.Health.SetDegraded(component, msg)
	t.mu.Unlock()
	t.say(errors.New(msg))
}

// say puts a trouble into the log, now and then.
func (t *Telemetry) say(err error) {
	t.mu.Lock()
	quiet := time.Since(t.lastLog) < logEvery
	if !quiet {
		t.lastLog = time.Now()
	}
	t.mu.Unlock()
	if !quiet {
		t.log.Warn("telemetry is not sent whole; the journal has the records", attr.Error, err.Error())
	}
}

// toldExporter tells how exports of metrics go.
type toldExporter struct {
	sdkmetric.Exporter
	told func(error)
}
