package telemetry

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/trace"
	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
)

// sinkTo is a sink whose calls go to take, and to nobody else.
func sinkTo(tb testing.TB, take func(*collogpb.ExportLogsServiceRequest) error) *logSink {
	tb.Helper()
	e, err := otlploggrpc.New(tb.Context(), otlploggrpc.WithInsecure(), otlploggrpc.WithDialOption(grpc.WithChainUnaryInterceptor(putEncoded,
		func(_ context.Context, _ string, req, _ any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
			return take(req.(*collogpb.ExportLogsServiceRequest))
		})))
	if err != nil {
		tb.Fatal(err)
	}
	res, err := (&Options{Host: "h", BootID: "boot", Version: "v"}).resource(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return newLogSink(e, sdklog.WithResource(res))
}

// viaExporter exports a batch as the exporter itself encodes it.
func (s *logSink) viaExporter(ctx context.Context, batch []entry) error {
	records := make([]sdklog.Record, 0, len(batch))
	for _, e := range batch {
		records = append(records, s.describe(e, time.Now()).record(&s.blank))
	}
	return s.exporter.Export(ctx, records)
}

// record is i as the SDK has it, with the resource and the scope of blank.
func (i *logItem) record(blank *sdklog.Record) sdklog.Record {
	out := blank.Clone()
	out.SetTimestamp(i.at)
	out.SetObservedTimestamp(i.observed)
	out.SetTraceID(i.span.TraceID())
	out.SetSpanID(i.span.SpanID())
	out.SetTraceFlags(i.span.TraceFlags())
	out.SetEventName(i.event)
	out.SetSeverity(i.severity)
	out.SetSeverityText(i.severityText)
	if i.body != nil {
		out.SetBody(attribute.StringValue(string(i.body)))
	}
	out.SetAttributes(i.attributes...)
	return out
}

// onTheWire is the message that a collector gets of a batch.
func onTheWire(t *testing.T, batch []entry, send func(*logSink, context.Context, []entry) error) *collogpb.ExportLogsServiceRequest {
	t.Helper()
	var got collogpb.ExportLogsServiceRequest
	err := send(sinkTo(t, func(req *collogpb.ExportLogsServiceRequest) error {
		raw, err := proto.Marshal(req)
		return errors.Join(err, proto.Unmarshal(raw, &got))
	}), t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	return withoutObserved(&got)
}

// withoutObserved takes out of logs when they were observed.
func withoutObserved(export *collogpb.ExportLogsServiceRequest) *collogpb.ExportLogsServiceRequest {
	for _, scope := range export.ResourceLogs[0].ScopeLogs {
		for _, r := range scope.LogRecords {
			r.ObservedTimeUnixNano = 0
		}
	}
	return export
}

// TestEncodedLogs: a collector gets of what is encoded here what the exporter itself makes of it.
func TestEncodedLogs(t *testing.T) {
	all := denial(2)
	all.API, all.Load = &journal.API{Action: "container.list", Method: "GET", Path: "/", Remote: "192.0.2.8"}, &journal.Load{Event: "over", Cap: "memory", Percent: 91.5, Limit: -1}
	all.Anchor, all.Image = &journal.Anchor{Seq: 1}, &journal.Image{ID: "sha256:1", Event: "found"}
	long := denial(1 << 60)
	long.Object.Path, long.Message = strings.Repeat("p", 200), strings.Repeat("m", 10_000)
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	batch := []entry{
		{r: denial(1)}, {r: call(""), span: sc}, {r: all}, {r: long}, {r: &journal.Record{Kind: journal.KindLoss, Lost: map[string]uint64{"x": 1}}},
	}
	want, got := onTheWire(t, batch, (*logSink).viaExporter), onTheWire(t, batch, (*logSink).send)
	if n := len(got.ResourceLogs[0].ScopeLogs[0].LogRecords); n != len(batch) {
		t.Fatalf("%d records of %d", n, len(batch))
	}
	for i, w := range want.ResourceLogs[0].ScopeLogs[0].LogRecords {
		if g := got.ResourceLogs[0].ScopeLogs[0].LogRecords[i]; !proto.Equal(g, w) {
			t.Errorf("record %d:\n got %v\nwant %v", i, g, w)
		}
	}
	if !proto.Equal(got, want) {
		t.Error("resource or scope differ")
	}
}

// TestEncodedLongRecords: what is encoded keeps to the bound of an export as well.
func TestEncodedLongRecords(t *testing.T) {
	var batch []entry
	for i := range 512 {
		r := denial(uint64(i))
		r.Message = strings.Repeat("x", 15<<10)
		batch = append(batch, entry{r: r})
	}
	exports, records := 0, 0
	err := sinkTo(t, func(req *collogpb.ExportLogsServiceRequest) error {
		var got collogpb.ExportLogsServiceRequest
		raw, err := proto.Marshal(req)
		if len(raw) > 4<<20 {
			t.Errorf("an export of %d bytes", len(raw))
		}
		exports++
		err = errors.Join(err, proto.Unmarshal(raw, &got))
		records += len(got.ResourceLogs[0].ScopeLogs[0].LogRecords)
		return err
	}).send(t.Context(), batch)
	if err != nil || exports < 3 || records != len(batch) {
		t.Errorf("%d records in %d exports, %v; want each once", records, exports, err)
	}
}

// collectorOf takes logs, and refuses one of each export.
type collectorOf struct {
	collogpb.UnimplementedLogsServiceServer
	records     int
	key         []string
	compression string
}

func (c *collectorOf) Export(ctx context.Context, req *collogpb.ExportLogsServiceRequest) (*collogpb.ExportLogsServiceResponse, error) {
	c.records += len(req.ResourceLogs[0].ScopeLogs[0].LogRecords)
	c.key = metadata.ValueFromIncomingContext(ctx, "x-key")
	return &collogpb.ExportLogsServiceResponse{PartialSuccess: &collogpb.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "too long"}}, nil
}

// TagRPC, HandleRPC, TagConn and HandleConn implement [stats.Handler].
func (c *collectorOf) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (c *collectorOf) HandleRPC(_ context.Context, s stats.RPCStats) {
	if h, ok := s.(*stats.InHeader); ok {
		c.compression = h.Compression
	}
}
func (c *collectorOf) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *collectorOf) HandleConn(context.Context, stats.ConnStats)                       {}

// TestEncodedSettings: what the environment says of exports holds for what is encoded here, and what a collector
// refuses of it is known.
func TestEncodedSettings(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k1")
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := new(collectorOf)
	srv := grpc.NewServer(grpc.StatsHandler(c))
	collogpb.RegisterLogsServiceServer(srv, c)
	go func() { _ = srv.Serve(l) }()
	e, err := (&Options{Endpoint: "http://" + l.Addr().String()}).logExporter(t.Context(), &plan{otlp: map[signal]string{logs: protocolGRPC}})
	if err != nil {
		t.Fatal(err)
	}
	err = newLogSink(e).send(t.Context(), []entry{{r: denial(1)}, {r: denial(2)}, {r: refusal(3)}})
	if partly, ok := errors.AsType[*pump.Partly](err); !ok || partly.Refused != 1 || partly.Left != 0 {
		t.Errorf("got %v, want a partial success with one rejected", err)
	}
	_ = e.Shutdown(t.Context())
	srv.Stop() // nothing is written to c any more
	if c.records != 3 || !slices.Equal(c.key, []string{"k1"}) || c.compression != "gzip" {
		t.Errorf("%d records, key %q, compression %q", c.records, c.key, c.compression)
	}
}

// TestEncodedForNobody: encoded logs are not lost in a call that has no place for them.
func TestEncodedForNobody(t *testing.T) {
	ctx := context.WithValue(t.Context(), encodedKey{}, []byte("x"))
	for _, req := range []any{new(collogpb.ExportLogsServiceRequest), new(coltracepb.ExportTraceServiceRequest)} {
		err := putEncoded(ctx, "", req, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			t.Error("the call was made")
			return nil
		})
		if !errors.Is(err, pump.ErrRefused) {
			t.Errorf("%T: got %v", req, err)
		}
	}
}

// TestEncodingIsCheap: a record on its way to a collector allocates the texts of its number, its name and its event, and
// nothing for each attribute.
func TestEncodingIsCheap(t *testing.T) {
	s := newLogSink(new(scriptedExporter))
	e := entry{r: refusal(123456)}
	n := testing.AllocsPerRun(1000, func() { s.encoded = s.describe(e, at).appendTo(s.encoded[:0]) })
	if n > 3 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkLogs is an export of 512 records as far as the bytes of its call, by what is encoded here and by the exporter
// itself: what tools/bench reads is processor time for a record.
func BenchmarkLogs(b *testing.B) {
	for _, bm := range []struct {
		name string
		send func(*logSink, context.Context, []entry) error
	}{{"encoded", (*logSink).send}, {"exporter", (*logSink).viaExporter}} {
		b.Run(bm.name, func(b *testing.B) {
			var raw []byte
			s := sinkTo(b, func(req *collogpb.ExportLogsServiceRequest) (err error) {
				raw, err = proto.MarshalOptions{UseCachedSize: proto.Size(req) > 0}.MarshalAppend(raw[:0], req)
				return err
			})
			var batch []entry
			for i := range 512 {
				batch = append(batch, entry{r: refusal(uint64(i))})
			}
			b.ReportAllocs()
			before := processor(b)
			for b.Loop() {
				if err := bm.send(s, b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processor(b)-before).Nanoseconds())/float64(b.N*len(batch)), "cpu-ns/record")
		})
	}
}

func processor(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
