package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	logpb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
	"github.com/belay-project/belay/internal/verdict"
)

const containerID = ident.ContainerID("5a9c1e0f7b2d4836a1c95e7f30b8d2465a9c1e0f7b2d4836a1c95e7f30b8d246")

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// denial is a record of a denied exec, with texts that a container chose.
func denial(seq uint64) *journal.Record {
	return &journal.Record{
		Schema: journal.Schema, BootID: "boot", Seq: seq, Time: at, Host: "h", Kind: journal.KindExec, Decision: verdict.Denied,
		Container: &journal.Container{ID: containerID, Name: "shop", Image: "nginx:1", Class: "container"},
		Policy:    &journal.Policy{Name: "hardened", Rule: "exec.drift", Mode: "enforce", Revision: "r1"},
		Process:   &journal.Process{PID: 7, Args: []string{"./m"}, Executable: &journal.Executable{Path: "/bin/\xff\xfe"}},
		Object:    &journal.Object{Type: "file", Path: "/tmp/\xffminer"},
		Level:     "prevent", Backend: verdict.BackendLSM,
	}
}

// refusal is a record of a refused connection, as a flood of them has it.
func refusal(seq uint64) *journal.Record {
	return &journal.Record{
		Schema: journal.Schema, BootID: "0f8fad5b-d9cb-469f-a165-70867728950e", Seq: seq, Time: at, Host: "node-1", Kind: journal.KindNetwork,
		Container: &journal.Container{ID: containerID, CgroupID: 4711, Class: "container"},
		Process: &journal.Process{
			PID: 4242, TID: 4242, StartNS: 123456789012, UID: 1000, EUID: 1000, GID: 1000, EGID: 1000, Comm: "loop", Cwd: "/", Args: []string{"/bin/loop", "refused", "300000"},
			Executable: &journal.Executable{Path: "/bin/loop", Layer: journal.LayerUnknown},
			Ancestors:  []journal.Ancestor{{PID: 4200, StartNS: 123456780000, Comm: "ctr"}, {PID: 1, StartNS: 10, Comm: "systemd"}},
		},
		Policy: &journal.Policy{Name: "bench", Revision: "2f1d5b7e9c3a", Rule: "network.connect", Mode: "enforce"},
		Hook:   "cgroup_connect", Object: &journal.Object{Type: "socket", Addr: "127.0.0.1", Port: 22, Protocol: "tcp"},
		Decision: verdict.Denied, Errno: 1, Level: "prevent", Backend: verdict.BackendLSM,
	}
}

func call(trace string) *journal.Record {
	return &journal.Record{
		BootID: "boot", Seq: 9, Time: at, Kind: journal.KindAPI, Decision: verdict.Allowed,
		API: &journal.API{Action: "container.start", Method: "POST", Path: "/v1.43/containers/x/start", Resources: []string{string(containerID)},
			CallerKind: "user", Caller: "ann", Status: 204, DurationUS: 1500, TraceParent: trace},
	}
}

func find(kv []attribute.KeyValue, key string) (string, bool) {
	i := slices.IndexFunc(kv, func(a attribute.KeyValue) bool { return string(a.Key) == key })
	if i < 0 {
		return "", false
	}
	return kv[i].Value.Emit(), true
}

func TestLogRecord(t *testing.T) {
	s := newLogSink(new(scriptedExporter))
	r := s.describe(entry{r: denial(41)}, at).record(&s.blank)
	var kv []attribute.KeyValue
	r.WalkAttributes(func(a attribute.KeyValue) bool { kv = append(kv, a); return true })
	for key, want := range map[string]string{
		"log.record.uid": "boot:41", "belay.decision": "denied", "belay.policy.rule": "exec.drift", "container.id": string(containerID),
		"file.path": "/tmp/\ufffdminer", "belay.backend": "lsm", "process.pid": "7",
	} {
		if got, _ := find(kv, key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	for _, a := range kv {
		if !utf8.ValidString(a.Value.Emit()) {
			t.Errorf("%s is not UTF-8: one such attribute costs the whole export", a.Key)
		}
	}
	var back journal.Record
	if err := json.Unmarshal([]byte(r.Body().AsString()), &back); err != nil || back.Seq != 41 || back.Kind != journal.KindExec {
		t.Errorf("body %s: %v", r.Body().AsString(), err)
	}
	if r.SeverityText() != "WARN" || r.EventName() != "belay.exec" || !r.Timestamp().Equal(at) {
		t.Errorf("severity %s, event %s, time %v", r.SeverityText(), r.EventName(), r.Timestamp())
	}
}

// TestAttributesOnce: the SDK does not look for keys that come twice.
func TestAttributesOnce(t *testing.T) {
	r := denial(1)
	r.Object = &journal.Object{Type: "socket", Path: "/x", Addr: "192.0.2.7", Port: 22}
	r.API, r.Load = &journal.API{Action: "container.list", Method: "GET", Path: "/", Remote: "192.0.2.8"}, &journal.Load{Event: "over", Cap: "memory"}
	r.Anchor, r.Image = &journal.Anchor{Seq: 1}, &journal.Image{ID: "sha256:1", Event: "found"}
	r.Event = "e"
	seen := map[attribute.Key]bool{}
	for _, kv := range recordAttributes(nil, r) {
		if seen[kv.Key] {
			t.Errorf("%s comes twice", kv.Key)
		}
		seen[kv.Key] = true
	}
	if len(seen) < 25 {
		t.Errorf("%d attributes, of a record with all", len(seen))
	}
}

// TestSecretsStay: arguments that look like secrets do not leave the host, and the journal's
// record is not changed.
func TestSecretsStay(t *testing.T) {
	args := []string{
		"mysql", "--password=hunter2", "--api-key", "k123", "DB_SECRET=s456", "ghp_0123456789abcdef", "postgres://u:pw789@h/d", "--user=ann",
	}
	r := denial(1)
	r.Process.Args = slices.Clone(args)
	body := string(newLogSink(new(scriptedExporter)).describe(entry{r: r}, at).body)
	for _, secret := range []string{"hunter2", "k123", "s456", "ghp_", "pw789"} {
		if strings.Contains(body, secret) {
			t.Errorf("%s is in %s", secret, body)
		}
	}
	if !strings.Contains(body, "--user=ann") {
		t.Errorf("what is no secret is missing: %s", body)
	}
	if !slices.Equal(r.Process.Args, args) {
		t.Errorf("the journal's record was changed: %q", r.Process.Args)
	}
}

// scriptedExporter answers each export with the next of answers, and takes all that come after those.
type scriptedExporter struct {
	answers []error
	sizes   []int // of each export
	took    int   // records
}

func (c *scriptedExporter) Export(ctx context.Context, _ []sdklog.Record) error {
	encoded := ctx.Value(encodedKey{}).([]byte)
	c.sizes = append(c.sizes, len(encoded))
	var got logpb.ScopeLogs
	err := proto.Unmarshal(encoded, &got)
	if n := len(c.sizes); err == nil && n <= len(c.answers) {
		err = c.answers[n-1]
	}
	if rejected, ok := asPartial(err); ok || err == nil {
		c.took += len(got.LogRecords) - min(rejected, len(got.LogRecords))
	}
	return err
}
func (*scriptedExporter) Shutdown(context.Context) error   { return nil }
func (*scriptedExporter) ForceFlush(context.Context) error { return nil }

// longBatch is so many records that a container made long: some 190 of them fill an export.
func longBatch(n int) []entry {
	batch := make([]entry, n)
	for i := range batch {
		batch[i].r = denial(uint64(i)) //nolint:gosec // an index
		batch[i].r.Message = strings.Repeat("x", 15<<10)
	}
	return batch
}

// TestLongRecords: long records go in exports that a collector takes, and a batch that failed half-way goes on where
// it was.
func TestLongRecords(t *testing.T) {
	c := &scriptedExporter{answers: []error{nil, errors.New("away")}}
	p := pump.New((&Options{RetryFirst: time.Millisecond}).pump(512), newLogSink(c).send, func(error) {})
	p.Deliver(t.Context(), longBatch(512))
	for _, size := range c.sizes {
		if size > maxExport+32<<10 {
			t.Errorf("an export of %d bytes", size)
		}
	}
	if len(c.sizes) < 4 || c.took != 512 || p.Sent() != 512 {
		t.Errorf("%d records in exports of %v bytes, %d told as sent: want each record once", c.took, c.sizes, p.Sent())
	}
}

// TestPartsAreCounted: a batch that goes in parts counts as sent what the collector took, whatever became of the rest.
func TestPartsAreCounted(t *testing.T) {
	rejects := func(n int) error { return fmt.Errorf("logs: %w", &partial{n, "too old"}) }
	away, no := status.Error(codes.Unavailable, "away"), status.Error(codes.InvalidArgument, "no")
	quotes := status.Error(codes.Unavailable, "OTLP partial success: empty message (128 logs rejected)")
	const all = 450 // three parts
	for _, tt := range []struct {
		name    string
		answers []error
		giveUp  time.Duration
		dropped string // cause of all that was not taken
		exports int
	}{
		{name: "two parts with some rejected", answers: []error{rejects(3), rejects(2)}, dropped: pump.CauseRefused, exports: 3},
		{name: "more rejected than there are", answers: []error{rejects(1000), nil, nil}, dropped: pump.CauseRefused, exports: 3},
		{name: "some rejected, then away for a while", answers: []error{rejects(3), away}, dropped: pump.CauseRefused, exports: 4},
		{name: "away, in the words of another", answers: []error{quotes}, dropped: pump.CauseRefused, exports: 4},
		{name: "a part refused for good", answers: []error{nil, no}, dropped: pump.CauseRefused, exports: 3},
		{name: "away until it is given up", answers: []error{nil, away}, giveUp: 1, dropped: pump.CauseGivenUp, exports: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &scriptedExporter{answers: tt.answers}
			p := pump.New((&Options{RetryFirst: time.Millisecond, GiveUp: tt.giveUp}).pump(all), newLogSink(c).send, func(error) {})
			p.Deliver(t.Context(), longBatch(all))
			took := uint64(c.took) //nolint:gosec // not negative
			if len(c.sizes) != tt.exports || p.Sent() != took || p.Drops()[tt.dropped] != all-took {
				t.Errorf("%d exports (want %d), %d records taken: sent %d, dropped %v", len(c.sizes), tt.exports, took, p.Sent(), p.Drops())
			}
		})
	}
}

func TestParseTraceParent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	sc, ok := ParseTraceParent(good)
	if !ok || sc.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || sc.SpanID().String() != "b7ad6b7169203331" || !sc.IsRemote() {
		t.Errorf("%s: %v %v", good, sc, ok)
	}
	for _, bad := range []string{
		"", "00", good + " ", strings.ToUpper(good), "01" + good[2:], "ff" + good[2:], strings.Replace(good, "0af7651916cd43dd8448eb211c80319c", strings.Repeat("0", 32), 1),
		strings.Replace(good, "b7ad6b7169203331", strings.Repeat("0", 16), 1), strings.Replace(good, "-", "_", 1), strings.Replace(good, "a", "g", 1),
	} {
		if _, ok := ParseTraceParent(bad); ok {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzParseTraceParent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, s string) {
		if sc, ok := ParseTraceParent(s); ok && (!sc.IsValid() || len(s) != 55) {
			t.Errorf("%q: %v", s, sc)
		}
	})
}

// TestOffCostsNothing: an agent without telemetry pays a nil check for each decision.
func TestOffCostsNothing(t *testing.T) {
	var off *Telemetry
	r := denial(1)
	op := Operation{Name: "x"}
	if n := testing.AllocsPerRun(1000, func() { off.Take(r); off.Did(op) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestTakeIsCheap: with telemetry, a decision pays for its count and a place in the queue, and
// a queue that nobody empties keeps nobody waiting.
func TestTakeIsCheap(t *testing.T) {
	on := &Telemetry{in: make(chan *journal.Record, 4), decisions: decisions{m: map[decisionKey]*atomic.Uint64{}}}
	r := denial(1)
	on.Take(r)
	if n := testing.AllocsPerRun(1000, func() { on.Take(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := on.missed.Load(); got != 1002-4 {
		t.Errorf("missed %d, want all but the 4 that the queue has room for", got)
	}
	on.decisions.each(func(n uint64, _ ...attribute.KeyValue) {
		if n != 1002 {
			t.Errorf("%d decisions counted of 1002", n)
		}
	})
}

// TestDecisionsAreBounded: names of policies make no more series than the bound.
func TestDecisionsAreBounded(t *testing.T) {
	d := decisions{m: map[decisionKey]*atomic.Uint64{}}
	r := denial(1)
	for i := range 5000 {
		r.Policy.Rule = strings.Repeat("x", i%3000)
		d.count(r)
	}
	var all uint64
	d.each(func(n uint64, _ ...attribute.KeyValue) { all += n })
	if len(d.m) > maxDecisionKinds+1 || all != 5000 {
		t.Errorf("%d series with %d decisions, want at most %d with 5000", len(d.m), all, maxDecisionKinds+1)
	}
}
