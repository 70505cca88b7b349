package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Verdict is what the one who asked makes of a scan's findings.
type Verdict struct {
	// Fails has the indices of the findings that fail the scan.
	Fails map[int]bool
	// FailsConfig has those of the misconfigurations that do.
	FailsConfig map[int]bool
	// AllowIncomplete lets a scan pass of which something could not be read or matched.
	AllowIncomplete bool
	// Incomplete is why a scan does not pass that was read and matched whole, as one in which
	// something was not looked for that the rule may be about; empty is nothing.
	Incomplete string
}

// The parts of JUnit's XML that CI servers read. There is no standard; source: the schema
// of the Ant task, https://github.com/windyroad/JUnit-Schema.
type (
	junitSuites struct {
		XMLName xml.Name `xml:"testsuites"`
		junitSums
		Suites []junitSuite `xml:"testsuite"`
	}
	junitSums struct {
		Name     string `xml:"name,attr"`
		Tests    int    `xml:"tests,attr"`
		Failures int    `xml:"failures,attr"`
		Errors   int    `xml:"errors,attr"`
		Skipped  int    `xml:"skipped,attr"`
	}
	junitSuite struct {
		junitSums
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string       `xml:"classname,attr"`
		Name    string       `xml:"name,attr"`
		Failure *junitResult `xml:"failure"`
		Skipped *junitResult `xml:"skipped"`
		Output  string       `xml:"system-out,omitempty"`
	}
	junitResult struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the scan as JUnit XML: a test case for each finding, which fails if v
// has it, and is skipped with the reason if it is ignored or known; one for each
// misconfiguration; one that passes for each package without findings, if they were matched; and one that
// fails if not all was read and matched, or v says why the scan does not pass all the same.
func (s *Scan) WriteJUnit(w io.Writer, v Verdict) error {
	suite := junitSuite{junitSums: junitSums{Name: visible(s.Target)}, Timestamp: s.Time.Format("2006-01-02T15:04:05")}
	found := map[int]bool{}
	for i := range s.Findings {
		found[s.Findings[i].Package] = true
		suite.add(s.junitFinding(&s.Findings[i], v.Fails[i]))
	}
	for i := range s.Inventory.Packages {
		if p := &s.Inventory.Packages[i]; !found[i] && s.Database != nil {
			suite.add(junitCase{Class: visible(p.Kind + " " + p.Name), Name: visible(p.Name + " " + p.Version + " has no known vulnerabilities: " + s.Where(p))})
		}
	}
	for i, m := range s.Misconfigurations {
		c := junitCase{Class: "configuration", Name: visible(strings.TrimSpace(m.ID + " " + m.Where)), Output: visible(m.Text)}
		switch {
		case m.Accepted():
			c.Skipped = accepted(m.Ignored)
		case v.FailsConfig[i]:
			c.Failure, c.Output = &junitResult{Message: visible(m.ID), Type: m.Severity.String(), Text: visible(m.Text)}, ""
		}
		suite.add(c)
	}
	suite.add(s.junitComplete(v))
	all := junitSuites{junitSums: suite.junitSums, Suites: []junitSuite{suite}}
	all.Name = "belay scan"
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (s *junitSuite) add(c junitCase) {
	s.Tests++
	if c.Failure != nil {
		s.Failures++
	}
	if c.Skipped != nil {
		s.Skipped++
	}
	s.Cases = append(s.Cases, c)
}

func (s *Scan) junitFinding(f *vulndb.Finding, fails bool) junitCase {
	p := &s.Inventory.Packages[f.Package]
	c := junitCase{Class: visible(p.Kind + " " + p.Name), Name: visible(fmt.Sprintf("%s in %s %s: %s", f.IDs[0], p.Name, p.Version, s.Where(p)))}
	text := visible(s.describe(f))
	switch {
	case f.Ignored != "" || f.Known:
		c.Skipped = accepted(f.Ignored)
	case fails:
		c.Failure = &junitResult{Message: visible(p.Name + " " + p.Version + " has " + f.IDs[0]), Type: f.Severity.String(), Text: text}
	}
	if c.Failure == nil {
		c.Output = text
	}
	return c
}

// accepted says why something fails nothing: it is ignored for a reason, or else known.
func accepted(reason string) *junitResult {
	if reason != "" {
		return &junitResult{Message: visible("ignored: " + reason)}
	}
	return &junitResult{Message: "known: the baseline has it"}
}

// describe tells of a finding in a line.
func (s *Scan) describe(f *vulndb.Finding) string {
	parts := []string{strings.Join(slices.Concat(f.IDs, f.About), ", "), f.Severity.String(), f.State}
	if f.Fixed != "" {
		parts = append(parts, "fixed in "+f.Fixed)
	}
	if f.Exploited {
		parts = append(parts, "known to be exploited")
	}
	if text := SymbolsText(f); text != "" {
		parts = append(parts, text)
	}
	if f.Summary != "" {
		parts = append(parts, f.Summary)
	}
	return strings.Join(parts, "; ")
}

func (s *Scan) junitComplete(v Verdict) junitCase {
	c := junitCase{Class: "belay scan", Name: "everything was read and matched"}
	if s.Database == nil {
		c.Name = "everything was read"
	}
	r := &junitResult{Message: "not all could be read and matched", Text: visible(strings.Join(s.notes(), "; "))}
	switch {
	case s.Complete && v.Incomplete == "":
		return c
	case s.Complete:
		r.Message = visible(v.Incomplete)
	case v.AllowIncomplete:
		c.Skipped = r
		return c
	}
	r.Type = "incomplete"
	c.Failure = r
	return c
}

// notes tells what was not read or matched, a sentence each.
func (s *Scan) notes() []string {
	var out []string
	for _, list := range [][]inventory.Note{s.Inventory.Notes, s.Notes} {
		for _, n := range list {
			text := n.Text + ": " + n.Path
			if n.Count > 1 {
				text += fmt.Sprintf(", and %d more", n.Count-1)
			}
			out = append(out, text)
		}
	}
	return out
}

// visible writes out what is not printable: names of hostile images have characters that
// XML cannot hold, and some that terminals obey.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}
