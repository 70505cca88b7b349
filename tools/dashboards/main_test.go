package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/telemetry"
	"github.com/belay-project/belay/internal/verdict"
)

func TestFilesAreWritten(t *testing.T) {
	if err := run("../../deploy/grafana", true); err != nil {
		t.Fatal(err)
	}
}

// offered are the metrics of an agent that has done a little of everything, with their labels.
func offered(t *testing.T) map[string]map[string]bool {
	t.Helper()
	tel, err := telemetry.Open(t.Context(), telemetry.Options{
		Endpoint: "http://127.0.0.1:9", Prometheus: "127.0.0.1:0", Version: "test", Host: "host", BootID: "boot", Health: health.New(nil), Log: slog.New(slog.DiscardHandler),
		Observe: func() telemetry.Observed {
			return telemetry.Observed{
				Backend: verdict.BackendLSM, Enforcing: true, Containers: 1, Levels: map[string]verdict.Level{"exec.drift": verdict.Prevent},
				Kernel: map[string]uint64{"ring_events": 1}, Counters: map[string]uint64{"gate_denied": 1}, Maps: []telemetry.MapFill{{Name: "m", Used: 1, Max: 2}},
				Journal: journal.Stats{Written: 1, Dropped: map[string]uint64{"journal_queue_full": 1}},
				Scans:   []telemetry.ImageAge{{ID: "sha256:1", At: time.Now()}}, Database: time.Now().Add(-time.Hour),
				Loads:    []telemetry.LoadLevel{{Policy: "p", Cap: "memory", Known: true, Percent: 10, Limit: 80}},
				Pressure: map[string]time.Duration{"cpu": time.Second},
				Outputs:  []telemetry.OutputCount{{Name: "stdout", Sent: 1, Dropped: map[string]uint64{"given_up": 1}}},
				Own:      telemetry.OwnCaps{Memory: 1, MemoryMax: 2, Step: 1},
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tel.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; tel.Close() })
	tel.Take(&journal.Record{Time: time.Now(), Kind: journal.KindExec, Decision: verdict.Denied, Policy: &journal.Policy{Name: "p", Rule: "exec.drift"}})
	tel.Take(&journal.Record{Time: time.Now(), Kind: journal.KindAPI, Decision: verdict.Allowed, API: &journal.API{Action: "container.create", DurationUS: 1000}})
	tel.Did(telemetry.Operation{Name: "scan", Start: time.Now(), End: time.Now()})
	for range 100 {
		out := scrape(t, tel.PrometheusAddr().String())
		if out["belay_operation_duration_seconds_count"] != nil && out["belay_gate_duration_seconds_count"] != nil {
			return out
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // what was taken is told a moment later
	}
	t.Fatal("no histogram is offered")
	return nil
}

var sample = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})? `)

func scrape(t *testing.T, addr string) map[string]map[string]bool {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out := map[string]map[string]bool{}
	sc := bufio.NewScanner(io.LimitReader(resp.Body, 4<<20))
	for sc.Scan() {
		m := sample.FindStringSubmatch(sc.Text())
		if m == nil || strings.HasPrefix(sc.Text(), "#") {
			continue
		}
		if out[m[1]] == nil {
			out[m[1]] = map[string]bool{"instance": true} // of who scrapes
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			out[m[1]][l[1]] = true
		}
	}
	return out
}

var (
	label  = regexp.MustCompile(`([a-z_]+)="`)
	metric = regexp.MustCompile(`\b((?:belay|process)_[a-z_]+)\{([^}]*)\}`)
	wanted = regexp.MustCompile(`([a-z_]+)=~?"`)
	by     = regexp.MustCompile(`by \(([^)]*)\)`)
	shown  = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)
)

// Every panel asks for metrics and labels that an agent has, and every metric is on a panel.
func TestPanelsAskForWhatThereIs(t *testing.T) {
	have := offered(t)
	asked := map[string]bool{}
	for _, b := range boards {
		if b.traces {
			continue
		}
		for _, r := range b.rows {
			for i := range r.panels {
				for _, q := range r.panels[i].queries {
					found := metric.FindAllStringSubmatch(q.expr, -1)
					if len(found) == 0 {
						t.Errorf("%s: %s: no metric in %q", b.uid, r.panels[i].title, q.expr)
					}
					for _, m := range found {
						name := m[1]
						asked[name] = true
						if have[name] == nil {
							t.Errorf("%s: %s: no agent offers %s", b.uid, r.panels[i].title, name)
							continue
						}
						labels := wanted.FindAllStringSubmatch(m[2], -1)
						labels = append(labels, shown.FindAllStringSubmatch(q.legend, -1)...)
						for _, g := range by.FindAllStringSubmatch(q.expr, -1) {
							for l := range strings.SplitSeq(g[1], ",") {
								labels = append(labels, []string{"", strings.TrimSpace(l)})
							}
						}
						for _, l := range labels {
							if !have[name][l[1]] {
								t.Errorf("%s: %s: %s has no label %s", b.uid, r.panels[i].title, name, l[1])
							}
						}
					}
				}
			}
		}
	}
	for name := range have {
		base := strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_created")
		if strings.HasPrefix(name, "belay_") && !asked[name] && base == name {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// Panels lie beside and below each other, none over another, and have numbers of their own.
func TestPlaces(t *testing.T) {
	for _, b := range boards {
		text, err := b.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Panels []struct {
				ID      int
				Title   string
				GridPos struct{ H, W, X, Y int }
			}
		}
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		ids, cells := map[int]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			if ids[p.ID] {
				t.Errorf("%s: two panels have the number %d", b.uid, p.ID)
			}
			ids[p.ID] = true
			if p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("%s: %s is wider than the page", b.uid, p.Title)
			}
			for x := range p.GridPos.W {
				for y := range p.GridPos.H {
					at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
					if was := cells[at]; was != "" {
						t.Fatalf("%s: %s lies over %s", b.uid, p.Title, was)
					}
					cells[at] = p.Title
				}
			}
		}
	}
}
