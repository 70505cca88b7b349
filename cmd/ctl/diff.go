package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/scan/pagecache"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

func diffCommand(t *terminal) *cobra.Command {
	f := &scanFlags{}
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Tell what makes two images differ: packages and findings; needs no agent",
		Long: `diff compares two targets: packages that were added or removed or have another
version, and findings and misconfigurations that are new or gone. Each of OLD and NEW is
what scan takes, or the file of an earlier "belay scan -o json", which is taken as it is,
but for what it says is ignored or known: it may have been matched with another database,
and then findings are new that only the database did not know.

A finding is the same in both if the flaw and the package have the same names, whatever
the version; a misconfiguration if it is in the same place (file and line) and no worse.
With --fail-on, only what is new counts, less what --ignore and --vex name.

Exit status: 0 done, whether or not they differ; 1 not done; 2 not understood; 3 there
are new findings that --fail-on means; 4 there are none, but something of NEW could not
be read or matched. What could not be read of OLD makes more new, never less.`,
		Example: `  belay diff app:1.4 app:1.5
  belay diff main.json app.tar --fail-on 'severity >= high && fixable'
  belay diff old.cdx.json new.cdx.json -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("want two targets: the old one, and the new one")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return t.diff(cmd.Context(), f, args[0], args[1]) },
	}
	fl := cmd.Flags()
	f.addMatching(fl)
	f.addReading(fl)
	f.addLocal(fl)
	fl.BoolVar(&f.packagesOnly, "packages-only", false, "compare packages, use no database")
	f.addScanners(fl)
	completeScanners(cmd)
	return cmd
}

func (t *terminal) diff(ctx context.Context, f *scanFlags, before, after string) error {
	rules, err := f.check()
	if err != nil {
		return err
	}
	old, err := t.scanOrRead(ctx, f, before)
	if err != nil {
		return err
	}
	now, err := t.scanOrRead(ctx, f, after)
	if err != nil {
		return err
	}
	if err := rules.apply(ctx, t, now); err != nil {
		return fmt.Errorf("%s: %w", after, err)
	}
	d := report.Compare(old, now)
	if rules.fail != nil && !d.Matched && rules.fail.MayFail("") && !f.packagesOnly {
		return errors.New("--fail-on needs findings, and one of the two was not matched with a database")
	}
	if t.output == formatJSON {
		err = t.writeJSON(d)
	} else {
		t.writeScanDiff(d)
	}
	if err != nil || rules.fail == nil {
		return err
	}
	fails, err := rules.failing(now)
	if err != nil {
		return err
	}
	n := 0
	for i := range d.Added {
		if fails[d.Added[i].Index] {
			n++
		}
	}
	config, err := rules.failingConfig(now)
	if err != nil {
		return err
	}
	for i := range d.AddedFaults {
		if config[d.AddedFaults[i].Index] {
			n++
		}
	}
	return f.judge(now, rules, n, "new ")
}

// scanOrRead reads the report of an earlier scan, or scans a target.
func (t *terminal) scanOrRead(ctx context.Context, f *scanFlags, name string) (*report.Scan, error) {
	s, ok, err := readReport(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if !ok {
		return t.scanTarget(ctx, f, name)
	}
	// What counts is for the flags of this command to say, and not for those of that scan.
	for i := range s.Findings {
		s.Findings[i].Ignored, s.Findings[i].Known = "", false
	}
	for i := range s.Misconfigurations {
		s.Misconfigurations[i].Unmark()
	}
	if f.packagesOnly {
		s.Database, s.Findings = nil, nil
	}
	return s, nil
}

// readReport reads a file that is a report; ok is false for what is none, or no file.
func readReport(name string) (s *report.Scan, ok bool, err error) {
	st, err := os.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return nil, false, nil //nolint:nilerr // whoever scans it tells why it cannot be read
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, false, err
	}
	defer file.Close()
	drop := pagecache.Behind(file, st.Size())
	begin := make([]byte, report.HeadBytes)
	n, err := io.ReadFull(file, begin)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	if !report.IsReport(begin[:n]) {
		drop() // else whoever scans it takes it for cached
		return nil, false, nil
	}
	s, err = report.Read(io.MultiReader(bytes.NewReader(begin[:n]), file))
	return s, true, err
}

func (t *terminal) writeScanDiff(d *report.Diff) {
	fmt.Fprintf(t.out, "%s: %s, %s\n", clean(d.Old.Target), count(d.Old.Packages, "package", "packages"), count(d.Old.Findings, "finding", "findings"))
	fmt.Fprintf(t.out, "%s: %s, %s\n", clean(d.New.Target), count(d.New.Packages, "package", "packages"), count(d.New.Findings, "finding", "findings"))
	if len(d.Packages) == 0 {
		fmt.Fprintln(t.out, "no package differs")
	} else {
		tb := t.table("", "CHANGE", "KIND", "PACKAGE", "OLD", "NEW")
		for _, c := range d.Packages {
			tb.row(plain(c.Change), plain(c.Kind), plain(c.Name), plain(orDash(strings.Join(c.Old, ", "))), plain(orDash(strings.Join(c.New, ", "))))
		}
		tb.writeTo(t.out)
	}
	switch {
	case !d.Matched:
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! findings are not compared: one of the two was not matched with a database"))
	case len(d.Added)+len(d.Gone) == 0:
		fmt.Fprintln(t.out, "no finding is new or gone")
	default:
		tb := t.table("", "", "SEVERITY", "VULNERABILITY", "PACKAGE", "VERSION", "FIXED IN")
		t.diffRows(tb, "new", red, d.Added)
		t.diffRows(tb, "gone", green, d.Gone)
		tb.writeTo(t.out)
		fmt.Fprintf(t.out, "%s new, %d gone\n", count(len(d.Added), "finding", "findings"), len(d.Gone))
	}
	t.writeFaultDiff(d)
	if d.Matched && !d.Old.Database.Built.Equal(d.New.Database.Built) {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! the two were matched with different databases: what differs may be what was known"))
	}
	for _, s := range []report.DiffSide{d.Old, d.New} {
		if !s.Complete {
			fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+clean(s.Target)+": not all of it could be read and matched"))
		}
	}
}

func (t *terminal) writeFaultDiff(d *report.Diff) {
	if len(d.AddedFaults)+len(d.GoneFaults) > 0 {
		tb := t.table("", "", "SEVERITY", "CONFIGURATION", "WHERE", "")
		rows := func(what string, c colour, list []report.DiffFault) {
			for i := range list {
				m := &list[i]
				tb.row(cell{what, c}, cell{m.Severity.String(), cmp.Or(severityColours[m.Severity], noColour)}, plain(m.ID+acceptedText(m.Ignored, m.Known)), plain(orDash(m.Where)), plain(m.Text))
			}
		}
		rows("new", red, d.AddedFaults)
		rows("gone", green, d.GoneFaults)
		tb.writeTo(t.out)
		fmt.Fprintf(t.out, "%s new, %d gone\n", count(len(d.AddedFaults), "misconfiguration", "misconfigurations"), len(d.GoneFaults))
	}
	if !slices.Equal(d.Old.Skipped, d.New.Skipped) {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! in one of the two more was looked for than in the other: misconfigurations that it alone has may be in both"))
	}
	if d.Old.ConfigRead != d.New.ConfigRead {
		side := d.New
		if d.New.ConfigRead {
			side = d.Old
		}
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+clean(side.Target)+" shows no configuration: the misconfigurations of the other's are not compared with any"))
	}
}

func (t *terminal) diffRows(tb *table, what string, c colour, list []report.DiffFinding) {
	for i := range list {
		f := &list[i]
		id := f.IDs[0] + acceptedText(f.Ignored, f.Known)
		colour := severityColours[f.Severity]
		if colour == "" {
			colour = noColour
		}
		fixed := f.Fixed
		if fixed == "" && f.State != vulndb.StateAffected {
			fixed = f.State
		}
		tb.row(cell{what, c}, cell{f.Severity.String(), colour}, plain(id), plain(f.Package.Name), plain(f.Package.Version), plain(orDash(fixed)))
	}
}
