package enforce

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/policy"
)

// What tools/bench reads from these benchmarks are the metrics with units of their own;
// ns/op is that of a whole test run.

// bench is the kernel side with no program attached. The process that runs the
// benchmark is the task that is judged, and its own program the file.
type bench struct {
	*Enforcer
	coll *ebpf.Collection
}

func openBench(tb testing.TB, programs ...string) *bench {
	tb.Helper()
	needBPF(tb)
	spec, err := loadKernel()
	if err != nil {
		tb.Fatal(err)
	}
	keep := map[string]bool{}
	for _, name := range programs {
		keep[name] = true
	}
	for name := range spec.Programs {
		if !keep[name] {
			delete(spec.Programs, name)
		}
	}
	e := &Enforcer{key: [2]uint64{1, 2}}
	overlay, err := findOverlay()
	if err != nil {
		tb.Logf("overlayfs: %v", err)
	}
	for name, value := range map[string]any{
		"bl_backend": uint32(kernelBlBackendIdBL_SIGNAL), "bl_sip_k0": e.key[0], "bl_sip_k1": e.key[1],
		"bl_ovl_upper": overlay.upper, "bl_ovl_flags": overlay.flags, "bl_ovl_upperdata": overlay.upperdata,
		"bl_rename_lock": kernelSymbol("rename_lock"),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			tb.Fatal(err)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		tb.Fatalf("load: %+v", err)
	}
	tb.Cleanup(coll.Close)
	e.maps = coll.Maps
	return &bench{Enforcer: e, coll: coll}
}

// confine makes this process one of a container under a policy; with none it belongs to
// no container. The cgroup is where it is: only this program's maps say that it is a
// container's.
func (b *bench) confine(tb testing.TB, eff *policy.Effective) {
	tb.Helper()
	c := kernelBlConfig{Abi: abi, FloorSet: 1, BuildSet: 1}
	if eff != nil {
		c.Opens = opensOf(eff)
	}
	if err := b.maps["bl_configs"].Put(uint32(0), c); err != nil {
		tb.Fatal(err)
	}
	if eff == nil {
		return
	}
	var root, ns unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Stat("/proc/self/ns/mnt", &ns); err != nil {
		tb.Fatal(err)
	}
	id, state := ownCgroup(tb), kernelBlContainer{
		Id: [32]uint8{1}, StartNs: 1, Started: 2, InitTgid: uint32(os.Getpid()), RootDev: kernelDev(root.Dev), MntNs: uint32(ns.Ino), MaxMount: ^uint64(0),
	}
	for m, value := range map[string]any{"bl_cgroups": id, "bl_containers": state} {
		if err := b.maps[m].Put(id, value); err != nil {
			tb.Fatal(err)
		}
	}
	if err := b.write(1, &setInfo{eff: eff}); err != nil {
		tb.Fatal(err)
	}
}

// ownCgroup returns the id of this process's cgroup on the hierarchy that counts.
//
// Source: /proc/self/cgroup, cgroups(7).
func ownCgroup(tb testing.TB) uint64 {
	tb.Helper()
	root, err := findCgroupRoot()
	if err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			id, err := cgroupID(filepath.Join(root.dir, path))
			if err != nil {
				tb.Fatal(err)
			}
			return uint64(id)
		}
	}
	tb.Fatal("this process has no cgroup v2")
	return 0
}

// turn returns what one turn of the loop takes, in nanoseconds.
func (b *bench) turn(tb testing.TB, what kernelBlBench, loops uint32) float64 {
	tb.Helper()
	c := kernelBlContract{Bench: what, Loops: loops}
	if err := b.maps["bl_contracts"].Put(uint32(0), &c); err != nil {
		tb.Fatal(err)
	}
	if ret, err := b.coll.Programs["bl_bench_run"].Run(&ebpf.RunOptions{}); err != nil || ret != 0 {
		tb.Fatalf("run: %d, %v", ret, err)
	}
	if err := b.maps["bl_contracts"].Lookup(uint32(0), &c); err != nil {
		tb.Fatal(err)
	}
	return float64(c.LoopNs) / float64(loops)
}

const turns = 100_000

// report times one kind of turn, each run beside one of the empty loop, and reports the
// least difference: what else the machine does can only add.
func (b *bench) report(tb *testing.B, what kernelBlBench, unit string) {
	least := 0.0
	for tb.Loop() {
		d := b.turn(tb, what, turns) - b.turn(tb, kernelBlBenchBL_B_EMPTY, turns)
		if least == 0 || d < least {
			least = d
		}
	}
	tb.ReportMetric(max(least, 0), unit)
	tb.ReportMetric(0, "ns/op") // a zero hides it
}

func (b *bench) noFailures(tb testing.TB) {
	tb.Helper()
	n, err := b.Failures()
	if err != nil || len(n) > 0 {
		tb.Fatalf("the kernel side counted failures: %v, %v", n, err)
	}
}

func mustEffective(tb testing.TB, yaml string) *policy.Effective {
	tb.Helper()
	ps, err := policy.Parse("bench.yaml", []byte(yaml))
	if err != nil {
		tb.Fatal(err)
	}
	set, err := policy.NewSet(ps)
	if err != nil {
		tb.Fatal(err)
	}
	return set.Floor()
}

const benchPolicy = `
apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: bench}
spec:
  mode: enforce
  ssh: {server: deny, client: deny, keys: deny}
  exec:
    asRoot: denyAfterStart
    fileCaps: deny
    drift: deny
    memfd: deny
    volumes: allow
`

// pathPolicy has n rules on files and, with dirs, one on a directory, for which every
// ancestor of a file is looked up.
func pathPolicy(n int, dirs bool) string {
	var b strings.Builder
	b.WriteString(benchPolicy)
	b.WriteString("    deny:\n")
	if dirs {
		b.WriteString("    - /srv/never/**\n")
	}
	for i := range n {
		fmt.Fprintf(&b, "    - /opt/rule/%05d/tool\n", i)
	}
	return b.String()
}

func BenchmarkUnconfined(b *testing.B) {
	for name, what := range map[string]kernelBlBench{"label": kernelBlBenchBL_B_LABEL, "cgroup": kernelBlBenchBL_B_CGROUP} {
		b.Run(name, func(b *testing.B) {
			k := openBench(b, "bl_bench_run")
			k.confine(b, nil)
			k.report(b, what, "ns/decision")
			k.noFailures(b)
		})
	}
}

// Where the time of a confined task's decision goes.
func BenchmarkConfined(b *testing.B) {
	eff := mustEffective(b, pathPolicy(100, false))
	for name, what := range map[string]kernelBlBench{
		"label": kernelBlBenchBL_B_LABEL, "policy": kernelBlBenchBL_B_POLICY, "file": kernelBlBenchBL_B_FILE,
		"exec": kernelBlBenchBL_B_EXEC, "open": kernelBlBenchBL_B_OPEN, "cgroup": kernelBlBenchBL_B_CGROUP,
	} {
		b.Run(name, func(b *testing.B) {
			k := openBench(b, "bl_bench_run")
			k.confine(b, eff)
			k.report(b, what, "ns/decision")
			k.noFailures(b)
		})
	}
}

// What an open costs more: where nobody has file rules, and under some.
func BenchmarkFiles(b *testing.B) {
	var rules strings.Builder
	rules.WriteString(benchPolicy + "  files:\n    readOnly: [/srv/usr, /srv/etc]\n    rules:\n    - deny: [read]\n      paths:\n")
	for i := range 100 {
		fmt.Fprintf(&rules, "      - /opt/rule/%05d/tool\n", i)
	}
	for _, c := range []struct {
		name string
		yaml string
		what kernelBlBench
	}{
		{"none", benchPolicy, kernelBlBenchBL_B_FILES_ASK},
		{"other-acts", benchPolicy + "  files: {readOnly: [/srv/usr]}\n", kernelBlBenchBL_B_FILES},
		{"judged", rules.String(), kernelBlBenchBL_B_FILES},
	} {
		b.Run(c.name, func(b *testing.B) {
			k := openBench(b, "bl_bench_run")
			k.confine(b, mustEffective(b, c.yaml))
			k.report(b, c.what, "ns/decision")
			k.noFailures(b)
		})
	}
}

func BenchmarkPathRules(b *testing.B) {
	for _, dirs := range []bool{false, true} {
		for _, n := range []int{0, 10, 100, 1000, 10000} {
			name := fmt.Sprintf("files/%d", n)
			if dirs {
				name = fmt.Sprintf("dirs/%d", n)
			}
			yaml := pathPolicy(n, dirs)
			if n == 0 {
				if dirs {
					continue
				}
				yaml = benchPolicy
			}
			b.Run(name, func(b *testing.B) {
				k := openBench(b, "bl_bench_run")
				k.confine(b, mustEffective(b, yaml))
				k.report(b, kernelBlBenchBL_B_EXEC, "ns/decision")
				k.noFailures(b)
			})
		}
	}
}

// Records made by the kernel side and decoded here, through the ring, by the code that
// the agent runs. The maker waits while half of the ring is unread: an iteration is one
// batch.
func BenchmarkRing(b *testing.B) {
	k := openBench(b, "bl_bench_run")
	k.confine(b, mustEffective(b, benchPolicy))
	batch := int(k.maps["bl_denials"].MaxEntries()) / eventSize / 4
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	decoded, done := make(chan struct{}, 1<<20), make(chan error, 1)
	var bad int
	go func() {
		done <- k.readRing(ctx, "bl_denials", func(ev *Event) {
			if ev.Exe == "" || ev.Rule > 16 && ev.Rule != 255 {
				bad++
			}
			decoded <- struct{}{}
		})
	}()
	made, taken := 0, 0
	await := func(unread int) {
		late := time.After(30 * time.Second)
		for made-taken > unread {
			select {
			case <-decoded:
				taken++
			case <-late:
				n, err := k.Failures()
				b.Fatalf("%d of %d records came; failures %v, %v", taken, made, n, err)
			}
		}
	}
	start := time.Now()
	for b.Loop() {
		k.turn(b, kernelBlBenchBL_B_EMIT, uint32(batch))
		made += batch
		await(batch)
	}
	await(0)
	took := time.Since(start)
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if bad > 0 {
		b.Fatalf("%d records are not whole", bad)
	}
	k.noFailures(b) // a full ring is one
	b.ReportMetric(float64(taken)/took.Seconds(), "records/s")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkDecode(b *testing.B) {
	k := openBench(b, "bl_bench_run")
	k.confine(b, mustEffective(b, benchPolicy))
	raw := k.record(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeEvent(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCalled attaches programs that do nothing: what bpf_stats counts for them is the
// price of being called and timed, which tools/bench takes off the figures of the others.
// That price depends on what runs around them, above all on how cold an exec leaves the
// caches, so BELAY_BENCH_LOOP names the program whose loops tools/bench measures with, to be
// started in the directory BELAY_BENCH_ROOT. As there, the quietest tenth of 30 rounds counts.
func BenchmarkCalled(b *testing.B) {
	closer, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer closer.Close()
	k := openBench(b, "bl_bench_exec", "bl_bench_skb")
	tp, err := link.AttachTracing(link.TracingOptions{Program: k.coll.Programs["bl_bench_exec"]})
	if err != nil {
		b.Fatal(err)
	}
	defer tp.Close()
	root, err := findCgroupRoot()
	if err != nil {
		b.Fatal(err)
	}
	skb, err := link.AttachCgroup(link.CgroupOptions{Path: root.dir, Attach: ebpf.AttachCGroupInetEgress, Program: k.coll.Programs["bl_bench_skb"]})
	if err != nil {
		b.Fatal(err)
	}
	defer skb.Close()
	for b.Loop() {
		b.ReportMetric(k.called(b, "bl_bench_exec", "spawn", 60), "tracing-ns/run")
		b.ReportMetric(k.called(b, "bl_bench_skb", "udp", 2000), "cgroup-ns/run")
	}
	b.ReportMetric(0, "ns/op")
}

// called returns what a run of an attached program took in the quietest tenth of 30 rounds.
func (b *bench) called(tb testing.TB, program, loop string, n int) float64 {
	tb.Helper()
	var samples []float64
	for range 30 {
		before, err := b.coll.Programs[program].Stats()
		if err != nil {
			tb.Fatal(err)
		}
		runLoop(tb, loop, n)
		after, err := b.coll.Programs[program].Stats()
		if err != nil || after.RunCount == before.RunCount {
			tb.Fatalf("%s: %v, %v", program, after, err)
		}
		samples = append(samples, float64((after.Runtime-before.Runtime).Nanoseconds())/float64(after.RunCount-before.RunCount))
	}
	slices.Sort(samples)
	return samples[len(samples)/10]
}

// runLoop runs a loop of tools/bench/c, or what comes near to it where there is none.
func runLoop(tb testing.TB, loop string, n int) {
	tb.Helper()
	if prog := os.Getenv("BELAY_BENCH_LOOP"); prog != "" {
		cmd := exec.Command(prog, loop, strconv.Itoa(n))
		cmd.Dir = os.Getenv("BELAY_BENCH_ROOT")
		if out, err := cmd.CombinedOutput(); err != nil {
			tb.Fatalf("%s %s: %v: %s", prog, loop, err, out)
		}
		return
	}
	if loop == "udp" {
		packets(tb, n)
		return
	}
	for range n {
		execOnce(tb)
	}
}

// record returns one record as the ring holds it.
func (b *bench) record(tb testing.TB) []byte {
	tb.Helper()
	r, err := ringbuf.NewReader(b.maps["bl_denials"])
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	b.turn(tb, kernelBlBenchBL_B_EMIT, 1)
	r.SetDeadline(time.Now().Add(5 * time.Second))
	rec, err := r.Read()
	if err != nil {
		tb.Fatal(err)
	}
	return rec.RawSample
}

func execOnce(tb testing.TB) {
	tb.Helper()
	if err := exec.Command("/bin/true").Run(); err != nil {
		tb.Fatal(err)
	}
}

// packets sends n datagrams to itself.
func packets(tb testing.TB, n int) {
	tb.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	for range n {
		if _, err := c.WriteTo([]byte{1}, c.LocalAddr()); err != nil {
			tb.Fatal(err)
		}
	}
}
