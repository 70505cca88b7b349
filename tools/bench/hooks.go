package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/policy"
)

const hooksText = `
The attached programs as the kernel times them itself (bpf_stats), while ` + "`loop`" + ` (tools/bench/c)
spawns, sends and connects on the host and then in a container. What the kernel counts for
a program that does nothing, in the same loop on the host, is taken off: it is the call and
the clock, in the caches and address translations that an exec leaves cold.
`

// kernelSide is Belay attached for a while, with containers made by ctr.
type kernelSide struct {
	*bench
	opts enforce.Options
	k    *enforce.Enforcer
}

const scope = "/belay-bench"

// paths100 is what a hundred path rules add to a policy.
func paths100() string {
	var b strings.Builder
	b.WriteString("    deny:\n    - /srv/never/**\n")
	for i := range 99 {
		fmt.Fprintf(&b, "    - /opt/rule/%05d/tool\n", i)
	}
	return b.String()
}

func hardened(extra string) string {
	return `
apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: bench}
spec:
  mode: enforce
  ssh: {server: deny, client: deny, keys: deny}
  exec:
    asRoot: deny
    nested: deny
    fileCaps: deny
    drift: deny
    volumes: readOnly
    memfd: deny
` + extra
}

// strict returns the shipped policy of that name.
func (b *bench) strict() (string, error) {
	text, err := os.ReadFile(filepath.Join(b.source, "policies", "strict.yaml"))
	return string(text), err
}

func parsePolicy(yaml string) (*policy.Set, error) {
	ps, err := policy.Parse("bench.yaml", []byte(yaml))
	if err != nil {
		return nil, err
	}
	return policy.NewSet(ps)
}

// attach loads the kernel side; backend may be empty.
func (b *bench) attach(backend string) (*kernelSide, error) {
	return b.attachWith(func(o *enforce.Options) { o.Backend = backend })
}

func (b *bench) attachWith(change func(*enforce.Options)) (*kernelSide, error) {
	empty, err := policy.NewSet(nil)
	if err != nil {
		return nil, err
	}
	s := &kernelSide{bench: b, opts: enforce.Options{
		PinDir: filepath.Join(b.dir, "bpf"), Scopes: []string{scope},
		Floor: empty.Floor(), Build: empty.Effective(policy.Subject{Class: policy.ClassBuild}),
		Log: slog.New(slog.DiscardHandler),
	}}
	change(&s.opts)
	if s.k, err = enforce.Open(s.opts); err != nil {
		return nil, errors.Join(err, enforce.Unload(s.opts.PinDir))
	}
	return s, nil
}

func (s *kernelSide) enact(yaml string) error {
	set, err := parsePolicy(yaml)
	if err != nil {
		return err
	}
	return s.k.SetFloor(set.Floor(), set.Effective(policy.Subject{Class: policy.ClassBuild}))
}

func (s *kernelSide) close() error {
	return errors.Join(s.k.Close(), enforce.Unload(s.opts.PinDir))
}

// loopHost runs the loop on the host and returns the nanoseconds of one turn.
func (b *bench) loopHost(ctx context.Context, what string, n int) (float64, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.root(), "bin", "loop"), what, strconv.Itoa(n))
	cmd.Dir = b.root()
	return number(cmd)
}

// loopIn runs the loop in a container, as a user who is not root.
func (b *bench) loopIn(ctx context.Context, what string, n int) (float64, error) {
	return number(exec.CommandContext(ctx, filepath.Join(b.bin, "ctr"), "run", "--state", filepath.Join(b.dir, "ctr"),
		"--cgroup-parent", scope, "--rootfs", b.root(), "--uid", "1000", "--", "/bin/loop", what, strconv.Itoa(n)))
}

func number(cmd *exec.Cmd) (float64, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

func (b *bench) root() string { return filepath.Join(b.dir, "root") }

// makeRoot makes the smallest root file system that ctr can use.
func (b *bench) makeRoot(programs ...string) error {
	for _, d := range []string{"bin", "dev", "etc", "proc", "tmp", "usr/share/app"} {
		if err := os.MkdirAll(filepath.Join(b.root(), d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(b.root(), "usr/share/app/data"), []byte("data\n"), 0o644); err != nil {
		return err
	}
	for _, p := range programs {
		if err := copyFile(p, filepath.Join(b.root(), "bin", filepath.Base(p))); err != nil {
			return err
		}
	}
	return nil
}

// times runs do and returns what each hook took meanwhile.
func (s *kernelSide) times(do func() error) (map[string]enforce.HookTime, error) {
	before, err := enforce.HookTimes(s.opts.PinDir)
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	after, err := enforce.HookTimes(s.opts.PinDir)
	if err != nil {
		return nil, err
	}
	out := map[string]enforce.HookTime{}
	for i := range after {
		out[after[i].Name] = enforce.HookTime{Name: after[i].Name, Runs: after[i].Runs - before[i].Runs, Total: after[i].Total - before[i].Total}
	}
	return out, nil
}

// hookRow is a hook, the loop that makes it run, and what is promised of it.
type hookRow struct {
	hook, loop string
	n          int  // turns of the loop
	once       bool // one run each turn, so that runs of other tasks can be told
	cgroup     bool
	// targets in nanoseconds; 0: none
	unconfined, confined float64
}

var hookRows = []hookRow{
	{hook: "sched_process_exec", loop: "spawn", n: 60, once: true, unconfined: 30, confined: 2000},
	{hook: "sched_process_fork", loop: "spawn", n: 60, once: true},
	{hook: "cgroup_skb egress", loop: "udp", n: 2000, once: true, cgroup: true, unconfined: 60},
	{hook: "cgroup_skb egress", loop: "tcp", n: 200, cgroup: true},
	{hook: "cgroup sock_ops", loop: "tcp", n: 200, cgroup: true, unconfined: 60},
	{hook: "cgroup connect4", loop: "tcp", n: 200, once: true, cgroup: true, unconfined: 60, confined: 300},
	{hook: "inet_sock_set_state", loop: "tcp", n: 200, unconfined: 60},
}

func (r hookRow) key() string { return r.loop + " " + r.hook }

func hookTimes(ctx context.Context, b *bench) (out []figure, err error) {
	if err := b.makeRoot(filepath.Join(b.bin, "loop")); err != nil {
		return nil, err
	}
	floor, err := b.gobench(ctx, filepath.Join(b.bin, "enforce.test"), "^BenchmarkCalled$", "1x",
		"BELAY_BENCH_LOOP="+filepath.Join(b.bin, "loop"), "BELAY_BENCH_ROOT="+b.root())
	if err != nil {
		return nil, err
	}
	tracing, cgroup := floor["Called tracing-ns/run"], floor["Called cgroup-ns/run"]
	out = append(out, plain("A tracing program that does nothing (taken off below)", "%.0f ns", tracing),
		plain("A cgroup program that does nothing (taken off below)", "%.0f ns", cgroup))
	calls, err := syscallCost(ctx, b)
	if err != nil {
		return out, err
	}
	out = append(out, calls...)
	stop, err := enforce.CountHookTimes()
	if err != nil {
		return out, err
	}
	defer stop.Close()
	s, err := b.attach("")
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	out = append(out, plain("Backend", "%s", s.k.Backend()))
	host, err := s.rounds(nil, func(loop string, n int) error { _, err := b.loopHost(ctx, loop, n); return err })
	if err != nil {
		return out, err
	}
	strict, err := b.strict()
	if err != nil {
		return out, err
	}
	policies := []struct{ name, yaml string }{{"hardened", hardened("")}, {"hardened and 100 path rules", hardened(paths100())}, {"strict", strict}}
	in := map[string]map[string]float64{}
	for _, p := range policies {
		if err := s.enact(p.yaml); err != nil {
			return out, err
		}
		if in[p.name], err = s.rounds(host, func(loop string, n int) error { _, err := b.loopIn(ctx, loop, n); return err }); err != nil {
			return out, err
		}
	}
	for _, r := range hookRows {
		off := tracing
		if r.cgroup {
			off = cgroup
		}
		if host[r.key()] == 0 {
			continue // not attached under this backend
		}
		what := fmt.Sprintf("%s, loop %s", r.hook, r.loop)
		out = append(out, target(what+": host", host[r.key()]-off, r.unconfined))
		for _, p := range policies {
			if !strings.Contains(p.name, "path rules") || r.hook == "sched_process_exec" {
				out = append(out, target(what+": container under "+p.name, in[p.name][r.key()]-off, r.confined))
			}
		}
	}
	return out, nil
}

// syscallCost measures what --signal-syscalls takes of every system call: getppid does next
// to nothing else. Belay is attached without it and with it in turns.
func syscallCost(ctx context.Context, b *bench) ([]figure, error) {
	var host, in [2][]float64
	for range 9 {
		for i, on := range []bool{false, true} {
			s, err := b.attachWith(func(o *enforce.Options) { o.Backend, o.SignalSyscalls = "signal", on })
			if err != nil {
				return nil, err
			}
			err = s.enact(hardened(""))
			for _, one := range []struct {
				to   *[2][]float64
				loop func(context.Context, string, int) (float64, error)
			}{{&host, b.loopHost}, {&in, b.loopIn}} {
				if err != nil {
					break
				}
				var ns float64
				ns, err = one.loop(ctx, "getppid", 300000)
				one.to[i] = append(one.to[i], ns)
			}
			if err = errors.Join(err, s.close()); err != nil {
				return nil, err
			}
		}
	}
	var out []figure
	for _, r := range []struct {
		where string
		ns    [2][]float64
	}{{"on the host", host}, {"in a container under hardened", in}} {
		off, on := slices.Min(r.ns[0]), slices.Min(r.ns[1])
		out = append(out, plain("A system call (getppid) "+r.where+", without and with --signal-syscalls", "%s",
			fmt.Sprintf("%.0f / %.0f ns", off, on)))
	}
	return out, nil
}

func target(what string, ns, limit float64) figure {
	ns = max(ns, 0) // the clock's share varies by more than the least program takes
	if limit == 0 {
		return plain(what, "%.0f ns", ns)
	}
	return atMost(what, ns, limit, "%.0f ns")
}

// rounds runs each loop often and for a short time, and returns for each row the time a
// run took in the quietest tenth of the rounds: what else the machine does can only add,
// above all by emptying the caches. Runs of tasks outside the loop, which happen too, are taken off at what they
// take there; others is nil when the loop itself runs there.
func (s *kernelSide) rounds(others map[string]float64, loop func(what string, n int) error) (map[string]float64, error) {
	samples := map[string][]float64{}
	for i, r := range hookRows {
		if i > 0 && hookRows[i-1].loop == r.loop {
			continue // measured with it
		}
		for range 30 {
			times, err := s.times(func() error { return loop(r.loop, r.n) })
			if err != nil {
				return nil, err
			}
			for _, row := range hookRows {
				t := times[row.hook]
				if row.loop != r.loop || t.Runs == 0 {
					continue
				}
				v := float64(t.Total) / float64(t.Runs)
				if others != nil && row.once && t.Runs > uint64(row.n) {
					v = (float64(t.Total) - float64(t.Runs-uint64(row.n))*others[row.key()]) / float64(row.n)
				}
				samples[row.key()] = append(samples[row.key()], v)
			}
		}
	}
	out := map[string]float64{}
	for key, v := range samples {
		out[key] = slices.Sorted(slices.Values(v))[len(v)/10]
	}
	return out, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 1 {
		return v[n/2]
	} else if n > 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return 0
}

// wait sleeps unless ctx ends first.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
