package inventory

import (
	"fmt"
	"strings"
)

// Severity is how bad a vulnerability is said to be.
type Severity uint8

// The severities. Bands of CVSS scores are those of FIRST's specification,
// https://www.first.org/cvss/v3.1/specification-document, section 5.
const (
	SeverityUnknown Severity = iota
	SeverityNegligible
	SeverityLow
	SeverityMedium
	SeverityHigh
	SeverityCritical
)

var severityNames = [...]string{"unknown", "negligible", "low", "medium", "high", "critical"}

// String returns the severity's name in lower case.
func (s Severity) String() string {
	if int(s) >= len(severityNames) {
		return "unknown"
	}
	return severityNames[s]
}

// MarshalText implements [encoding.TextMarshaler].
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ParseSeverity reads a severity's name in any case.
func ParseSeverity(name string) (Severity, error) {
	switch name = strings.ToLower(name); name {
	case "moderate", "important":
		name = map[string]string{"moderate": "medium", "important": "high"}[name]
	case "unimportant", "none":
		name = "negligible"
	}
	for i, n := range severityNames {
		if n == name {
			return Severity(i), nil
		}
	}
	return SeverityUnknown, fmt.Errorf("there is no severity %.40q, only %s", name, strings.Join(severityNames[:], ", "))
}

// UnmarshalText implements [encoding.TextUnmarshaler]; see [ParseSeverity].
func (s *Severity) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSeverity(string(text))
	return err
}
