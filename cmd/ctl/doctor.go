package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/doctor"
	"github.com/belay-project/belay/internal/gate/preflight"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Exit statuses of doctor.
const (
	exitFailures = 3
	exitWarnings = 4
)

// doctorFlags say where doctor and support-bundle look.
type doctorFlags struct {
	stateDir, journal, scanner, db string
	dockerHost, gate               string
	only                           []string
	canary                         bool
}

func (f *doctorFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.stateDir, "state-dir", "/var/lib/belay", "the agent's `directory` of state")
	fl.StringVar(&f.journal, "journal", "", "`directory` of the journal (default: journal in --state-dir)")
	fl.StringVar(&f.db, "db", "", "`file` of the vulnerability database (default: vuln.db in --state-dir)")
	fl.StringVar(&f.scanner, "scanner", "", "the scanner's `program` (default: belay-scanner beside belay)")
	fl.StringVar(&f.dockerHost, "docker-host", "unix:///var/run/docker.sock", `the Docker daemon's own socket; "none" for no Docker`)
	fl.StringVar(&f.gate, "gate-socket", "", `the gate's (default: docker.sock in --run-dir or, after belay enable-gate, Docker's usual place; "none" for no gate)`)
}

// fill checks the flags and completes them.
func (f *doctorFlags) fill(t *terminal) error {
	for _, only := range f.only {
		if err := doctor.Known(only); err != nil {
			return usageError{err}
		}
	}
	if f.dockerHost != "none" && !strings.HasPrefix(f.dockerHost, "unix:///") {
		return badUsage("--docker-host %q: want unix:///path or none", f.dockerHost)
	}
	if f.scanner == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		f.scanner = filepath.Join(filepath.Dir(self), "belay-scanner")
	}
	f.journal = cmp.Or(f.journal, filepath.Join(f.stateDir, "journal"))
	f.db = cmp.Or(f.db, filepath.Join(f.stateDir, "vuln.db"))
	for _, p := range []*string{&f.stateDir, &f.journal, &f.db, &f.scanner} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}

// examine runs the doctor on this host.
func (t *terminal) examine(ctx context.Context, f *doctorFlags) (doctor.Report, error) {
	run, err := filepath.Abs(t.runDir)
	if err != nil {
		return doctor.Report{}, err
	}
	info, _ := debug.ReadBuildInfo()
	o := doctor.Options{
		Root: os.DirFS("/"), System: doctor.Host{}, Agent: t.client(),
		RunDir: run, StateDir: f.stateDir, Journal: f.journal, Scanner: f.scanner,
		Version: versionOf(info).Version, Canary: f.canary, Only: f.only, Now: t.now,
		Database: func() (asOf time.Time, leftOut int, err error) {
			db, err := vulndb.Open(f.db)
			if err != nil {
				return time.Time{}, 0, err
			}
			defer db.Close()
			return db.AsOf(), db.BadRecords(), nil
		},
	}
	if socket, ok := strings.CutPrefix(f.dockerHost, "unix://"); ok {
		o.Preflight = func(ctx context.Context) preflight.Report {
			return preflight.Run(ctx, preflight.Options{Socket: socket, Gate: f.gate, RunDir: run})
		}
	}
	r := doctor.Run(ctx, o)
	return r, ctx.Err()
}

func doctorCommand(t *terminal) *cobra.Command {
	f := &doctorFlags{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what keeps Belay from working well on this host, with the fix for each",
		Long: `doctor looks at the kernel, the agent, the policies in force and what they come to here,
container engines and their sockets, ways around the gate, the clock, the disk, the
vulnerability database and the scanner. It changes nothing. What it cannot read is a
warning, so run it as root. docs/doctor.md has every finding.

The exit status is 0 if all is well, 3 if a finding fails, 4 if there are warnings only,
1 if the examination was not done, and 2 if the command line was not understood.`,
		Example: `  belay doctor
  belay doctor --only kernel,agent.canary --canary
  belay doctor -o json | jq -r '.findings[] | select(.severity == "fail") | .fix'`,
		// Flags count as the command line, which is understood when arguments are.
		Args: func(cmd *cobra.Command, args []string) error {
			if err := noArguments(cmd, args); err != nil {
				return err
			}
			return f.fill(t)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := t.examine(cmd.Context(), f)
			if err != nil {
				return fmt.Errorf("the examination was not done: %w", err)
			}
			if t.output == formatJSON {
				err = t.writeJSON(r)
			} else {
				t.writeFindingsOf(&r)
			}
			if err != nil {
				return err
			}
			return verdictOf(&r)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringSliceVar(&f.only, "only", nil, "findings, or groups of them, to look at, such as kernel,disk.state")
	cmd.Flags().BoolVar(&f.canary, "canary", false, "have the agent try an act that must be denied, now")
	return cmd
}

// verdictOf is what doctor ends with.
func verdictOf(r *doctor.Report) error {
	fails, warns := r.Count(doctor.Fail), r.Count(doctor.Warn)
	switch {
	case fails > 0:
		return statusError{exitFailures, fmt.Errorf("%s and %s", count(fails, "failure", "failures"), count(warns, "warning", "warnings"))}
	case warns > 0:
		return statusError{exitWarnings, errors.New(count(warns, "warning", "warnings") + ", and nothing fails")}
	}
	return nil
}

var doctorColours = map[doctor.Severity]colour{doctor.Fail: red, doctor.Warn: yellow, doctor.Info: noColour, doctor.OK: green}

// writeFindingsOf shows a finding a line, with its detail and its fix below it.
func (t *terminal) writeFindingsOf(r *doctor.Report) {
	tb := t.table("", "SEVERITY", "FINDING", "WHAT")
	for _, f := range r.Findings {
		tb.row(cell{f.Severity.String(), doctorColours[f.Severity]}, plain(f.ID), plain(f.Text))
		if f.Detail != "" {
			tb.row(plain(""), plain(""), cell{"  " + f.Detail, grey})
		}
		if f.Fix != "" {
			if f.Why != "" {
				tb.row(plain(""), plain(""), cell{"  why: " + f.Why, grey})
			}
			tb.row(plain(""), plain(""), plain("  fix: "+f.Fix))
		}
	}
	tb.writeTo(t.out)
}
