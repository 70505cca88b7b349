package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/scan/accept"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
)

// Words of --scanners beside those of [inventory.Scanners], as other scanners have them.
const (
	scannerVuln = "vuln" // matching with the database
	scannerNone = "none" // packages alone
)

// scannerWords are what a value of --scanners may have.
func scannerWords() []string { return append([]string{scannerVuln}, inventory.Scanners()...) }

// scannerSet is the value of --scanners; nil is all of them.
type scannerSet []string

func (s *scannerSet) Type() string { return "scanners" }

func (s *scannerSet) String() string {
	switch {
	case *s == nil:
		return strings.Join(scannerWords(), ",")
	case len(*s) == 0:
		return scannerNone
	}
	return strings.Join(*s, ",")
}

func (s *scannerSet) Set(text string) error {
	set := scannerSet{}
	for word := range strings.SplitSeq(text, ",") {
		switch {
		case text == scannerNone:
		case !slices.Contains(scannerWords(), word):
			return fmt.Errorf("want some of %s, with commas between them, or %s", strings.Join(scannerWords(), ", "), scannerNone)
		case !slices.Contains(set, word):
			set = append(set, word)
		}
	}
	*s = set
	return nil
}

// left lists what is left out, "" where nothing is.
func (f *scanFlags) left() string {
	return strings.Join(slices.DeleteFunc(scannerWords(), func(word string) bool {
		return !slices.Contains(f.Skip, word) && (word != scannerVuln || !f.packagesOnly)
	}), ",")
}

// apply makes the other options of what was chosen.
func (s *scannerSet) apply(f *scanFlags) error {
	if *s == nil {
		return nil
	}
	vuln := slices.Contains(*s, scannerVuln)
	if vuln && f.packagesOnly {
		return badUsage("--scanners has vuln, and --packages-only uses no database: leave one of them out")
	}
	f.packagesOnly = !vuln
	f.Skip = slices.DeleteFunc(inventory.Scanners(), func(word string) bool { return slices.Contains(*s, word) })
	return nil
}

// addScanners adds the flag.
func (f *scanFlags) addScanners(fl *pflag.FlagSet) {
	fl.Var(&f.scanners, "scanners", "what to look for beside packages, or none")
}

// completeScanners completes the flag's words, each behind a comma.
func completeScanners(cmd *cobra.Command) {
	err := cmd.RegisterFlagCompletionFunc("scanners", func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		before := begun[:strings.LastIndexByte(begun, ',')+1]
		words := scannerWords()
		if before == "" {
			words = append(words, scannerNone)
		}
		var out []string
		for _, word := range words {
			if !slices.Contains(strings.Split(before, ","), word) {
				out = append(out, before+word)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	if err != nil {
		panic(err) // no such flag: a mistake of ours
	}
}

// unlooked names a scanner that was left out though a rule may be about what it finds, "" if there
// is none.
func unlooked(rule *accept.Rule, vuln bool, skipped []string) string {
	if rule == nil {
		return ""
	}
	if !vuln && rule.MayFail("") {
		return scannerVuln
	}
	for _, id := range inventory.MisconfigurationIDs() {
		if by := inventory.ScannerOf(id); slices.Contains(skipped, by) && rule.MayFail(id) {
			return by
		}
	}
	return ""
}

// leftOut says what was not looked for, if anything was chosen.
func leftOut(s *report.Scan) string {
	left := s.Inventory.Skipped
	if len(left) == 0 {
		return ""
	}
	if s.Database == nil {
		left = append([]string{scannerVuln}, left...)
	}
	return "not looked for (--scanners): " + strings.Join(left, ", ")
}
