// Package depstest compares what a binary links with a committed list, so that a new
// dependency is a visible change, and with a list of what it must never link.
//
// It owns the -update flag of the tests that use it, runs the go command, and is
// linked into no binary. Row: test support; it imports the standard library only.
package depstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// File is the committed list, in the folder of the command.
const File = "deps.txt"

const header = "# Packages from outside the standard library and this module that this binary links.\n" +
	"# Written by: go test . -run TestDeps -update. A new line needs a reason in the commit.\n"

var update = flag.Bool("update", false, "rewrite "+File+" (refused where CI is set)")

// Ban is something that a binary must not link, and why.
type Ban struct {
	Package string // import path; it also bans everything below it
	Except  string // import path below it that may be linked; "": none
	Why     string
}

// linked is what "go list -deps -json" says of one package.
type linked struct {
	ImportPath string
	Dir        string
	Standard   bool
	Imports    []string
	Module     *struct {
		Main  bool
		GoMod string
	}
}

func (p linked) ours() bool { return p.Module != nil && p.Module.Main }

// Check fails t if the command in the working folder links a package that bans
// names, or if its dependencies differ from [File]. With -update it writes the file
// instead of comparing; CI refuses that.
//
// The list is that of a release: linux, amd64, no cgo, no tests, the build tags of tools/release/lib.sh.
func Check(t *testing.T, bans []Ban) {
	t.Helper()
	pkgs, err := list()
	if err != nil {
		t.Fatalf("list dependencies: %v", err)
	}
	watch(t, pkgs)
	for _, msg := range broken(pkgs, bans) {
		t.Error(msg)
	}
	got := header + strings.Join(foreign(pkgs), "\n") + "\n"
	if *update {
		if os.Getenv("CI") != "" {
			t.Fatalf("-update is refused in CI: %s is reviewed like code", File)
		}
		if err := os.WriteFile(File, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(File)
	if err != nil {
		t.Fatalf("%v; write it with: go test . -run %s -update", err, t.Name())
	}
	if msg := compare(string(want), got); msg != "" {
		t.Errorf("dependencies differ from %s:\n%s\nif this is meant: go test . -run %s -update, and say why in the commit", File, msg, t.Name())
	}
}

func list() ([]linked, error) {
	cmd := exec.Command("go", "list", "-tags", "grpcnotrace", "-deps", "-json=ImportPath,Dir,Standard,Imports,Module", ".")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return decode(bytes.NewReader(out))
}

func decode(r io.Reader) ([]linked, error) {
	var pkgs []linked
	d := json.NewDecoder(r)
	for {
		var p linked
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode the output of go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// watch opens what the answer of the go command depends on. go test keeps a passing
// result until a file that the test itself has opened changes; without this a new
// import anywhere below would be answered from the cache.
func watch(t *testing.T, pkgs []linked) {
	t.Helper()
	for _, p := range pkgs {
		if !p.ours() {
			continue
		}
		if _, err := os.Stat(p.Module.GoMod); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range append(files, p.Dir) {
			if _, err := os.Stat(f); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// foreign returns the import paths from outside the standard library and this
// module, sorted.
func foreign(pkgs []linked) []string {
	var out []string
	for _, p := range pkgs {
		if !p.Standard && !p.ours() {
			out = append(out, p.ImportPath)
		}
	}
	slices.Sort(out)
	return out
}

// broken names every banned package that is linked, why it is banned, and who
// imports it.
func broken(pkgs []linked, bans []Ban) []string {
	var out []string
	for _, p := range pkgs {
		for _, b := range bans {
			if p.ImportPath != b.Package && !strings.HasPrefix(p.ImportPath, b.Package+"/") || p.ImportPath == b.Except {
				continue
			}
			by := importers(pkgs, p.ImportPath)
			out = append(out, fmt.Sprintf("links %s (through %s), which it must not: %s", p.ImportPath, strings.Join(by, ", "), b.Why))
		}
	}
	return out
}

// importers returns up to three packages that import path.
func importers(pkgs []linked, path string) []string {
	var out []string
	for _, p := range pkgs {
		if slices.Contains(p.Imports, path) {
			out = append(out, p.ImportPath)
		}
		if len(out) == 3 {
			break
		}
	}
	return out
}

// compare returns the lines that differ, + for what got has more; empty if none do.
func compare(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out []string
	for _, l := range g {
		if !slices.Contains(w, l) {
			out = append(out, "+ "+l)
		}
	}
	for _, l := range w {
		if !slices.Contains(g, l) {
			out = append(out, "- "+l)
		}
	}
	if len(out) == 0 && want != got {
		out = append(out, "the order of the lines")
	}
	return strings.Join(out, "\n")
}
