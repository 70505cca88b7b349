package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/telemetry"
	"github.com/belay-project/belay/internal/verdict"
)

// traced are the attributes of spans and of their resource, with values, by the span's name.
type traced struct {
	spans    map[string]map[string][]string
	resource map[string]bool
}

// sent are the spans of an agent that has done a little of everything.
func sent(t *testing.T) *traced {
	t.Helper()
	bodies := make(chan []byte, 16)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
		if err != nil {
			t.Error(err)
		}
		bodies <- body
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.URL)
	tel, err := telemetry.Open(t.Context(), telemetry.Options{Version: "test", Host: "host", BootID: "boot", Health: health.New(nil), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	act(t, tel)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what was taken is sent at the end
	tel.Run(ctx)
	close(bodies)
	out := &traced{spans: map[string]map[string][]string{}, resource: map[string]bool{}}
	for body := range bodies {
		var req coltracepb.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &req); err != nil {
			t.Fatal(err)
		}
		for _, rs := range req.ResourceSpans {
			for _, kv := range rs.Resource.Attributes {
				out.resource[kv.Key] = true
			}
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					out.add(s.Name, s.Attributes)
				}
			}
		}
	}
	return out
}

func (s *traced) add(name string, kvs []*commonpb.KeyValue) {
	if s.spans[name] == nil {
		s.spans[name] = map[string][]string{}
	}
	for _, kv := range kvs {
		s.spans[name][kv.Key] = append(s.spans[name][kv.Key], kv.Value.GetStringValue())
	}
}

// act makes a call of each decision, a life with a denial, and each operation that the agent's code has.
func act(t *testing.T, tel *telemetry.Telemetry) {
	t.Helper()
	pol := &journal.Policy{Name: "p", Rule: "exec.drift"}
	for _, d := range []verdict.Decision{verdict.Allowed, verdict.Denied, verdict.WouldDeny} {
		tel.Take(&journal.Record{Time: time.Now(), Kind: journal.KindAPI, Decision: d, Policy: pol, API: &journal.API{
			Action: "container.create", Method: "POST", Path: "/containers/create", Caller: "alice", CallerKind: "user", Status: 500, DurationUS: 1000, Cause: "forbidden",
		}})
	}
	c := &journal.Container{ID: ident.ContainerID(strings.Repeat("a", 64)), Name: "web", Image: "nginx"}
	for _, event := range []string{journal.EventCreated, journal.EventFirstExec} {
		tel.Take(&journal.Record{Time: time.Now(), Kind: journal.KindContainer, Event: event, Container: c})
	}
	tel.Take(&journal.Record{Time: time.Now(), Kind: journal.KindExec, Decision: verdict.Denied, Container: c, Policy: pol})
	tel.Take(&journal.Record{Time: time.Now(), Kind: journal.KindContainer, Event: journal.EventGone, Container: c})
	for _, op := range operations(t) {
		op.Start, op.End = time.Now(), time.Now()
		tel.Did(op)
	}
}

var (
	opened = regexp.MustCompile(`telemetry\.Begin\("([a-z ]+)"|telemetry\.Operation\{$`)
	named  = regexp.MustCompile(`^\s*Name: "([a-z ]+)",`)
	stage  = regexp.MustCompile(`\.Ended\("([a-z]+)"\)|\{Name: "([a-z]+)"`)
	valued = regexp.MustCompile(`"(belay\.[a-z.]+)"(?::|\] =)`)
)

// operations reads from the agent's source what it tells of: the names, stages and attributes that it gives them.
func operations(t *testing.T) []telemetry.Operation {
	t.Helper()
	files, err := filepath.Glob("../../internal/agent/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var ops []telemetry.Operation
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var op *telemetry.Operation
		for line := range strings.Lines(string(src)) {
			line = strings.TrimRight(line, "\n")
			if m := opened.FindStringSubmatch(line); m != nil {
				ops = append(ops, telemetry.Operation{Name: m[1], Attributes: map[string]string{}})
				op = &ops[len(ops)-1]
			}
			if op == nil {
				continue
			}
			if m := named.FindStringSubmatch(line); m != nil {
				op.Name = m[1]
			}
			for _, m := range stage.FindAllStringSubmatch(line, -1) {
				op.Stages = append(op.Stages, telemetry.Stage{Name: m[1] + m[2], Start: time.Now(), End: time.Now()})
			}
			if m := valued.FindStringSubmatch(line); m != nil {
				op.Attributes[m[1]] = "x"
			}
		}
	}
	for i := range ops {
		if ops[i].Name == "move" { // its stages are the mover's steps, docs/moving.md
			ops[i].Stages = append(ops[i].Stages, telemetry.Stage{Name: "lease", Start: time.Now(), End: time.Now()})
		}
	}
	return ops
}

var (
	nameIs     = regexp.MustCompile(`(?:\{|&& )name(=~?)"([^"]*)"`)
	spanAsked  = regexp.MustCompile(`\bspan\.([a-z_.]+)`)
	valueAsked = regexp.MustCompile(`\bspan\.([a-z_.]+)=~"([^"]*)"`)
	ofResource = regexp.MustCompile(`\bresource\.([a-z_.]+)`)
)

// Every panel asks for spans and attributes that an agent has, and every span is on a panel.
func TestPanelsAskForSpansThereAre(t *testing.T) {
	have := sent(t)
	shown := map[string]bool{}
	for _, b := range boards {
		if !b.traces {
			continue
		}
		for _, r := range b.rows {
			for i := range r.panels {
				for _, q := range r.panels[i].queries {
					for _, wrong := range have.lacks(q.expr, shown) {
						t.Errorf("%s: %s: %s", b.uid, r.panels[i].title, wrong)
					}
				}
			}
		}
	}
	for name := range have.spans {
		if !shown[name] && name != "container running" { // which lasts as long as it likes
			t.Errorf("no panel shows %q", name)
		}
	}
}

// lacks says what of a query no span has, and notes the spans that it shows.
func (s *traced) lacks(expr string, shown map[string]bool) (wrong []string) {
	m := nameIs.FindStringSubmatch(expr)
	if m == nil {
		return []string{"it names no span: " + expr}
	}
	is := regexp.MustCompile("^(?:" + m[2] + ")$") // TraceQL's are anchored
	attrs := map[string][]string{}
	for name, have := range s.spans {
		if m[1] == "=" && name != m[2] || !is.MatchString(name) {
			continue
		}
		shown[name] = true
		for k, v := range have {
			attrs[k] = append(attrs[k], v...)
		}
		attrs[""] = nil
	}
	if len(attrs) == 0 {
		return []string{"no span is called " + m[2]}
	}
	for _, a := range spanAsked.FindAllStringSubmatch(expr, -1) {
		if attrs[a[1]] == nil {
			wrong = append(wrong, "no "+m[2]+" has "+a[1])
		}
	}
	for _, a := range valueAsked.FindAllStringSubmatch(expr, -1) {
		for v := range strings.SplitSeq(a[2], "|") {
			if !slices.Contains(attrs[a[1]], v) {
				wrong = append(wrong, a[1]+" is never "+v)
			}
		}
	}
	for _, a := range ofResource.FindAllStringSubmatch(expr, -1) {
		if !s.resource[a[1]] {
			wrong = append(wrong, "the resource has no "+a[1])
		}
	}
	return wrong
}

// What no agent has is found: the test above would pass on anything otherwise.
func TestLacks(t *testing.T) {
	have := sent(t)
	for _, tt := range []struct{ expr, wrong string }{
		{`{name="container" && span.belay.denials>0}`, ""},
		{`{name="policy reload" && status=error} | select(span.belay.policy.revision)`, ""},
		{`{name=~"scan .+"}`, ""},
		{`{name=~"scan"} | select(span.belay.image.digest)`, ""},
		{`{span.belay.denials>0}`, "it names no span: {span.belay.denials>0}"},
		{`{name="contain"}`, "no span is called contain"},
		{`{name="scan .+"}`, "no span is called scan .+"},
		{`{name="container" && span.belay.denial>0}`, "no container has belay.denial"},
		{`{name="scan"} | select(span.belay.move.id)`, "no scan has belay.move.id"},
		{`{name=~"gate.*" && span.belay.decision=~"denied|wouldDeny"}`, "belay.decision is never wouldDeny"},
		{`{resource.host="x" && name="scan"}`, "the resource has no host"},
	} {
		got := have.lacks(tt.expr, map[string]bool{})
		if strings.Join(got, ", ") != tt.wrong {
			t.Errorf("%s: got %q, want %q", tt.expr, got, tt.wrong)
		}
	}
}
