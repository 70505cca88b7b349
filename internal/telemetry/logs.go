package telemetry

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
	"github.com/belay-project/belay/internal/verdict"
)

// entry is a record on its way, with the span that was made of it, if any.
type entry struct {
	r    *journal.Record
	span trace.SpanContext
}

// logSink turns records into log records and exports them. One goroutine uses it.
type logSink struct {
	exporter sdklog.Exporter
	provider *sdklog.LoggerProvider
	blank    sdklog.Record // of the resource and the scope: a logger adds attributes one by one, each time looking at all before it
	enc      *journal.Encoder
	item     logItem
	encoded  []byte // the records of one export
}

// maxExport bounds the bytes of one export, but for the last record: collectors refuse gRPC messages of
// more than 4 MiB by default, and containers make long records.
const maxExport = 3 << 20

func newLogSink(e sdklog.Exporter, opts ...sdklog.LoggerProviderOption) *logSink {
	s := &logSink{exporter: e, enc: journal.NewEncoder()}
	// No key is twice in what recordAttributes returns.
	s.provider = sdklog.NewLoggerProvider(append(opts, sdklog.WithProcessor(s), sdklog.WithAllowKeyDuplication())...)
	s.provider.Logger(scope, log.WithSchemaURL(semconv.SchemaURL)).Emit(context.Background(), log.Record{})
	return s
}

// send exports a batch, in parts if it is large. Those that have no JSON form go without a body. A part that is refused
// for good takes no other along.
func (s *logSink) send(ctx context.Context, batch []entry) error {
	refused, why := 0, error(nil)
	for len(batch) > 0 {
		n, err := s.export(ctx, batch)
		rejected, took := asPartial(err)
		switch {
		case err == nil:
		case took:
			refused, why = refused+min(rejected, n), err
		case isFinal(err):
			refused, why = refused+n, err
		default:
			return &pump.Partly{Refused: refused, Left: len(batch), Err: err}
		}
		batch = batch[n:]
	}
	if why != nil {
		return &pump.Partly{Refused: refused, Err: why}
	}
	return nil
}

// export exports the beginning of a batch, and tells how many that are.
func (s *logSink) export(ctx context.Context, batch []entry) (n int, err error) {
	now := time.Now()
	for s.encoded = s.encoded[:0]; n < len(batch) && len(s.encoded) < maxExport; n++ {
		s.encoded = s.describe(batch[n], now).appendTo(s.encoded)
	}
	return n, s.exporter.Export(context.WithValue(ctx, encodedKey{}, s.encoded), []sdklog.Record{s.blank})
}

// OnEmit, Enabled, Shutdown and ForceFlush implement [sdklog.Processor]: it keeps the one record
// that is emitted.
func (s *logSink) OnEmit(_ context.Context, r *sdklog.Record) error {
	s.blank = r.Clone()
	return nil
}

// Enabled implements [sdklog.Processor].
func (s *logSink) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

// Shutdown implements [sdklog.Processor].
func (s *logSink) Shutdown(ctx context.Context) error { return s.exporter.Shutdown(ctx) }

// ForceFlush implements [sdklog.Processor].
func (s *logSink) ForceFlush(context.Context) error { return nil }

// logItem is what a log record says.
type logItem struct {
	at, observed time.Time
	span         trace.SpanContext
	event        string
	severity     log.Severity
	severityText string
	body         []byte // nil: none
	attributes   []attribute.KeyValue
}

// describe is a record of the journal as a log record, observed now, and valid until the next. Its body is the event as
// JSON, as docs/event-schema.md has it but for secrets in arguments.
func (s *logSink) describe(e entry, now time.Time) *logItem {
	i, r := &s.item, e.r
	i.at, i.observed, i.span = r.Time, now, e.span
	i.event = "belay." + string(r.Kind)
	i.severity, i.severityText = severity(r)
	i.attributes = recordAttributes(i.attributes[:0], r)
	var err error
	if i.body, err = s.enc.Encode(journal.WithoutSecrets(r)); err != nil {
		i.body = nil
	}
	return i
}

func severity(r *journal.Record) (log.Severity, string) {
	switch {
	case r.Kind == journal.KindLoss:
		return log.SeverityError, "ERROR"
	case r.Load != nil && (r.Load.Event == "over" || r.Load.Event == "unreadable"):
		return log.SeverityWarn, "WARN"
	case r.Decision == verdict.Denied || r.Decision == verdict.Killed:
		return log.SeverityWarn, "WARN"
	case r.Decision == verdict.WouldDeny:
		return log.SeverityInfo2, "INFO2"
	}
	return log.SeverityInfo, "INFO"
}

// recordAttributes appends what a collector filters and counts by.
func recordAttributes(kv []attribute.KeyValue, r *journal.Record) []attribute.KeyValue {
	kv = append(kv,
		semconv.LogRecordUID(uid(r)),
		attribute.String("belay.boot.id", r.BootID),
		attribute.Int64("belay.seq", int64(r.Seq)), //nolint:gosec // it counts records of one boot
		attribute.String("belay.kind", string(r.Kind)),
	)
	kv = text(kv, "belay.event", r.Event)
	kv = text(kv, "belay.decision", string(r.Decision))
	kv = text(kv, "belay.level", r.Level)
	kv = text(kv, "belay.backend", string(r.Backend))
	kv = text(kv, "belay.hook", r.Hook)
	if p := r.Policy; p != nil {
		kv = policyAttributes(kv, p)
	}
	if c := r.Container; c != nil {
		kv = containerAttributes(kv, c)
	}
	if p := r.Process; p != nil {
		kv = append(kv, semconv.ProcessPID(int(p.PID)), semconv.ProcessRealUserID(int(p.UID)), semconv.ProcessUserID(int(p.EUID)))
		if p.Executable != nil {
			kv = append(kv, semconv.ProcessExecutablePath(p.Executable.Path))
		}
	}
	if o := r.Object; o != nil {
		if o.Path != "" {
			kv = append(kv, semconv.FilePath(o.Path))
		}
		if o.Addr != "" && r.API == nil { // which has the caller's
			kv = append(kv, semconv.NetworkPeerAddress(o.Addr), semconv.NetworkPeerPort(int(o.Port)))
		}
	}
	if a := r.API; a != nil {
		kv = apiAttributes(kv, a)
	}
	if l := r.Load; l != nil {
		kv = text(text(text(kv, "belay.load.event", l.Event), "belay.load.cap", l.Cap), "belay.load.where", l.Where)
		kv = append(kv, attribute.Float64("belay.load.percent", l.Percent), attribute.Int("belay.load.limit", l.Limit))
	}
	if a := r.Anchor; a != nil {
		kv = append(kv, attribute.Int64("belay.anchor.seq", int64(a.Seq)), //nolint:gosec // it counts records of one boot
			attribute.String("belay.anchor.events", a.Events.Digest), attribute.String("belay.anchor.denials", a.Denials.Digest))
	}
	if r.Image != nil {
		kv = text(kv, "belay.image.id", r.Image.ID)
		kv = text(kv, "belay.image.event", r.Image.Event)
	}
	return clean(kv)
}

// clean makes every text valid UTF-8, in place: paths and names are what a container or a
// caller chose, and one that is not would cost the whole export.
func clean(kv []attribute.KeyValue) []attribute.KeyValue {
	for i := range kv {
		if kv[i].Value.Type() == attribute.STRING {
			if s := kv[i].Value.AsString(); !utf8.ValidString(s) {
				kv[i].Value = attribute.StringValue(strings.ToValidUTF8(s, "\ufffd"))
			}
		}
	}
	return kv
}

// uid names a record for good: it is the same in the journal, in a log and after a replay.
func uid(r *journal.Record) string { return r.BootID + ":" + strconv.FormatUint(r.Seq, 10) }

func policyAttributes(kv []attribute.KeyValue, p *journal.Policy) []attribute.KeyValue {
	return append(kv,
		attribute.String("belay.policy.name", p.Name), attribute.String("belay.policy.rule", p.Rule),
		attribute.String("belay.policy.mode", p.Mode), attribute.String("belay.policy.revision", p.Revision),
	)
}

func containerAttributes(kv []attribute.KeyValue, c *journal.Container) []attribute.KeyValue {
	kv = text(kv, string(semconv.ContainerIDKey), string(c.ID))
	kv = text(kv, string(semconv.ContainerNameKey), c.Name)
	kv = text(kv, string(semconv.ContainerImageNameKey), c.Image)
	kv = text(kv, "belay.image.digest", c.Digest)
	return text(kv, "belay.container.class", c.Class)
}

func apiAttributes(kv []attribute.KeyValue, a *journal.API) []attribute.KeyValue {
	kv = text(kv, "belay.api.action", a.Action)
	// Methods of the wire are the caller's; the conventions want the unknown ones apart.
	method := "_OTHER"
	if slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}, a.Method) {
		method = a.Method
	}
	kv = append(kv, semconv.HTTPRequestMethodKey.String(method), semconv.URLPath(a.Path))
	if a.Status != 0 {
		kv = append(kv, semconv.HTTPResponseStatusCode(a.Status))
	}
	kv = text(kv, "belay.caller.kind", a.CallerKind)
	kv = text(kv, "belay.caller.name", a.Caller)
	if a.UID != nil {
		kv = append(kv, attribute.Int64("belay.caller.uid", int64(*a.UID)))
	}
	kv = text(kv, string(semconv.NetworkPeerAddressKey), a.Remote)
	return text(kv, "belay.cause", a.Cause)
}

// text appends an attribute unless it is empty.
func text(kv []attribute.KeyValue, key, value string) []attribute.KeyValue {
	if value == "" {
		return kv
	}
	return append(kv, attribute.String(key, value))
}
