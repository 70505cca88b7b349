package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

const agentText = `
Memory: VmRSS of belay-agent, which counts the pages of its program too, without an engine to
ask. That of the kernel side is what the kernel counts for the agent's maps, for the programs that use them, and for the machine code of these. Records are made by the kernel side, each with a path, arguments and six ancestors, and read
through the ring by the agent's own code; making them takes one of the cores. The journal gets
records of denials and others, four to one, faster than it can write them. Start to enforcing is until ` + "`belay status`" + ` says so, asked every 20 ms, with the
kernel side loaded anew: the median of three.
`

func agent(ctx context.Context, b *bench) ([]figure, error) {
	out, serr := size(b)
	mem, err := memory(ctx, b, 200)
	err = errors.Join(serr, err)
	out = append(out, mem...)
	m, rerr := b.gobench(ctx, filepath.Join(b.bin, "enforce.test"), "^Benchmark(Ring|Decode)$", "3s")
	if rerr == nil {
		out = append(out, atLeast("Records from the ring, decoded", m["Ring records/s"], 100_000, "%.0f/s"),
			plain("Decoding alone", "%.2f µs a record", m["Decode ns/op"]/1000))
	}
	j, jerr := journalRate(ctx, b)
	return append(out, j...), errors.Join(err, rerr, jerr)
}

// size is what the agent takes on a disk, stripped as make build and the packages have it.
func size(b *bench) ([]figure, error) {
	st, err := os.Stat(filepath.Join(b.bin, "belay-agent"))
	if err != nil {
		return nil, err
	}
	return []figure{atMost("Program, stripped", float64(st.Size())/1e6, 40, "%.1f MB")}, nil
}

// daemon is an agent of this run.
type daemon struct {
	*bench
	dir  string
	cmd  *exec.Cmd
	took time.Duration // from its start until it enforced
}

func (b *bench) startAgent(ctx context.Context, args ...string) (*daemon, error) {
	d := &daemon{bench: b, dir: filepath.Join(b.dir, "agent")}
	policies := filepath.Join(d.dir, "policies")
	if err := os.MkdirAll(policies, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(policies, "bench.yaml"), []byte(hardened("")), 0o644); err != nil {
		return nil, err
	}
	d.cmd = exec.Command(filepath.Join(b.bin, "belay-agent"), append([]string{
		"run", "--run-dir", d.run(),
		"--state-dir", filepath.Join(d.dir, "state"), "--policy-dir", policies, "--log-level", "error",
		"--cpu-max", "none", // what it can do is measured, not what it may
	}, args...)...)
	d.cmd.Stderr = b.log
	began := time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	for time.Since(began) < 2*time.Minute && ctx.Err() == nil {
		if exec.CommandContext(ctx, filepath.Join(b.bin, "belay"), "--run-dir", d.run(), "status").Run() == nil {
			d.took = time.Since(began)
			return d, nil
		}
		wait(ctx, 20*time.Millisecond)
	}
	return nil, errors.Join(errors.New("the agent did not come up"), d.stop())
}

func (d *daemon) run() string { return filepath.Join(d.dir, "run") }

// stop ends the agent and takes its programs out of the kernel.
func (d *daemon) stop() error {
	err := d.cmd.Process.Signal(syscall.SIGTERM)
	if err == nil {
		err = d.cmd.Wait()
	}
	out, uerr := exec.Command(filepath.Join(d.bin, "belay-agent"), "run", "--unload", "--run-dir", d.run()).CombinedOutput()
	if uerr != nil {
		uerr = fmt.Errorf("unload: %w: %s", uerr, out)
	}
	return errors.Join(err, uerr)
}

// status returns a field of /proc/PID/status in MB; see proc_pid_status(5).
func (d *daemon) megabytes(field string) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), field+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/%d/status", field, d.cmd.Process.Pid)
}

func memory(ctx context.Context, b *bench, containers int) (out []figure, err error) {
	if err := b.makeRoot(filepath.Join(b.bin, "loop"), "/bin/busybox"); err != nil {
		return nil, err
	}
	d, err := b.startAgent(ctx, "--docker-host", "none", "--cgroup-scope", scope)
	if err != nil {
		return nil, err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, d.stop())
		}
	}()
	empty, err := d.megabytes("VmRSS")
	if err != nil {
		return nil, err
	}
	out = append(out, plain("Resident, no container", "%.1f MB", empty))
	var ids []string
	defer func() { err = errors.Join(err, b.removeContainers(ids)) }()
	for range containers {
		id, err := b.detach(ctx)
		if err != nil {
			return out, err
		}
		ids = append(ids, id)
	}
	wait(ctx, 5*time.Second)
	rss, err := d.megabytes("VmRSS")
	if err != nil {
		return out, err
	}
	peak, err := d.megabytes("VmHWM")
	if err != nil {
		return out, err
	}
	out = append(out, atMost(fmt.Sprintf("Resident, %d containers started under it", containers), rss, 40, "%.1f MB"),
		plain("… the most it ever had", "%.1f MB", peak))
	for _, part := range [][2]string{{"RssAnon", "… of it now the heap and stacks"}, {"RssFile", "… of it now the program, and the rings, which are mapped twice"}} {
		field, what := part[0], part[1]
		v, err := d.megabytes(field)
		if err != nil {
			return out, err
		}
		out = append(out, plain(what, "%.1f MB", v))
	}
	var starts []float64
	for range 3 {
		stopped = true
		if err := d.stop(); err != nil {
			return out, err
		}
		if d, err = b.startAgent(ctx, "--docker-host", "none", "--cgroup-scope", scope); err != nil {
			return out, err
		}
		stopped = false
		starts = append(starts, d.took.Seconds())
	}
	out = append(out, atMost(fmt.Sprintf("Start to enforcing while %d containers run", containers), median(starts), 1, "%.2f s"))
	wait(ctx, 5*time.Second)
	if rss, err = d.megabytes("VmRSS"); err != nil {
		return out, err
	}
	out = append(out, atMost(fmt.Sprintf("Resident, started while %d containers run", containers), rss, 40, "%.1f MB"))
	kernel, err := d.kernelMemory()
	if err != nil {
		return out, err
	}
	out = append(out, plain(fmt.Sprintf("Memory of the kernel side, %d containers", containers), "%.1f MB", kernel))
	const many = 500
	for len(ids) < many {
		id, err := b.detach(ctx)
		if err != nil {
			return out, err
		}
		ids = append(ids, id)
	}
	if kernel, err = d.kernelMemory(); err != nil {
		return out, err
	}
	return append(out, atMost(fmt.Sprintf("Memory of the kernel side, %d containers", many), kernel, 16, "%.1f MB")), nil
}

// kernelMemory returns what the agent's maps and programs take, in MB.
func (d *daemon) kernelMemory() (float64, error) {
	n, err := enforce.Memory(d.cmd.Process.Pid)
	return float64(n) / 1e6, err
}

func (b *bench) detach(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "ctr"), "run", "--detach", "--state", filepath.Join(b.dir, "ctr"),
		"--cgroup-parent", scope, "--rootfs", b.root(), "--uid", "1000", "--", "/bin/busybox", "sleep", "600")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("start a container: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (b *bench) removeContainers(ids []string) error {
	var errs []error
	for _, id := range ids {
		out, err := exec.Command(filepath.Join(b.bin, "ctr"), "rm", "--state", filepath.Join(b.dir, "ctr"), "--id", id).CombinedOutput()
		if err != nil {
			errs = append(errs, fmt.Errorf("remove container %s: %w: %s", id, err, out))
		}
	}
	return errors.Join(errs...)
}

// journalRate appends as fast as it can for some seconds.
func journalRate(ctx context.Context, b *bench) ([]figure, error) {
	j, err := journal.Open(journal.Options{Dir: filepath.Join(b.dir, "journal")})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	const seconds, tick, burst = 5, 5 * time.Millisecond, 500 // 100,000 a second
	start := time.Now()
	appended := uint64(0)
	for t := time.NewTicker(tick); time.Since(start) < seconds*time.Second; <-t.C {
		for range burst {
			j.Append(denial(appended))
			appended++
		}
	}
	if err := j.Flush(); err != nil {
		return nil, err
	}
	took := time.Since(start).Seconds()
	st := j.Stats()
	cancel()
	if err := errors.Join(<-done, j.Close()); err != nil {
		return nil, err
	}
	var dropped uint64
	for cause, n := range st.Dropped {
		if cause != journal.CauseDenialCopy {
			dropped += n
		}
	}
	counted := figure{
		what: "… written and counted as dropped, of those offered", target: "100 %",
		value: fmt.Sprintf("%.2f %%", 100*float64(st.Written+dropped)/float64(appended)), met: st.Written+dropped >= appended,
	}
	return []figure{
		plain("Records offered to the journal", "%.0f/s", float64(appended)/took),
		atLeast("Records written, on disk", float64(st.Written)/took, 20_000, "%.0f/s"), counted,
	}, nil
}

func denial(i uint64) *journal.Record {
	d := verdict.Denied
	if i%5 == 4 {
		d = verdict.Allowed
	}
	return &journal.Record{
		Kind: journal.KindExec, Hook: "bprm_check_security", Decision: d, Errno: 1, Level: "prevent", Backend: verdict.BackendLSM,
		Container: &journal.Container{ID: ident.ContainerID(strings.Repeat("0123456789abcdef", 4)), Name: "shop-frontend-1", Image: "shop/frontend:1.42", Labels: map[string]string{"com.example.team": "shop"}},
		Process: &journal.Process{
			PID: uint32(i), TID: uint32(i), StartNS: i, UID: 1000, EUID: 1000, GID: 1000, EGID: 1000, Comm: "sh", Cwd: "/srv/app",
			Args:       []string{"/tmp/.x/miner", "--url", "stratum+tcp://192.0.2.7:3333"},
			Executable: &journal.Executable{Path: "/tmp/.x/miner", Ino: 4711, Layer: journal.LayerUpper},
			Ancestors:  []journal.Ancestor{{PID: 1, Comm: "sh"}, {PID: 2, Comm: "node"}, {PID: 3, Comm: "containerd-shim"}, {PID: 4, Comm: "systemd"}},
		},
		Policy: &journal.Policy{Name: "hardened", Revision: "0123456789ab", Rule: "exec.drift", Mode: "enforce"},
	}
}
