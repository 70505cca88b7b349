package report

import (
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/scan/vulndb"
)

// HarborIncomplete is the vulnerability that stands for what could not be read or matched: the
// form has no word for it, and an image must not look clean for that.
const HarborIncomplete = "BELAY-INCOMPLETE"

// HarborScanner and HarborArtifact are parts of Harbor's Scanner Adapter API.
//
// Source: https://github.com/goharbor/pluggable-scanner-spec, version 1.1.
type HarborScanner struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor"`
	Version string `json:"version"`
}

// HarborArtifact is an image in a registry.
type HarborArtifact struct {
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
	Tag        string `json:"tag,omitempty"`
	MimeType   string `json:"mime_type,omitempty"`
}

// Harbor is the scanner that reports are of.
func Harbor(version string) HarborScanner {
	return HarborScanner{Name: "Belay", Vendor: "Belay", Version: version}
}

type harborReport struct {
	GeneratedAt     time.Time             `json:"generated_at"`
	Artifact        HarborArtifact        `json:"artifact"`
	Scanner         HarborScanner         `json:"scanner"`
	Severity        string                `json:"severity"`
	Vulnerabilities []harborVulnerability `json:"vulnerabilities"`
}

type harborVulnerability struct {
	ID          string            `json:"id"`
	Package     string            `json:"package"`
	Version     string            `json:"version"`
	FixVersion  string            `json:"fix_version,omitempty"`
	Severity    string            `json:"severity"`
	Description string            `json:"description"`
	Links       []string          `json:"links"`
	CVSS        *harborCVSS       `json:"preferred_cvss,omitempty"`
	Vendor      map[string]string `json:"vendor_attributes,omitempty"`
}

type harborCVSS struct {
	Score float64 `json:"score_v3"`
}

// harborSeverity is the API's word: those of ours, with a capital letter.
func harborSeverity(s vulndb.Severity) string {
	word := s.String()
	return strings.ToUpper(word[:1]) + word[1:]
}

// WriteHarbor writes the findings as a vulnerability report of Harbor's Scanner Adapter API.
func (s *Scan) WriteHarbor(w io.Writer, version string, artifact HarborArtifact) error {
	worst := vulndb.SeverityUnknown
	about := map[string]string{} // of an advisory, for all of its findings
	out := harborReport{GeneratedAt: s.Time, Artifact: artifact, Scanner: Harbor(version), Vulnerabilities: []harborVulnerability{}}
	for i := range s.Findings {
		f := &s.Findings[i]
		p := &s.Inventory.Packages[f.Package]
		v := harborVulnerability{
			ID: f.IDs[0], Package: p.Name, Version: p.Version, FixVersion: f.Fixed, Severity: harborSeverity(f.Severity), Description: f.Summary,
			Links: []string{advisoryURL(f.IDs[0])}, Vendor: map[string]string{"state": f.State},
		}
		if p.Path != "" {
			v.Vendor["path"] = p.Path
		}
		if f.Exploited {
			v.Vendor["exploited"] = "true"
		}
		if len(f.About) > 0 {
			text, ok := about[f.IDs[0]]
			if !ok {
				text = strings.Join(f.About, ", ")
				about[f.IDs[0]] = text
			}
			v.Vendor["about"] = text
		}
		if f.Score > 0 {
			v.CVSS = &harborCVSS{f.Score}
		}
		worst = max(worst, f.Severity)
		out.Vulnerabilities = append(out.Vulnerabilities, v)
	}
	if !s.Complete {
		text := "Not all of the image could be read and matched, so that there may be more vulnerabilities than these."
		for _, n := range append(s.Inventory.Notes[:len(s.Inventory.Notes):len(s.Inventory.Notes)], s.Notes...)[:min(10, len(s.Inventory.Notes)+len(s.Notes))] {
			text += " " + n.Text + ": " + n.Path + "."
		}
		worst = max(worst, vulndb.SeverityHigh)
		out.Vulnerabilities = append(out.Vulnerabilities, harborVulnerability{
			ID: HarborIncomplete, Package: "image", Severity: harborSeverity(vulndb.SeverityHigh), Description: text, Links: []string{},
		})
	}
	out.Severity = harborSeverity(worst)
	return json.NewEncoder(w).Encode(out)
}
