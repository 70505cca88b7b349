package main

import (
	"context"
	"fmt"

	"github.com/belay-project/belay/internal/scan/accept"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vex"
)

// scanRules decide whether a scan fails.
type scanRules struct {
	fail     *accept.Rule // nil: nothing fails
	fixable  bool
	ignores  *accept.Ignores
	vex      *vex.Documents
	baseline *accept.Baseline
	bases    *report.Bases
}

// rules reads what decides, before anything is scanned.
func (f *scanFlags) rules() (*scanRules, error) {
	r, err := &scanRules{}, error(nil)
	if err := f.needFindings(); err != nil {
		return r, err
	}
	r.fixable = f.fixable
	if f.failOn != "" {
		if r.fail, err = accept.Compile(f.failOn); err != nil {
			return r, badUsage("--fail-on %s: %w", f.failOn, err)
		}
		if left := unlooked(r.fail, !f.packagesOnly, f.Skip); left != "" && !f.allowIncomplete {
			return r, badUsage("--fail-on %s may be about what --scanners leaves out (%s): add it, narrow the expression, or let it pass with --allow-incomplete", f.failOn, left)
		}
	}
	if f.ignore != "" {
		if r.ignores, err = accept.ReadIgnores(f.ignore); err != nil {
			return r, fmt.Errorf("--ignore: %w", err)
		}
	}
	if len(f.vex) > 0 {
		if r.vex, err = vex.Read(f.vex...); err != nil {
			return r, fmt.Errorf("--vex: %w", err)
		}
	}
	if f.baseline != "" {
		if r.baseline, err = accept.ReadBaseline(f.baseline); err != nil {
			return r, fmt.Errorf("--baseline: %w", err)
		}
	}
	if len(f.bases) > 0 {
		if r.bases, err = report.ReadBases(f.bases...); err != nil {
			return r, fmt.Errorf("--base: %w", err)
		}
	}
	return r, nil
}

// needFindings refuses flags about findings of which none can be.
func (f *scanFlags) needFindings() error {
	if !f.packagesOnly {
		return nil
	}
	by, alone := "--packages-only", len(f.scanners) == 0
	if f.scanners != nil {
		by = "--scanners " + f.scanners.String()
	}
	vex := len(f.vex) > 0 || f.attachedVEX == attachedVEXUse
	switch {
	case alone && (vex || f.failOn != "" || f.ignore != "" || f.baseline != ""):
		return badUsage("--fail-on, --ignore, --vex, --attached-vex and --baseline need findings, and %s looks for none", by)
	case vex:
		return badUsage("--vex and --attached-vex are about vulnerabilities, and %s looks for none", by)
	case f.output.needsFindings() && (alone || f.output != "junit"):
		return badUsage("-o %s is about findings, and %s looks for none", f.output, by)
	}
	return nil
}

// apply marks what does not count, and says what of the ignore file is out of date.
//
// Errors: ctx has ended.
func (r *scanRules) apply(ctx context.Context, t *terminal, s *report.Scan) error {
	s.FindBase(r.bases)
	marked := accept.Marked{Findings: s.Findings, Packages: s.Inventory.Packages, Faults: s.Misconfigurations, PURL: s.PackageURL}
	var notes []string
	if r.ignores != nil {
		var err error
		if notes, err = r.ignores.Apply(ctx, marked, t.now()); err != nil {
			return err
		}
	}
	if r.vex != nil {
		notes = append(notes, r.vex.Apply(s.Findings, s.Inventory, s.PackageURL)...)
	}
	for _, n := range notes {
		fmt.Fprintln(t.err, "! "+clean(n))
	}
	if r.baseline != nil {
		r.baseline.Apply(marked)
	}
	return nil
}

// failing returns the indices of the findings that fail the scan: those that --fail-on means,
// or without it all, less what is ignored, known, or, with --fixable, has no fix.
func (r *scanRules) failing(s *report.Scan) (map[int]bool, error) {
	fails := map[int]bool{}
	for i := range s.Findings {
		f := &s.Findings[i]
		if f.Ignored != "" || f.Known || r.fixable && !f.Fixable() {
			continue
		}
		yes, err := r.fail == nil, error(nil)
		if r.fail != nil {
			yes, err = r.fail.Fails(f, &s.Inventory.Packages[f.Package])
		}
		if err != nil {
			return nil, err
		}
		if yes {
			fails[i] = true
		}
	}
	return fails, nil
}

// failingConfig returns the indices of the misconfigurations that fail the scan: those that
// --fail-on means, if it has a word about them, less what is ignored or known.
func (r *scanRules) failingConfig(s *report.Scan) (map[int]bool, error) {
	fails := map[int]bool{}
	for i := range s.Misconfigurations {
		m := &s.Misconfigurations[i]
		if r.fail == nil || m.Accepted() {
			continue
		}
		yes, err := r.fail.FailsConfig(m)
		if err != nil {
			return nil, err
		}
		if yes {
			fails[i] = true
		}
	}
	return fails, nil
}

// verdict fails a scan by --fail-on.
func (f *scanFlags) verdict(s *report.Scan, rules *scanRules) error {
	if rules.fail == nil {
		return nil
	}
	fails, err := rules.failing(s)
	if err != nil {
		return err
	}
	config, err := rules.failingConfig(s)
	if err != nil {
		return err
	}
	return f.judge(s, rules, len(fails)+len(config), "")
}

// judge fails a scan with n findings that count; kind says what kind of them, or nothing.
func (f *scanFlags) judge(s *report.Scan, rules *scanRules, n int, kind string) error {
	if n > 0 {
		return statusError{exitFindings, fmt.Errorf("%s: %s with %s", s.Target, count(n, kind+"finding", kind+"findings"), rules.fail)}
	}
	if !s.Complete && !f.allowIncomplete {
		return statusError{exitIncomplete, fmt.Errorf("%s: not all of it could be read and matched, so it does not pass; --allow-incomplete lets it", s.Target)}
	}
	if why := f.unjudged(s, rules); why != "" {
		return statusError{exitIncomplete, fmt.Errorf("%s: %s; --allow-incomplete lets it pass", s.Target, why)}
	}
	return nil
}

// unjudged says what --fail-on may be about that was not looked at, so that the scan does not pass; "" if
// there is nothing.
func (f *scanFlags) unjudged(s *report.Scan, rules *scanRules) string {
	if rules.fail == nil || f.allowIncomplete {
		return ""
	}
	if left := unlooked(rules.fail, s.Database != nil, s.Inventory.Skipped); left != "" {
		return fmt.Sprintf("--fail-on may be about what was not looked for (%s)", left)
	}
	if !rules.fail.AboutConfig() {
		return ""
	}
	if !s.Inventory.ConfigRead {
		return "--fail-on is about the image's configuration, which this target does not show"
	}
	if u := s.Inventory.Unsearched; u != nil {
		return fmt.Sprintf("--fail-on has the word misconfiguration, and %s not searched for secrets (%s: %s)", count(u.Count, "file was", "files were"), u.Path, u.Text)
	}
	return ""
}
