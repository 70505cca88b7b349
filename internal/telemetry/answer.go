package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/pump"
)

// What becomes of an export is read from the collector's answer itself, on its way to the exporter: that makes a text
// of it, in which a status or the number of what was rejected could be the collector's own words as well.

// partial is the answer of a collector that took an export but for some items, which must not be sent again
// (OTLP 1.x, "Partial Success").
type partial struct {
	rejected int
	said     string
}

// Error implements error.
func (p *partial) Error() string {
	return fmt.Sprintf("the collector rejected %d of an export: %s", p.rejected, p.said)
}

// asPartial tells whether an export is done with but for some items, and for how many.
func asPartial(err error) (rejected int, ok bool) {
	p, ok := errors.AsType[*partial](err)
	if !ok {
		return 0, false
	}
	return p.rejected, true
}

// isFinal tells whether an export must not be tried again: OTLP 1.x, "Failures", lists the
// gRPC codes that may be.
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

// partialOf is the error that a collector's answer to an export of logs or spans is; nil: it took all.
func partialOf(reply any) error {
	var n int64
	var said string
	switch r := reply.(type) {
	case *collogpb.ExportLogsServiceResponse:
		n, said = r.GetPartialSuccess().GetRejectedLogRecords(), r.GetPartialSuccess().GetErrorMessage()
	case *coltracepb.ExportTraceServiceResponse:
		n, said = r.GetPartialSuccess().GetRejectedSpans(), r.GetPartialSuccess().GetErrorMessage()
	default:
		return fmt.Errorf("an answer of type %T to an export: %w", reply, pump.ErrRefused)
	}
	if n == 0 && said == "" {
		return nil
	}
	return &partial{rejected: int(max(n, 0)), said: said}
}

// readAnswer makes an error of what a collector's answer over gRPC says.
func readAnswer(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
		return err
	}
	return partialOf(reply)
}

// again are the answers over HTTP after which an export may be tried again, and no others: OTLP 1.x, "Failures".
var again = []int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}

const (
	maxAnswer = 64 << 10 // bytes
	maxReason = 256      // of a text that says why
)

// collectorHTTP sends exports of one signal over HTTP, puts encoded logs into them, and reads the answers. What is no
// success is an error, though a [http.RoundTripper] should make none of it: of the exporters' text nothing can be told.
type collectorHTTP struct {
	http.RoundTripper
	reply func() proto.Message // an empty answer
}

// RoundTrip implements [http.RoundTripper].
func (c *collectorHTTP) RoundTrip(req *http.Request) (*http.Response, error) {
	req, err := putEncodedHTTP(req)
	if err != nil {
		return nil, err
	}
	resp, err := c.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	_ = resp.Body.Close()
	switch {
	case slices.Contains(again, resp.StatusCode):
		return nil, fmt.Errorf("the collector answered %s: %s", resp.Status, reason(body))
	case resp.StatusCode/100 != 2:
		return nil, fmt.Errorf("the collector answered %s: %s: %w", resp.Status, reason(body), pump.ErrRefused)
	case err != nil:
		return nil, &partial{said: fmt.Sprintf("the end of its answer did not come: %v", err)}
	}
	if err := c.read(resp.Header.Get("Content-Type"), body); err != nil {
		return nil, err
	}
	resp.Body, resp.ContentLength = http.NoBody, 0
	return resp, nil
}

// read makes an error of what an answer of success says. One of another kind says nothing.
func (c *collectorHTTP) read(kind string, body []byte) error {
	reply, err := c.reply(), error(nil)
	switch kind, _, _ = mime.ParseMediaType(kind); {
	case len(body) == 0:
	case kind == "application/x-protobuf":
		err = proto.Unmarshal(body, reply)
	case kind == "application/json":
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(body, reply)
	}
	if err != nil { // it was taken all the same
		return &partial{said: fmt.Sprintf("its answer cannot be read: %v", err)}
	}
	return partialOf(reply)
}

// reason is the beginning of what a collector says of a refusal: as text, or in a protobuf of which the rest is left out.
func reason(body []byte) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == '\ufffd' || r == 0x7f {
			return -1
		}
		return r
	}, string(body[:min(len(body), maxReason)]))
	return strings.TrimSpace(text)
}
