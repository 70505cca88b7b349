package report

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const spdxUnknown = "NOASSERTION"

// WriteSPDX writes the inventory as an SPDX 2.3 document in JSON, and, if it was matched,
// the findings of a package as references to advisories. A target of which something was
// not read contains NOASSERTION beside its packages, and the document's comment says what.
//
// Source: https://spdx.github.io/spdx-spec/v2.3/.
func (s *Scan) WriteSPDX(w io.Writer, version string) error {
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: cmp.Or(s.Target, "image"), DocumentNamespace: s.namespace(),
		CreationInfo: &spdx.CreationInfo{
			Created:  s.Time.UTC().Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "belay-" + version}},
		},
	}
	add := func(id, name, version, purpose string) *spdx.Package {
		p := &spdx.Package{
			PackageName: name, PackageSPDXIdentifier: common.ElementID(id), PackageVersion: version,
			PackageDownloadLocation: spdxUnknown, PackageLicenseConcluded: spdxUnknown, PackageLicenseDeclared: spdxUnknown,
			PackageCopyrightText: spdxUnknown, PrimaryPackagePurpose: purpose,
		}
		doc.Packages = append(doc.Packages, p)
		return p
	}
	relate := func(a, kind string, b common.DocElementID) {
		doc.Relationships = append(doc.Relationships, &spdx.Relationship{RefA: common.MakeDocElementID("", a), RefB: b, Relationship: kind})
	}
	add("target", doc.DocumentName, s.Inventory.ImageID, "CONTAINER")
	relate("DOCUMENT", "DESCRIBES", common.MakeDocElementID("", "target"))
	if o := s.Inventory.OS; o.ID != "" {
		add("os", o.ID, o.VersionID, "OPERATING-SYSTEM").PackageDescription = o.Pretty
		relate("target", "CONTAINS", common.MakeDocElementID("", "os"))
	}
	advisories := s.advisories()
	for i := range s.Inventory.Packages {
		p := &s.Inventory.Packages[i]
		sp := add(ref(i), p.Name, p.Version, "LIBRARY")
		sp.PackageSourceInfo = fmt.Sprintf("acquired from %s, layer %d", cmp.Or(p.Path, "an unknown place"), p.Layer+1)
		sp.PackageExternalReferences = append([]*spdx.PackageExternalReference{
			{Category: "PACKAGE-MANAGER", RefType: "purl", Locator: bomPURL(s.Inventory.OS, p)},
		}, advisories[i]...)
		relate("target", "CONTAINS", common.MakeDocElementID("", ref(i)))
	}
	if !s.Complete {
		doc.DocumentComment = "not all could be read and matched: " + strings.Join(s.notes(), "; ")
		relate("target", "CONTAINS", common.MakeDocElementSpecial(spdxUnknown))
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}

// advisories are references to what is known of each package.
func (s *Scan) advisories() map[int][]*spdx.PackageExternalReference {
	out := map[int][]*spdx.PackageExternalReference{}
	for i := range s.Findings {
		f := &s.Findings[i]
		out[f.Package] = append(out[f.Package], &spdx.PackageExternalReference{Category: "SECURITY", RefType: "advisory", Locator: advisoryURL(f.IDs[0])})
	}
	return out
}

// namespace is a URI of this document alone: two scans of one image differ by their time.
func (s *Scan) namespace() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{s.Target, s.Inventory.ImageID, s.Time.Format(time.RFC3339Nano), fmt.Sprint(len(s.Inventory.Packages))}, "\x00")))
	return "https://belay.dev/spdx/" + hex.EncodeToString(sum[:])
}
