package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/tools/lab"
)

const telemetryText = `
Two agents stand before one private engine and on containers of their own: one sends logs, traces and metrics by OTLP over gRPC to the
OpenTelemetry Collector's receiver on this machine, whose processor time is in the figures too; the other sends nothing. Both record every
allowed exec. They are measured in turns of a second or less whose order alternates, with a pause after each in which what waits is sent; a ratio is the median of those of the pairs. "open" as
a result: the 95 % interval of that median has the target in it.
`

const floodText = `
A container is refused 10,000 connections a second under an agent within its default caps, which sends a record of each, with logs, traces and metrics, by OTLP
to the OpenTelemetry Collector's receiver on this machine, over gRPC and then over HTTP.
Dropped is what the agent counts so: in the kernel's ring, in the journal, on the way to the collector. Then records of such connections are made what is sent over gRPC, 512 at a time, by the agent as it does and
by the exporter of OpenTelemetry's SDK, in processor time.
`

const (
	telemetryPairs = 12
	floodRate      = 10_000 // of loop refused
	floodSeconds   = 30
	netLog         = "log belay." + string(journal.KindNetwork)
)

// startCollector also makes the root of the containers that are measured with it.
func (b *bench) startCollector() (*lab.Receiver, error) {
	if err := b.makeRoot(filepath.Join(b.bin, "loop")); err != nil {
		return nil, err
	}
	return lab.RunReceiver(filepath.Join(b.bin, "otlpreceiver"))
}

// takenBy returns how many items of that signal and name a collector has, such as "log belay.net".
func takenBy(ctx context.Context, c *lab.Receiver, name string) (int, error) {
	counts, err := c.Counts(ctx)
	return counts.Names[name], err
}

// side is an agent that sends, or does not.
type side struct {
	*bench
	d     *daemon
	scope string
}

// startSide starts an agent on directories and containers of its own.
func (b *bench) startSide(ctx context.Context, name string, args ...string) (*side, error) {
	own := *b
	own.dir = filepath.Join(b.dir, name)
	s := &side{bench: b, scope: scope + "/" + name}
	policies := filepath.Join(own.dir, "agent", "policies")
	if err := os.MkdirAll(policies, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(policies, "access.yaml"), []byte(strings.Replace(gatePolicy, "name: bench", "name: access", 1)), 0o600); err != nil {
		return nil, err
	}
	var err error
	if s.d, err = own.startAgent(ctx, append([]string{"--cgroup-scope", s.scope}, args...)...); err != nil {
		removeScope(s.scope)
		return nil, err
	}
	return s, nil
}

func (s *side) stop() error {
	err := s.d.stop()
	removeScope(s.scope)
	return err
}

// loop runs the loop in a container below the agent, as a user who is not root, and returns the nanoseconds of one turn.
func (s *side) loop(ctx context.Context, what string, n int) (float64, error) {
	return number(exec.CommandContext(ctx, filepath.Join(s.bin, "ctr"), "run", "--state", filepath.Join(s.dir, "ctr"),
		"--cgroup-parent", s.scope, "--rootfs", s.root(), "--uid", "1000", "--", "/bin/loop", what, strconv.Itoa(n)))
}

func telemetries(ctx context.Context, b *bench) (out []figure, err error) {
	c, err := b.startCollector()
	if err != nil {
		return nil, err
	}
	defer c.Kill()
	return b.onAndOff(ctx, c)
}

func floods(ctx context.Context, b *bench) (out []figure, err error) {
	c, err := b.startCollector()
	if err != nil {
		return nil, err
	}
	defer c.Kill()
	for _, w := range []struct{ over, protocol, address string }{{"gRPC", "grpc", c.GRPC}, {"HTTP", "http/protobuf", c.HTTP}} {
		figs, err := b.flood(ctx, c, w.over, "--otlp-protocol", w.protocol, "--otlp-endpoint", "http://"+w.address)
		out = append(out, figs...)
		if err != nil {
			return out, fmt.Errorf("over %s: %w", w.over, err)
		}
	}
	m, err := b.gobench(ctx, filepath.Join(b.bin, "telemetry.test"), "^BenchmarkLogs$", "3s")
	if err != nil {
		return out, err
	}
	ours, theirs := m["Logs/encoded cpu-ns/record"], m["Logs/exporter cpu-ns/record"]
	return append(out,
		plain("A record as a log: encoded by the agent, by the exporter", "%.1f, %.1f µs", ours/1000, theirs/1000),
		plain("… allocations", "%.0f, %.0f", m["Logs/encoded allocs/op"]/512, m["Logs/exporter allocs/op"]/512),
		atMost("… the agent's time, by the exporter's", ours/theirs, 0.25, "%.2f")), nil
}

// onAndOff measures what the gate answers and what executes, with and without telemetry.
func (b *bench) onAndOff(ctx context.Context, c *lab.Receiver) (out []figure, err error) {
	l, err := lab.New(lab.Options{Name: "bench", Source: b.source, BinDir: b.bin})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	g := &gateBench{bench: b}
	if g.e, err = l.StartEngine(ctx, "engine"); err != nil {
		return nil, err
	}
	var sides [2]*side // off, on
	for i, args := range [][]string{nil, {"--otlp-endpoint", "http://" + c.GRPC, "--otlp-protocol", "grpc"}} {
		name := []string{"off", "on"}[i]
		if sides[i], err = b.startSide(ctx, name, append([]string{"--docker-host", g.e.Host(), "--log-allowed"}, args...)...); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, sides[i].stop()) }()
		g.targets = append(g.targets, way{name, filepath.Join(sides[i].d.run(), "docker.sock")})
	}
	bb, err := lab.Busybox()
	if err != nil {
		return nil, err
	}
	if err := g.e.Import(ctx, "bench", []lab.File{lab.Program("bin/busybox", bb)}, "USER 1000"); err != nil {
		return nil, err
	}
	for i := range 10 {
		if r := g.e.Client(g.targets[0].socket, 0).Docker(ctx, "create", "--name", fmt.Sprint("bench", i), "--network", "none", "bench", "/bin/busybox", "true"); r.Code != 0 {
			return nil, r.Err()
		}
	}
	out = append(out, plain("Engine", "%s, %s", g.e.Version, g.e.Driver), plain("Pairs of turns", "%d", telemetryPairs))
	for _, q := range []struct {
		what, request string
		status        int
		signal        string
	}{
		{"GET /_ping", httpRequest("GET", "/_ping", ""), 200, ""},
		{"GET /containers/json, 10 containers", httpRequest("GET", "/v1.41/containers/json?all=1", ""), 200, "span gate container.list"},
		{"POST /containers/create, 4 KiB, name taken", httpRequest("POST", "/v1.41/containers/create?name=bench0", createBody("")), 409, "span gate container.create"},
	} {
		figs, err := pairsOf(ctx, c, q.what, "µs", q.signal, func(i int) (float64, error) {
			return g.targets[i].steady(ctx, q.request, q.status, 700*time.Millisecond)
		})
		out = append(out, figs...)
		if err != nil {
			return out, fmt.Errorf("%s: %w", q.what, err)
		}
	}
	figs, err := pairsOf(ctx, c, "fork, exec and wait in a container", "µs", "log belay.exec", func(i int) (float64, error) {
		ns, err := sides[i].loop(ctx, "spawn", 500)
		return ns / 1000, err
	})
	return append(out, figs...), err
}

// steady asks again and again on one connection for d, and returns the median of the answers' times in microseconds.
func (t way) steady(ctx context.Context, request string, want int, d time.Duration) (float64, error) {
	l, err := t.dial()
	if err != nil {
		return 0, err
	}
	defer l.c.Close()
	var took []float64
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
		status, one, err := l.ask([]byte(request))
		if err != nil || status != want {
			return 0, fmt.Errorf("%s: status %d, want %d: %w", t.name, status, want, err)
		}
		took = append(took, micros(one))
	}
	return median(took), ctx.Err()
}

// pairsOf measures without telemetry (0) and with it (1) in turns. The collector must have something of that name meanwhile.
func pairsOf(ctx context.Context, c *lab.Receiver, what, unit, name string, measure func(side int) (float64, error)) ([]figure, error) {
	before, err := takenBy(ctx, c, name)
	if err != nil {
		return nil, err
	}
	var times [2][]float64
	var ratios []float64
	for round := range telemetryPairs + 1 {
		var pair [2]float64
		for k := range pair {
			i := (k + round) % 2
			if pair[i], err = measure(i); err != nil {
				return nil, err
			}
			wait(ctx, 1100*time.Millisecond) // a batch waits for a second to be filled
		}
		if round == 0 { // it fills caches
			continue
		}
		for i, v := range pair {
			times[i] = append(times[i], v)
		}
		ratios = append(ratios, pair[1]/pair[0])
	}
	after, err := takenBy(ctx, c, name)
	if err != nil {
		return nil, err
	}
	if name != "" && after == before {
		return nil, fmt.Errorf("%s: nothing of it was exported", what)
	}
	low, high := medianInterval(ratios)
	f := atMost("… on, by off", median(ratios), 1.03, "%.3f")
	f.open = !f.met && low <= 1.03
	return []figure{
		plain(what+": off, on, median", "%.0f, %.0f %s", median(times[0]), median(times[1]), unit), f,
		plain("… its 95 % interval", "%.3f to %.3f", low, high),
	}, ctx.Err()
}

// flood has an agent under its caps export as many events a second as are promised.
func (b *bench) flood(ctx context.Context, c *lab.Receiver, over string, otlp ...string) (out []figure, err error) {
	prom, err := freePort()
	if err != nil {
		return nil, err
	}
	s, err := b.startSide(ctx, "flood-"+over, append(otlp, "--docker-host", "none", "--cpu-max", "50%", "--memory-max", "256M", "--prometheus", prom)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	wait(ctx, 5*time.Second) // it gives back what its start took
	before, err := takenBy(ctx, c, netLog)
	if err != nil {
		return nil, err
	}
	dropsBefore, err := drops(prom)
	if err != nil {
		return nil, err
	}
	cpu, err := s.d.processor()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	ended := make(chan error, 1)
	go func() {
		_, err := s.loop(ctx, "refused", floodRate*floodSeconds)
		ended <- err
	}()
	var most float64
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				return nil, err
			}
			running = false
		case <-time.After(200 * time.Millisecond):
		}
		rss, err := s.d.megabytes("VmRSS")
		if err != nil {
			return nil, err
		}
		most = max(most, rss)
	}
	took := time.Since(began)
	cpu2, err := s.d.processor()
	if err != nil {
		return nil, err
	}
	// What waits is sent in a moment; then nothing may be missing.
	exported, last := 0, time.Now()
	for then := -1; exported != then && time.Since(last) < time.Minute; {
		then = exported
		wait(ctx, 3*time.Second)
		if exported, err = takenBy(ctx, c, netLog); err != nil {
			return nil, err
		}
	}
	exported -= before
	wait(ctx, 6*time.Second) // the agent's state in metrics is 5 s old at most
	lost, err := drops(prom)
	if err != nil {
		return nil, err
	}
	const offered = floodRate * floodSeconds
	var dropped float64
	var causes []string
	for cause, n := range lost {
		if n -= dropsBefore[cause]; n > 0 {
			dropped += n
			causes = append(causes, fmt.Sprintf("%s %.0f", cause, n))
		}
	}
	slices.Sort(causes)
	out = append(out,
		plain("Over "+over+": events a second offered, under the agent's caps", "%.0f/s for %.0f s", offered/took.Seconds(), took.Seconds()),
		atLeast("… exported, of those offered", 100*float64(exported)/offered, 100, "%.2f %%"),
		plain("… dropped, by cause", "%s", strings.Join(append(causes, "all "+strconv.FormatFloat(dropped, 'f', 0, 64)), ", ")),
		atMost("… neither exported nor counted as dropped", max(0, offered-float64(exported)-dropped), 0, "%.0f"),
		atMost("… processor time of the agent, of one processor", 100*(cpu2-cpu).Seconds()/took.Seconds(), 50, "%.0f %%"),
		plain("… for an event", "%.1f µs", float64((cpu2-cpu).Microseconds())/offered),
		atMost("… resident, the most", most, 256, "%.0f MB"))
	return out, nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// drops reads an agent's counts of what was lost before the journal, and on the way from it to the collector as a log.
func drops(prom string) (map[string]float64, error) {
	r, err := http.Get("http://" + prom + "/metrics") //nolint:noctx // a program of this run
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	out := map[string]float64{}
	sc := bufio.NewScanner(r.Body)
	for sc.Scan() {
		line := sc.Text()
		lost := strings.HasPrefix(line, "belay_events_lost_total{")
		if !lost && (!strings.HasPrefix(line, "belay_telemetry_dropped_total{") || strings.Contains(line, `belay_signal="traces"`)) {
			continue
		}
		_, rest, _ := strings.Cut(line, `belay_cause="`)
		cause, rest, _ := strings.Cut(rest, `"`)
		if cause == "journal_denial_copy" { // the record itself is not lost
			continue
		}
		if !lost {
			cause = "telemetry_" + cause
		}
		n, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		out[cause] += n
	}
	return out, sc.Err()
}
