package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/revision"
)

func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes the name of one policy, got %d arguments", cmd.Name(), len(args))
	}
	return nil
}

func policyListCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the policies in force that you may see",
		Long: `list shows the policies in force: name, kind, mode, where it comes from (own, shipped, or
override of a shipped one), the newest revision that changed it, and its file. The last
line has the newest revision of all, for --if-revision.`,
		Example: "  belay policy list\n  belay policy list -o json | jq -r '.policies[] | select(.origin == \"own\") | .name'",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := t.client().Policies(cmd.Context(), control.PolicyQuery{})
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(l)
			}
			tb := t.table("", "NAME", "KIND", "MODE", "ORIGIN", "REVISION", "WRITTEN IN")
			for _, p := range l.Policies {
				tb.row(plain(p.Name), plain(p.Kind), cell{p.Mode, modeColour(p.Mode)}, plain(p.Origin), plain(revisionText(p.Revision)),
					plain(place(p.File, p.Line)))
			}
			tb.writeTo(t.out)
			fmt.Fprintf(t.out, "\nrevision %d\n", l.Head)
			return nil
		},
	}
}

func revisionText(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

func policyShowCommand(t *terminal) *cobra.Command {
	var rev uint64
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Print a policy as it was written",
		Long: `show prints the text of a policy, as it is now or as a revision left it. It can be edited
and applied again.`,
		Example: "  belay policy show web > web.yaml\n  belay policy show web --revision 12",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := t.policyAt(cmd, args[0], rev)
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(p)
			}
			t.writeText(p.Text)
			return nil
		},
	}
	cmd.Flags().Uint64Var(&rev, "revision", 0, "as this `revision` left it (default: now)")
	return cmd
}

func (t *terminal) policyAt(cmd *cobra.Command, name string, rev uint64) (*control.ManagedPolicy, error) {
	l, err := t.client().Policies(cmd.Context(), control.PolicyQuery{Name: name, Revision: rev})
	if err != nil {
		return nil, err
	}
	if len(l.Policies) != 1 {
		return nil, fmt.Errorf("the agent answered with %d policies", len(l.Policies))
	}
	return &l.Policies[0], nil
}

// writeText prints text that somebody else wrote, line by line.
func (t *terminal) writeText(text string) {
	for line := range strings.Lines(text) {
		parts := strings.Split(strings.TrimRight(line, "\r\n"), "\t")
		for i := range parts {
			parts[i] = clean(parts[i])
		}
		fmt.Fprintln(t.out, strings.Join(parts, "\t"))
	}
}

// changeFlags are those of all commands that change policies.
type changeFlags struct {
	message string
	since   string
	dryRun  bool
}

func (f *changeFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.message, "message", "m", "", "why, for the history")
	cmd.Flags().StringVar(&f.since, "if-revision", "", "refuse if a policy that is changed has a newer `revision` than this")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would be changed, and change nothing")
}

func (f *changeFlags) into(c *control.ChangeRequest) error {
	c.Message, c.DryRun = f.message, f.dryRun
	if f.since == "" {
		return nil
	}
	n, err := strconv.ParseUint(f.since, 10, 64)
	if err != nil {
		return badUsage("--if-revision %q: want a number, such as the one that belay policy list ends with", f.since)
	}
	c.IfRevision = &n
	return nil
}

const safetyText = `
The change is one revision: it comes into force whole or not at all, and if anything
is wrong the policies in force stay. With --if-revision N it is refused if somebody has
changed one of its policies after revision N ("belay policy list" ends with the newest).`

func policyApplyCommand(t *terminal) *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use:   "apply FILE|DIR...",
		Short: "Put policies in force: new ones, or new texts of those that there are",
		Long: `apply sends policies to the agent, which writes them into its policy directory and puts
them in force. A policy of a name that exists is replaced; others stay as they are. "-"
reads standard input.
` + safetyText,
		Example: `  belay policy apply web.yaml --dry-run
  belay policy apply web.yaml db.yaml --if-revision 41 -m "ticket 1234"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("want at least one policy file or directory")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c := &control.ChangeRequest{Op: revision.OpApply}
			var err error
			if c.Files, err = t.changeFiles(args); err != nil {
				return err
			}
			return t.change(cmd, c, &f)
		},
	}
	f.add(cmd)
	return cmd
}

func (t *terminal) changeFiles(args []string) ([]control.ChangeFile, error) {
	var out []control.ChangeFile
	for _, arg := range args {
		if arg == "-" {
			data, err := readBounded(t.in)
			if err != nil {
				return nil, fmt.Errorf("read standard input: %w", err)
			}
			out = append(out, control.ChangeFile{Name: "<stdin>", Text: string(data)})
			continue
		}
		files := []string{arg}
		if info, err := os.Stat(arg); err == nil && info.IsDir() {
			if files, err = policy.DirFiles(arg); err != nil {
				return nil, err
			}
			if len(files) == 0 {
				return nil, fmt.Errorf("%s: no *.yaml or *.yml file in this directory", arg)
			}
		}
		for _, file := range files {
			data, err := policy.ReadFile(file)
			if err != nil {
				return nil, err
			}
			out = append(out, control.ChangeFile{Name: file, Text: string(data)})
		}
	}
	return out, nil
}

func policyDeleteCommand(t *terminal) *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a policy",
		Long: `delete takes a policy out of force and out of the policy directory. The history keeps its
text. Where it overrides a policy that ships with Belay, the shipped one is in force
again; a shipped one cannot be deleted.
` + safetyText,
		Example: `  belay policy delete web -m "the service is gone"`,
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.change(cmd, &control.ChangeRequest{Op: revision.OpDelete, Name: args[0]}, &f)
		},
	}
	f.add(cmd)
	return cmd
}

func policyRollbackCommand(t *terminal) *cobra.Command {
	var f changeFlags
	var to uint64
	cmd := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Put a former text of a policy in force again",
		Long: `rollback makes a policy what it was before its newest change, or with --to what a revision
left it as. That is a new revision, so it can be rolled back too. A rollback to before a
policy existed deletes it, and must be allowed as a delete too.
` + safetyText,
		Example: "  belay policy rollback web\n  belay policy rollback web --to 12 --dry-run",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.change(cmd, &control.ChangeRequest{Op: revision.OpRollback, Name: args[0], To: to}, &f)
		},
	}
	f.add(cmd)
	cmd.Flags().Uint64Var(&to, "to", 0, "the `revision` to go back to (default: before the newest change)")
	return cmd
}

func (t *terminal) change(cmd *cobra.Command, c *control.ChangeRequest, f *changeFlags) error {
	if err := f.into(c); err != nil {
		return err
	}
	res, err := t.client().Change(cmd.Context(), c)
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(res)
	}
	for _, ch := range res.Changes {
		verb := ch.What
		if res.DryRun {
			verb = "would be " + verb
			t.writeDiff(ch.Name, ch.Before, ch.After)
		}
		fmt.Fprintf(t.out, "%s %s %s\n", ch.Kind, clean(ch.Name), verb)
	}
	for _, name := range res.Unchanged {
		fmt.Fprintf(t.out, "%s unchanged\n", clean(name))
	}
	if res.Revision > 0 {
		fmt.Fprintf(t.out, "revision %d\n", res.Revision)
	}
	if res.Warning != "" {
		fmt.Fprintln(t.err, t.colours.paint(yellow, "! "+clean(res.Warning)))
	}
	return nil
}
