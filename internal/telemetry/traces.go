package telemetry

import (
	"context"
	"encoding/hex"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
	"github.com/belay-project/belay/internal/verdict"
)

// Bounds of what containers can make the agent keep.
const (
	maxLives   = 1024 // containers whose lives are followed at a time
	maxDenials = 24   // of one life that become span events; belay.denials counts all
	maxLinks   = 16   // of one life to calls about it
)

// causeLivesFull is of lives beyond [maxLives]: no span of theirs begins.
const causeLivesFull = "lives_full"

// spanSink gives ended spans to the pump.
type spanSink struct {
	pump *pump.Pump[sdktrace.ReadOnlySpan]
}

// OnStart implements [sdktrace.SpanProcessor].
func (spanSink) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements [sdktrace.SpanProcessor].
func (s spanSink) OnEnd(span sdktrace.ReadOnlySpan) {
	switch {
	case !span.SpanContext().IsSampled():
	case tellsOfDenial(span):
		s.pump.Offer(span)
	default:
		s.pump.OfferOrdinary(span)
	}
}

// tellsOfDenial picks the spans that the last quarter of the queue is kept for: calls that were
// refused, and lives with denials.
func tellsOfDenial(span sdktrace.ReadOnlySpan) bool {
	for _, kv := range span.Attributes() {
		switch kv.Key {
		case "belay.decision":
			return (&journal.Record{Decision: verdict.Decision(kv.Value.AsString())}).Denial()
		case "belay.denials":
			return kv.Value.AsInt64() > 0
		}
	}
	return false
}

// Shutdown implements [sdktrace.SpanProcessor].
func (spanSink) Shutdown(context.Context) error { return nil }

// ForceFlush implements [sdktrace.SpanProcessor].
func (spanSink) ForceFlush(context.Context) error { return nil }

// tracerOptions keeps every span unless the operator samples. A caller's own choice, in
// its traceparent, is not followed by default: it could hide what it does.
func tracerOptions() []sdktrace.TracerProviderOption {
	var opts []sdktrace.TracerProviderOption
	if os.Getenv("OTEL_TRACES_SAMPLER") == "" {
		opts = append(opts, sdktrace.WithSampler(sdktrace.AlwaysSample()))
	}
	return opts
}

// tracer turns records into spans. The consumer's goroutine alone uses lives; operations
// come from any.
type tracer struct {
	trace.Tracer
	lives  map[ident.ContainerID]*life
	missed atomic.Uint64 // lives that were not followed, for want of room
}

// life is the open span of a container, and that of the stage it is in.
type life struct {
	span, stage trace.Span
	ctx         context.Context
	links       int
	denials     int64
}

// take makes of a record what it is in traces, and returns the span that it belongs to.
func (t *tracer) take(r *journal.Record) trace.SpanContext {
	switch {
	case r.Kind == journal.KindAPI && r.API != nil:
		return t.call(r)
	case r.Kind == journal.KindContainer && r.Container != nil && r.Container.ID != "":
		return t.lifeEvent(r)
	case r.Container != nil && r.Denial():
		return t.denied(r)
	}
	return trace.SpanContext{}
}

// call makes the span of a decision of the gate, below the caller's span if it named one.
func (t *tracer) call(r *journal.Record) trace.SpanContext {
	ctx := context.Background()
	if sc, ok := ParseTraceParent(r.API.TraceParent); ok {
		ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
	}
	name := "gate"
	if r.API.Action != "" {
		name += " " + r.API.Action
	}
	kv := append(apiAttributes(make([]attribute.KeyValue, 0, 20), r.API), attribute.String("belay.decision", string(r.Decision)))
	if r.Policy != nil {
		kv = policyAttributes(kv, r.Policy)
	}
	if r.Container != nil { // the caller's
		kv = containerAttributes(kv, r.Container)
	}
	_, span := t.Start(ctx, name, trace.WithTimestamp(r.Time), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(clean(kv)...))
	if r.API.Status >= 500 {
		span.SetStatus(codes.Error, r.API.Cause)
	}
	span.End(trace.WithTimestamp(r.Time.Add(time.Duration(r.API.DurationUS) * time.Microsecond)))
	sc := span.SpanContext()
	for _, id := range about(r.API) {
		l := t.lives[ident.ContainerID(id)]
		if l == nil || l.links >= maxLinks {
			continue
		}
		l.links++
		l.span.AddLink(trace.Link{SpanContext: sc, Attributes: clean(text(nil, "belay.api.action", r.API.Action))})
		if r.API.Action == "container.start" && r.Decision != verdict.Denied {
			l.span.AddEvent("start", trace.WithTimestamp(r.Time))
		}
	}
	return sc
}

// about returns the full IDs that a call is about. Where no policy asked what the call names,
// that is the ID in its path, if it is one.
func about(a *journal.API) []string {
	if len(a.Resources) > 0 {
		return a.Resources
	}
	_, rest, ok := strings.Cut(a.Path, "/containers/")
	if !ok {
		return nil
	}
	id, _, _ := strings.Cut(rest, "/")
	return []string{id}
}

// lifeEvent opens, moves and closes the span of a container's life.
func (t *tracer) lifeEvent(r *journal.Record) trace.SpanContext {
	id := r.Container.ID
	l := t.lives[id]
	switch r.Event {
	case journal.EventCreated, journal.EventFirstExec:
		if l == nil {
			if len(t.lives) >= maxLives {
				if r.Event == journal.EventCreated {
					t.missed.Add(1)
				}
				return trace.SpanContext{}
			}
			l = new(life)
			l.ctx, l.span = t.Start(context.Background(), "container", trace.WithTimestamp(r.Time),
				trace.WithAttributes(clean(text(containerAttributes(nil, r.Container), "belay.backend", string(r.Backend)))...))
			t.lives[id] = l
		}
		name := "container starting" // its cgroup is there, and nothing of its own runs
		if r.Event == journal.EventFirstExec {
			name = "container running"
		}
		if l.stage != nil {
			l.stage.End(trace.WithTimestamp(r.Time))
		}
		l.span.SetAttributes(clean(containerAttributes(nil, r.Container))...) // what is known has grown
		l.span.AddEvent(r.Event, trace.WithTimestamp(r.Time))
		_, l.stage = t.Start(l.ctx, name, trace.WithTimestamp(r.Time), trace.WithAttributes(semconv.ContainerID(string(id))))
		return l.span.SpanContext()
	case journal.EventGone:
		if l == nil {
			return trace.SpanContext{}
		}
		l.span.SetAttributes(clean(containerAttributes(nil, r.Container))...)
		l.span.AddEvent("stop", trace.WithTimestamp(r.Time))
		l.end(r.Time)
		delete(t.lives, id)
		return l.span.SpanContext()
	}
	return trace.SpanContext{}
}

func (l *life) end(at time.Time) {
	if l.stage != nil {
		l.stage.End(trace.WithTimestamp(at))
	}
	l.span.SetAttributes(attribute.Int64("belay.denials", l.denials))
	l.span.End(trace.WithTimestamp(at))
}

// denied puts a denial on the life of its container.
func (t *tracer) denied(r *journal.Record) trace.SpanContext {
	l := t.lives[r.Container.ID]
	if l == nil {
		return trace.SpanContext{}
	}
	if l.denials++; l.denials <= maxDenials {
		// Few attributes: lives are long, and what denies is chosen by the container. The log has the rest.
		kv := []attribute.KeyValue{semconv.LogRecordUID(uid(r)), attribute.String("belay.kind", string(r.Kind))}
		if r.Policy != nil {
			kv = text(text(kv, "belay.policy.name", r.Policy.Name), "belay.policy.rule", r.Policy.Rule)
		}
		l.span.AddEvent(string(r.Decision), trace.WithTimestamp(r.Time), trace.WithAttributes(clean(kv)...))
	}
	return l.span.SpanContext()
}

// finish ends the spans of containers that go on: the next agent does not know them.
func (t *tracer) finish(now time.Time) {
	for id, l := range t.lives {
		l.span.SetAttributes(attribute.Bool("belay.container.continues", true))
		l.end(now)
		delete(t.lives, id)
	}
}

// operation makes the span of an operation, and returns it: the histogram's exemplar.
func (t *tracer) operation(op *Operation) trace.SpanContext {
	ctx := context.Background()
	if sc, ok := ParseTraceParent(op.TraceParent); ok {
		ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
	}
	ctx, span := t.Start(ctx, op.Name, trace.WithTimestamp(op.Start), with(op.Attributes))
	for _, s := range op.Stages {
		_, child := t.Start(ctx, op.Name+" "+s.Name, trace.WithTimestamp(s.Start), with(s.Attributes))
		failed(child, s.Err)
		child.End(trace.WithTimestamp(s.End))
	}
	failed(span, op.Err)
	span.End(trace.WithTimestamp(op.End))
	return span.SpanContext()
}

func with(attributes map[string]string) trace.SpanStartEventOption {
	kv := make([]attribute.KeyValue, 0, len(attributes))
	for k, v := range attributes {
		kv = text(kv, k, v)
	}
	return trace.WithAttributes(clean(kv)...)
}

// failed makes an error the status of a span.
func failed(span trace.Span, err error) {
	if err != nil {
		msg := err.Error()
		span.SetStatus(codes.Error, strings.ToValidUTF8(msg[:min(len(msg), 1024)], ""))
	}
}

// ParseTraceParent reads the traceparent of a caller: W3C Trace Context, version 00. ok is
// false for anything else, and then nothing of it is used.
func ParseTraceParent(s string) (sc trace.SpanContext, ok bool) {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' || strings.ToLower(s) != s {
		return sc, false
	}
	var cfg trace.SpanContextConfig
	var flags [1]byte
	if !unhex(cfg.TraceID[:], s[3:35]) || !unhex(cfg.SpanID[:], s[36:52]) || !unhex(flags[:], s[53:]) {
		return sc, false
	}
	cfg.TraceFlags, cfg.Remote = trace.TraceFlags(flags[0])&trace.FlagsSampled, true
	sc = trace.NewSpanContext(cfg)
	return sc, sc.IsValid()
}

func unhex(dst []byte, s string) bool {
	n, err := hex.Decode(dst, []byte(s))
	return err == nil && n == len(dst)
}
