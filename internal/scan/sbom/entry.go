package sbom

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// component is what we read of a component of CycloneDX. Source:
// https://cyclonedx.org/docs/1.6/json/.
type component struct {
	Type       string      `json:"type"`
	Group      string      `json:"group"`
	Name       string      `json:"name"`
	Version    string      `json:"version"`
	PURL       string      `json:"purl"`
	Describes  string      `json:"description"`
	Properties []property  `json:"properties"`
	Components []component `json:"components"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type composition struct {
	Aggregate string `json:"aggregate"`
}

// spdxPackage is what we read of a package of SPDX. Source:
// https://spdx.github.io/spdx-spec/v2.3/package-information/.
type spdxPackage struct {
	Name       string `json:"name"`
	Version    string `json:"versionInfo"`
	Purpose    string `json:"primaryPackagePurpose"`
	SourceInfo string `json:"sourceInfo"`
	Describes  string `json:"description"`
	References []struct {
		Type    string `json:"referenceType"`
		Locator string `json:"referenceLocator"`
	} `json:"externalRefs"`
}

type relationship struct {
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

// metadata reads of which image the bill is.
func (b *bill) metadata(d *json.Decoder) error {
	return b.object(d, func(d *json.Decoder, name string) error {
		if name != "component" {
			return skip(d)
		}
		var c component
		if err := d.Decode(&c); err != nil {
			return err
		}
		b.image(c.Version)
		for i := range c.Components {
			if err := b.component(&c.Components[i], 1); err != nil {
				return err
			}
		}
		return nil
	})
}

// image takes the digest of an image where an entry has one as its version.
func (b *bill) image(version string) {
	if digits, ok := strings.CutPrefix(version, "sha256:"); ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == "" {
		b.imageID = version
	}
}

func (b *bill) component(c *component, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("components within components, more than %d deep", maxDepth)
	}
	switch {
	case c.Type == "operating-system":
		b.system(c.Name, c.Version, c.Describes)
	case c.PURL != "":
		b.add(c.PURL, c.named(), props(c.Properties))
	case c.Type == "file" || c.Type == "application" && c.Version == "":
		// A file is no package; an application without a version groups others.
	default:
		b.note(c.Name, "an entry of the bill without a package URL")
	}
	for i := range c.Components {
		if err := b.count(); err != nil {
			return err
		}
		if err := b.component(&c.Components[i], depth+1); err != nil {
			return err
		}
	}
	return nil
}

// named is the component's name with its group: package URLs lose the case of some names.
func (c *component) named() string {
	if c.Group != "" {
		return c.Group + "/" + c.Name
	}
	return c.Name
}

func props(list []property) map[string]string {
	out := make(map[string]string, len(list))
	for _, p := range list {
		out[p.Name] = p.Value
	}
	return out
}

func (b *bill) spdxPackage(p *spdxPackage) error {
	locator := ""
	for _, r := range p.References {
		if r.Type == "purl" && locator == "" {
			locator = r.Locator
		} else if r.Type == "purl" && r.Locator != locator {
			b.note(p.Name, "an entry of the bill with several package URLs: the first is taken")
		}
	}
	switch {
	case p.Purpose == "OPERATING-SYSTEM":
		b.system(p.Name, p.Version, p.Describes)
	case p.Purpose == "CONTAINER":
		b.image(p.Version)
	case locator != "":
		path := ""
		if rest, ok := strings.CutPrefix(p.SourceInfo, "acquired from "); ok {
			if i := strings.LastIndex(rest, ", layer "); i >= 0 {
				path = rest[:i]
			}
		}
		b.add(locator, p.Name, map[string]string{"belay:path": path})
	case p.Purpose == "FILE" || p.Purpose == "APPLICATION" && p.Version == "":
	default:
		b.note(p.Name, "an entry of the bill without a package URL")
	}
	return nil
}

// system takes an operating system; of two that differ the whole is of neither.
// pretty is its name for people, which of some tells the service pack.
func (b *bill) system(id, version, pretty string) {
	o := inventory.OS{
		ID: inventory.Cut(strings.ToLower(id)), VersionID: inventory.Cut(version),
		Pretty: inventory.Cut(cmp.Or(pretty, strings.TrimSpace(id+" "+version))),
	}
	if o.ID == "" {
		return
	}
	if b.os.ID != "" && (b.os.ID != o.ID || b.os.VersionID != o.VersionID) {
		b.note(o.ID, "a second operating system: packages of distributions are taken for those of the first")
		return
	}
	b.os = o
}

// add adds the package that a package URL names, or a note. name is what the bill calls it.
func (b *bill) add(locator, name string, props map[string]string) {
	p, err := parsePURL(locator)
	if err != nil {
		b.note(name, "an entry of the bill with a broken package URL: "+err.Error())
		return
	}
	if p.Type == "oci" || p.Type == "docker" {
		return // the image itself
	}
	e, err := p.entry(name, props)
	if err == nil {
		err = fits(&e.pkg)
	}
	if err != nil {
		b.note(cmp.Or(name, locator), err.Error())
		return
	}
	if b.seen[e.pkg] {
		return
	}
	b.seen[e.pkg] = true
	if len(b.found) >= inventory.MaxPackages {
		b.note(name, fmt.Sprintf("the bill has more than %d packages: the others were not read", inventory.MaxPackages))
		return
	}
	b.found = append(b.found, e)
}

// entry makes a package of a package URL.
func (p *purl) entry(name string, props map[string]string) (entry, error) {
	e := entry{pkg: inventory.Package{
		Kind: p.Type, Name: p.Name, Version: p.Version, Arch: p.Qualifiers["arch"],
		Path:  strings.TrimLeft(cmp.Or(props["belay:path"], props["syft:location:0:path"], props["aquasecurity:trivy:FilePath"], props["aquasecurity:trivy:PkgPath"]), "/"),
		Owner: props["belay:owner"], Locked: props["belay:locked"] == "true",
	}}
	if p.Version == "" {
		return e, fmt.Errorf("a %s package without a version in its package URL", inventory.Cut(p.Type))
	}
	switch p.Type {
	case inventory.KindDeb, inventory.KindApk, inventory.KindRPM:
		e.os = p.system()
		if epoch := p.Qualifiers["epoch"]; epoch != "" && p.Type == inventory.KindRPM {
			e.pkg.Version = epoch + ":" + p.Version
		}
		e.pkg.Source, e.pkg.SourceVersion = p.source(e.pkg.Version, props)
	case inventory.KindJava:
		if p.Namespace != "" {
			e.pkg.Name = p.Namespace + ":" + p.Name
		}
	case inventory.KindGo, inventory.KindNPM, inventory.KindPython, inventory.KindComposer, inventory.KindNuGet, inventory.KindGem, inventory.KindRust:
		if p.Namespace != "" {
			e.pkg.Name = p.Namespace + "/" + p.Name
		}
		if strings.EqualFold(name, e.pkg.Name) {
			e.pkg.Name = name
		}
		if p.Type == inventory.KindGo && e.pkg.Name == "stdlib" {
			e.pkg.Version = strings.TrimPrefix(p.Version, "go")
		}
	default:
		return e, fmt.Errorf("packages of type %s are not known", inventory.Cut(p.Type))
	}
	return e, nil
}

// source returns the source package of a distribution's package: by the qualifier upstream,
// or by the properties of other tools; else it is called as the package is.
func (p *purl) source(version string, props map[string]string) (name, of string) {
	upstream := p.Qualifiers["upstream"]
	if file, of, ok := inventory.SourceRPM(upstream); ok && p.Type == inventory.KindRPM {
		if epoch := p.Qualifiers["epoch"]; epoch != "" {
			of = epoch + ":" + of // the file's name has none; that of the package is the best guess
		}
		return file, of
	}
	name, of, _ = strings.Cut(upstream, "@")
	if src := props["aquasecurity:trivy:SrcName"]; name == "" && src != "" {
		name, of = src, props["aquasecurity:trivy:SrcVersion"]
		if epoch := props["aquasecurity:trivy:SrcEpoch"]; epoch != "" && of != "" {
			of = epoch + ":" + of
		}
		if release := props["aquasecurity:trivy:SrcRelease"]; release != "" && of != "" {
			of += "-" + release
		}
	}
	return cmp.Or(name, p.Name), cmp.Or(of, version)
}

// system returns the release that a package URL is of: distro=debian-12, or distro=3.18.4
// with the namespace alpine.
func (p *purl) system() inventory.OS {
	o := inventory.OS{ID: strings.ToLower(p.Namespace)}
	distro := p.Qualifiers["distro"]
	if version, ok := strings.CutPrefix(distro, o.ID+"-"); ok && o.ID != "" {
		o.VersionID = version
	} else if distro != "" && distro[0] >= '0' && distro[0] <= '9' {
		o.VersionID = distro
	} else if id, version, ok := strings.Cut(distro, "-"); ok {
		o.ID, o.VersionID = strings.ToLower(id), version
	}
	return o
}

// fits reports whether a package is within the bounds of a result.
func fits(p *inventory.Package) error {
	for _, s := range []string{p.Kind, p.Name, p.Version, p.Source, p.SourceVersion, p.Arch, p.Path, p.Owner} {
		if len(s) > inventory.MaxText || inventory.Cut(s) != s {
			return fmt.Errorf("a package with a text of more than %d bytes, or that is no UTF-8", inventory.MaxText)
		}
	}
	if len(p.Version) > inventory.MaxVersion || len(p.SourceVersion) > inventory.MaxVersion {
		return fmt.Errorf("a package with a version of more than %d bytes", inventory.MaxVersion)
	}
	return nil
}
