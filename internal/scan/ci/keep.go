package ci

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/belay-project/belay/internal/atomicfile"
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

func (s *Service) file(id string) string { return filepath.Join(s.o.Dir, id+reportSuffix) }

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

// keep writes a result to the disk and returns its size in bytes and its SHA-256.
func (s *Service) keep(id string, rep *report.Scan) (size int64, sum string, err error) {
	h := sha256.New()
	l := &limited{left: maxReport}
	err = atomicfile.Write(s.file(id), 0o600, func(w io.Writer) error {
		l.w = io.MultiWriter(w, h)
		return json.NewEncoder(l).Encode(rep)
	})
	if err != nil {
		return 0, "", fmt.Errorf("keep the result: %w", err)
	}
	return maxReport - l.left, hex.EncodeToString(h.Sum(nil)), nil
}

var errDamaged = errors.New("the result on the disk is damaged; fix: ask for the scan again")

// load reads a result back. Few are in memory at a time: the caller holds a token of s.reads.
//
// Errors: [errDamaged].
func (s *Service) load(id, sum string) (*report.Scan, error) {
	b, err := readRegular(s.file(id), maxReport)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, errNoFile) {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil { // not of the result's doing: the next try may read it
		return nil, fmt.Errorf("read the result: %w", err)
	}
	var rep report.Scan
	if sumOf(b) != sum {
		return nil, errDamaged
	}
	if err := json.Unmarshal(b, &rep); err != nil || rep.Inventory == nil {
		return nil, errors.Join(errDamaged, err)
	}
	for i := range rep.Findings {
		f := &rep.Findings[i]
		if f.Package < 0 || f.Package >= len(rep.Inventory.Packages) || len(f.IDs) == 0 {
			return nil, errDamaged
		}
	}
	return &rep, nil
}

// openResult is load for who answers: a scan whose result is damaged has no verdict any more.
func (s *Service) openResult(j *job, scan *Scan, sum string) (*report.Scan, error) {
	rep, err := s.load(scan.ID, sum)
	if errors.Is(err, errDamaged) {
		s.lose(j, err)
	}
	return rep, err
}

// lose takes the verdict of a scan away whose result is damaged.
func (s *Service) lose(j *job, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.jobs[j.scan.ID] != j || j.scan.State != StateDone {
		return
	}
	s.aside(j.scan.ID+reportSuffix, why)
	s.bytes -= j.size
	j.size, j.sum = 0, ""
	j.fail(errDamaged.Error())
	s.save(j)
	j.tell()
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
		if f := &rep.Findings[i]; accepted(f) {
			yes = false
		} else if rule != nil {
			yes, err = rule.Fails(f, &rep.Inventory.Packages[f.Package])
		}
		if err != nil {
			return err
		}
		v.Fails[i] = yes
	}
	for i := range rep.Misconfigurations {
		m := &rep.Misconfigurations[i]
		if rule == nil || m.Accepted() {
			continue
		}
		yes, err := rule.FailsConfig(m)
		if err != nil {
			return err
		}
		v.FailsConfig[i] = yes
	}
	if !scan.AllowIncomplete {
		v.Incomplete = unseen(rule, rep)
	}
	return rep.WriteJUnit(w, v)
}

// render returns a result in a form; "" is a [Result].
func (s *Service) render(j *job, scan *Scan, sum, form string) (media string, body []byte, err error) {
	out := &Result{Scan: *scan, Findings: []Finding{}, Notes: []string{}}
	if scan.State != StateDone {
		body, err = json.Marshal(out)
		return "application/json", body, err
	}
	rep, err := s.openResult(j, scan, sum)
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
			IDs: f.IDs, About: f.About, Severity: f.Severity.String(), State: f.State, Package: p.Name, Version: p.Version, Kind: p.Kind, Path: p.Path, Fixed: f.Fixed,
			Exploited: f.Exploited, Ignored: f.Ignored, IgnoredBy: f.IgnoredBy, Known: f.Known, Symbols: f.Symbols,
		})
	}
	out.LeftOut = len(rep.Findings) - len(out.Findings)
	for i := range rep.Misconfigurations {
		if m := &rep.Misconfigurations[i]; !m.Ordinary() {
			out.Misconfigurations = append(out.Misconfigurations, Misconfiguration{
				ID: m.ID, Severity: m.Severity.String(), Where: m.Where, Text: m.Text, Ignored: m.Ignored, IgnoredBy: m.IgnoredBy, Known: m.Known,
			})
		}
	}
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
