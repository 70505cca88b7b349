package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vex"
)

// scanFormats are the values of -o of scan.
var scanFormats = []string{"text", "json", "cyclonedx", "spdx", "sarif", "junit", "gitlab", "openvex"}

// scanFormat is the value of -o of scan.
type scanFormat string

func (f *scanFormat) String() string { return string(*f) }
func (f *scanFormat) Type() string   { return strings.Join(scanFormats, "|") }

func (f *scanFormat) Set(s string) error {
	switch {
	case s == "table":
		*f = "text"
	case slices.Contains(scanFormats, s):
		*f = scanFormat(s)
	default:
		last := len(scanFormats) - 1
		return errors.New("want " + strings.Join(scanFormats[:last], ", ") + " or " + scanFormats[last])
	}
	return nil
}

// needsFindings reports whether a format is of findings alone.
func (f scanFormat) needsFindings() bool {
	return f == "junit" || f == "gitlab" || f == "openvex"
}

// writeScan writes a scan in the format that the flags name.
func (t *terminal) writeScan(s *report.Scan, f *scanFlags, rules *scanRules) error {
	switch f.output {
	case "json":
		return t.writeJSON(s)
	case "cyclonedx":
		return t.writeCleaned(func(w io.Writer) error { return s.WriteCycloneDX(w, version) })
	case "spdx":
		return t.writeCleaned(func(w io.Writer) error { return s.WriteSPDX(w, version) })
	case "sarif":
		return t.writeCleaned(func(w io.Writer) error { return s.WriteSARIF(w, version) })
	case "gitlab":
		return t.writeCleaned(func(w io.Writer) error { return s.WriteGitLab(w, version) })
	case "openvex":
		return t.writeCleaned(func(w io.Writer) error {
			return vex.Write(w, &vex.Scan{Target: s.Target, Time: s.Time, Inventory: s.Inventory, Findings: s.Findings, PackageURL: s.PackageURL, Tool: "belay " + version})
		})
	case "junit":
		fails, err := rules.failing(s)
		if err != nil {
			return err
		}
		config, err := rules.failingConfig(s)
		if err != nil {
			return err
		}
		return s.WriteJUnit(t.out, report.Verdict{Fails: fails, FailsConfig: config, AllowIncomplete: f.allowIncomplete, Incomplete: f.unjudged(s, rules)})
	case "text":
		t.writeScanText(s)
		return nil
	}
	return fmt.Errorf("-o %s: not built", f.output)
}

// writeCleaned writes JSON that others encode: names of a hostile image must not reach a
// terminal as controls.
func (t *terminal) writeCleaned(encode func(io.Writer) error) error {
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		return err
	}
	_, err := t.out.Write(cleanJSON(b.Bytes()))
	return err
}
