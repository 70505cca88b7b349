package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/gate/preflight"
)

// errBypass is that the gate can be walked around.
var errBypass = errors.New("the gate can be walked around: see the findings that fail")

// preflightReport is the JSON of preflight. Parts that were not asked for are left out.
type preflightReport struct {
	*enforce.PreflightReport
	Daemon *preflight.Report `json:"daemon,omitempty"`
}

func preflightCommand() *cobra.Command {
	var output, only, runDir, host string
	var o preflight.Options
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Tell what this kernel lets Belay do and whether the gate can be walked around, and change nothing",
		Long: `Preflight tries each backend's mechanism on this kernel and shows the level that
each rule would get. Then it looks at the Docker daemon's process, configuration and
sockets, at the plugin and at the containers that run, and says whether somebody can
reach the daemon around the gate. A finding is ok, warn, fail or unknown; what cannot be
read is unknown.

Exit status: 0 if a backend works and no finding fails; 1 if none works or preflight
could not be made; 2 if a finding about the daemon fails; 64 if the command line was not
understood.`,
		Example: "  belay-agent preflight\n  belay-agent preflight --only daemon --docker-host unix:///run/docker-upstream/docker.sock\n  belay-agent preflight -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, unix := strings.CutPrefix(host, "unix://")
			switch {
			case only != "" && only != "kernel" && only != "daemon":
				return badUsage("--only %q: want kernel or daemon", only)
			case output != "text" && output != "json":
				return badUsage("--output %q: want text or json", output)
			case only == "daemon" && host == "none":
				return badUsage("--only daemon with --docker-host none leaves nothing to look at")
			case only != "kernel" && host != "none" && !unix:
				return badUsage("--docker-host %q: want unix:///path or none", host)
			}
			if os.Geteuid() != 0 {
				return fmt.Errorf("preflight loads BPF programs to try them, reads the daemon's process and needs root")
			}
			var r preflightReport
			if only != "daemon" {
				k := enforce.Preflight()
				r.PreflightReport = &k
			}
			if only != "kernel" && host != "none" {
				o.Socket, o.RunDir = socket, runDir
				d := preflight.Run(cmd.Context(), o)
				r.Daemon = &d
			}
			if err := r.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			return r.err()
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.StringVar(&only, "only", "", "kernel or daemon (default: both)")
	f.StringVar(&runDir, "run-dir", "/run/belay", "the agent's, where the gate's socket is")
	f.StringVar(&host, "docker-host", "unix:///var/run/docker.sock", `the daemon's own socket; "none" for no Docker`)
	f.StringVar(&o.Gate, "gate-socket", "", `the gate's (default: docker.sock in --run-dir or, after belay enable-gate, Docker's usual place; "none" for no gate)`)
	f.StringVar(&o.Plugin, "authz-plugin", "", "the agent's --authz-plugin (default: where the daemon looks)")
	f.StringVar(&o.Name, "plugin-name", "belay", "name of the plugin in the daemon's configuration")
	return cmd
}

// err is what preflight ends with.
func (r *preflightReport) err() error {
	switch {
	case r.PreflightReport != nil && r.Auto == "":
		return errors.New("no backend works on this kernel")
	case r.Daemon != nil && r.Daemon.Failed():
		return errBypass
	}
	return nil
}

func (r *preflightReport) print(out io.Writer, output string) error {
	if output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	if r.PreflightReport != nil {
		printKernel(out, r.PreflightReport)
	}
	if r.Daemon != nil {
		printDaemon(out, r.Daemon)
	}
	return nil
}

func printKernel(out io.Writer, r *enforce.PreflightReport) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "BACKEND\tUSABLE\tWHY NOT")
	for _, b := range r.Backends {
		fmt.Fprintf(w, "%s\t%v\t%s\n", b.Backend, b.Usable, b.Why)
	}
	fmt.Fprintf(w, "\nRULE\tLEVEL (%s)\tNOTE\n", r.Auto)
	for _, l := range r.Levels {
		fmt.Fprintf(w, "%s\t%s\t%s\n", l.Name, l.Text, l.Note)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", n)
	}
	fmt.Fprintln(w)
}

// printDaemon shows what is wrong with why and the fix, and what is well in a line.
func printDaemon(out io.Writer, r *preflight.Report) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "DAEMON\tFINDING\tWHAT")
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Severity, f.ID, f.What)
		if f.Fix != "" {
			fmt.Fprintf(w, "\t\t  why: %s\n\t\t  fix: %s\n", f.Why, f.Fix)
		}
	}
}
