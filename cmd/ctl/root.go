package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/cmd/manpage"
	"github.com/belay-project/belay/internal/control"
)

// Exit statuses. Scripts may rely on them; docs/cli.md lists them.
const (
	exitOK     = 0
	exitFailed = 1 // the command's question is answered with no, or could not be asked
	exitUsage  = 2
)

// terminal is where a command reads and writes, and what was chosen by flags of the
// whole program.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time
	colours  painter
	screen   bool // in and out are a terminal that can be drawn on
	live     bool // err is one

	runDir string
	output format
	// layers is the folder of the layer cache where no flag names one; empty: that of the user.
	layers string
}

// client returns a client of the agent. It does not connect yet.
func (t *terminal) client() *control.Client {
	return control.NewClient(filepath.Join(t.runDir, control.SocketName)).Or(filepath.Join(t.runDir, control.UsersSocketName))
}

// format is the value of -o.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "text|json" }

func (f *format) Set(s string) error {
	if s != string(formatText) && s != string(formatJSON) {
		return errors.New("want text or json")
	}
	*f = format(s)
	return nil
}

// quietError fails a command that has said why already.
type quietError struct{ error }

// usageError is for a command line that cobra has understood, and we do not: the value of a flag, or flags
// that exclude each other.
type usageError struct{ error }

// Unwrap returns what is wrong.
func (e usageError) Unwrap() error { return e.error }

func badUsage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run runs the command line and returns the exit status.
func run(ctx context.Context, t *terminal, args []string) int {
	root, started := newRoot(t)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var quiet quietError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &quiet):
	default:
		// Messages can hold what a container chose: a name, a path.
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(t.err, "belay: "+clean(strings.TrimSuffix(line, "\n")))
		}
	}
	if errors.Is(err, control.ErrNotRunning) {
		fmt.Fprintln(t.err, "Start belay-agent, or name its run directory with --run-dir.")
	}
	if unknown, ok := errors.AsType[*unknownCommand](err); ok {
		fmt.Fprint(t.err, unknown.hint())
	}
	if status, ok := errors.AsType[statusError](err); ok {
		return status.code
	}
	if _, usage := errors.AsType[usageError](err); *started && !usage {
		return exitFailed
	}
	fmt.Fprintf(t.err, "See '%s --help'.\n", cmd.CommandPath())
	return exitUsage
}

// newRoot returns the whole command tree. started tells, after a failure, whether
// the command line was understood.
func newRoot(t *terminal) (root *cobra.Command, started *bool) {
	started = new(bool)
	t.output = formatText
	root = &cobra.Command{
		Use:   "belay",
		Short: "See and check what Belay enforces on this host",
		Long: `belay asks the agent of this host what it enforces, on which containers and why,
shows what was denied, checks policy files and journals, and scans images.

"policy check", "policy test", "explain --request", "journal verify", "events verify",
"events replay", "load plan --file", "load leave", "move", "scan", "registry scan",
"sbom", "diff", "cache", "db", "disable-gate", "node" and "version" work without an agent;
"doctor" and "support-bundle" find out why there is none. "enable-gate" needs one, and
asks systemd. "ci" talks to the scan API of an agent, this host's over scans.sock or
another's. "enroll" and "elevate" use elevate.sock, which is for every user of the host.
All other commands talk to the agent over
control.sock in its run directory, as root or as a member of the socket's group; those of
"policy" also over users.sock, as far as policies let the user.`,
		Example: `  belay status
  belay events --follow --denials
  belay explain web-1
  belay policy check /etc/belay/policies`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          onlyCommands,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		// For onlyCommands.
		SuggestionsMinimumDistance: suggestWithin,
		// Here, since cobra looks at groups of flags only after it.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			err := cmd.ValidateFlagGroups()
			*started = err == nil
			return err
		},
	}
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	flags := root.PersistentFlags()
	flags.StringVar(&t.runDir, "run-dir", "/run/belay", "`directory` of the agent's sockets")
	flags.VarP(&t.output, "output", "o", "output format")
	root.AddCommand(statusCommand(t), doctorCommand(t), supportBundleCommand(t), containersCommand(t), topCommand(t), imagesCommand(t), loadCommand(t), moveCommand(t), eventsCommand(t), graphCommand(t), explainCommand(t),
		policyCommand(t), journalCommand(t), enrollCommand(t), elevateCommand(t), tokenCommand(t), scanCommand(t), sbomCommand(t), diffCommand(t), ciCommand(t), registryCommand(t), dbCommand(t), cacheCommand(t), enableGateCommand(t), disableGateCommand(t), nodeCommand(t), versionCommand(t), manpage.Command(1))
	return root, started
}

// group returns a command that only holds others.
func group(use, short, long, example string, cmds ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: onlyCommands,
		SuggestionsMinimumDistance: suggestWithin,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	g.AddCommand(cmds...)
	return g
}

// suggestWithin is how many letters may be wrong in a command that is suggested.
const suggestWithin = 2

// onlyCommands refuses arguments of a group: they are commands that do not exist.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &unknownCommand{cmd: cmd, name: args[0]}
}

type unknownCommand struct {
	cmd  *cobra.Command
	name string
}

func (e *unknownCommand) Error() string {
	return fmt.Sprintf("unknown command %q for %q", e.name, e.cmd.CommandPath())
}

// hint returns what the user may have meant, as a line, or nothing.
func (e *unknownCommand) hint() string {
	names := e.cmd.SuggestionsFor(e.name)
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("Did you mean '%s %s'?\n", e.cmd.CommandPath(), names[0])
}

// textOnly refuses -o json where nothing would answer in it.
func (t *terminal) textOnly(cmd *cobra.Command) error {
	if t.output == formatJSON {
		return badUsage("%s has no JSON: leave out -o json", strings.TrimPrefix(cmd.CommandPath(), "belay "))
	}
	return nil
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no argument, got %q", cmd.Name(), args[0])
	}
	return nil
}
