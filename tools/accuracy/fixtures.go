package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// recorded is one statement of a distribution about one package, as other scanners record it for
// their tests: real names and versions, in another form than OSV's.
type recorded struct {
	id, distribution, ecosystem string
	os                          inventory.OS
	kind, name, fixed           string // fixed is empty if there is no fix
}

// fixture is what came of the statements of one distribution.
type fixture struct {
	statements, below, at int // affected below the fix; not affected at it
	wrong                 []string
}

// vunnel is a record in the form of vunnel's results.
type vunnel struct {
	Item struct {
		Vulnerability struct {
			Name, NamespaceName string
			FixedIn             []struct{ Name, Version string }
		}
	}
}

// namespace translates a name as rhel:8 or ubuntu:20.04+esm. ok is false for those that OSV has no
// records of, or that Belay matches by the main release (EUS).
func namespace(s string) (r recorded, ok bool) {
	distribution, release, _ := strings.Cut(s, ":")
	r = recorded{distribution: distribution, kind: inventory.KindDeb}
	major, minor, _ := strings.Cut(release, ".")
	switch {
	case distribution == "debian" && release != "unstable":
		r.ecosystem, r.os = "Debian:"+release, inventory.OS{ID: "debian", VersionID: release}
	case distribution == "ubuntu":
		base, esm := strings.CutSuffix(release, "+esm")
		r.ecosystem, r.os = "Ubuntu:"+base+":LTS", inventory.OS{ID: "ubuntu", VersionID: base}
		if esm {
			r.ecosystem = "Ubuntu:Pro:" + base + ":LTS"
		}
	case distribution == "alpine" && release == "edge":
		r.kind, r.ecosystem, r.os = inventory.KindApk, "Alpine:edge", inventory.OS{ID: "alpine", VersionID: "3.24_alpha20260101"}
	case distribution == "alpine":
		r.kind, r.ecosystem, r.os = inventory.KindApk, "Alpine:v"+release, inventory.OS{ID: "alpine", VersionID: release + ".0"}
	case distribution == "rhel" && !strings.Contains(release, "+"):
		r.kind, r.ecosystem, r.os = inventory.KindRPM, "Red Hat:enterprise_linux:"+release, inventory.OS{ID: "rhel", VersionID: release + ".1"}
	case distribution == "sles":
		r.kind, r.ecosystem, r.os = inventory.KindRPM, "SUSE:Linux Enterprise Server "+major, inventory.OS{ID: "sles", VersionID: release}
		if minor != "" {
			r.ecosystem += " SP" + minor
		}
	default:
		return r, false
	}
	return r, true
}

// readFixtures returns the statements in archives of fixtures, each once.
func readFixtures(dir string) ([]recorded, error) {
	archives, err := filepath.Glob(filepath.Join(dir, "*vunnel*.tgz"))
	if err != nil || len(archives) == 0 {
		return nil, errors.Join(err, errors.New("the data folder has no fixtures/*vunnel*.tgz"))
	}
	var out []recorded
	seen := map[recorded]bool{}
	for _, path := range archives {
		err := eachJSON(path, func(b []byte) {
			var v vunnel
			if json.Unmarshal(b, &v) != nil {
				return // a file of another form
			}
			vuln := &v.Item.Vulnerability
			for _, f := range vuln.FixedIn {
				r, ok := namespace(vuln.NamespaceName)
				if !ok || f.Name == "" {
					continue
				}
				if r.id, r.name, r.fixed = vuln.Name, f.Name, f.Version; r.fixed == "None" {
					r.fixed = ""
				}
				if !seen[r] {
					seen[r] = true
					out = append(out, r)
				}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	// A statement is found by a name of its own: one flaw may have several about one package.
	for i := range out {
		out[i].id = fmt.Sprintf("%s/%d", out[i].id, i)
	}
	return out, nil
}

func eachJSON(path string, fn func(b []byte)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !strings.HasSuffix(h.Name, ".json") {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		fn(b)
	}
}

// osv is the statement in OSV's form. Ubuntu's statements about one flaw have its name in common, as
// OSV's have.
func (r *recorded) osv() ([]byte, error) {
	events := []map[string]string{{"introduced": "0"}}
	if r.fixed != "" {
		events = append(events, map[string]string{"fixed": r.fixed})
	}
	cve, _, _ := strings.Cut(r.id, "/")
	return json.Marshal(map[string]any{"id": r.id, "aliases": []string{cve + " " + r.name}, "affected": []any{map[string]any{
		"package": map[string]string{"ecosystem": r.ecosystem, "name": r.name},
		"ranges":  []any{map[string]any{"type": "ECOSYSTEM", "events": events}},
	}}})
}

// below is a version just below a fix: a tilde sorts before the end, but for apk.
func (r *recorded) below() string {
	switch {
	case r.fixed == "", r.kind == inventory.KindApk:
		return "0.0.1-r0"
	}
	return r.fixed + "~"
}

// measureFixtures has each statement matched, below its fix and at it.
func measureFixtures(ctx context.Context, dir string) (map[string]*fixture, error) {
	list, err := readFixtures(dir)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "belay-fixtures")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	for i := range list {
		b, err := list[i].osv()
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(tmp, fmt.Sprintf("%d.json", i)), b, 0o600); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(tmp, "vuln.db")
	if _, err := vulndb.Build(ctx, path, vulndb.BuildOptions{Walk: osvdir.Walk, Dir: tmp, Now: time.Now()}); err != nil {
		return nil, err
	}
	db, err := vulndb.Open(path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	out := map[string]*fixture{}
	for i := range list {
		r := &list[i]
		f := out[r.distribution]
		if f == nil {
			f = &fixture{}
			out[r.distribution] = f
		}
		if err := f.try(ctx, db, r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f *fixture) try(ctx context.Context, db *vulndb.DB, r *recorded) error {
	f.statements++
	affected := func(version string) (bool, error) {
		p := inventory.Package{Kind: r.kind, Name: r.name, Version: version, Source: r.name, SourceVersion: version}
		m, err := db.Match(ctx, &inventory.Result{OS: r.os, Packages: []inventory.Package{p}})
		return slices.ContainsFunc(m.Findings, func(f vulndb.Finding) bool { return slices.Contains(f.IDs, r.id) }), err
	}
	if r.fixed != "0" { // what is fixed in 0 was never affected
		f.below++
		if yes, err := affected(r.below()); err != nil {
			return err
		} else if !yes {
			f.wrong = append(f.wrong, fmt.Sprintf("%s %s %s %s: not found", r.ecosystem, r.name, r.below(), r.id))
		}
	}
	if r.fixed != "" {
		f.at++
		if yes, err := affected(r.fixed); err != nil {
			return err
		} else if yes {
			f.wrong = append(f.wrong, fmt.Sprintf("%s %s %s %s: found at its fix", r.ecosystem, r.name, r.fixed, r.id))
		}
	}
	return nil
}
