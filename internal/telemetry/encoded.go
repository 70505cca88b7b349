package telemetry

import (
	"context"
	"fmt"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/belay-project/belay/internal/pump"
)

// Logs come by the ten thousand, and the exporters make objects of every attribute, which protobuf then reads
// twice by reflection: four fifths of what encoding costs. Over gRPC the exporter is therefore given one record,
// for its resource and scope, and [putEncoded] puts what was encoded here in its place, on the way into the call.
// All else, from endpoints to partial success, stays the exporter's. The exporter over HTTP has no such place.

// encodedExporter takes log records that are encoded.
type encodedExporter interface {
	// exportEncoded exports what [logItem.appendTo] made, of the resource and the scope of blank.
	exportEncoded(ctx context.Context, blank sdklog.Record, records []byte) error
}

// grpcLogs is the exporter over gRPC.
type grpcLogs struct{ *otlploggrpc.Exporter }

func newGRPCLogs(ctx context.Context, opts ...otlploggrpc.Option) (grpcLogs, error) {
	e, err := otlploggrpc.New(ctx, append(opts, otlploggrpc.WithDialOption(grpc.WithChainUnaryInterceptor(putEncoded)))...)
	return grpcLogs{e}, err
}

// encodedKey is the key of the records in a context.
type encodedKey struct{}

func (g grpcLogs) exportEncoded(ctx context.Context, blank sdklog.Record, records []byte) error {
	return g.Export(context.WithValue(ctx, encodedKey{}, records), []sdklog.Record{blank})
}

// putEncoded puts the records of the context into a call, in the place of its own. What a message holds of
// fields that its type does not know is sent as it is.
func putEncoded(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	records, ok := ctx.Value(encodedKey{}).([]byte)
	if !ok {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	export, ok := req.(*collogpb.ExportLogsServiceRequest)
	if !ok || len(export.ResourceLogs) != 1 || len(export.ResourceLogs[0].ScopeLogs) != 1 {
		return fmt.Errorf("encoded logs for %T, which has no place for them: %w", req, pump.ErrRefused)
	}
	logs := export.ResourceLogs[0].ScopeLogs[0]
	logs.LogRecords = nil
	logs.ProtoReflect().SetUnknown(records)
	return invoke(ctx, method, req, reply, cc, opts...)
}

// Numbers of fields: opentelemetry/proto/logs/v1/logs.proto and common/v1/common.proto of OTLP 1.
const (
	scopeLogsRecords = 2

	recordTime         = 1
	recordSeverity     = 2
	recordSeverityText = 3
	recordBody         = 5
	recordAttribute    = 6
	recordFlags        = 8
	recordTraceID      = 9
	recordSpanID       = 10
	recordObserved     = 11
	recordEventName    = 12

	keyValueKey   = 1
	keyValueValue = 2

	valueString = 1
	valueBool   = 2
	valueInt    = 3
	valueDouble = 4
)

// appendTo appends i as one of the records of a ScopeLogs.
func (i *logItem) appendTo(b []byte) []byte {
	b = protowire.AppendTag(b, scopeLogsRecords, protowire.BytesType)
	b, start := openLength(b)
	b = appendTime(b, recordTime, i.at)
	b = protowire.AppendVarint(protowire.AppendTag(b, recordSeverity, protowire.VarintType), uint64(i.severity)) //nolint:gosec // 1 to 24
	b = appendText(b, recordSeverityText, i.severityText)
	if i.body != nil {
		b = protowire.AppendTag(b, recordBody, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(protowire.SizeTag(valueString)+protowire.SizeBytes(len(i.body)))) //nolint:gosec // a length
		b = protowire.AppendBytes(protowire.AppendTag(b, valueString, protowire.BytesType), i.body)
	}
	for k := range i.attributes {
		b = appendAttribute(b, &i.attributes[k])
	}
	if f := i.span.TraceFlags(); f != 0 {
		b = protowire.AppendFixed32(protowire.AppendTag(b, recordFlags, protowire.Fixed32Type), uint32(f))
	}
	if id := i.span.TraceID(); id.IsValid() {
		b = protowire.AppendBytes(protowire.AppendTag(b, recordTraceID, protowire.BytesType), id[:])
	}
	if id := i.span.SpanID(); id.IsValid() {
		b = protowire.AppendBytes(protowire.AppendTag(b, recordSpanID, protowire.BytesType), id[:])
	}
	b = appendTime(b, recordObserved, i.observed)
	return closeLength(appendText(b, recordEventName, i.event), start)
}

func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), uint64(max(t.UnixNano(), 0))) //nolint:gosec // not negative
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

// appendAttribute appends one of the kinds that [recordAttributes] has; any other is a value without a kind.
func appendAttribute(b []byte, kv *attribute.KeyValue) []byte {
	b = protowire.AppendTag(b, recordAttribute, protowire.BytesType)
	b, start := openLength(b)
	b = appendText(b, keyValueKey, string(kv.Key))
	b = protowire.AppendTag(b, keyValueValue, protowire.BytesType)
	b, value := openLength(b)
	switch v := &kv.Value; v.Type() {
	case attribute.STRING:
		b = appendText(b, valueString, v.AsString())
	case attribute.INT64:
		b = protowire.AppendVarint(protowire.AppendTag(b, valueInt, protowire.VarintType), uint64(v.AsInt64())) //nolint:gosec // negative ones have ten bytes
	case attribute.FLOAT64:
		b = protowire.AppendFixed64(protowire.AppendTag(b, valueDouble, protowire.Fixed64Type), math.Float64bits(v.AsFloat64()))
	case attribute.BOOL:
		b = protowire.AppendVarint(protowire.AppendTag(b, valueBool, protowire.VarintType), protowire.EncodeBool(v.AsBool()))
	}
	return closeLength(closeLength(b, value), start)
}

// openLength leaves a byte for the length of what is appended next.
func openLength(b []byte) (_ []byte, start int) { return append(b, 0), len(b) + 1 }

// closeLength says how much was appended from start on, which moves if its length takes more than the byte.
func closeLength(b []byte, start int) []byte {
	n := len(b) - start
	if more := protowire.SizeVarint(uint64(n)) - 1; more > 0 { //nolint:gosec // a length
		var room [9]byte
		b = append(b, room[:more]...)
		copy(b[start+more:], b[start:start+n])
	}
	protowire.AppendVarint(b[:start-1], uint64(n)) //nolint:gosec // a length
	return b
}
