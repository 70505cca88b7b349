package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/pump"
)

// Logs come by the ten thousand, and the exporters make objects of every attribute, which protobuf then reads
// twice by reflection: four fifths of what encoding costs. The exporter is therefore given one record, for its
// resource and scope, and what was encoded here takes its place on the way into the call, over gRPC and HTTP.
// All else, from endpoints to headers and compression, stays the exporter's.

// encodedKey is the key of the records in the context of an export, as [logItem.appendTo] made them.
type encodedKey struct{}

// put puts records into an export, in the place of its own. What a message holds of fields that its type does not
// know is sent as it is.
func put(export *collogpb.ExportLogsServiceRequest, records []byte) error {
	if len(export.ResourceLogs) != 1 || len(export.ResourceLogs[0].ScopeLogs) != 1 {
		return fmt.Errorf("an export of logs has no place for them: %w", pump.ErrRefused)
	}
	logs := export.ResourceLogs[0].ScopeLogs[0]
	logs.LogRecords = nil
	logs.ProtoReflect().SetUnknown(records)
	return nil
}

// putEncoded puts the records of the context into a call.
func putEncoded(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if records, ok := ctx.Value(encodedKey{}).([]byte); ok {
		export, ok := req.(*collogpb.ExportLogsServiceRequest)
		if !ok {
			return fmt.Errorf("encoded logs for %T: %w", req, pump.ErrRefused)
		}
		if err := put(export, records); err != nil {
			return err
		}
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// putEncodedHTTP puts the records of the context into a request.
func putEncodedHTTP(req *http.Request) (*http.Request, error) {
	records, ok := req.Context().Value(encodedKey{}).([]byte)
	if !ok {
		return req, nil
	}
	zipped := req.Header.Get("Content-Encoding") == "gzip"
	blank, err := readBlank(req.Body, zipped)
	if err != nil {
		return nil, err
	}
	export := new(collogpb.ExportLogsServiceRequest)
	if err := proto.Unmarshal(blank, export); err != nil {
		return nil, fmt.Errorf("read an export: %w", err)
	}
	if err := put(export, records); err != nil {
		return nil, err
	}
	body, err := proto.Marshal(export)
	if err != nil {
		return nil, fmt.Errorf("encode logs: %w", err)
	}
	if zipped {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, werr := z.Write(body)
		if err := errors.Join(werr, z.Close()); err != nil {
			return nil, err
		}
		body = b.Bytes()
	}
	req = req.Clone(req.Context())
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, err = req.GetBody()
	return req, err
}

// readBlank reads the body of an export of one record, and closes it.
func readBlank(body io.ReadCloser, zipped bool) ([]byte, error) {
	defer body.Close()
	var r io.Reader = body
	if zipped {
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("read an export: %w", err)
		}
		r = z
	}
	return io.ReadAll(r)
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
