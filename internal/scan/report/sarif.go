package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/scan/vulndb"
)

// The parts of SARIF 2.1.0 that code hosts read. Source:
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID         string         `json:"id"`
		Short      sarifText      `json:"shortDescription"`
		HelpURI    string         `json:"helpUri,omitempty"`
		Properties map[string]any `json:"properties"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string            `json:"ruleId"`
		RuleIndex int               `json:"ruleIndex"`
		Level     string            `json:"level"`
		Message   sarifText         `json:"message"`
		Locations []sarifLocation   `json:"locations"`
		Prints    map[string]string `json:"partialFingerprints"`
		// Section 3.27.23: a result with one is shown as suppressed.
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
		Baseline     string             `json:"baselineState,omitempty"`
		// Section 3.8: a bag of what there are no fields for.
		Properties map[string]any `json:"properties,omitempty"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}
)

// WriteSARIF writes the findings as SARIF 2.1.0.
func (s *Scan) WriteSARIF(w io.Writer, version string) error {
	seen := map[string]int{}
	run := sarifRun{Tool: sarifTool{Driver: sarifDriver{Name: "belay", Version: version, Rules: []sarifRule{}}}, Results: []sarifResult{}}
	rules := map[string]int{}
	for _, f := range s.Findings {
		id := f.IDs[0]
		if _, ok := rules[id]; !ok {
			rules[id] = len(run.Tool.Driver.Rules)
			summary := f.Summary
			if summary == "" {
				summary = id
			}
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
				ID: id, Short: sarifText{summary}, HelpURI: "https://osv.dev/vulnerability/" + id,
				Properties: map[string]any{"security-severity": strconv.FormatFloat(sarifScore(f), 'f', 1, 64), "tags": []string{"security", f.Severity.String()}},
			})
		}
		p := s.Inventory.Packages[f.Package]
		text := fmt.Sprintf("%s %s has %s (%s)", p.Name, p.Version, strings.Join(slices.Concat(f.IDs, f.About), ", "), f.Severity)
		if f.Fixed != "" {
			text += ", fixed in " + f.Fixed
		}
		res := sarifResult{
			RuleID: id, RuleIndex: rules[id], Level: sarifLevel(f.Severity), Message: sarifText{text},
			Prints: sarifPrint(seen, "belayFinding/v1", id+" "+p.Kind+" "+p.Name+" "+p.Path),
		}
		res.Properties = s.sarifOrigin(p.Layer)
		if f.Symbols != nil {
			res.Properties["symbols"], res.Properties["symbolNames"] = f.Symbols.State, f.Symbols.Names
		}
		res.accept(f.Ignored, f.Known)
		var at sarifLocation
		at.Physical.Artifact.URI = (&url.URL{Path: cmp.Or(p.Path, s.Target)}).String()
		at.Physical.Region.StartLine = 1
		res.Locations = []sarifLocation{at}
		run.Results = append(run.Results, res)
	}
	s.sarifFaults(&run)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}})
}

// sarifFaults adds what is wrong with the image's configuration and files, a rule for each
// kind; but what a distribution's packages have by design.
func (s *Scan) sarifFaults(run *sarifRun) {
	rules, seen := map[string]int{}, map[string]int{}
	for i := range s.Misconfigurations {
		m := &s.Misconfigurations[i]
		if m.Ordinary() {
			continue
		}
		if _, ok := rules[m.ID]; !ok {
			rules[m.ID] = len(run.Tool.Driver.Rules)
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
				ID: m.ID, Short: sarifText{m.ID},
				Properties: map[string]any{"security-severity": strconv.FormatFloat(sarifScore(vulndb.Finding{Severity: m.Severity}), 'f', 1, 64), "tags": []string{"security", m.Severity.String()}},
			})
		}
		res := sarifResult{
			RuleID: m.ID, RuleIndex: rules[m.ID], Level: sarifLevel(m.Severity), Message: sarifText{strings.TrimSpace(m.Where + ": " + m.Text)},
			Prints: sarifPrint(seen, "belayFault/v1", m.ID+" "+m.Where),
		}
		res.accept(m.Ignored, m.Known)
		if m.Path != "" {
			res.Properties = s.sarifOrigin(m.Layer)
		}
		var at sarifLocation
		at.Physical.Artifact.URI = (&url.URL{Path: cmp.Or(m.Path, s.Target)}).String()
		at.Physical.Region.StartLine = m.Line()
		res.Locations = []sarifLocation{at}
		run.Results = append(run.Results, res)
	}
}

// sarifPrint is what a code host knows a result by. What is there again (two versions of a package in one
// file) is counted, since of equal ones it keeps one.
func sarifPrint(seen map[string]int, name, print string) map[string]string {
	if seen[print]++; seen[print] > 1 {
		print += " #" + strconv.Itoa(seen[print])
	}
	return map[string]string{name: print}
}

// accept says that a result fails nothing.
func (r *sarifResult) accept(ignored string, known bool) {
	if ignored != "" {
		r.Suppressions = []sarifSuppression{{"external", ignored}}
	}
	if known {
		r.Baseline = "unchanged"
	}
}

// sarifOrigin is what brought a thing: its layer, and whose that is.
func (s *Scan) sarifOrigin(layer int) map[string]any {
	l := s.layer(layer)
	out := map[string]any{"layer": layer, "fromBase": s.Base.Has(layer) && s.Base.Proven()}
	for name, value := range map[string]string{"layerDiffId": l.DiffID, "layerCreatedBy": l.CreatedBy} {
		if value != "" {
			out[name] = value
		}
	}
	if s.Base.Has(layer) {
		out["base"], out["baseBy"] = s.Base.title(), s.Base.By
	}
	return out
}

// sarifScore is a CVSS score, or the lowest of the severity's band where there is none.
func sarifScore(f vulndb.Finding) float64 {
	if f.Score > 0 {
		return f.Score
	}
	return map[vulndb.Severity]float64{vulndb.SeverityCritical: 9, vulndb.SeverityHigh: 7, vulndb.SeverityMedium: 4, vulndb.SeverityLow: 0.1}[f.Severity]
}

func sarifLevel(s vulndb.Severity) string {
	switch {
	case s >= vulndb.SeverityHigh:
		return "error"
	case s == vulndb.SeverityMedium || s == vulndb.SeverityUnknown:
		return "warning"
	}
	return "note"
}
