package accept

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// place is a flaw by one of its names in a package, of whatever version.
type place struct{ id, kind, name, path string }

// Baseline has the findings and misconfigurations of an earlier scan.
type Baseline struct {
	Digest [sha256.Size]byte // of its text
	known  map[place]bool
	faults map[inventory.FaultPlace][]inventory.Misconfiguration
}

// ReadBaseline reads a report that "belay scan -o json" wrote.
//
// Errors: those of the file; a file that is no such report, or of a scan that looked
// for no findings.
func ReadBaseline(path string) (*Baseline, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := inventory.ReadAll(f, maxBaseline)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	base, err := ParseBaseline(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return base, nil
}

// bounded is a list of at most [maxListed] elements: each costs more than the two bytes that it
// may take in a text.
type bounded[T any] []T

// maxListed is how many findings, or packages, a baseline has at most.
const maxListed = 1_000_000

// maxKnown is how many names of flaws in packages are kept of a baseline: some 100 bytes each.
const maxKnown = 300_000

// UnmarshalJSON implements [json.Unmarshaler].
func (l *bounded[T]) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return errors.Join(errors.New("want a list"), err)
	}
	for d.More() {
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		if *l = append(*l, v); len(*l) > maxListed {
			return fmt.Errorf("more than %d findings or packages", maxListed)
		}
	}
	return nil
}

// earlier is what a baseline is read from: a part of a report.
type earlier struct {
	Schema    string                  `json:"schema"`
	Database  json.RawMessage         `json:"database"`
	Findings  bounded[earlierFinding] `json:"findings"`
	Inventory struct {
		Packages bounded[earlierPackage] `json:"packages"`
	} `json:"inventory"`
	Faults bounded[earlierFault] `json:"misconfigurations,omitempty"`
}

type earlierFault struct {
	ID       string             `json:"id"`
	Severity inventory.Severity `json:"severity"`
	Text     string             `json:"text,omitempty"`
	Where    string             `json:"where,omitempty"`
	Count    int                `json:"count,omitempty"`
}

type earlierFinding struct {
	Package int             `json:"package"`
	IDs     bounded[string] `json:"ids"`
}

type earlierPackage struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Path string `json:"path"`
}

func readEarlier(b []byte) (*earlier, error) {
	var s earlier
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("want a report of 'belay scan -o json': %w", err)
	}
	if s.Schema != "belay.dev/scan/v1" || len(s.Database) == 0 || string(s.Database) == "null" {
		return nil, errors.New("want a report of 'belay scan -o json' that was matched with a database")
	}
	for _, f := range s.Findings {
		if f.Package < 0 || f.Package >= len(s.Inventory.Packages) {
			return nil, errors.New("a finding in a package that the report does not have")
		}
	}
	if len(s.Faults) > inventory.MaxMisconfigurations {
		return nil, fmt.Errorf("more than %d misconfigurations", inventory.MaxMisconfigurations)
	}
	return &s, nil
}

// ParseBaseline is [ReadBaseline] of a text.
func ParseBaseline(b []byte) (*Baseline, error) {
	s, err := readEarlier(b)
	if err != nil {
		return nil, err
	}
	out := &Baseline{Digest: sha256.Sum256(b), known: map[place]bool{}, faults: map[inventory.FaultPlace][]inventory.Misconfiguration{}}
	for _, f := range s.Faults {
		m := inventory.Misconfiguration{ID: f.ID, Severity: f.Severity, Text: f.Text, Where: f.Where, Count: f.Count}
		out.faults[m.Place()] = append(out.faults[m.Place()], m)
	}
	for _, f := range s.Findings {
		p := &s.Inventory.Packages[f.Package]
		for _, id := range f.IDs {
			out.known[place{id, p.Kind, p.Name, p.Path}] = true
		}
		if len(out.known) > maxKnown {
			return nil, fmt.Errorf("more than %d findings, by their names", maxKnown)
		}
	}
	return out, nil
}

// Reduce returns what [ParseBaseline] reads of a report, and no more: what is to be sent.
func Reduce(b []byte) ([]byte, error) {
	s, err := readEarlier(b)
	if err != nil {
		return nil, err
	}
	out := earlier{Schema: s.Schema, Database: json.RawMessage("{}"), Findings: bounded[earlierFinding]{}, Faults: s.Faults}
	at := map[int]int{}
	for _, f := range s.Findings {
		n, ok := at[f.Package]
		if !ok {
			n = len(out.Inventory.Packages)
			at[f.Package] = n
			out.Inventory.Packages = append(out.Inventory.Packages, s.Inventory.Packages[f.Package])
		}
		out.Findings = append(out.Findings, earlierFinding{Package: n, IDs: f.IDs})
	}
	return json.Marshal(out)
}

// Apply marks the findings that the earlier scan had in the same package, and the
// misconfigurations that it had in the same place, no worse and as often.
func (b *Baseline) Apply(m Marked) {
	for i := range m.Findings {
		f := &m.Findings[i]
		p := &m.Packages[f.Package]
		f.Known = slices.ContainsFunc(f.IDs, func(id string) bool { return b.known[place{id, p.Kind, p.Name, p.Path}] })
	}
	taken := map[inventory.FaultPlace]int{}
	for i := range m.Faults {
		f := &m.Faults[i]
		place := f.Place()
		f.Known = false
		if list := b.faults[place]; taken[place] < len(list) {
			f.Known = list[taken[place]].Covers(f)
			taken[place]++
		}
	}
}
