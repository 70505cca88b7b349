package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// judgeFindings asks the rules in order. The first that is met for certain refuses; else the
// first that would be, were what is not known of a package's use so, is reported.
func (p *ImagePolicy) judgeFindings(img *Image, now moment) (report imageRefusal) {
	for i := range p.Spec.Findings {
		rule := &p.Spec.Findings[i]
		if r := p.judgeRule(rule, img, now, true); r.rule != "" {
			return r
		}
		if report.rule == "" && rule.Use.any() {
			report = p.judgeRule(rule, img, now, false)
		}
	}
	return report
}

// judgeRule asks one rule: about what is known, or also about what is not.
func (p *ImagePolicy) judgeRule(rule *FindingRule, img *Image, now moment, known bool) imageRefusal {
	var hits, expired []string
	n := 0
	for j := range img.Scan.Findings {
		f := &img.Scan.Findings[j]
		if yes, sure := rule.about(f, now); !yes || sure != known {
			continue
		}
		waived, over := p.waived(img, f, now)
		if waived {
			continue
		}
		if over != "" && len(expired) < maxDetails && !slices.Contains(expired, over) {
			expired = append(expired, over)
		}
		if n++; len(hits) < maxDetails {
			text := f.String()
			if rule.Grace > 0 && now.ahead(f.FirstSeen) {
				text += ", first seen in the future: a clock was wrong"
			}
			hits = append(hits, text)
		}
	}
	if n == 0 {
		return imageRefusal{}
	}
	noun := "findings"
	if n == 1 {
		noun = "finding"
	}
	r := imageRefusal{rule: rule.Name, reason: fmt.Sprintf("it has %d %s: %s", n, noun, rule), details: hits, expired: expired}
	if !known {
		r.audit = true
		r.reason += "; whether it is in use is not known, so it is reported and not denied"
	}
	return r
}

// about reports whether the rule is about a finding; sure is false if that is so unless what
// is not known of the package's use is otherwise.
func (r *FindingRule) about(f *ImageFinding, now moment) (yes, sure bool) {
	sev := f.Severity
	if sev == inventory.SeverityUnknown {
		sev = inventory.SeverityHigh
	}
	if sev < r.Severity || r.Fixable && f.Fixed == "" || r.Exploited && !f.Exploited || len(r.Packages) > 0 && !f.of(r.Packages) || !r.EPSS.met(f.EPSS) ||
		len(r.Symbols) > 0 && !slices.Contains(r.Symbols, cmp.Or(f.Symbols, inventory.SymbolsUnknown)) {
		return false, true
	}
	if r.Grace > 0 && now.Sub(f.FirstSeen) < r.Grace && !now.ahead(f.FirstSeen) {
		return false, true
	}
	return r.Use.met(&f.Use)
}

func (f *ImageFinding) of(globs []string) bool {
	return slices.ContainsFunc(globs, func(g string) bool {
		return matchGlob(g, f.Package) || f.Source != "" && matchGlob(g, f.Source)
	})
}

// String says what the rule is about: "high or above, fixable, after 72h0m0s".
func (r *FindingRule) String() string {
	var parts []string
	if r.Severity != inventory.SeverityUnknown {
		parts = append(parts, r.Severity.String()+" or above")
	}
	if r.Fixable {
		parts = append(parts, "fixable")
	}
	if r.Exploited {
		parts = append(parts, "known to be exploited")
	}
	if r.EPSS.set() {
		parts = append(parts, "EPSS "+r.EPSS.String())
	}
	parts = append(parts, r.Use.words()...)
	if len(r.Symbols) > 0 {
		parts = append(parts, "vulnerable functions "+strings.Join(r.Symbols, " or "))
	}
	if len(r.Packages) > 0 {
		parts = append(parts, "in "+strings.Join(r.Packages, ", "))
	}
	if r.Grace > 0 {
		parts = append(parts, "seen for "+days(r.Grace))
	}
	return strings.Join(parts, ", ")
}

// String is "CVE-2024-1 in openssl 1.1.1 (critical, fixed in 1.1.2)".
func (f *ImageFinding) String() string {
	text := f.IDs[0] + " in " + f.Package + " " + f.Version + " (" + f.Severity.String()
	if f.Exploited {
		text += ", exploited"
	}
	if f.EPSS > 0 {
		text += fmt.Sprintf(", EPSS %.2g", f.EPSS)
	}
	if f.Fixed != "" {
		text += ", fixed in " + f.Fixed
	}
	if u := f.Use.String(); u != "" {
		text += ", " + u
	}
	if f.Symbols == inventory.SymbolsPresent || f.Symbols == inventory.SymbolsAbsent {
		text += ", vulnerable functions " + f.Symbols
	}
	return text + ")"
}

// waived reports whether an exception of the policy holds for a finding, or one would that
// is over. For an advisory of several flaws that takes one for it, or one for each of them.
func (p *ImagePolicy) waived(img *Image, f *ImageFinding, now moment) (ok bool, over string) {
	ok, over = p.excepted(img, f, f.IDs, now)
	for i := range f.About {
		if ok {
			break
		}
		one, ended := p.excepted(img, f, f.About[i:i+1], now)
		over = cmp.Or(over, ended)
		if !one {
			return false, over
		}
		ok = i == len(f.About)-1
	}
	if ok {
		over = ""
	}
	return ok, over
}

// excepted is waived for a finding by some of its names.
func (p *ImagePolicy) excepted(img *Image, f *ImageFinding, ids []string, now moment) (ok bool, over string) {
	for i := range p.Spec.Exceptions {
		e := &p.Spec.Exceptions[i]
		if e.Vulnerability != "" && !slices.Contains(ids, e.Vulnerability) || len(e.Packages) > 0 && !f.of(e.Packages) ||
			len(e.Images) > 0 && !slices.ContainsFunc(e.Images, img.hasDigest) {
			continue
		}
		if !now.After(e.Until) {
			return true, ""
		}
		over = fmt.Sprintf("the exception for %s ended on %s (%s)", ids[0], e.Until.Format(time.DateOnly), e.Reason)
	}
	return false, over
}
