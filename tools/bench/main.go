// Command bench measures what Belay costs and writes docs/benchmarks.md: a decision in
// this kernel, hooks with and without containers, instructions under the backends that
// only a virtual machine has, the agent's memory and throughput, container starts.
//
// Each figure stands beside another of the same run, because machines differ and change.
// It starts an engine, containers and agents of its own and ends them; it owns one
// directory below the system's temporary one. `bench guest` is what runs in the virtual
// machine. It is linked into no product binary. Row: tools.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// bench is one run. Its directory is on a file system where programs can be executed.
type bench struct {
	dir    string // of this run, removed at its end
	bin    string // what make build build-test and tools/ci/bench.sh have built
	source string // root of the module
	log    io.Writer
}

// section measures one chapter of the report.
type section struct {
	name, title, text string
	run               func(ctx context.Context, b *bench) ([]figure, error)
}

var sections = []section{
	{"decision", "One decision, natively", decisionText, decisions},
	{"hooks", "Hooks, natively", hooksText, hookTimes},
	{"vm-6.1", "Kernel 6.1, lsm, in instructions", vmText, vm("6.1", "lsm")},
	{"vm-6.12", "Kernel 6.12, modret, in instructions", "", vm("6.12", "modret")},
	{"agent", "The agent", agentText, agent},
	{"start", "A container start", startText, starts},
	{"gate", "The gate", gateText, gates},
	{"watch", "Watching the load of a node", watchText, watching},
	{"plan", "Planning which containers leave full nodes", planText, plans},
	{"telemetry", "Telemetry", telemetryText, telemetries},
	{"flood", "A flood of events exported", floodText, floods},
	{"move", "Moving a container to another engine", moveText, moveTimes},
	{"scan", "Scanning", scanText, scans},
}

// errUnmet is of a section that needs what is not on this machine, and need not be.
var errUnmet = errors.New("not measured here")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "guest" {
		err = guest(ctx, os.Args[2:])
	} else if len(os.Args) > 1 && os.Args[1] == gateRole {
		err = gateTarget(ctx, os.Args[2:])
	} else {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func run(ctx context.Context) error {
	only := flag.String("only", "", "measure only these sections, joined by commas, and keep what -out says of the others: "+names())
	out := flag.String("out", "docs/benchmarks.md", "report to write; - for standard output")
	flag.Parse()
	if os.Geteuid() != 0 {
		return errors.New("root is needed: it loads BPF programs and starts containers")
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := checkOut(*out); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "belay-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	defer removeScope(scope)
	if err := os.Chmod(dir, 0o755); err != nil { // containers run as another user
		return err
	}
	b := &bench{dir: dir, bin: filepath.Join(wd, "bin"), source: wd, log: os.Stderr}
	if bin := os.Getenv("BELAY_BIN"); bin != "" {
		b.bin = bin
	}
	r := newReport(ctx, wd)
	var failed []error
	for _, s := range sections {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), s.name) {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintln(b.log, "bench:", s.title)
		before := load()
		figures, err := s.run(ctx, b)
		if errors.Is(err, errUnmet) {
			fmt.Fprintln(b.log, "bench: left out:", err)
			continue
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", s.name, err)
			failed = append(failed, err)
			fmt.Fprintln(b.log, "bench:", err)
		}
		r.add(s, figures, before, err)
	}
	if err := r.write(*out); err != nil {
		return err
	}
	return errors.Join(failed...)
}

// removeScope removes a cgroup in which no container is left.
func removeScope(scope string) {
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		_ = syscall.Rmdir(filepath.Join(root, scope)) // one of them is not the v2 hierarchy
	}
}

func names() string {
	var n []string
	for _, s := range sections {
		n = append(n, s.name)
	}
	return strings.Join(n, ",")
}
