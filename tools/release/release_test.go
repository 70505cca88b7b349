package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/belay-project/belay/tools/bom"
)

func TestSection(t *testing.T) {
	const log = "# Changelog\n\n## [Unreleased]\n\n### Added\n- new\n\n## [1.2.0] - 2026-01-01\n- old\n\n## [1.1.0]\n- older\n"
	for _, tt := range []struct{ version, want string }{
		{"", "## [Unreleased]\n\n### Added\n- new\n"},
		{"0.0.0~git20260101.abc", "## [Unreleased]\n\n### Added\n- new\n"},
		{"1.2.0", "## [1.2.0] - 2026-01-01\n- old\n"},
		{"v1.1.0", "## [1.1.0]\n- older\n"},
	} {
		got, err := section(log, tt.version)
		if err != nil || got != tt.want {
			t.Errorf("%q: got %q (%v), want %q", tt.version, got, err, tt.want)
		}
	}
	if _, err := section(log, "2.0.0"); err == nil || !strings.Contains(err.Error(), "[2.0.0]") {
		t.Errorf("a release without notes: %v", err)
	}
}

func TestSums(t *testing.T) {
	dir := t.TempDir()
	for n, text := range map[string]string{"b": "abc", "a": "", "SHA256SUMS": "old"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := sums(dir); err != nil {
		t.Fatal(err)
	}
	// FIPS 180-4's example for "abc", and the digest of nothing.
	const want = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\nba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b\n"
	if got, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS")); err != nil || string(got) != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

const mit = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`

func TestLicence(t *testing.T) {
	m := bom.Module{Path: "example.com/m", Version: "v1.0.0"}
	gpl, err := os.ReadFile("../../bpf/LICENSE.GPL-2.0")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string // part of the error; else the id is MIT
	}{
		{"mit", map[string]string{"LICENSE": "Copyright 2026 Somebody\n\n" + mit, "main.go": "x"}, ""},
		{"a notice beside it", map[string]string{"LICENSE.md": mit, "NOTICE": "Made by Somebody."}, ""},
		{"none", map[string]string{"README": "x"}, "no licence is recognised"},
		{"a text of their own", map[string]string{"LICENSE": "You may look at it."}, "no licence is recognised"},
		{"not allowed", map[string]string{"COPYING": string(gpl)}, "GPL-2.0 is not one"},
		{"one of two", map[string]string{"LICENSE": mit, "COPYING": string(gpl)}, "GPL-2.0 is not one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for n, text := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, n), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			l, err := licenceOf(m, dir)
			switch {
			case tt.want == "" && (err != nil || l.id != "MIT"):
				t.Errorf("got %q, %v", l.id, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %q, %v, want an error with %q", l.id, err, tt.want)
			}
		})
	}
}

func TestBOM(t *testing.T) {
	p := bom.Program{Name: "belay", Info: &debug.BuildInfo{GoVersion: "go1.26.6", Deps: []*debug.Module{
		{Path: "example.com/b", Version: "v1.0.0", Sum: "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
		{Path: "example.com/a", Version: "v0.0.1", Replace: &debug.Module{Path: "example.com/fork", Version: "v9.0.0"}},
	}}}
	raw, err := bom.Write(bom.Options{Name: "belay", Version: "1", Licences: map[string]string{"example.com/b": "MIT"}}, []bom.Program{p, p})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"pkg:golang/example.com/b@v1.0.0", "pkg:golang/example.com/fork@v9.0.0", "pkg:golang/stdlib@1.26.6", `"expression": "MIT"`,
		strings.Repeat("0", 64),
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("the bill has no %s:\n%s", want, raw)
		}
	}
	if strings.Contains(string(raw), "example.com/a") {
		t.Error("a module that was replaced is in the bill")
	}
}

func TestGoVulnDB(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for n, text := range map[string]string{
		"GO-2026-0001.json": `{"id":"GO-2026-0001","modified":"2026-02-01T00:00:00Z","published":"2026-02-02T00:00:00Z","aliases":["CVE-2026-1"],"affected":[
			{"package":{"name":"example.com/m","ecosystem":"Go"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.2.0"}]}]}]}`,
		"GO-2026-0002.json": `{"id":"GO-2026-0002","modified":"2026-03-01T00:00:00Z","withdrawn":"2026-03-02T00:00:00Z","affected":[{"package":{"name":"example.com/m"}}]}`,
		"x.json":            `{"id":"../../GO-2026-0003","modified":"2026-03-01T00:00:00Z"}`,
	} {
		if err := os.WriteFile(filepath.Join(from, n), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := govulndb(from, to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(to, "index", "modules.json"))
	const want = `[{"path":"example.com/m","vulns":[{"id":"GO-2026-0001","modified":"2026-02-01T00:00:00Z","fixed":"1.2.0"}]}]`
	if err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	got, err = os.ReadFile(filepath.Join(to, "index", "db.json"))
	if err != nil || string(got) != `{"modified":"2026-02-02T00:00:00Z"}` {
		t.Errorf("the database is of %s (%v)", got, err)
	}
	if entries, err := os.ReadDir(filepath.Join(to, "ID")); err != nil || len(entries) != 1 {
		t.Errorf("records: %v (%v)", entries, err)
	}
	if err := govulndb(t.TempDir(), t.TempDir()); err == nil {
		t.Error("a database of nothing is no error: a check by it would pass")
	}
}

// TestOwnLicences reads those of what this test is linked with, as the release does.
func TestOwnLicences(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs, err := read([]string{self})
	if err != nil {
		t.Fatal(err)
	}
	found, err := licences(bom.WithStd(programs))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, l := range found {
		ids[l.module.Path] = l.id
	}
	if ids[bom.Std] != "BSD-3-Clause" || ids["github.com/google/licensecheck"] != "BSD-3-Clause" || ids["github.com/CycloneDX/cyclonedx-go"] != "Apache-2.0" {
		t.Errorf("got %v", ids)
	}
	var b strings.Builder
	if err := writeNotices(&b, found); err != nil || !strings.Contains(b.String(), "The Go Authors") {
		t.Errorf("the texts are not there (%v)", err)
	}
}
