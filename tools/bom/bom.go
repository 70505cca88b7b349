// Package bom says what Go programs are made of, as a CycloneDX bill of materials: the modules
// that the linker wrote into each, with the checksums of go.sum.
//
// It owns no state, and never asks the network or the go command: what is in the program counts,
// not what a go.mod would give today. Row: assembly.
package bom

import (
	"bytes"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// Program is a Go program that was built.
type Program struct {
	Name string // of the file
	Info *debug.BuildInfo
}

// Read reads what a file was built of.
func Read(file string) (Program, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return Program{}, fmt.Errorf("what is %s made of: %w", file, err)
	}
	return Program{Name: filepath.Base(file), Info: info}, nil
}

// Module is a module in a program, with what replaced it in its place.
type Module struct {
	Path, Version, Sum string
}

// Modules returns the modules of all the programs, the main one left out, sorted, each once.
func Modules(programs []Program) []Module {
	var out []Module
	for _, p := range programs {
		for _, m := range p.Info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			out = append(out, Module{Path: m.Path, Version: m.Version, Sum: m.Sum})
		}
	}
	slices.SortFunc(out, func(a, b Module) int {
		return strings.Compare(a.Path+"@"+a.Version, b.Path+"@"+b.Version)
	})
	return slices.Compact(out)
}

// PURL is the package URL of a module; the path of one is a namespace and a name already.
func (m Module) PURL() string { return "pkg:golang/" + m.Path + "@" + m.Version }

// Options says what a bill is of.
type Options struct {
	Name, Version string    // of the thing
	Arch          string    // amd64, arm64
	Time          time.Time // of the commit
	Container     bool      // it is an image
	Digest        string    // of the image
	// Licences are SPDX expressions by module path; a module that is not there has none stated.
	Licences map[string]string
}

// Write returns the bill in JSON, CycloneDX 1.6. The same programs give the same bytes.
func Write(o Options, programs []Program) ([]byte, error) {
	doc := cdx.NewBOM()
	kind := cdx.ComponentTypeApplication
	if o.Container {
		kind = cdx.ComponentTypeContainer
	}
	root := cdx.Component{
		BOMRef: "root", Type: kind, Name: o.Name, Version: o.Version,
		Properties: &[]cdx.Property{{Name: "belay:arch", Value: o.Arch}},
	}
	if hash, ok := strings.CutPrefix(o.Digest, "sha256:"); ok {
		root.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hash}}
	}
	doc.Metadata = &cdx.Metadata{Timestamp: o.Time.UTC().Format(time.RFC3339), Component: &root}
	components := []cdx.Component{}
	uses := map[string][]string{}
	for _, p := range programs {
		ref := "program:" + p.Name
		uses["root"] = append(uses["root"], ref)
		components = append(components, cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeApplication, Name: p.Name, Version: o.Version})
		std := Module{Path: Std, Version: strings.TrimPrefix(p.Info.GoVersion, "go")}
		uses[ref] = append(uses[ref], std.PURL())
		for _, m := range Modules([]Program{p}) {
			uses[ref] = append(uses[ref], m.PURL())
		}
	}
	for _, m := range WithStd(programs) {
		c := cdx.Component{BOMRef: m.PURL(), Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: m.PURL()}
		if h := m.sha256(); h != "" {
			c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: h}}
		}
		if l := o.Licences[m.Path]; l != "" {
			c.Licenses = &cdx.Licenses{{Expression: l}}
		}
		components = append(components, c)
	}
	doc.Components = &components
	deps := []cdx.Dependency{}
	for _, ref := range append([]string{"root"}, uses["root"]...) {
		list := uses[ref]
		deps = append(deps, cdx.Dependency{Ref: ref, Dependencies: &list})
	}
	doc.Dependencies = &deps
	var b bytes.Buffer
	if err := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(doc, cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("write the bill of materials: %w", err)
	}
	return b.Bytes(), nil
}

// Std is the name by which the standard library is in [WithStd].
const Std = "stdlib"

// WithStd returns the modules of the programs, and first the standard library of each Go that built them.
func WithStd(programs []Program) []Module {
	var std []Module
	for _, p := range programs {
		std = append(std, Module{Path: Std, Version: strings.TrimPrefix(p.Info.GoVersion, "go")})
	}
	slices.SortFunc(std, func(a, b Module) int { return strings.Compare(a.Version, b.Version) })
	return append(slices.Compact(std), Modules(programs)...)
}

// sha256 is the checksum of go.sum in hexadecimal: h1 is a SHA-256 in base64.
func (m Module) sha256() string {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
	if err != nil || len(raw) != 32 || !strings.HasPrefix(m.Sum, "h1:") {
		return ""
	}
	return hex.EncodeToString(raw)
}

// Epoch is the time that everything built from a commit has.
//
// Source: https://reproducible-builds.org/specs/source-date-epoch/.
func Epoch() (time.Time, error) {
	var sec int64
	if _, err := fmt.Sscan(os.Getenv("SOURCE_DATE_EPOCH"), &sec); err != nil || sec <= 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q is no time in seconds; fix: set it to that of the commit (git log -1 --format=%%ct)", os.Getenv("SOURCE_DATE_EPOCH"))
	}
	return time.Unix(sec, 0).UTC(), nil
}
