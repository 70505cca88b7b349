package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// BasesSchema names the form of a list of base images.
const BasesSchema = "belay.dev/bases/v1"

// How a base image is known.
const (
	// BaseByLayers: the lowest layers have the digests of an image that somebody named.
	BaseByLayers = "layers"
	// BaseByClaim: the image says so, by labels, annotations or its history. Nothing is proven.
	BaseByClaim = "claim"
)

// Base is the image that another is built on.
type Base struct {
	Name   string `json:"name,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Layers is how many of the lowest layers are its; 0 where that is not known.
	Layers int    `json:"layers"`
	By     string `json:"by"`
	// Findings and Own are how many findings are in its layers and how many are not.
	Findings int `json:"findings"`
	Own      int `json:"ownFindings"`
}

// Has reports whether a layer is of the base. A nil one has none.
func (b *Base) Has(layer int) bool { return b != nil && layer < b.Layers }

// Proven reports whether the layers are those of an image that somebody named.
func (b *Base) Proven() bool { return b != nil && b.By == BaseByLayers }

// title names it for a person.
func (b *Base) title() string { return cmp.Or(b.Name, b.Digest, "unnamed") }

// Title says what the base is and how that is known.
func (b *Base) Title() string {
	if b.Proven() {
		return b.title()
	}
	return b.title() + " (the image says so)"
}

// Bases are images that others may be built on.
type Bases struct {
	Digest [sha256.Size]byte // of all texts, in their order
	list   []knownBase
}

type knownBase struct {
	Name    string   `json:"name"`
	Digest  string   `json:"digest,omitempty"`
	DiffIDs []string `json:"diffIds"`
}

// Bounds on a list of base images.
const (
	maxBasesFile = 64 << 20
	maxBases     = 10_000
)

var diffIDForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// ReadBases reads files that name base images: reports of 'belay scan -o json' about them, and
// lists of the form [BasesSchema].
//
// Errors: [inventory.ErrTooLarge]; what is neither; an image without digests of its layers.
func ReadBases(paths ...string) (*Bases, error) {
	out := new(Bases)
	for _, p := range paths {
		if err := out.read(p); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	return out, nil
}

func (b *Bases) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	all, err := inventory.ReadAll(f, maxReport)
	if err != nil {
		return err
	}
	b.Digest = inventory.Chain(b.Digest, all)
	list := []knownBase{}
	if IsReport(all[:min(len(all), HeadBytes)]) {
		s, err := Read(bytes.NewReader(all))
		if err != nil {
			return err
		}
		k := knownBase{Name: s.Target, Digest: cmp.Or(s.Inventory.Digest, s.Inventory.ImageID)}
		for _, l := range s.Inventory.Layers {
			k.DiffIDs = append(k.DiffIDs, l.DiffID)
		}
		list = append(list, k)
	} else if list, err = readBases(all); err != nil {
		return err
	}
	for _, k := range list {
		if len(b.list) >= maxBases {
			return fmt.Errorf("more than %d base images", maxBases)
		}
		if k.Name == "" || len(k.DiffIDs) == 0 || len(k.DiffIDs) > inventory.MaxLayers {
			return fmt.Errorf("the base image %.100q has no name, or %d layers", k.Name, len(k.DiffIDs))
		}
		for _, d := range k.DiffIDs {
			if !diffIDForm.MatchString(d) {
				return fmt.Errorf("the base image %.100q has a layer with the digest %.100q: scan it as an archive, a layout, from a registry or from a store", k.Name, d)
			}
		}
		b.list = append(b.list, k)
	}
	return nil
}

func readBases(all []byte) ([]knownBase, error) {
	if len(all) > maxBasesFile {
		return nil, fmt.Errorf("%w: %d bytes", inventory.ErrTooLarge, maxBasesFile)
	}
	var doc struct {
		Schema string      `json:"schema"`
		Bases  []knownBase `json:"bases"`
	}
	d := json.NewDecoder(bytes.NewReader(all))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("want a report of 'belay scan -o json' about the base image, or a list with the schema %s: %w", BasesSchema, err)
	}
	if doc.Schema != BasesSchema || d.More() {
		return nil, fmt.Errorf("want a report of 'belay scan -o json' about the base image, or one list with the schema %s", BasesSchema)
	}
	if len(doc.Bases) == 0 {
		return nil, errors.New("the list names no base image")
	}
	return doc.Bases, nil
}

// of returns the base whose layers are the lowest of an image: that with the most of them.
func (b *Bases) of(layers []inventory.Layer) *Base {
	var out *Base
	if b == nil {
		return nil
	}
	for _, k := range b.list {
		if len(k.DiffIDs) > len(layers) || out != nil && len(k.DiffIDs) <= out.Layers {
			continue
		}
		same := true
		for i, d := range k.DiffIDs {
			same = same && layers[i].DiffID == d
		}
		if same {
			out = &Base{Name: k.Name, Digest: k.Digest, Layers: len(k.DiffIDs), By: BaseByLayers}
		}
	}
	return out
}

// FindBase finds the base image, among known ones or else by the image's own word, and marks
// findings and faults of files with it. What was marked before is forgotten.
func (s *Scan) FindBase(known *Bases) {
	s.Base = known.of(s.Inventory.Layers)
	if c := s.Inventory.Base; s.Base == nil && c != nil {
		s.Base = &Base{Name: c.Name, Digest: c.Digest, Layers: c.Layers, By: BaseByClaim}
	}
	for i := range s.Findings {
		f := &s.Findings[i]
		in := s.Base.Has(s.Inventory.Packages[f.Package].Layer)
		f.FromBase, f.ClaimedBase = in && s.Base.Proven(), in && !s.Base.Proven()
		switch {
		case s.Base == nil:
		case in:
			s.Base.Findings++
		default:
			s.Base.Own++
		}
	}
	for i := range s.Misconfigurations {
		m := &s.Misconfigurations[i]
		// One that stands for many says where the first is.
		m.FromBase = m.Path != "" && m.Count <= 1 && s.Base.Proven() && s.Base.Has(m.Layer)
	}
}

// layer is a layer of the inventory; an empty one where there is none.
func (s *Scan) layer(i int) inventory.Layer {
	if i < 0 || i >= len(s.Inventory.Layers) {
		return inventory.Layer{}
	}
	return s.Inventory.Layers[i]
}

// WhichLayer says, behind a place, which layer it is of; nothing where there is but one.
func (s *Scan) WhichLayer(layer int) string {
	switch {
	case len(s.Inventory.Layers) < 2:
		return ""
	case s.Base.Has(layer) && s.Base.Proven():
		return fmt.Sprintf(" (layer %d, base)", layer+1)
	}
	return fmt.Sprintf(" (layer %d)", layer+1)
}
