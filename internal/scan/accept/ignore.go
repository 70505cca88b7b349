package accept

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
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

// Ignore accepts a vulnerability, or what is wrong with a configuration or file, for a while.
type Ignore struct {
	ID      string    // one of the finding's names, or that of the misconfiguration
	Package string    // of the package's name or its package URL; * stands for anything; empty is all
	Path    string    // of the package or the file, or else where a misconfiguration is; as Package
	Expires time.Time // the first moment that it no longer holds; zero is never
	Reason  string
	Where   string // file:line

	order int
	used  bool
}

// Ignores are those of a file.
type Ignores struct {
	text [sha256.Size]byte
	list []*Ignore
	byID map[string][]*Ignore // each list as in the file
}

// ReadIgnores reads a file in YAML: a list "ignore" of id, package, path, expires
// (YYYY-MM-DD, in UTC, the last day that it holds) and reason, of which id and reason
// are needed, and path for secrets. It is strict.
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
	out := &Ignores{text: sha256.Sum256(b), byID: map[string][]*Ignore{}}
	for _, n := range list.Content {
		if n.Kind != yaml.MappingNode {
			return nil, at(n, "want %s", ignoreFields)
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
			case "path":
				ig.Path = strings.TrimPrefix(v.Value, "/")
			case "reason":
				ig.Reason = v.Value
			case "expires":
				day, err := time.Parse(time.DateOnly, v.Value)
				if err != nil {
					return nil, at(v, "expires: want a day such as 2027-01-31, not %.40q", v.Value)
				}
				ig.Expires = day.AddDate(0, 0, 1)
			default:
				return nil, at(key, "there is no field %.40q: want %s", key.Value, ignoreFields)
			}
		}
		if ig.ID == "" || strings.TrimSpace(ig.Reason) == "" {
			return nil, at(n, "id and reason are needed")
		}
		if ig.Path == "" && seen["path"] {
			return nil, at(n, "path: there is nothing behind the slash; leave it out, or write * for all")
		}
		if ig.Path == "" && inventory.IsSecret(ig.ID) {
			return nil, at(n, "%s needs a path: the file, the variable or the number in the history, or * for whatever is found later too", ig.ID)
		}
		out.add(ig)
	}
	return out, nil
}

// ignoreFields are the fields of one rule, for a person.
const ignoreFields = "id, package, path, expires, reason"

func (g *Ignores) add(ig *Ignore) {
	ig.order = len(g.list)
	g.list = append(g.list, ig)
	g.byID[ig.ID] = append(g.byID[ig.ID], ig)
}

// Digest names what is ignored at a time: by the text, and by which of its rules have expired.
func (g *Ignores) Digest(now time.Time) [sha256.Size]byte {
	var last time.Time // of one text it tells of all
	for _, ig := range g.list {
		if ig.expired(now) && ig.Expires.After(last) {
			last = ig.Expires
		}
	}
	return sha256.Sum256(last.AppendFormat(g.text[:], time.RFC3339))
}

func (ig *Ignore) expired(now time.Time) bool { return !ig.Expires.IsZero() && !now.Before(ig.Expires) }

// Marked is what rules and baselines mark: the findings and misconfigurations of one scan.
type Marked struct {
	Findings []vulndb.Finding
	Packages []inventory.Package // that findings are about
	Faults   []inventory.Misconfiguration
	PURL     func(i int) string // the package URL of a package
}

// Apply marks what is ignored now, with the reason and the rule. The notes are lines for a
// person: what has expired, and what matches nothing.
//
// Errors: ctx has ended; some are marked then, and some not.
func (g *Ignores) Apply(ctx context.Context, m Marked, now time.Time) (notes []string, err error) {
	walk := &walk{now: now, expired: map[*Ignore]bool{}}
	for i := range m.Findings {
		f := &m.Findings[i]
		p := &m.Packages[f.Package]
		url := sync.OnceValue(func() string { return m.PURL(f.Package) })
		first := func(ids []string) *Ignore {
			return walk.first(ctx, g.about(ids), func(ig *Ignore) bool {
				return (ig.Package == "" || glob(ig.Package, p.Name) || glob(ig.Package, url())) && (ig.Path == "" || glob(ig.Path, p.Path))
			})
		}
		by := []*Ignore{first(f.IDs)}
		if by[0] == nil && len(f.About) > 0 { // an advisory, of which each flaw may be ignored
			by = by[:0]
			for n := range f.About {
				by = append(by, first(f.About[n:n+1]))
			}
		}
		if !slices.Contains(by, nil) {
			f.Ignored = each(by, "; ", func(ig *Ignore) string { return ig.Reason })
			f.IgnoredBy = each(by, ", ", func(ig *Ignore) string { return ig.Where })
		}
	}
	for i := range m.Faults {
		f := &m.Faults[i]
		ig := walk.first(ctx, g.byID[f.ID], func(ig *Ignore) bool {
			// One that stands for many says where the first is: no path is that of all.
			all := ig.Path == "" || ig.Path == "*"
			return ig.Package == "" && (all || f.Count <= 1 && glob(ig.Path, cmp.Or(f.Path, f.Where)))
		})
		if ig != nil {
			f.Ignored, f.IgnoredBy = ig.Reason, ig.Where
		}
	}
	if walk.err != nil {
		return nil, fmt.Errorf("look for what is ignored: %w", walk.err)
	}
	for _, ig := range g.list {
		switch {
		case walk.expired[ig]:
			notes = append(notes, fmt.Sprintf("%s: %s is no longer ignored since %s: fix it, or extend it", ig.Where, ig.ID, ig.Expires.Format(time.DateOnly)))
		case !ig.used:
			notes = append(notes, fmt.Sprintf("%s: %s matches no finding: it can go", ig.Where, ig.ID))
		}
	}
	return notes, nil
}

// each joins what is said of rules, each once.
func each(list []*Ignore, separator string, word func(*Ignore) string) string {
	var out []string
	for _, ig := range list {
		if w := word(ig); !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return strings.Join(out, separator)
}

// about returns the rules about one of the names, in the order of the file.
func (g *Ignores) about(ids []string) []*Ignore {
	var out []*Ignore
	lists := 0
	for _, id := range ids {
		switch list := g.byID[id]; {
		case len(list) == 0:
			continue
		case lists == 0:
			out = list
		default:
			out = slices.Concat(out, list)
		}
		lists++
	}
	if lists > 1 {
		slices.SortFunc(out, func(a, b *Ignore) int { return cmp.Compare(a.order, b.order) })
	}
	return out
}

// walk asks rules about one thing after the other until its context ends.
type walk struct {
	now     time.Time
	expired map[*Ignore]bool // that would match
	steps   int
	err     error
}

// first returns the first rule that matches and holds, nil if there is none.
func (w *walk) first(ctx context.Context, rules []*Ignore, matches func(*Ignore) bool) *Ignore {
	for _, ig := range rules {
		if w.steps++; w.steps%1024 == 0 && w.err == nil {
			w.err = ctx.Err()
		}
		if w.err != nil {
			return nil
		}
		if !matches(ig) {
			continue
		}
		ig.used = true
		if ig.expired(w.now) {
			w.expired[ig] = true
			continue
		}
		return ig
	}
	return nil
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
