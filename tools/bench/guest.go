package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/enforce"
)

const vmText = `
A stock Debian kernel in a virtual machine whose clock counts instructions, the kernel's
included: one instruction is one nanosecond. All figures of a table are from one boot, on
tmpfs, with a static program: first without Belay, then attached, then without it again.
spawn is fork, execve and wait; open is open and close of a path of four components. "open" as
a result: the runs without Belay differ by more than the target leaves room for.

The rows by program are the kernel's statistics, in a run of their own: the instructions of one turn, the call and the two reads of
the clock included. An open is seen twice, as the overlay's file and as the one below, by a program for rules on files, keys and
devices and by one for rules on the host; most of it finds out whose the task is and what its policy is, by three look-ups in
hash tables. Tried so far: opens are asked about only what some policy says anything on; directories are looked up only at depths at
which a rule is on some; a path without a name that any rule which denies reading has is not walked (of strict, on 6.1, from +87 % to
about a third of that); rules on the host ask nothing of an open for reading; file rules do not judge the file below again (of
strict, on 6.1, from +27 to +20 %).
`

// guestFigures is what the guest prints as one line of JSON: what one turn of a loop
// took, by loop and situation, and what of it was in Belay's programs, by loop and program.
type guestFigures map[string]map[string]float64

// profiled is the situation whose programs are counted one by one.
const profiled = "strict"

const guestMark = "BELAY-BENCH "

// vm returns the section of one kernel and backend.
func vm(kernel, backend string) func(context.Context, *bench) ([]figure, error) {
	return func(ctx context.Context, b *bench) ([]figure, error) {
		job := filepath.Join(b.dir, "job-"+kernel)
		script := fmt.Sprintf("set -eu\nmkdir /tmp/vm/bin\ncp %[1]s/bench %[1]s/loop %[1]s/ctr /tmp/vm/bin/\nexec /tmp/vm/bin/bench guest -backend %[2]s -source %[3]s\n", b.bin, backend, b.source)
		if err := os.WriteFile(job, []byte(script), 0o644); err != nil {
			return nil, err
		}
		lsm := "lockdown,yama,integrity"
		if backend == "lsm" {
			lsm += ",bpf"
		}
		cmd := exec.CommandContext(ctx, filepath.Join(b.source, "tools", "vmtest", "vm.sh"), kernel, lsm, job)
		cmd.Env = append(os.Environ(), "BELAY_VM_ICOUNT=1", "BELAY_VM_TIMEOUT=1800")
		var out bytes.Buffer
		cmd.Stdout = io.MultiWriter(&out, b.log)
		cmd.Stderr = b.log
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("virtual machine: %w", err)
		}
		for line := range strings.Lines(out.String()) {
			if text, ok := strings.CutPrefix(strings.TrimSpace(line), guestMark); ok {
				var g guestFigures
				if err := json.Unmarshal([]byte(text), &g); err != nil {
					return nil, fmt.Errorf("figures of the guest: %w", err)
				}
				return g.figures(), nil
			}
		}
		return nil, errors.New("the guest printed no figures")
	}
}

func (g guestFigures) figures() []figure {
	var out []figure
	for _, loop := range []string{"spawn", "open"} {
		m := g[loop]
		if m == nil {
			continue
		}
		host, in := [2]float64{m["host"], m["host again"]}, [2]float64{m["container"], m["container again"]}
		out = append(out, plain(loop+" on the host without Belay, before and after", "%.0f, %.0f", host[0], host[1]),
			percent(loop+" on the host, Belay attached", m["host attached"], host, 1),
			plain(loop+" in a container without Belay, before and after", "%.0f, %.0f", in[0], in[1]))
		for _, p := range guestPolicies("") {
			out = append(out, percent(loop+" in a container under "+p.name, m[p.name], in, 3))
		}
		for _, hook := range slices.Sorted(maps.Keys(g[loop+profile])) {
			out = append(out, plain("… of it in the program on "+hook, "%.0f", g[loop+profile][hook]))
		}
	}
	return out
}

// percent compares with the mean of what was measured before and after. Where the two
// differ so much that one meets the target and the other does not, nothing is decided.
func percent(what string, v float64, base [2]float64, limit float64) figure {
	share := func(b float64) float64 { return 100 * (v/b - 1) }
	mean := (base[0] + base[1]) / 2
	f := figure{what: what, value: fmt.Sprintf("%+.2f %% (%+.0f)", share(mean), v-mean), target: fmt.Sprintf("≤ %.0f %%", limit)}
	f.met = share(base[0]) <= limit && share(base[1]) <= limit
	f.open = !f.met && (share(base[0]) <= limit || share(base[1]) <= limit)
	return f
}

type namedPolicy struct{ name, yaml string }

func guestPolicies(strict string) []namedPolicy {
	return []namedPolicy{
		{"no policy", ""},
		{"hardened", hardened("")},
		{"hardened and 100 path rules", hardened(paths100())},
		{"strict", strict},
	}
}

// guestLoops are the loops and how often each is run: the clock is exact, so a few are
// enough to level out what the kernel does now and then.
var guestLoops = []struct {
	what string
	n    int
}{{"spawn", 100}, {"open", 5000}}

func guest(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("bench guest", flag.ContinueOnError)
	backend := fs.String("backend", "", "lsm, modret or signal")
	source := fs.String("source", "", "root of the module")
	if err := fs.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := &bench{dir: "/tmp/vm/b", bin: filepath.Dir(self), source: *source, log: os.Stderr}
	if err := b.makeRoot(filepath.Join(b.bin, "loop")); err != nil {
		return err
	}
	strict, err := b.strict()
	if err != nil {
		return err
	}
	g := guestFigures{}
	if err := errors.Join(g.measure(ctx, "host", b.loopHost), g.measure(ctx, "container", b.loopIn)); err != nil {
		return err
	}
	s, err := b.attach(*backend)
	if err != nil {
		return err
	}
	if err := g.measure(ctx, "host attached", b.loopHost); err != nil {
		return errors.Join(err, s.close())
	}
	for _, p := range guestPolicies(strict) {
		if p.yaml != "" {
			err = s.enact(p.yaml)
		}
		if err == nil {
			err = g.measure(ctx, p.name, b.loopIn)
		}
		if err == nil && p.name == profiled {
			err = g.profile(ctx, b, s)
		}
		if err != nil {
			return errors.Join(err, s.close())
		}
	}
	if err := s.close(); err != nil {
		return err
	}
	if err := errors.Join(g.measure(ctx, "host again", b.loopHost), g.measure(ctx, "container again", b.loopIn)); err != nil {
		return err
	}
	line, err := json.Marshal(g)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%s%s\n", guestMark, line)
	return nil
}

func (g guestFigures) measure(ctx context.Context, situation string, loop func(context.Context, string, int) (float64, error)) error {
	for _, l := range guestLoops {
		var v []float64
		for range 7 {
			x, err := loop(ctx, l.what, l.n)
			if err != nil {
				return fmt.Errorf("%s: %w", situation, err)
			}
			v = append(v, x)
		}
		if g[l.what] == nil {
			g[l.what] = map[string]float64{}
		}
		g[l.what][situation] = slices.Min(v[1:]) // the first fills caches; what the kernel does meanwhile only adds
	}
	return nil
}

// profile ends the name of a loop in [guestFigures].
const profile = ", by program"

// profile counts, for each loop, the instructions of one turn in each program, those of the call and of the clock left in:
// the programs that take a hundred or more.
func (g guestFigures) profile(ctx context.Context, b *bench, s *kernelSide) (err error) {
	stop, err := enforce.CountHookTimes()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop.Close()) }()
	for _, l := range guestLoops {
		// What starts and ends the container is in both runs, and taken off.
		var took [2]map[string]enforce.HookTime
		for i, n := range []int{l.n, 2 * l.n} {
			if took[i], err = s.times(func() error { _, err := b.loopIn(ctx, l.what, n); return err }); err != nil {
				return err
			}
		}
		g[l.what+profile] = map[string]float64{}
		for hook, t := range took[1] {
			if each := float64(t.Total-took[0][hook].Total) / float64(l.n); each >= 100 {
				runs := float64(t.Runs-took[0][hook].Runs) / float64(l.n)
				g[l.what+profile][fmt.Sprintf("%s, %.1f runs", hook, runs)] = each
			}
		}
	}
	return nil
}
