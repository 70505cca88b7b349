package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/tools/lab"
)

const startText = `
` + "`docker run --rm --network none`" + ` of a static image as uid 1000, on a private engine, without and with
the agent and its programs, four and four whose order alternates; the first of both are a pair, and so on. The difference
of two such runs is mostly what else the machine does; what Belay itself takes is
counted too, after a first start on each side that is not: the time in its programs (of all tasks: dockerd, runc, the container) and the
agent's processor time. BELAY_BENCH_PAIRS sets the number of pairs.
`

func pairs() (int, error) {
	s := os.Getenv("BELAY_BENCH_PAIRS")
	if s == "" {
		return 40, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 4 {
		return 0, fmt.Errorf("BELAY_BENCH_PAIRS=%s: want a number of 4 or more", s)
	}
	return n, nil
}

// starter runs containers with and without an agent.
type starter struct {
	*bench
	e      *lab.Engine
	agent  *daemon // nil: not attached
	hooks  time.Duration
	cpu    time.Duration
	counts int
}

func starts(ctx context.Context, b *bench) (out []figure, err error) {
	n, err := pairs()
	if err != nil {
		return nil, err
	}
	l, err := lab.New(lab.Options{Name: "bench", Source: b.source, BinDir: b.bin})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s := &starter{bench: b}
	if s.e, err = l.StartEngine(ctx, "engine"); err != nil {
		return nil, err
	}
	busybox, err := lab.Busybox()
	if err != nil {
		return nil, err
	}
	if err := s.e.Import(ctx, "bench", []lab.File{lab.Program("bin/busybox", busybox)}, "USER 1000"); err != nil {
		return nil, err
	}
	stop, err := enforce.CountHookTimes()
	if err != nil {
		return nil, err
	}
	defer stop.Close()
	defer func() { err = errors.Join(err, s.detach()) }()
	out = append(out, plain("Engine", "%s, %s", s.e.Version, s.e.Driver), plain("Pairs", "%d", n))
	for range 3 { // the first starts fill caches
		if _, err := s.start(ctx); err != nil {
			return out, err
		}
	}
	var without, with []float64
	// Starts of one side are together, since an agent takes longer to settle than they take.
	const together = 4
	for i := 0; i < n; i += together {
		order := []bool{false, true}
		if i/together%2 == 1 {
			order = []bool{true, false}
		}
		for _, attached := range order {
			for range min(together, n-i) {
				ms, err := s.measure(ctx, attached)
				if err != nil {
					return out, err
				}
				if attached {
					with = append(with, ms)
				} else {
					without = append(without, ms)
				}
			}
		}
	}
	return append(out, s.figures(without, with)...), nil
}

func (s *starter) figures(without, with []float64) []figure {
	diff := make([]float64, len(with))
	for i := range diff {
		diff[i] = with[i] - without[i]
	}
	mean, half := interval(diff)
	low, high := medianInterval(diff)
	own := (s.hooks + s.cpu).Seconds() * 1000 / float64(s.counts)
	return []figure{
		plain("docker run without Belay, median", "%.1f ms", median(without)),
		plain("docker run with Belay, median", "%.1f ms", median(with)),
		plain("Difference of the medians, of all", "%+.2f %%", 100*(median(with)/median(without)-1)),
		atMost("Difference of a pair, median", median(diff), 5, "%.1f ms"),
		plain("… its 95 % interval", "%.1f to %.1f ms", low, high),
		plain("Difference of a pair, mean, with its 95 % interval", "%.1f ± %.1f ms", mean, half),
		plain("In Belay's programs, a start", "%.2f ms", s.hooks.Seconds()*1000/float64(s.counts)),
		plain("Processor time of the agent, a start", "%.2f ms", s.cpu.Seconds()*1000/float64(s.counts)),
		atMost("Both: what Belay takes of a start", own, 5, "%.2f ms"),
	}
}

// measure returns the milliseconds of one start.
func (s *starter) measure(ctx context.Context, attached bool) (float64, error) {
	if attached != (s.agent != nil) {
		if err := s.toggle(ctx, attached); err != nil {
			return 0, err
		}
		// What an agent does for the first container that it sees, such as opening
		// its connections and taking memory, it does once in its life.
		if _, err := s.start(ctx); err != nil {
			return 0, err
		}
		wait(ctx, 150*time.Millisecond)
	}
	if !attached {
		return s.start(ctx)
	}
	before, err := s.taken()
	if err != nil {
		return 0, err
	}
	cpu, err := s.agent.processor()
	if err != nil {
		return 0, err
	}
	ms, err := s.start(ctx)
	if err != nil {
		return 0, err
	}
	wait(ctx, 150*time.Millisecond) // the agent learns of the end
	after, err := s.taken()
	if err != nil {
		return 0, err
	}
	cpu2, err := s.agent.processor()
	s.hooks += after - before
	s.cpu += cpu2 - cpu
	s.counts++
	return ms, err
}

func (s *starter) start(ctx context.Context) (float64, error) {
	r := s.e.Docker(ctx, "run", "--rm", "--network", "none", "bench", "/bin/busybox", "true")
	if r.Code != 0 {
		return 0, r.Err()
	}
	return float64(r.Took.Microseconds()) / 1000, nil
}

func (s *starter) toggle(ctx context.Context, attached bool) (err error) {
	if !attached {
		if err = s.detach(); err == nil {
			wait(ctx, 300*time.Millisecond)
		}
		return err
	}
	if s.agent, err = s.startAgent(ctx, "--docker-host", s.e.Host(), "--cgroup-scope", s.e.Scope); err != nil {
		return err
	}
	// It reads the engine's list, and three seconds after its start gives memory back.
	wait(ctx, 3500*time.Millisecond)
	return nil
}

func (s *starter) detach() error {
	if s.agent == nil {
		return nil
	}
	a := s.agent
	s.agent = nil
	return a.stop()
}

// taken returns the time that Belay's programs have taken so far.
func (s *starter) taken() (sum time.Duration, err error) {
	times, err := enforce.HookTimes(filepath.Join(s.agent.run(), "bpf"))
	for _, t := range times {
		sum += t.Total
	}
	return sum, err
}

// processor returns the time that all threads of the agent have run.
//
// Source: /proc/PID/task/TID/schedstat, first field, nanoseconds;
// Documentation/scheduler/sched-stats.rst.
func (d *daemon) processor() (sum time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// interval returns the mean and half of its 95 % interval.
func interval(v []float64) (mean, half float64) {
	n := float64(len(v))
	for _, x := range v {
		mean += x / n
	}
	var sq float64
	for _, x := range v {
		sq += (x - mean) * (x - mean)
	}
	return mean, 1.96 * math.Sqrt(sq/(n-1)/n)
}

// medianInterval returns the 95 % interval of the median by its order statistics, which
// assumes nothing of the distribution.
func medianInterval(v []float64) (low, high float64) {
	v = slices.Sorted(slices.Values(v))
	n := float64(len(v))
	k := int(math.Floor(n/2 - 0.98*math.Sqrt(n)))
	k = max(k, 0)
	return v[k], v[len(v)-1-k]
}
