package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/journal"
)

const defaultJournal = "/var/lib/belay/journal"

func journalCommand(t *terminal) *cobra.Command {
	return group("journal", "Check the local journal",
		`journal holds what has to do with the files of the agent's journal. To read the
records use "belay events".`,
		`  belay journal verify`,
		journalVerifyCommand(t))
}

func journalVerifyCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Check that no record of a journal was altered or removed; needs no agent",
		Long: `verify walks the hash chains of a journal and prints every place where they do not
hold. It works beside a running agent, and on a copy of the directory. DIR is
` + defaultJournal + ` unless it is given. The exit status is 1 if a chain does not hold.

A missing beginning is no problem: the oldest segments are dropped when the journal
is full. That the end was not cut off, or all of it written anew, shows only by
comparing HEAD with a head that was noted elsewhere ("belay status -o json" has it
under .journal).`,
		Example: `  belay journal verify
  belay journal verify /mnt/evidence/journal -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("want at most one directory, got %d", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			dir := defaultJournal
			if len(args) > 0 {
				dir = args[0]
			}
			if err := findJournal(dir); err != nil {
				return err
			}
			rep, err := journal.Verify(dir)
			if err != nil {
				return fmt.Errorf("verify the journal in %s: %w", dir, err)
			}
			if t.output == formatJSON {
				if err := t.writeJSON(rep); err != nil {
					return err
				}
			} else {
				t.writeReport(&rep)
			}
			if rep.OK() {
				return nil
			}
			return fmt.Errorf("the chain does not hold in %s", count(rep.ProblemCount, "place", "places"))
		},
	}
}

// findJournal fails for a directory that holds no journal. One without segments has no chain that
// could break, and would pass for whole.
func findJournal(dir string) error {
	err := journal.Found(dir)
	why := ""
	switch {
	case errors.Is(err, os.ErrNotExist):
		why = "there is no such directory"
	case errors.Is(err, journal.ErrEmpty):
		why = "the directory has no segments"
	default:
		return err
	}
	return fmt.Errorf("there is no journal in %s: %s; fix: name the agent's journal directory (journal in its --state-dir)", dir, why)
}

func (t *terminal) writeReport(rep *journal.Report) {
	tb := t.table("", "RING", "RECORDS", "SEGMENTS", "HEAD", "NOTE")
	for _, r := range rep.Rings {
		segments := "none"
		if r.Segments > 0 {
			segments = fmt.Sprintf("%d to %d", r.First, r.Last)
		}
		tb.row(plain(r.Ring), plain(fmt.Sprint(r.Records)), plain(segments), plain(orDash(r.Head)), cell{ringNote(&r), yellow})
	}
	tb.writeTo(t.out)
	for _, p := range rep.Problems {
		fmt.Fprintln(t.out, t.colours.paint(red, "! "+clean(p.String())))
	}
	if n := rep.ProblemCount - len(rep.Problems); n > 0 {
		fmt.Fprintf(t.out, "and %d more\n", n)
	}
	if rep.OK() {
		fmt.Fprintln(t.out, t.colours.paint(green, "the chain holds"))
	}
}

// ringNote tells what is no problem of the chain and yet missing.
func ringNote(r *journal.RingReport) string {
	var notes []string
	if r.MissingSeq > 0 {
		notes = append(notes, fmt.Sprintf("%d records were lost before they were written (see records of kind loss)", r.MissingSeq))
	}
	if r.TornBytes > 0 {
		notes = append(notes, fmt.Sprintf("%d bytes after the last record are being written, or were lost with the power", r.TornBytes))
	}
	return strings.Join(notes, "; ")
}
