package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/journal"
)

// anchorsVerified is the answer of "events verify" as JSON.
type anchorsVerified struct {
	Host    string               `json:"host"`
	Others  int                  `json:"otherHosts"` // anchors of other hosts
	Lines   int                  `json:"lines"`      // of the file
	Skipped int                  `json:"unreadableLines"`
	Chain   journal.Report       `json:"chain"`
	Anchors journal.AnchorReport `json:"anchors"`
}

func eventsVerifyCommand(t *terminal) *cobra.Command {
	var anchors, host string
	cmd := &cobra.Command{
		Use:   "verify --anchors FILE [DIR]",
		Short: "Check that the journal holds what was noted of it elsewhere; needs no agent",
		Long: `verify checks the hash chains of a journal, as "belay journal verify" does, and looks
for the heads that the agent has noted outside of this host. A chain
alone shows no change by one who can write the files and computes it anew: a head that
was noted and is no longer in the journal does.

FILE has what the receiver got, one JSON text a line ("-": standard input): events,
also behind a header of syslog or in the words of OCSF or ECS, bodies of webhooks, or
logs of OpenTelemetry. Events that are no anchors are passed over. DIR is
` + defaultJournal + ` unless it is given.

The exit status is 1 if a chain does not hold, if a head is missing that the journal
should have, or if there is none to look for.`,
		Example: `  belay events verify --anchors from-the-collector.jsonl
  belay events verify --anchors web1.jsonl --host web1 /mnt/evidence/journal`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return fmt.Errorf("want at most one directory, got %d", len(args))
			case anchors == "":
				return errors.New("want --anchors FILE; to check the chains alone: belay journal verify")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			dir := defaultJournal
			if len(args) > 0 {
				dir = args[0]
			}
			return t.verifyAnchors(dir, anchors, host)
		},
	}
	cmd.Flags().StringVar(&anchors, "anchors", "", "file of anchors as a receiver got them")
	cmd.Flags().StringVar(&host, "host", "", "name of the host that the journal is of (default: this one's)")
	return cmd
}

func (t *terminal) verifyAnchors(dir, path, host string) error {
	if host == "" {
		var err error
		if host, err = (hostinfo.Host{}).Hostname(); err != nil {
			return err
		}
	}
	in := io.NopCloser(t.in)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		in = f
	}
	file, err := journal.ReadAnchors(in, host)
	if err = errors.Join(err, in.Close()); err != nil {
		return fmt.Errorf("read anchors: %w", err)
	}
	if len(file.Anchors) == 0 {
		return fmt.Errorf("%s has no anchor of %s (%d of other hosts, %d lines that cannot be read): is it what the receiver got, and is --host right?",
			path, host, file.Others, file.Unreadable)
	}
	if err := findJournal(dir); err != nil {
		return err
	}
	out := anchorsVerified{Host: host, Others: file.Others, Lines: file.Lines, Skipped: file.Unreadable}
	if out.Chain, err = journal.Verify(dir); err == nil {
		out.Anchors, err = journal.VerifyAnchors(dir, file.Anchors)
	}
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		if err := t.writeJSON(out); err != nil {
			return err
		}
	} else {
		t.writeReport(&out.Chain)
		t.writeAnchors(&out)
	}
	switch {
	case !out.Chain.OK():
		return fmt.Errorf("the chain does not hold in %s", count(out.Chain.ProblemCount, "place", "places"))
	case !out.Anchors.OK():
		return errors.New("the journal is not the one that was noted")
	}
	return nil
}

func (t *terminal) writeAnchors(out *anchorsVerified) {
	fmt.Fprintf(t.out, "\n%s of %s\n", count(out.Anchors.Anchors, "anchor", "anchors"), clean(out.Host))
	tb := t.table("", "RING", "FOUND", "MISSING", "DROPPED WITH THE OLDEST", "RECORDS SINCE")
	for _, r := range out.Anchors.Rings {
		c := noColour
		if r.Missing > 0 {
			c = red
		}
		tb.row(plain(r.Ring), plain(fmt.Sprint(r.Found)), cell{fmt.Sprint(r.Missing), c}, plain(fmt.Sprint(r.Old)), plain(fmt.Sprint(r.Uncovered)))
	}
	tb.writeTo(t.out)
	for _, p := range out.Anchors.Problems {
		fmt.Fprintln(t.out, t.colours.paint(red, "! "+clean(p)))
	}
	if n := out.Anchors.Count - len(out.Anchors.Problems); n > 0 {
		fmt.Fprintf(t.out, "and %d more\n", n)
	}
	if out.Others > 0 {
		fmt.Fprintf(t.out, "%s of other hosts; one that was renamed has its former name there (--host)\n", count(out.Others, "anchor is", "anchors are"))
	}
	if out.Skipped > 0 {
		fmt.Fprintf(t.out, "%s could not be read\n", count(out.Skipped, "line of the file", "lines of the file"))
	}
	if out.Anchors.OK() && out.Chain.OK() {
		fmt.Fprintln(t.out, t.colours.paint(green, "the journal holds what was noted; records since the last anchor are vouched for by none"))
	}
}
