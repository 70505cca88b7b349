package main

import (
	"errors"
	"fmt"

	"github.com/belay-project/belay/internal/scan/accept"
	"github.com/belay-project/belay/internal/scan/report"
)

// scanRules decide whether a scan fails.
type scanRules struct {
	fail     *accept.Rule // nil: nothing fails
	fixable  bool
	ignores  *accept.Ignores
	baseline *accept.Baseline
}

// rules reads what decides, before anything is scanned.
func (f *scanFlags) rules() (*scanRules, error) {
	r, err := &scanRules{}, error(nil)
	if f.packagesOnly && (f.failOn != "" || f.ignore != "" || f.baseline != "") {
		return r, errors.New("--fail-on, --ignore and --baseline need findings, and --packages-only looks for none")
	}
	r.fixable = f.fixable
	if f.failOn != "" {
		if r.fail, err = accept.Compile(f.failOn); err != nil {
			return r, fmt.Errorf("--fail-on %s: %w", f.failOn, err)
		}
	}
	if f.ignore != "" {
		if r.ignores, err = accept.ReadIgnores(f.ignore); err != nil {
			return r, fmt.Errorf("--ignore: %w", err)
		}
	}
	if f.baseline != "" {
		if r.baseline, err = accept.ReadBaseline(f.baseline); err != nil {
			return r, fmt.Errorf("--baseline: %w", err)
		}
	}
	return r, nil
}

// apply marks what does not count, and says what of the ignore file is out of date.
func (r *scanRules) apply(t *terminal, s *report.Scan) {
	if r.ignores != nil {
		purl := func(i int) string { return report.PURL(s.Inventory.OS, &s.Inventory.Packages[i]) }
		for _, n := range r.ignores.Apply(s.Findings, s.Inventory.Packages, purl, t.now()) {
			fmt.Fprintln(t.err, "! "+clean(n))
		}
	}
	if r.baseline != nil {
		r.baseline.Apply(s.Findings, s.Inventory.Packages)
	}
}

// failing counts the findings that fail the scan.
func (r *scanRules) failing(s *report.Scan) (n int, err error) {
	for i := range s.Findings {
		f := &s.Findings[i]
		if f.Ignored != "" || f.Known || r.fixable && !f.Fixable() {
			continue
		}
		yes, err := r.fail.Fails(f, &s.Inventory.Packages[f.Package])
		if err != nil {
			return 0, err
		}
		if yes {
			n++
		}
	}
	return n, nil
}
