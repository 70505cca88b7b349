package vex

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Scan is what a document is written of.
type Scan struct {
	Target     string
	Time       time.Time
	Inventory  *inventory.Result
	Findings   []vulndb.Finding
	PackageURL func(i int) string
	Tool       string // name and version
}

// Write writes findings as an OpenVEX 0.2 document for somebody to complete: affected, with
// what to do, where there is a fix; else, and where a finding is ignored, under investigation.
// It never says that a product is not affected: that takes somebody who looked.
func Write(w io.Writer, s *Scan) error {
	at := s.Time.UTC()
	doc := openVEX{Context: openVEXContext, Author: "Unknown Author", Timestamp: &at, Version: "1", Tooling: s.Tool, Statements: []openVEXStatement{}}
	image := s.image()
	for i := range s.Findings {
		f := &s.Findings[i]
		part := openVEXProduct{ID: s.PackageURL(f.Package)}
		v := openVEXStatement{Vulnerability: openVEXFlaw{Name: f.IDs[0], Aliases: f.IDs[1:]}, Status: investigating, Products: []openVEXProduct{part}}
		if len(f.About) > 0 {
			v.Vulnerability.Description = "about " + strings.Join(f.About, ", ")
		}
		if image != "" {
			v.Products = []openVEXProduct{{ID: image, Parts: []openVEXProduct{part}}}
		}
		switch {
		case f.Ignored != "":
			v.StatusNotes = "ignored: " + f.Ignored
		case f.Fixable():
			v.Status, v.Action = affected, fmt.Sprintf("update %s to %s", s.Inventory.Packages[f.Package].Name, f.Fixed)
		}
		doc.Statements = append(doc.Statements, v)
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\x00%s\x00%s\x00%d", s.Target, image, at.Format(time.RFC3339Nano), len(s.Findings))
	doc.ID = "https://belay.dev/vex/" + hex.EncodeToString(sum.Sum(nil))
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}

// image returns the package URL of the image, or nothing for what has no digest.
func (s *Scan) image() string {
	digest := cmp.Or(s.Inventory.Digest, s.Inventory.ImageID)
	if !isDigest(digest) {
		return ""
	}
	name, _, _ := strings.Cut(path.Base(s.Target), "@")
	name, _, _ = strings.Cut(name, ":")
	if strings.Trim(name, "./") == "" {
		name = "image"
	}
	return packageurl.NewPackageURL(packageurl.TypeOCI, "", strings.ToLower(name), digest, nil, "").ToString()
}
