package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/revision"
)

func policyHistoryCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "history [NAME]",
		Short: "Show who changed policies, when and why",
		Long: `history shows the revisions of one policy, or of all that you may see, newest first. A
revision by a file is an edit of the policy directory; its author is the file's owner.

The agent keeps the newest revisions and lets the oldest go. Each holds the hash of the
one before: the command fails if one was altered or is missing.`,
		Example: "  belay policy history\n  belay policy history web -o json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("want at most one policy, got %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := t.client().History(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				err = t.writeJSON(h)
			} else {
				t.writeHistory(h)
			}
			if err == nil && len(h.Problems) > 0 {
				return fmt.Errorf("the history does not hold: %s", strings.Join(h.Problems, "; "))
			}
			return err
		},
	}
}

func (t *terminal) writeHistory(h *control.History) {
	tb := t.table("", "REVISION", "TIME", "AUTHOR", "CHANGE", "WHY")
	for i := len(h.Revisions) - 1; i >= 0; i-- {
		r := &h.Revisions[i]
		if r.Damaged != "" {
			tb.row(plain(revisionText(r.Number)), plain("-"), plain("-"), cell{"damaged", red}, plain(r.Damaged))
			continue
		}
		var changes []string
		for _, c := range r.Changes {
			changes = append(changes, c.Name+" "+c.What)
		}
		what := strings.Join(changes, ", ")
		if r.Op == revision.OpRollback {
			what += fmt.Sprintf(" (rollback to %d)", r.To)
		}
		why, _, _ := strings.Cut(r.Message, "\n")
		tb.row(plain(revisionText(r.Number)), plain(r.Time.Local().Format(time.DateTime)), plain(authorText(&r.Author)), plain(what), plain(orDash(why)))
	}
	tb.writeTo(t.out)
	if h.Forgotten > 0 {
		fmt.Fprintf(t.out, "\n%d revisions up to %d are no longer kept (at most %d are)\n", h.Gone, h.Forgotten, h.Kept)
	}
}

func authorText(a *revision.Author) string {
	name := a.Name
	switch {
	case name == "" && a.Container != "":
		name = shortID(a.Container)
	case name == "" && a.UID != nil:
		name = fmt.Sprintf("uid %d", *a.UID)
	case name == "":
		name = "unknown"
	}
	if a.LoginUID != nil && a.UID != nil && *a.LoginUID != *a.UID {
		login := a.LoginName
		if login == "" {
			login = fmt.Sprintf("uid %d", *a.LoginUID)
		}
		if !a.LoginKnown {
			login += ", claimed"
		}
		name += " (login " + login + ")"
	}
	if a.Kind != revision.ByUser {
		name = a.Kind + " " + name
		if a.Kind == revision.ByContainer && a.UID != nil {
			name += fmt.Sprintf(" (uid %d)", *a.UID)
		}
	}
	return name
}

// diffAnswer is the JSON answer of `belay policy diff`.
type diffAnswer struct {
	Name string `json:"name"`
	From uint64 `json:"from"`
	To   uint64 `json:"to,omitempty"` // 0: now
	Diff string `json:"diff"`
}

func policyDiffCommand(t *terminal) *cobra.Command {
	var from, to uint64
	cmd := &cobra.Command{
		Use:   "diff NAME",
		Short: "Show what changed in a policy",
		Long: `diff shows what its newest change did to a policy, or what lies between two revisions. To
see what a file would change, use "apply --dry-run".`,
		Example: "  belay policy diff web\n  belay policy diff web --from 12 --to 15",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			newer, err := t.policyAt(cmd, args[0], to)
			if err != nil {
				return err
			}
			a := diffAnswer{Name: args[0], From: from, To: to}
			if !cmd.Flags().Changed("from") && newer.Revision > 0 {
				a.From = newer.Revision - 1
			}
			older := &control.ManagedPolicy{}
			if a.From > 0 {
				older, err = t.policyAt(cmd, args[0], a.From)
			}
			if errors.Is(err, control.ErrNoPolicy) {
				older, err = &control.ManagedPolicy{}, nil // there was none
			}
			if err != nil {
				return err
			}
			if a.Diff = textDiff(args[0], older.Text, newer.Text); t.output == formatJSON {
				return t.writeJSON(a)
			}
			t.writeDiff(args[0], older.Text, newer.Text)
			return nil
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "the older `revision` (default: before the newest change)")
	cmd.Flags().Uint64Var(&to, "to", 0, "the newer `revision` (default: now)")
	return cmd
}

func textDiff(name, before, after string) string {
	end := func(s string) []byte {
		if s != "" && !strings.HasSuffix(s, "\n") {
			s += "\n"
		}
		return []byte(s)
	}
	// The first line is "diff a b", which says nothing that the next two do not.
	_, d, _ := strings.Cut(string(diff.Diff(name+" before", end(before), name+" after", end(after))), "\n")
	return d
}

func (t *terminal) writeDiff(name, before, after string) {
	for line := range strings.Lines(textDiff(name, before, after)) {
		c := noColour
		switch line[0] {
		case '+':
			c = green
		case '-':
			c = red
		}
		fmt.Fprintln(t.out, t.colours.paint(c, clean(strings.TrimRight(line, "\n"))))
	}
}
