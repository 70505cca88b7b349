package ci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/belay-project/belay/internal/scan/accept"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
)

const (
	// maxReport bounds one result on the disk, in bytes.
	maxReport = 32 << 20
	// maxFindings bounds what is in memory while a result is written and read: an image chooses
	// its packages, and the agent's memory is capped.
	maxFindings = 50_000
	// maxListed is how many findings an answer lists; the report has all.
	maxListed = 10_000
	maxNotes  = 100
)

func (s *Service) file(id string) string { return filepath.Join(s.o.Dir, id+".json") }

// limited fails a writer at a bound.
type limited struct {
	w    io.Writer
	left int64
}

var errTooLarge = errors.New("the result is larger than is kept")

func (l *limited) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, errTooLarge
	}
	l.left -= int64(len(p))
	return l.w.Write(p)
}

// keep writes a result to the disk and returns its size in bytes.
func (s *Service) keep(id string, rep *report.Scan) (size int64, err error) {
	f, err := os.OpenFile(s.file(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fmt.Errorf("keep the result: %w", err)
	}
	l := &limited{w: f, left: maxReport}
	if err = errors.Join(json.NewEncoder(l).Encode(rep), f.Close()); err != nil {
		os.Remove(s.file(id))
		return 0, fmt.Errorf("keep the result: %w", err)
	}
	return maxReport - l.left, nil
}

// load reads a result back. Few are in memory at a time: the caller holds a token of s.reads.
func (s *Service) load(id string) (*report.Scan, error) {
	f, err := os.Open(s.file(id))
	if err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	defer f.Close()
	b, err := inventory.ReadAll(f, maxReport)
	if err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	var rep report.Scan
	if err := json.Unmarshal(b, &rep); err != nil || rep.Inventory == nil {
		return nil, errors.Join(errors.New("the result on the disk is damaged"), err)
	}
	for i := range rep.Findings {
		f := &rep.Findings[i]
		if f.Package < 0 || f.Package >= len(rep.Inventory.Packages) || len(f.IDs) == 0 {
			return nil, errors.New("the result on the disk is damaged")
		}
	}
	return &rep, nil
}

// format writes a result in one of the forms that other programs read.
type format struct {
	media string
	write func(rep *report.Scan, w io.Writer, version string, scan *Scan) error
}

// plain is a form that has nothing to do with what was asked for.
func plain(write func(rep *report.Scan, w io.Writer, version string) error) func(*report.Scan, io.Writer, string, *Scan) error {
	return func(rep *report.Scan, w io.Writer, version string, _ *Scan) error { return write(rep, w, version) }
}

var formats = map[string]format{
	"report": {"application/json", func(rep *report.Scan, w io.Writer, _ string, _ *Scan) error { return json.NewEncoder(w).Encode(rep) }},
	"sarif":  {"application/sarif+json", plain((*report.Scan).WriteSARIF)},
	"junit":  {"application/xml", writeJUnit},
	// Source: https://cyclonedx.org/specification/overview/, registered media types.
	"cyclonedx": {"application/vnd.cyclonedx+json", plain((*report.Scan).WriteCycloneDX)},
}

// writeJUnit writes a result with a test case for each finding, which fails if the scan's FailOn
// means it; without one, each does.
func writeJUnit(rep *report.Scan, w io.Writer, _ string, scan *Scan) error {
	v := report.Verdict{Fails: map[int]bool{}, FailsConfig: map[int]bool{}, AllowIncomplete: scan.AllowIncomplete}
	var rule *accept.Rule
	if scan.FailOn != "" {
		var err error
		if rule, err = accept.Compile(scan.FailOn); err != nil {
			return fmt.Errorf("failOn: %w", err)
		}
	}
	for i := range rep.Findings {
		yes, err := rule == nil, error(nil)
		if rule != nil {
			f := &rep.Findings[i]
			yes, err = rule.Fails(f, &rep.Inventory.Packages[f.Package])
		}
		if err != nil {
			return err
		}
		v.Fails[i] = yes
	}
	for i := range rep.Misconfigurations {
		if rule == nil {
			break
		}
		yes, err := rule.FailsConfig(&rep.Misconfigurations[i])
		if err != nil {
			return err
		}
		v.FailsConfig[i] = yes
	}
	return rep.WriteJUnit(w, v)
}

// render returns a result in a form; "" is a [Result].
func (s *Service) render(scan *Scan, form string) (media string, body []byte, err error) {
	out := &Result{Scan: *scan, Findings: []Finding{}, Notes: []string{}}
	if scan.State != StateDone {
		body, err = json.Marshal(out)
		return "application/json", body, err
	}
	rep, err := s.load(scan.ID)
	if err != nil {
		return "", nil, err
	}
	if f, ok := formats[form]; ok {
		var b bytes.Buffer
		err = f.write(rep, &b, s.o.Version, scan)
		return f.media, b.Bytes(), err
	}
	for i := range rep.Findings[:min(len(rep.Findings), maxListed)] {
		f := &rep.Findings[i]
		p := &rep.Inventory.Packages[f.Package]
		out.Findings = append(out.Findings, Finding{
			IDs: f.IDs, Severity: f.Severity.String(), State: f.State, Package: p.Name, Version: p.Version, Kind: p.Kind, Path: p.Path, Fixed: f.Fixed,
			Exploited: f.Exploited,
		})
	}
	out.LeftOut = len(rep.Findings) - len(out.Findings)
	for _, list := range [][]inventory.Note{rep.Inventory.Notes, rep.Notes} {
		for _, n := range list[:min(len(list), maxNotes)] {
			text := n.Text + ": " + n.Path
			if n.Count > 1 {
				text += fmt.Sprintf(", and %d more", n.Count-1)
			}
			out.Notes = append(out.Notes, text)
		}
	}
	body, err = json.Marshal(out)
	return "application/json", body, err
}
