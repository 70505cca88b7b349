package report

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/belay-project/belay/internal/scan/vulndb"
)

// The parts of GitLab's report for container scanning that are required, and what else we
// know. Source: gitlab-org/security-products/security-report-schemas, version 15.0.6,
// container-scanning-report-format.json; bounds on texts too.
type (
	gitlabReport struct {
		Version         string          `json:"version"`
		Schema          string          `json:"schema"`
		Scan            gitlabScan      `json:"scan"`
		Vulnerabilities []gitlabFinding `json:"vulnerabilities"`
	}
	gitlabScan struct {
		Analyzer gitlabTool      `json:"analyzer"`
		Scanner  gitlabTool      `json:"scanner"`
		Type     string          `json:"type"`
		Start    string          `json:"start_time"`
		End      string          `json:"end_time"`
		Status   string          `json:"status"`
		Messages []gitlabMessage `json:"messages,omitempty"`
	}
	gitlabTool struct {
		ID      string       `json:"id"`
		Name    string       `json:"name"`
		Version string       `json:"version"`
		Vendor  gitlabVendor `json:"vendor"`
	}
	gitlabVendor struct {
		Name string `json:"name"`
	}
	gitlabMessage struct {
		Level string `json:"level"`
		Value string `json:"value"`
	}
	gitlabFinding struct {
		ID          string             `json:"id"`
		Name        string             `json:"name"`
		Description string             `json:"description"`
		Severity    string             `json:"severity"`
		Solution    string             `json:"solution,omitempty"`
		Identifiers []gitlabIdentifier `json:"identifiers"`
		Location    gitlabLocation     `json:"location"`
	}
	gitlabIdentifier struct {
		Type  string `json:"type"`
		Name  string `json:"name"`
		Value string `json:"value"`
		URL   string `json:"url"`
	}
	gitlabLocation struct {
		Dependency struct {
			Package struct {
				Name string `json:"name"`
			} `json:"package"`
			Version string `json:"version"`
		} `json:"dependency"`
		OS    string `json:"operating_system"`
		Image string `json:"image"`
	}
)

// Bounds of the schema, in characters; GitLab refuses a report that passes one.
const (
	gitlabMaxName        = 255
	gitlabMaxSolution    = 7_000
	gitlabMaxDescription = 1_048_576
)

// maxFlaws bounds how many of the flaws that an advisory is about are shown, where each is a link for a person: a
// kernel's has hundreds.
const maxFlaws = 20

// WriteGitLab writes the findings as a report of GitLab's for container scanning. What is
// ignored or known is in it, with the reason in its description: the form has no word for
// it. What was not read or matched is a message of level warn.
func (s *Scan) WriteGitLab(w io.Writer, version string) error {
	tool := gitlabTool{ID: "belay", Name: "Belay", Version: version, Vendor: gitlabVendor{"Belay"}}
	at := s.Time.Format("2006-01-02T15:04:05")
	r := gitlabReport{
		Version: "15.0.6", Vulnerabilities: []gitlabFinding{},
		Schema: "https://gitlab.com/gitlab-org/security-products/security-report-schemas/-/raw/v15.0.6/dist/container-scanning-report-format.json",
		Scan:   gitlabScan{Analyzer: tool, Scanner: tool, Type: "container_scanning", Start: at, End: at, Status: "success"},
	}
	for _, n := range s.notes() {
		r.Scan.Messages = append(r.Scan.Messages, gitlabMessage{"warn", "not read or matched: " + n})
	}
	if n := s.faults(); n > 0 {
		r.Scan.Messages = append(r.Scan.Messages, gitlabMessage{"info", fmt.Sprintf("%d secrets and misconfigurations have no place in this report: see text, JSON, SARIF or JUnit", n)})
	}
	seen := map[string]int{}
	for i := range s.Findings {
		g := s.gitlabFinding(&s.Findings[i])
		// One flaw in two packages of one name and place: GitLab wants them apart.
		if n := seen[g.ID]; n > 0 {
			seen[g.ID]++
			g.ID = fmt.Sprintf("%s-%d", g.ID, n)
		} else {
			seen[g.ID] = 1
		}
		r.Vulnerabilities = append(r.Vulnerabilities, g)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// faults counts what is wrong with the configuration and the files, but what a distribution's
// packages have by design.
func (s *Scan) faults() int {
	n := 0
	for i := range s.Misconfigurations {
		if !s.Misconfigurations[i].Ordinary() {
			n++
		}
	}
	return n
}

func (s *Scan) gitlabFinding(f *vulndb.Finding) gitlabFinding {
	p := &s.Inventory.Packages[f.Package]
	sum := sha256.Sum256([]byte(strings.Join([]string{f.IDs[0], p.Kind, p.Name, p.Version, p.Path}, "\x00")))
	g := gitlabFinding{
		ID:       hex.EncodeToString(sum[:16]),
		Name:     atMost(f.IDs[0]+" in "+p.Name, gitlabMaxName),
		Severity: gitlabSeverity(f.Severity), Description: s.describe(f) + "; in " + s.Where(p),
	}
	switch {
	case f.Ignored != "":
		g.Description = "Ignored: " + f.Ignored + ". " + g.Description
	case f.Known:
		g.Description = "Known by the baseline. " + g.Description
	}
	g.Description = atMost(g.Description, gitlabMaxDescription)
	if f.Fixed != "" {
		g.Solution = atMost("Update "+p.Name+" to "+f.Fixed, gitlabMaxSolution)
	}
	for _, id := range slices.Concat(f.IDs, f.About[:min(len(f.About), maxFlaws)]) {
		g.Identifiers = append(g.Identifiers, gitlabIdentifier{Type: identifierType(id), Name: id, Value: id, URL: advisoryURL(id)})
	}
	g.Location.Dependency.Package.Name, g.Location.Dependency.Version = p.Name, p.Version
	g.Location.OS = strings.TrimSpace(s.Inventory.OS.ID + " " + s.Inventory.OS.VersionID)
	if g.Location.OS == "" {
		g.Location.OS = "unknown"
	}
	g.Location.Image = cmp.Or(s.Target, "image")
	return g
}

// identifierType is GitLab's word for a vocabulary of names.
func identifierType(id string) string {
	for prefix, t := range map[string]string{"CVE-": "cve", "GHSA-": "ghsa", "USN-": "usn", "RHSA-": "rhsa"} {
		if strings.HasPrefix(id, prefix) {
			return t
		}
	}
	return "osv"
}

// advisoryURL is where a person reads about a flaw.
func advisoryURL(id string) string { return "https://osv.dev/vulnerability/" + url.PathEscape(id) }

func gitlabSeverity(s vulndb.Severity) string {
	switch s {
	case vulndb.SeverityNegligible:
		return "Info"
	case vulndb.SeverityLow:
		return "Low"
	case vulndb.SeverityMedium:
		return "Medium"
	case vulndb.SeverityHigh:
		return "High"
	case vulndb.SeverityCritical:
		return "Critical"
	}
	return "Unknown"
}

// atMost cuts a text to so many characters.
func atMost(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
