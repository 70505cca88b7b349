// Package vulndb compiles vulnerability records in the OSV format into one compact
// file, and matches packages with it.
//
// The file is mapped, not read: looking a package up touches a few pages. It is checked
// whole by a checksum when it is opened. The package owns the mapping until
// [DB.Close]; it fetches nothing. Versions are ordered by osv-scalibr's semantic
// package, nothing else of which is used. Row: core.
package vulndb

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/osv-scalibr/semantic"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Severity is how bad a vulnerability is said to be.
type Severity = inventory.Severity

// The severities.
const (
	SeverityUnknown    = inventory.SeverityUnknown
	SeverityNegligible = inventory.SeverityNegligible
	SeverityLow        = inventory.SeverityLow
	SeverityMedium     = inventory.SeverityMedium
	SeverityHigh       = inventory.SeverityHigh
	SeverityCritical   = inventory.SeverityCritical
)

// ParseSeverity is [inventory.ParseSeverity].
func ParseSeverity(name string) (Severity, error) { return inventory.ParseSeverity(name) }

// severityOf is a severity by its CVSS base score.
func severityOf(score float64) Severity {
	switch {
	case score >= 9:
		return SeverityCritical
	case score >= 7:
		return SeverityHigh
	case score >= 4:
		return SeverityMedium
	case score > 0:
		return SeverityLow
	}
	return SeverityNegligible
}

// Vulnerability is one record.
type Vulnerability struct {
	ID string `json:"id"`
	// Aliases are other names of the same vulnerability. A distribution's record of
	// one CVE counts that as an alias.
	Aliases []string `json:"aliases,omitempty"`
	// About are the vulnerabilities that an advisory of several is about: what is said of one of them is not
	// said of the advisory, and two advisories about one are not the same.
	About    []string `json:"about,omitempty"`
	Severity Severity `json:"severity"`
	Score    float64  `json:"score,omitempty"` // CVSS base score, 0 if there is none
	// Exploited says that CISA's catalogue of known exploited vulnerabilities has it.
	Exploited bool `json:"exploited,omitempty"`
	// EPSS is FIRST's estimate that it is exploited within 30 days, from 0 to 1, and
	// Percentile the share of all that are rated lower; both 0 where there is none.
	EPSS       float64 `json:"epss,omitempty"`
	Percentile float64 `json:"percentile,omitempty"`
	Summary    string  `json:"summary,omitempty"`
}

// affected is what a record says of one package. Texts of an entry that was looked up
// lie in the mapping: who keeps one must copy it.
type affected struct {
	record   int
	state    byte // a state beside the ranges: [stateCodes]
	ranges   [][]event
	versions [][]byte // affected beside the ranges
	imports  []byte   // packages and functions of Go: [decodeImports]
}

// event is a step in a range, in the order of versions.
type event struct {
	kind    byte
	version []byte
}

// Kinds of events, as OSV has them (https://ossf.github.io/osv-schema/, "events").
const (
	eventIntroduced   = 'i'
	eventFixed        = 'f'
	eventLastAffected = 'l'
)

// always says that an event is at the beginning of all versions.
func (e event) always() bool {
	return e.kind == eventIntroduced && len(e.version) == 1 && e.version[0] == '0'
}

// version is a parsed version of one ecosystem.
type version struct {
	semantic.Version // nil for one of Debian's that splitDebian reads, until it is needed
	ecosystem, text  string
	deb              debianVersion[string]
	fast             bool // deb is set
}

// parse reads a version. The parser is not ours and reads what images hold: a panic
// of it is an error.
func parse(ecosystem, text string) (v version, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the version %.100q of %s cannot be read", text, ecosystem)
		}
	}()
	v = version{ecosystem: ecosystem, text: text}
	if isDebian(ecosystem) {
		// The library reads what splitDebian does, and is asked when it is needed.
		if v.deb, v.fast = splitDebian(text); v.fast {
			return v, nil
		}
	}
	v.Version, err = semantic.Parse(text, ecosystem)
	return v, err
}

// compare returns how v relates to the version w.
func (v version) compare(w []byte) (n int, err error) {
	if v.text == string(w) {
		return 0, nil
	}
	if v.fast {
		if n, ok := compareDebian(v.deb, w); ok {
			return n, nil
		}
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the versions %.100q and %.100q cannot be compared", v.text, w)
		}
	}()
	if v.Version == nil {
		if v.Version, err = semantic.Parse(v.text, v.ecosystem); err != nil {
			return 0, err
		}
	}
	return v.CompareStr(string(w))
}

// Compare returns whether the version a is before b (-1), equal to it (0) or after it (1), in the
// order of an ecosystem of OSV. Errors: a version that the order cannot read.
func Compare(ecosystem, a, b string) (int, error) {
	v, err := parse(ecosystem, a)
	if err != nil {
		return 0, err
	}
	return v.compare([]byte(b))
}

// in reports whether v is affected, and from which version on it is not; fixed is
// empty if no such version is known.
//
// The algorithm is that of the OSV schema, "Evaluation".
func (v version) in(events []event) (affected bool, fixed []byte, err error) {
	for _, e := range events {
		n := 1
		if !e.always() {
			if n, err = v.compare(e.version); err != nil {
				return false, nil, err
			}
		}
		switch {
		case e.kind == eventIntroduced && n >= 0:
			affected = true
		case e.kind == eventIntroduced:
		case e.kind == eventFixed && n >= 0, e.kind == eventLastAffected && n > 0:
			affected = false
		case e.kind == eventFixed && affected:
			return true, e.version, nil
		}
	}
	return affected, nil, nil
}

var pypiRuns = regexp.MustCompile(`[-_.]+`)

func irregularPyPI(r rune) bool {
	return r == '_' || r == '.' || r == '-' || 'A' <= r && r <= 'Z' || r > 0x7f
}

// keyName returns a package's name as an ecosystem compares it: an image must not escape its
// records by the case of a name. Source for PyPI: the
// Python packaging specification, "Names and normalization".
func keyName(ecosystem, name string) string {
	switch ecosystem {
	case "PyPI":
		if strings.ContainsFunc(name, irregularPyPI) {
			return strings.ToLower(pypiRuns.ReplaceAllString(name, "-"))
		}
	case "NuGet", "Packagist": // neither minds the case
		return strings.ToLower(name)
	}
	return name
}
