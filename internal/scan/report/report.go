// Package report writes what a scan found in the forms that other programs read: JSON
// of our own, CycloneDX, SPDX, SARIF, JUnit, GitLab's; and compares two of them.
//
// It owns no state. Texts come from images and records: they are escaped by the
// format's encoder, and by whoever shows them. Row: adapter.
package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/package-url/packageurl-go"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Schema names the form of a [Scan].
const Schema = "belay.dev/scan/v1"

// Scan is one scan of one target.
type Scan struct {
	Schema   string    `json:"schema"`
	Target   string    `json:"target"`
	Time     time.Time `json:"time"`
	Database *Database `json:"database,omitempty"` // nil: not matched
	// Complete says that all was read and all was matched; Notes and the inventory's
	// own say what was not.
	Complete bool             `json:"complete"`
	Findings []vulndb.Finding `json:"findings"`
	Notes    []inventory.Note `json:"notes,omitempty"`
	// Misconfigurations are those of the image's configuration, if the inventory says that
	// it was looked at.
	Misconfigurations []inventory.Misconfiguration `json:"misconfigurations,omitempty"`
	Inventory         *inventory.Result            `json:"inventory"`
	// Base is the image that the lowest layers are of; nil where nobody knows.
	Base *Base `json:"base,omitempty"`
	// Attached is the bill of materials that was attached to the image, if it was asked for.
	Attached *Attached `json:"attached,omitempty"`
}

// Attached is a bill of materials that was attached to an image.
type Attached struct {
	Digest string `json:"digest"`
	Form   string `json:"form"`
	From   string `json:"from"`
	Others int    `json:"others"` // that were attached too, and not used
	// Envelope says that it is in a signed envelope, and Key the ID of the key that was given and has
	// signed it; without one nobody has looked at a signature.
	Envelope bool   `json:"envelope,omitempty"`
	Key      string `json:"key,omitempty"`
	// Used says that the packages are the bill's, and the image was not read.
	Used bool `json:"used"`
	// Packages are what makes the bill (old) and the image (new) differ, if they were compared.
	Packages []PackageChange `json:"packages,omitempty"`
}

// Database tells with what was matched.
type Database struct {
	Built   time.Time `json:"built"`
	AsOf    time.Time `json:"asOf,omitzero"` // of which time its data are
	Records int       `json:"records"`
}

// New puts a scan together. matches is nil if nothing was matched. It takes what is wrong
// with the configuration, the lists of files and the functions of programs out of res.
func New(target string, at time.Time, res *inventory.Result, db *Database, matches *vulndb.Matches) *Scan {
	faults := res.Misconfigurations
	for i := range faults {
		faults[i].Unmark() // the process that read the image accepts nothing
	}
	res.Misconfigurations, res.Owned = nil, nil
	res.Packages = withoutFunctions(res.Packages)
	s := &Scan{Schema: Schema, Target: target, Time: at.UTC(), Database: db, Inventory: res, Misconfigurations: faults, Complete: res.Complete(), Findings: []vulndb.Finding{}}
	if matches != nil {
		s.Findings = append(s.Findings, matches.Findings...)
		s.Notes = matches.Notes
		s.Complete = s.Complete && len(matches.Notes) == 0
	}
	s.FindBase(nil)
	return s
}

// withoutFunctions returns packages without what is of use to a match alone. Those of the caller,
// which may be kept, stay as they are.
func withoutFunctions(list []inventory.Package) []inventory.Package {
	has := func(p inventory.Package) bool { return p.Functions != "" }
	if !slices.ContainsFunc(list, has) {
		return list
	}
	list = slices.Clone(list)
	for i := range list {
		list[i].Functions = ""
	}
	return list
}

// SymbolsText says whether a Go program has the vulnerable functions, as far as that is known; it is
// empty where it is not.
func SymbolsText(f *vulndb.Finding) string {
	if f.Symbols == nil || len(f.Symbols.Names) == 0 {
		return ""
	}
	switch f.Symbols.State {
	case inventory.SymbolsAbsent:
		return "vulnerable functions not in the program"
	case inventory.SymbolsPresent:
		text := "has " + f.Symbols.Names[0]
		if n := len(f.Symbols.Names) - 1 + f.Symbols.More; n > 0 {
			text += fmt.Sprintf(" and %d more vulnerable functions", n)
		}
		return text
	}
	return ""
}

// PURL returns the package URL of a package of an image.
func PURL(o inventory.OS, p *inventory.Package) string { return packageURL(o, p, "") }

// PackageURL is [PURL] of package i of the inventory.
func (s *Scan) PackageURL(i int) string { return PURL(s.Inventory.OS, &s.Inventory.Packages[i]) }

// bomPURL is [PURL] with the source package of a distribution, by which advisories are, as
// the qualifier upstream that other tools use too.
func bomPURL(o inventory.OS, p *inventory.Package) string {
	upstream := ""
	if p.Source != "" && (p.Source != p.Name || p.SourceVersion != p.Version) {
		upstream = p.Source
		if p.SourceVersion != "" {
			upstream += "@" + p.SourceVersion
		}
	}
	return packageURL(o, p, upstream)
}

func packageURL(o inventory.OS, p *inventory.Package, upstream string) string {
	u := packageurl.PackageURL{Type: p.Kind, Name: p.Name, Version: p.Version}
	switch p.Kind {
	case inventory.KindDeb, inventory.KindApk, inventory.KindRPM:
		u.Namespace = o.ID
		q := map[string]string{}
		if epoch, version, ok := strings.Cut(p.Version, ":"); ok && p.Kind == inventory.KindRPM {
			u.Version, q["epoch"] = version, epoch
		}
		if p.Arch != "" {
			q["arch"] = p.Arch
		}
		if o.ID != "" && o.VersionID != "" {
			q["distro"] = o.ID + "-" + o.VersionID
		}
		if upstream != "" {
			q["upstream"] = upstream
		}
		u.Qualifiers = packageurl.QualifiersFromMap(q)
	case inventory.KindJava:
		if group, artifact, ok := strings.Cut(p.Name, ":"); ok {
			u.Namespace, u.Name = group, artifact
		}
	default:
		if i := strings.LastIndexByte(p.Name, '/'); i > 0 {
			u.Namespace, u.Name = p.Name[:i], p.Name[i+1:]
		}
		if p.Kind == inventory.KindPython {
			u.Name = strings.ToLower(strings.ReplaceAll(p.Name, "_", "-"))
		}
	}
	return u.String()
}

// WriteCycloneDX writes the inventory, and the findings if it was matched, as a
// CycloneDX 1.6 bill of materials in JSON.
func (s *Scan) WriteCycloneDX(w io.Writer, version string) error {
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: s.Time.Format(time.RFC3339),
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "belay", Version: version}}},
		Component: &cdx.Component{BOMRef: "target", Type: cdx.ComponentTypeContainer, Name: s.Target, Version: s.Inventory.ImageID},
	}
	components := []cdx.Component{}
	for i := range s.Inventory.Packages {
		p := &s.Inventory.Packages[i]
		props := []cdx.Property{{Name: "belay:path", Value: p.Path}, {Name: "belay:layer", Value: fmt.Sprint(p.Layer)}}
		if l := s.layer(p.Layer); l.DiffID != "" {
			props = append(props, cdx.Property{Name: "belay:layer:diffId", Value: l.DiffID})
		}
		if s.Base.Has(p.Layer) {
			props = append(props, cdx.Property{Name: "belay:base", Value: s.Base.title()})
		}
		if p.Owner != "" {
			props = append(props, cdx.Property{Name: "belay:owner", Value: p.Owner})
		}
		if p.Locked {
			props = append(props, cdx.Property{Name: "belay:locked", Value: "true"})
		}
		components = append(components, cdx.Component{
			BOMRef: ref(i), Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: bomPURL(s.Inventory.OS, p), Properties: &props,
		})
	}
	if o := s.Inventory.OS; o.ID != "" {
		components = append(components, cdx.Component{BOMRef: "os", Type: cdx.ComponentTypeOS, Name: o.ID, Version: o.VersionID, Description: o.Pretty})
	}
	bom.Components = &components
	if s.Database != nil {
		list := s.vulnerabilities()
		bom.Vulnerabilities = &list
	}
	if !s.Complete {
		bom.Compositions = &[]cdx.Composition{{Aggregate: cdx.CompositionAggregateIncomplete, Assemblies: &[]cdx.BOMReference{"target"}}}
	}
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

// vulnerabilities groups findings by their names: one with all packages it affects.
func (s *Scan) vulnerabilities() []cdx.Vulnerability {
	out := []cdx.Vulnerability{}
	index := map[string]int{}
	for _, f := range s.Findings {
		affects := cdx.Affects{Ref: ref(f.Package)}
		if i, ok := index[f.IDs[0]]; ok {
			*out[i].Affects = append(*out[i].Affects, affects)
			continue
		}
		index[f.IDs[0]] = len(out)
		v := cdx.Vulnerability{ID: f.IDs[0], Description: f.Summary, Affects: &[]cdx.Affects{affects}}
		rating := cdx.VulnerabilityRating{Severity: cdxSeverity(f.Severity)}
		if f.Score > 0 {
			rating.Score = &f.Score
		}
		v.Ratings = &[]cdx.VulnerabilityRating{rating}
		if f.Fixed != "" {
			v.Recommendation = "update to " + f.Fixed
		}
		refs := []cdx.VulnerabilityReference{}
		for _, id := range f.IDs[1:] {
			refs = append(refs, cdx.VulnerabilityReference{ID: id, Source: &cdx.Source{Name: "OSV", URL: "https://osv.dev/vulnerability/" + id}})
		}
		if len(refs) > 0 {
			v.References = &refs
		}
		// References are other names of the same: what an advisory is about has no place of its own.
		var props []cdx.Property
		for _, id := range f.About {
			props = append(props, cdx.Property{Name: "belay:about", Value: id})
		}
		if len(props) > 0 {
			v.Properties = &props
		}
		out = append(out, v)
	}
	return out
}

func cdxSeverity(s vulndb.Severity) cdx.Severity {
	switch s {
	case vulndb.SeverityUnknown:
		return cdx.SeverityUnknown
	case vulndb.SeverityNegligible:
		return cdx.SeverityInfo
	}
	return cdx.Severity(s.String())
}

func ref(i int) string { return fmt.Sprintf("package-%d", i) }

// Where says where a package is, for a person.
func (s *Scan) Where(p *inventory.Package) string {
	path := cmp.Or(p.Path, "-")
	if inventory.OfDistribution(p.Kind) {
		path = p.Kind
	}
	if p.Locked {
		path += ", a lock file"
	}
	return path + s.WhichLayer(p.Layer)
}
