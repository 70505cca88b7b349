package policy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Limits of one ImagePolicy.
const (
	maxFindingRules = 256
	maxExceptions   = 10000
	maxImageSpan    = 20 * 365 * 24 * time.Hour
	maxDeadline     = 2 * time.Minute
	maxReason       = 1024
)

// imageHome is fieldHome for this kind.
var imageHome = map[string]string{
	"apiVersion": topLevel, "kind": topLevel, "metadata": topLevel, "spec": topLevel,
	"annotations": "metadata",
	"mode":        "spec", "priority": "spec", "selector": "spec", "registries": "spec", "digests": "spec", "nonRoot": "spec",
	"secretsInEnv": "spec", "secrets": "spec", "scanned": "spec", "databaseMaxAge": "spec", "incomplete": "spec", "findings": "spec",
	"unscanned": "spec", "deadline": "spec", "fallback": "spec", "exceptions": "spec",
	"labels": "spec.selector", "required": "spec.scanned",
	"severity": "spec.findings[]", "fixable": "spec.findings[]", "exploited": "spec.findings[]", "epss": "spec.findings[]",
	"inUse": "spec.findings[]", "listening": "spec.findings[]", "reachable": "spec.findings[]", "symbols": "spec.findings[]", "grace": "spec.findings[]",
	"vulnerability": "spec.exceptions[]", "until": "spec.exceptions[]", "reason": "spec.exceptions[]",
}

// parseImage reads one document of kind [ImageKind]; its shape was checked.
func parseImage(file string, root *yaml.Node) (*ImagePolicy, Errors) {
	d := &decoder{file: file, lines: map[string]int{}, nodes: map[string]*yaml.Node{}, home: imageHome}
	p := &ImagePolicy{File: file, Line: root.Line}
	d.object(root, topLevel, []field{
		{"apiVersion", true, d.enum([]string{APIVersion}, func(string) {})},
		{"kind", true, d.enum([]string{ImageKind}, func(string) {})},
		{"metadata", true, func(n *yaml.Node, at string) { d.metadata(n, at, &p.Name, &p.Annotations) }},
		{"spec", true, func(n *yaml.Node, at string) { d.imageSpec(n, at, p) }},
	})
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	p.Revision = revisionOf(p.Canonical())
	return p, nil
}

func (d *decoder) imageSpec(n *yaml.Node, at string, p *ImagePolicy) {
	s := &p.Spec
	var m modes
	var secrets, incomplete Value
	d.object(n, at, []field{
		{"mode", true, d.mode(&m.policy)},
		{"priority", false, d.integer(&s.Priority, -maxPriority, maxPriority)},
		{"selector", false, func(n *yaml.Node, at string) {
			d.object(n, at, []field{
				{"images", false, d.texts(&s.Selector.Images, maxRuleList, checkImageGlob)},
				{"labels", false, d.stringMap(&s.Selector.Labels)},
			})
		}},
		{"registries", false, d.texts(&s.Registries, maxRuleList, checkImageGlob)},
		{"digests", false, d.texts(&s.Digests, maxAccessList, checkDigest)},
		{"maxAge", false, d.duration(&s.MaxAge, time.Minute, maxImageSpan)},
		{"nonRoot", false, d.onlyTrue(&s.NonRoot)},
		{"secretsInEnv", false, d.value(&secrets, Deny)},
		{"secrets", false, d.secretLimits(&s.Secrets)},
		{"scanned", false, func(n *yaml.Node, at string) {
			d.object(n, at, []field{
				{"required", true, d.onlyTrue(&s.Scanned)},
				{"maxAge", false, d.duration(&s.ScanMaxAge, time.Minute, maxImageSpan)},
			})
		}},
		{"databaseMaxAge", false, d.duration(&s.DatabaseMaxAge, time.Minute, maxImageSpan)},
		{"incomplete", false, d.value(&incomplete, Deny, Allow)},
		{"findings", false, d.each(maxFindingRules, func(n *yaml.Node, at string) { d.findingRule(n, at, s) })},
		{"unscanned", false, d.value(&s.Unscanned, Deny, Allow, ScanFirst)},
		{"deadline", false, d.duration(&s.Deadline, time.Second, maxDeadline)},
		{"fallback", false, d.value(&s.Fallback, Deny, Allow)},
		{"exceptions", false, d.each(maxExceptions, func(n *yaml.Node, at string) { d.imageException(n, at, s) })},
	})
	if m.policy != nil {
		s.Mode = *m.policy
	}
	s.SecretsInEnv, s.AllowIncomplete = secrets == Deny, incomplete == Allow
	if len(d.errs) == 0 {
		d.checkImage(n, p, incomplete)
	}
}

// checkImage refuses what would say nothing or seem to say more than it does, and fills in
// the defaults.
func (d *decoder) checkImage(n *yaml.Node, p *ImagePolicy, incomplete Value) {
	s := &p.Spec
	if len(s.Registries)+len(s.Digests) == 0 && s.MaxAge == 0 && !s.NonRoot && !s.SecretsInEnv && !p.needsScan() {
		d.fail(n, "add registries, digests, maxAge, nonRoot, secretsInEnv, secrets, scanned or findings", "the policy demands nothing of images")
	}
	for _, f := range []struct {
		set  bool
		name string
	}{
		{s.Unscanned != "", "unscanned"}, {s.DatabaseMaxAge != 0, "databaseMaxAge"}, {incomplete != "", "incomplete"}, {len(s.Exceptions) > 0, "exceptions"},
	} {
		if f.set && !p.needsScan() {
			d.failAt("spec."+f.name, "add findings, secrets or scanned, or delete the line", "spec.%s says nothing: the policy does not ask what is inside images", f.name)
		}
	}
	if s.Unscanned != ScanFirst && s.Deadline != 0 {
		d.failAt("spec.deadline", "write unscanned: scan, or delete the line", "spec.deadline says nothing without unscanned: scan")
	}
	if s.Unscanned != ScanFirst && s.Fallback != "" {
		d.failAt("spec.fallback", "write unscanned: scan, or delete the line", "spec.fallback says nothing without unscanned: scan")
	}
	if p.needsScan() && s.Unscanned == "" {
		s.Unscanned = Deny
	}
	if s.Unscanned == ScanFirst {
		if s.Deadline == 0 {
			s.Deadline = DefaultDeadline
		}
		if s.Fallback == "" {
			s.Fallback = Deny
		}
	}
}

func (d *decoder) findingRule(n *yaml.Node, at string, s *ImageSpec) {
	f := FindingRule{Line: n.Line}
	d.object(n, at, []field{
		{"name", false, d.text(&f.Name, func(s string) (msg, fix string) {
			if !isDNSLabel(s) {
				return quote(s) + " is not a DNS label", "use at most 63 of a-z, 0-9 and -"
			}
			return "", ""
		})},
		{"severity", false, d.enum([]string{"negligible", "low", "medium", "high", "critical"}, func(w string) {
			f.Severity, _ = inventory.ParseSeverity(w)
		})},
		{"fixable", false, d.onlyTrue(&f.Fixable)},
		{"exploited", false, d.onlyTrue(&f.Exploited)},
		{"epss", false, d.threshold(&f.EPSS)},
		{"inUse", false, d.onlyTrue(&f.Use.InUse)},
		{"listening", false, d.onlyTrue(&f.Use.Listening)},
		{"reachable", false, d.onlyTrue(&f.Use.Reachable)},
		{"symbols", false, d.texts(&f.Symbols, len(inventory.SymbolStates), checkSymbolState)},
		{"packages", false, d.texts(&f.Packages, maxRuleList, checkGlob)},
		{"grace", false, d.duration(&f.Grace, time.Minute, maxImageSpan)},
	})
	if f.Severity == inventory.SeverityUnknown && !f.Fixable && !f.Exploited && len(f.Packages) == 0 && !f.EPSS.set() && !f.Use.any() && len(f.Symbols) == 0 {
		d.fail(n, "add severity, fixable, exploited, epss, inUse, symbols or packages; severity: negligible means any", "%s does not say which findings", at)
	}
	if f.named = f.Name != ""; !f.named {
		f.Name = "findings[" + strconv.Itoa(len(s.Findings)) + "]"
	}
	for i := range s.Findings {
		if s.Findings[i].Name == f.Name {
			d.fail(n, "rename one of the two", "the rule %s is already defined at line %d", quote(f.Name), s.Findings[i].Line)
		}
	}
	s.Findings = append(s.Findings, f)
}

func checkSymbolState(s string) (msg, fix string) {
	if slices.Contains(inventory.SymbolStates, s) {
		return "", ""
	}
	if g, ok := closest(s, inventory.SymbolStates); ok {
		fix = "did you mean " + g + "?"
	}
	return quote(s) + " is not one of " + strings.Join(inventory.SymbolStates, ", "), fix
}

func (d *decoder) imageException(n *yaml.Node, at string, s *ImageSpec) {
	e := ImageException{Line: n.Line}
	d.object(n, at, []field{
		{"vulnerability", false, d.text(&e.Vulnerability, checkGlobFree)},
		{"packages", false, d.texts(&e.Packages, maxRuleList, checkGlob)},
		{"images", false, d.texts(&e.Images, maxRuleList, checkExempt)},
		{"until", true, d.moment(&e.Until)},
		{"reason", true, d.text(&e.Reason, func(s string) (msg, fix string) {
			if len(s) > maxReason {
				return "the reason is too long", "refer to a ticket"
			}
			return "", ""
		})},
	})
	if e.Vulnerability == "" && len(e.Packages) == 0 {
		d.fail(n, "add vulnerability or packages", "%s waives every finding", at)
	}
	s.Exceptions = append(s.Exceptions, e)
}

// checkExempt accepts a digest: a name, and in newer engines' stores a registry's digest too, is
// what anybody may give an image, and must waive nothing.
func checkExempt(s string) (msg, fix string) {
	if msg, _ := checkDigest(s); msg != "" {
		return msg, "write the image's digest (sha256:...), as docker images --digests shows: any image can be given a name"
	}
	return "", ""
}

// checkGlobFree accepts the name of one thing.
func checkGlobFree(s string) (msg, fix string) {
	if strings.ContainsAny(s, "*?[]{} \t") || len(s) > maxNameLen {
		return quote(s) + " is not the name of one vulnerability", "write it as CVE-2024-3094 or GHSA-..."
	}
	return "", ""
}

// moment reads a day, which ends with its last second in UTC, or a point in time.
func (d *decoder) moment(dst *time.Time) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if n.Kind == yaml.ScalarNode && (n.Tag == "!!timestamp" || n.Tag == "!!str") {
			if v, err := time.Parse(time.DateOnly, n.Value); err == nil {
				*dst = v.Add(24*time.Hour - time.Second)
				return
			}
			if v, err := time.Parse(time.RFC3339, n.Value); err == nil {
				*dst = v.UTC().Truncate(time.Second)
				return
			}
		}
		d.fail(n, "write it as 2026-12-31 or 2026-12-31T18:00:00Z", "%s must be a day or a point in time, got %s", at, describe(n))
	}
}
