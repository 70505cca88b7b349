package telemetry

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/telemetry"
	"github.com/belay-project/belay/internal/verdict"
)

const containerID = ident.ContainerID("5a9c1e0f7b2d4836a1c95e7f30b8d2465a9c1e0f7b2d4836a1c95e7f30b8d246")

// rig is a journal with telemetry on its tap, as the agent has them.
type rig struct {
	t   *telemetry.Telemetry
	j   *journal.Journal
	dir string
	end func()
}

func open(t *testing.T, o telemetry.Options) *rig {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OTEL_") && name != "OTEL_METRIC_EXPORT_INTERVAL" {
			t.Setenv(name, "")
		}
	}
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "300")
	o.Version, o.Host, o.BootID = "test", "host-1", "boot-1"
	o.Health, o.Log = health.New(nil), slog.New(slog.NewTextHandler(io.Discard, nil))
	o.Linger = 50 * time.Millisecond
	r := &rig{dir: filepath.Join(t.TempDir(), "journal")}
	var opened atomic.Pointer[journal.Journal] // the first metrics may be read before it is
	o.Observe = func() telemetry.Observed {
		var stats journal.Stats
		if j := opened.Load(); j != nil {
			stats = j.Stats()
		}
		return telemetry.Observed{
			Backend: verdict.BackendLSM, Enforcing: true, Containers: 3, Levels: map[string]verdict.Level{"exec.drift": verdict.Prevent},
			Kernel: map[string]uint64{"ring_events": 2}, Journal: stats, Counters: map[string]uint64{"gate_denied": 4},
			Maps: []telemetry.MapFill{{Name: "bl_containers", Used: 3, Max: 8192}}, Scans: []telemetry.ImageAge{{ID: "sha256:1", At: time.Now()}},
			Database: time.Now().Add(-time.Hour), Pressure: map[string]time.Duration{"memory": 1500 * time.Millisecond},
			Outputs: []telemetry.OutputCount{{Name: "syslog:/dev/log", Sent: 5, Queued: 1, Dropped: map[string]uint64{"given_up": 2}}},
		}
	}
	tel, err := telemetry.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r.t = tel
	if r.j, err = journal.Open(journal.Options{Dir: r.dir, BootID: "boot-1", Host: "host-1", Tap: tel.Take}); err != nil {
		t.Fatal(err)
	}
	opened.Store(r.j)
	ctx, cancel := context.WithCancel(t.Context())
	done, written := make(chan struct{}), make(chan error, 1)
	go func() { defer close(done); tel.Run(ctx) }()
	go func() { written <- r.j.Run(ctx) }()
	ended := false
	r.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		<-done
		if err := <-written; err != nil {
			t.Error(err)
		}
		if err := r.j.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.end)
	return r
}

// inJournal counts the journal's records.
func (r *rig) inJournal(t *testing.T) (n int) {
	t.Helper()
	if err := journal.Read(t.Context(), r.dir, journal.ReadOptions{}, func(*journal.Record) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func container(event string) *journal.Record {
	return &journal.Record{Kind: journal.KindContainer, Event: event, Container: &journal.Container{ID: containerID, Name: "shop", Class: "container"}}
}

func denial() *journal.Record {
	return &journal.Record{
		Kind: journal.KindExec, Decision: verdict.Denied, Container: &journal.Container{ID: containerID, Name: "shop"},
		Policy:  &journal.Policy{Name: "hardened", Rule: "exec.drift", Mode: "enforce", Revision: "r"},
		Process: &journal.Process{PID: 9, Executable: &journal.Executable{Path: "/bin/\xff"}}, Object: &journal.Object{Type: "file", Path: "/tmp/\xfe"},
	}
}

const traceID = "0af7651916cd43dd8448eb211c80319c"

func call() *journal.Record {
	return &journal.Record{Kind: journal.KindAPI, Decision: verdict.Allowed, API: &journal.API{
		Action: "container.start", Method: "POST", Path: "/containers/x/start", Resources: []string{string(containerID)}, CallerKind: "user",
		Status: 204, DurationUS: 1500, TraceParent: "00-" + traceID + "-b7ad6b7169203331-01",
	}}
}

// eventually waits until ok, or fails.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("never: " + what)
}

// TestSignals: every kind of signal arrives at the Collector's receiver, by both protocols,
// with and without TLS.
func TestSignals(t *testing.T) {
	cert, key := selfSigned(t)
	for _, tt := range []struct {
		name, protocol string
		tls            bool
	}{{"grpc", "grpc", false}, {"http", "http/protobuf", false}, {"grpc with TLS", "grpc", true}, {"http with TLS", "http/protobuf", true}} {
		t.Run(tt.name, func(t *testing.T) {
			o := telemetry.Options{Protocol: tt.protocol}
			scheme, args := "http://", []string(nil)
			if tt.tls {
				scheme, args, o.CAFile = "https://", []string{"-cert", cert, "-key", key}, cert
			}
			recv := Start(t, args...)
			if o.Endpoint = scheme + recv.HTTP; tt.protocol == "grpc" {
				o.Endpoint = scheme + recv.GRPC
			}
			r := open(t, o)
			play(r)
			eventually(t, "metrics", func() bool { return recv.Counts(t).Names["metric belay.gate.duration"] > 0 })
			r.end()
			check(t, recv.Items(t))
			if got, want := recv.Counts(t).Counts["log"], r.inJournal(t); got != want {
				t.Errorf("%d logs, %d records in the journal", got, want)
			}
		})
	}
}

// play makes one of each.
func play(r *rig) {
	r.j.Append(container(journal.EventCreated))
	r.j.Append(call())
	r.j.Append(container(journal.EventFirstExec))
	for range 30 {
		r.j.Append(denial())
	}
	r.j.Append(container(journal.EventGone))
	now := time.Now()
	r.t.Did(telemetry.Operation{
		Name: "scan", Start: now.Add(-time.Second), End: now, Attributes: map[string]string{"belay.image.id": "sha256:1"},
		Stages: []telemetry.Stage{{Name: "read", Start: now.Add(-time.Second), End: now.Add(-time.Millisecond)}, {Name: "match", Start: now.Add(-time.Millisecond), End: now}},
	})
	r.t.Did(telemetry.Operation{
		Name: "move", Start: now, End: now, Err: io.ErrUnexpectedEOF,
		Stages: []telemetry.Stage{{Name: "lease", Start: now, End: now}, {Name: "image", Start: now, End: now, Err: io.ErrUnexpectedEOF}, {Name: "back", Start: now, End: now}},
	})
	r.t.Did(telemetry.Operation{Name: "policy reload", Start: now, End: now, Err: io.ErrUnexpectedEOF})
}

func check(t *testing.T, items []Item) {
	t.Helper()
	find := func(signal, name string) *Item {
		i := slices.IndexFunc(items, func(i Item) bool { return i.Signal == signal && i.Name == name })
		if i < 0 {
			t.Errorf("no %s %q came", signal, name)
			return &Item{}
		}
		return &items[i]
	}
	for _, name := range []string{"belay.exec", "belay.api", "belay.container"} {
		find("log", name)
	}
	for _, name := range []string{
		"belay.decisions", "belay.events.lost", "belay.gate.duration", "belay.map.entries", "belay.map.limit", "belay.rule.level", "belay.enforcing",
		"belay.scan.age", "belay.vulndb.age", "belay.containers", "belay.journal.written", "belay.telemetry.sent", "belay.output.sent", "belay.output.queued", "process.cpu.time", "process.memory.usage",
	} {
		find("metric", name)
	}
	if p := find("metric", "belay.node.pressure"); p.Value != 1.5 || p.Attributes["belay.resource"] != "memory" {
		t.Errorf("pressure: %v %v", p.Value, p.Attributes)
	}
	if d := find("metric", "belay.output.dropped"); d.Value != 2 || d.Attributes["belay.output"] != "syslog:/dev/log" || d.Attributes["belay.cause"] != "given_up" {
		t.Errorf("drops of an output: %v %v", d.Value, d.Attributes)
	}
	gate := find("span", "gate container.start")
	if gate.Trace != traceID || gate.Parent != "b7ad6b7169203331" {
		t.Errorf("the gate's span is in trace %s below %s, not the caller's", gate.Trace, gate.Parent)
	}
	life := find("span", "container")
	if n := len(slices.DeleteFunc(slices.Clone(life.Events), func(e string) bool { return e != "denied" })); n != 24 || life.Attributes["belay.denials"] != 30.0 {
		t.Errorf("%d span events of 30 denials, want 24, and %v counted", n, life.Attributes["belay.denials"])
	}
	for _, e := range []string{"created", "start", "first_exec", "stop"} {
		if !slices.Contains(life.Events, e) {
			t.Errorf("the life has no %s: %v", e, life.Events)
		}
	}
	if life.Links != 1 {
		t.Errorf("%d links to calls about the container", life.Links)
	}
	for _, name := range []string{"container starting", "container running"} {
		if s := find("span", name); s.Parent != life.Span {
			t.Errorf("%s is below %s, want the life", name, s.Parent)
		}
	}
	if find("span", "scan read").Parent != find("span", "scan").Span || find("span", "scan match").Trace != find("span", "scan").Trace {
		t.Error("stages are not below their scan")
	}
	move := find("span", "move")
	for name, failed := range map[string]bool{"move lease": false, "move image": true, "move back": false} {
		if s := find("span", name); s.Parent != move.Span || (s.Error != "") != failed {
			t.Errorf("%s is below %s, want the move; its error is %q", name, s.Parent, s.Error)
		}
	}
	find("span", "policy reload")
	if !slices.ContainsFunc(items, func(i Item) bool { return i.Name == "belay.gate.duration" && slices.Contains(i.Exemplars, traceID) }) {
		t.Error("the histogram has no exemplar of the call's trace")
	}
	if r := find("log", "belay.exec").Resource; r["service.name"] != "belay-agent" || r["host.name"] != "host-1" {
		t.Errorf("resource %v", r)
	}
	if l := find("log", "belay.api"); l.Trace != traceID || l.Span != gate.Span {
		t.Errorf("the call's log is of trace %s, span %s", l.Trace, l.Span)
	}
}

// TestBadReceivers: nobody waits for a receiver that is dead, slow or refuses, and what it
// did not get is counted: what came and what was dropped are the journal's records.
func TestBadReceivers(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) { badReceivers(t, protocol) })
	}
}

func badReceivers(t *testing.T, protocol string) {
	for _, tt := range []struct {
		mode, cause string
		later       bool // it takes again, and all that waited arrives
	}{{mode: "dead", cause: "stopped"}, {mode: "dead", later: true}, {mode: "slow"}, {mode: "refuse", later: true}, {mode: "refuse", cause: "given_up"}, {mode: "reject", cause: "refused"}} {
		t.Run(fmt.Sprintf("%s,later=%v,%s", tt.mode, tt.later, tt.cause), func(t *testing.T) {
			recv := Start(t)
			o := telemetry.Options{Endpoint: "http://" + recv.GRPC, Protocol: protocol, Queue: 1024, Batch: 256, RetryMost: time.Second, StopTime: 2 * time.Second}
			if protocol != "grpc" {
				o.Endpoint = "http://" + recv.HTTP
			}
			if tt.cause == "given_up" {
				o.GiveUp = time.Second
			}
			if tt.mode == "dead" {
				recv.Kill()
			} else {
				recv.Mode(t, tt.mode)
			}
			r := open(t, o)
			const n = 4000
			worst := time.Duration(0)
			for i := range n {
				began := time.Now()
				r.j.Append(denial())
				worst = max(worst, time.Since(began))
				if i%500 == 0 { // the journal's own queue is bounded too
					_ = r.j.Flush()
				}
			}
			if worst > 500*time.Millisecond { // the machine may be busy; a wait for the receiver is seconds
				t.Errorf("a record waited %v", worst)
			}
			switch {
			case tt.later && tt.mode == "dead":
				recv.Again(t)
			case tt.later:
				recv.Mode(t, "take")
			}
			if tt.cause != "stopped" {
				eventually(t, "all is sent or dropped", func() bool {
					c := r.t.Logs()
					return c.Sent+sum(c.Dropped) == n
				})
			}
			began := time.Now()
			r.end()
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("the end took %v", took)
			}
			c := r.t.Logs()
			if c.Offered != n || c.Sent+sum(c.Dropped) != n || r.inJournal(t) != n {
				t.Errorf("%+v, %d in the journal, want %d each", c, r.inJournal(t), n)
			}
			if tt.cause != "" && c.Dropped[tt.cause] == 0 {
				t.Errorf("nothing is counted as %s: %+v", tt.cause, c)
			}
			if tt.mode != "dead" || tt.later {
				if got := recv.Counts(t).Counts["log"]; uint64(got) != c.Sent { //nolint:gosec // small
					t.Errorf("the receiver took %d, %d are counted as sent", got, c.Sent)
				}
			}
			t.Logf("%+v; the slowest append took %v", c, worst)
		})
	}
}

func sum(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

// TestPrometheus: the endpoint shows the same metrics, with nothing sent anywhere.
func TestPrometheus(t *testing.T) {
	r := open(t, telemetry.Options{Prometheus: ":0"})
	addr := r.t.PrometheusAddr()
	if a, ok := addr.(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		t.Fatalf("it listens on %v", addr)
	}
	play(r)
	var body string
	eventually(t, "a scrape shows the denials", func() bool {
		resp, err := http.Get("http://" + addr.String() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
		body = string(raw)
		return strings.Contains(body, "belay_decisions_total{") && strings.Contains(body, "belay_gate_duration_seconds_bucket")
	})
	for _, want := range []string{`belay_policy_rule="exec.drift"`, "belay_map_entries{", "process_cpu_time_seconds_total", "belay_enforcing"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
}

func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
