package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/apicall"
)

// hostOnly knows no containers: where the benchmark runs in one, its caller is to be
// judged as a user all the same.
type hostOnly struct{}

func (hostOnly) ContainerOf(string) (string, bool) { return "", false }
func (hostOnly) Describe(*apicall.Subject)         {}

// line is one open connection to a target.
type line struct {
	c  net.Conn
	br *bufio.Reader
}

func (t way) dial() (*line, error) {
	c, err := net.Dial("unix", t.socket)
	if err != nil {
		return nil, err
	}
	return &line{c, bufio.NewReaderSize(c, 64<<10)}, nil
}

// ask sends a request and reads the whole answer.
func (l *line) ask(request []byte) (status int, took time.Duration, err error) {
	start := time.Now()
	if _, err := l.c.Write(request); err != nil {
		return 0, 0, err
	}
	r, err := http.ReadResponse(l.br, nil)
	if err != nil {
		return 0, 0, err
	}
	_, err = io.Copy(io.Discard, r.Body)
	took = time.Since(start)
	r.Body.Close()
	return r.StatusCode, took, err
}

func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// turns measures a request on all targets, one after the other, many times.
func (g *gateBench) turns(ctx context.Context, n int, requests []string, want []int) ([][]float64, error) {
	took := make([][]float64, len(g.targets))
	lines := make([]*line, len(g.targets))
	for i, t := range g.targets {
		var err error
		if lines[i], err = t.dial(); err != nil {
			return nil, err
		}
		defer lines[i].c.Close()
	}
	for round := range n + n/10 {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for k := range lines {
			i := (k + round) % len(lines)
			status, d, err := lines[i].ask([]byte(requests[i]))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", g.targets[i].name, err)
			}
			if status != want[i] {
				return nil, fmt.Errorf("%s: status %d, want %d", g.targets[i].name, status, want[i])
			}
			if round >= n/10 { // the first ones fill caches
				took[i] = append(took[i], micros(d))
			}
		}
	}
	return took, nil
}

func same(s string) []string { return []string{s, s, s} }

func (g *gateBench) latencies(ctx context.Context) (out []figure, err error) {
	for _, q := range []struct {
		what, request string
		status, n     int
	}{
		{"GET /_ping", httpRequest("GET", "/_ping", ""), 200, 4000},
		{"GET /containers/json, 10 containers", httpRequest("GET", "/v1.41/containers/json?all=1", ""), 200, 2000},
	} {
		took, err := g.turns(ctx, q.n, same(q.request), []int{q.status, q.status, q.status})
		if err != nil {
			return out, fmt.Errorf("%s: %w", q.what, err)
		}
		bare, floor, gate := quantile(took[0], .5), quantile(took[1], .5), quantile(took[2], .5)
		out = append(out,
			plain(q.what+": bare, floor, gate, median", "%.0f, %.0f, %.0f µs", bare, floor, gate),
			atMost("… added by the gate, by what the floor adds", (gate-bare)/(floor-bare), 1.5, "%.2f"),
			atMost("… 99th percentile, by bare's", quantile(took[2], .99)/quantile(took[0], .99), 2, "%.2f"))
	}
	create := httpRequest("POST", "/v1.41/containers/create?name=bench0", createBody(""))
	took, err := g.turns(ctx, 1000, same(create), []int{409, 409, 409})
	if err != nil {
		return out, fmt.Errorf("create: %w", err)
	}
	bare, floor, gate := quantile(took[0], .5), quantile(took[1], .5), quantile(took[2], .5)
	out = append(out, plain("POST /containers/create, 4 KiB, name taken: bare, floor, gate, median", "%.0f, %.0f, %.0f µs", bare, floor, gate),
		atMost("… above the floor", gate-floor, 150, "%.0f µs"))
	denied := httpRequest("POST", "/v1.41/containers/create?name=bench0", createBody(`,"Privileged":true`))
	if took, err = g.turns(ctx, 1000, []string{create, create, denied}, []int{409, 409, 403}); err != nil {
		return out, fmt.Errorf("denied create: %w", err)
	}
	out = append(out, atMost("A denied create, by the bare engine's answer to an allowed one", quantile(took[2], .5)/quantile(took[0], .5), 1, "%.2f"))
	info := httpRequest("GET", "/info", "")
	if took, err = g.turns(ctx, 300, same(info), []int{200, 200, 403}); err != nil {
		return out, fmt.Errorf("denied info: %w", err)
	}
	return append(out, atMost("A denied GET /info, by the bare engine's answer", quantile(took[2], .5)/quantile(took[0], .5), 1, "%.2f")), nil
}

// burst asks as fast as callers can for a time.
func (t way) burst(ctx context.Context, callers int, request string, d time.Duration) (took []float64, errs int) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var mu sync.Mutex
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			l, err := t.dial()
			if err != nil {
				failed.Add(1)
				return
			}
			defer l.c.Close()
			var own []float64
			for ctx.Err() == nil {
				status, took, err := l.ask([]byte(request))
				if err != nil || status != 200 {
					failed.Add(1)
					break
				}
				own = append(own, micros(took))
			}
			mu.Lock()
			took = append(took, own...)
			mu.Unlock()
		})
	}
	wg.Wait()
	return took, int(failed.Load())
}

func (g *gateBench) concurrency(ctx context.Context) (out []figure, err error) {
	for _, q := range []struct{ what, path string }{{"GET /_ping", "/_ping"}, {"GET /containers/json", "/v1.41/containers/json?all=1"}} {
		took := make([][]float64, 3)
		errs := 0
		for round := range 12 {
			for k := range g.targets {
				i := (k + round) % 3
				v, n := g.targets[i].burst(ctx, 10, httpRequest("GET", q.path, ""), 300*time.Millisecond)
				took[i], errs = append(took[i], v...), errs+n
			}
		}
		if errs > 0 || len(took[2]) == 0 {
			return out, fmt.Errorf("%s at 10 callers: %d errors", q.what, errs)
		}
		bare, floor, gate := quantile(took[0], .5), quantile(took[1], .5), quantile(took[2], .5)
		out = append(out, plain(q.what+", 10 callers: bare, floor, gate, median", "%.0f, %.0f, %.0f µs", bare, floor, gate),
			atMost("… added by the gate, by what the floor adds", (gate-bare)/(floor-bare), 1.5, "%.2f"),
			atMost("… 99th percentile, by bare's", quantile(took[2], .99)/quantile(took[0], .99), 2, "%.2f"))
	}
	v, errs := g.targets[2].burst(ctx, 500, httpRequest("GET", "/_ping", ""), 3*time.Second)
	return append(out, atMost(fmt.Sprintf("Errors at 500 callers, of %d requests", len(v)), float64(errs), 0, "%.0f")), nil
}

// memory: what 200 open connections cost the gate's process.
func (g *gateBench) memory(ctx context.Context) ([]figure, error) {
	d := &daemon{bench: g.bench, cmd: g.gate}
	ping := []byte(httpRequest("GET", "/_ping", ""))
	before, err := d.megabytes("RssAnon")
	if err != nil {
		return nil, err
	}
	for range 200 {
		l, err := g.targets[2].dial()
		if err != nil {
			return nil, err
		}
		defer l.c.Close()
		if _, _, err := l.ask(ping); err != nil {
			return nil, err
		}
	}
	wait(ctx, time.Second)
	after, err := d.megabytes("RssAnon")
	if err != nil {
		return nil, err
	}
	return []figure{
		plain("Heap and stacks of the gate's process before", "%.1f MB", before),
		atMost("… with 200 open connections more", after-before, 10, "%.1f MB"),
	}, nil
}

// streams compares the throughput of the floor and the gate.
func (g *gateBench) streams(ctx context.Context) (out []figure, err error) {
	var image bytes.Buffer
	l, err := g.targets[0].dial()
	if err != nil {
		return nil, err
	}
	defer l.c.Close()
	if _, err := io.WriteString(l.c, httpRequest("GET", "/images/bench-big/get", "")); err != nil {
		return nil, err
	}
	r, err := http.ReadResponse(l.br, nil)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(&image, r.Body); err != nil {
		return nil, err
	}
	load := fmt.Sprintf("POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\nUser-Agent: bench\r\nContent-Type: application/x-tar\r\nContent-Length: %d\r\n\r\n", image.Len()) + image.String()
	for _, q := range []struct{ what, request string }{
		{"save", httpRequest("GET", "/images/bench-big/get", "")},
		{"logs", httpRequest("GET", "/containers/talker/logs?stdout=1", "")},
		{"load", load},
	} {
		best := make([][]float64, 3)
		for round := range 7 {
			for k := range g.targets {
				i := (k + round) % 3
				if ctx.Err() != nil {
					return out, ctx.Err()
				}
				l, err := g.targets[i].dial()
				if err != nil {
					return out, err
				}
				status, took, err := l.ask([]byte(q.request))
				l.c.Close()
				if err != nil || status != 200 {
					return out, fmt.Errorf("%s through %s: status %d, %w", q.what, g.targets[i].name, status, err)
				}
				best[i] = append(best[i], took.Seconds()*1000)
			}
		}
		bare, floor, gate := quantile(best[0], .5), quantile(best[1], .5), quantile(best[2], .5)
		out = append(out, plain(strings.ToUpper(q.what[:1])+q.what[1:]+": bare, floor, gate, median", "%.0f, %.0f, %.0f ms", bare, floor, gate),
			atLeast("… throughput of the gate, by the floor's", 100*floor/gate, 95, "%.0f %%"))
	}
	return out, nil
}
