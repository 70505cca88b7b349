package accept

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Bounds on files, in bytes, and on a text of an ignore file.
const (
	maxIgnores    = 4 << 20
	maxBaseline   = 512 << 20
	maxIgnoreText = 1024
)

// Ignore accepts a vulnerability for a while.
type Ignore struct {
	ID      string    // one of the finding's names
	Package string    // of the package's name or its package URL; * stands for anything; empty is all
	Expires time.Time // the first moment that it no longer holds; zero is never
	Reason  string
	Where   string // file:line

	used bool
}

// Ignores are those of a file.
type Ignores struct{ list []*Ignore }

// ReadIgnores reads a file in YAML: a list "ignore" of id, package, expires
// (YYYY-MM-DD, in UTC, the last day that it holds) and reason, of which id and reason
// are needed. It is strict.
//
// Errors name the file and the line.
func ReadIgnores(path string) (*Ignores, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := inventory.ReadAll(f, maxIgnores)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ParseIgnores(path, b)
}

// ParseIgnores is [ReadIgnores] of a text; path is what errors and reasons call it.
func ParseIgnores(path string, b []byte) (*Ignores, error) {
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%s: want one list named ignore: %w", path, err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: want one document, and nothing behind it", path)
	}
	at := func(n *yaml.Node, format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s", path, max(n.Line, 1), fmt.Sprintf(format, args...))
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode || len(doc.Content[0].Content) != 2 || doc.Content[0].Content[0].Value != "ignore" {
		return nil, at(&doc, "want one list named ignore")
	}
	list := doc.Content[0].Content[1]
	if list.Kind != yaml.SequenceNode {
		return nil, at(list, "ignore: want a list")
	}
	out := &Ignores{}
	for _, n := range list.Content {
		if n.Kind != yaml.MappingNode {
			return nil, at(n, "want id, package, expires, reason")
		}
		ig := &Ignore{Where: fmt.Sprintf("%s:%d", path, n.Line)}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, v := n.Content[i], n.Content[i+1]
			if v.Kind != yaml.ScalarNode || v.Anchor != "" || v.Style&yaml.TaggedStyle != 0 || v.Value == "" || v.Tag == "!!null" {
				return nil, at(v, "%.40s: want a text", key.Value)
			}
			if len(v.Value) > maxIgnoreText {
				return nil, at(v, "%.40s is longer than %d bytes", key.Value, maxIgnoreText)
			}
			if seen[key.Value] {
				return nil, at(key, "%.40s is there twice", key.Value)
			}
			seen[key.Value] = true
			switch key.Value {
			case "id":
				ig.ID = v.Value
			case "package":
				ig.Package = v.Value
			case "reason":
				ig.Reason = v.Value
			case "expires":
				day, err := time.Parse(time.DateOnly, v.Value)
				if err != nil {
					return nil, at(v, "expires: want a day such as 2027-01-31, not %.40q", v.Value)
				}
				ig.Expires = day.AddDate(0, 0, 1)
			default:
				return nil, at(key, "there is no field %.40q: want id, package, expires, reason", key.Value)
			}
		}
		if ig.ID == "" || strings.TrimSpace(ig.Reason) == "" {
			return nil, at(n, "id and reason are needed")
		}
		out.list = append(out.list, ig)
	}
	return out, nil
}

// Apply marks the findings that are ignored now, with the reason and the rule. purl gives the package
// URL of a finding's package. The notes are lines for a person: what has expired, and
// what matches nothing.
func (g *Ignores) Apply(findings []vulndb.Finding, packages []inventory.Package, purl func(i int) string, now time.Time) (notes []string) {
	expired := map[*Ignore]bool{}
	for i := range findings {
		f := &findings[i]
		url := sync.OnceValue(func() string { return purl(f.Package) })
		for _, ig := range g.list {
			if !slices.Contains(f.IDs, ig.ID) || ig.Package != "" && !glob(ig.Package, packages[f.Package].Name) && !glob(ig.Package, url()) {
				continue
			}
			ig.used = true
			if !ig.Expires.IsZero() && !now.Before(ig.Expires) {
				expired[ig] = true
				continue
			}
			f.Ignored, f.IgnoredBy = ig.Reason, ig.Where
			break
		}
	}
	for _, ig := range g.list {
		switch {
		case expired[ig]:
			notes = append(notes, fmt.Sprintf("%s: %s is no longer ignored since %s: fix it, or extend it", ig.Where, ig.ID, ig.Expires.Format(time.DateOnly)))
		case !ig.used:
			notes = append(notes, fmt.Sprintf("%s: %s matches no finding: it can go", ig.Where, ig.ID))
		}
	}
	return notes
}

// glob matches a text with a pattern in which * stands for any run of characters.
func glob(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(text, p)
		if i < 0 {
			return false
		}
		text = text[i+len(p):]
	}
	return true
}

// place is a flaw by one of its names in a package, of whatever version.
type place struct{ id, kind, name, path string }

// Baseline has the findings of an earlier scan.
type Baseline struct{ known map[place]bool }

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
	return &s, nil
}

// ParseBaseline is [ReadBaseline] of a text.
func ParseBaseline(b []byte) (*Baseline, error) {
	s, err := readEarlier(b)
	if err != nil {
		return nil, err
	}
	out := &Baseline{known: map[place]bool{}}
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
	out := earlier{Schema: s.Schema, Database: json.RawMessage("{}"), Findings: bounded[earlierFinding]{}}
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

// Apply marks the findings that the earlier scan had in the same package.
func (b *Baseline) Apply(findings []vulndb.Finding, packages []inventory.Package) {
	for i := range findings {
		f := &findings[i]
		p := &packages[f.Package]
		f.Known = slices.ContainsFunc(f.IDs, func(id string) bool { return b.known[place{id, p.Kind, p.Name, p.Path}] })
	}
}
