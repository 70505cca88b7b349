package archtest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// root is the module's root, seen from this package's folder.
const root = "../.."

// source is one file of the module.
type source struct {
	path  string // below the root, with slashes
	bytes []byte
}

func (s source) generated() bool {
	head, _, _ := bytes.Cut(s.bytes, []byte("\npackage "))
	return bytes.Contains(head, []byte("Code generated ")) && bytes.Contains(head, []byte(" DO NOT EDIT."))
}

// sources reads every Go and C file of the module that the go tool would look at.
func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.Contains([]string{".go", ".c", ".h"}, filepath.Ext(name)) {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		out = append(out, source{path: filepath.ToSlash(rel), bytes: b})
		return nil
	})
	if err != nil {
		t.Fatalf("read the module's sources: %v", err)
	}
	if len(out) < 10 {
		t.Fatalf("found %d source files below %s, which cannot be the module", len(out), root)
	}
	return out
}

func parse(t *testing.T, s source, mode parser.Mode) (*token.FileSet, *ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, s.path, s.bytes, mode)
	if err != nil {
		t.Fatalf("parse %s: %v", s.path, err)
	}
	return fset, f
}

// TestImports holds every file to the rows and bans of rows.go.
func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if filepath.Ext(s.path) != ".go" {
			continue
		}
		fset, f := parse(t, s, parser.ImportsOnly)
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: import %s: %v", s.path, spec.Path.Value, err)
			}
			i := Import{File: s.path, Line: fset.Position(spec.Pos()).Line, Path: p}
			for _, msg := range Check(i) {
				t.Errorf("%s:%d: %s", i.File, i.Line, msg)
			}
		}
	}
}

// TestPackages holds every package to the table, to a name that says something, and
// to a package comment.
func TestPackages(t *testing.T) {
	type pkg struct{ documented, tests bool }
	seen := map[string]pkg{}
	for _, s := range sources(t) {
		if filepath.Ext(s.path) != ".go" {
			continue
		}
		_, f := parse(t, s, parser.PackageClauseOnly|parser.ParseComments)
		dir := filepath.ToSlash(filepath.Dir(s.path))
		was, ok := seen[dir]
		if !ok {
			was.tests = true
			for _, msg := range CheckPackage(dir, f.Name.Name) {
				t.Error(msg)
			}
		}
		if !strings.HasSuffix(s.path, "_test.go") {
			was.tests = false
			was.documented = was.documented || (f.Doc != nil && !s.generated())
		}
		seen[dir] = was
	}
	for dir, p := range seen {
		if !p.documented && !p.tests {
			t.Errorf("%s has no package comment: say what it is for, what it owns, what it never does, its row", dir)
		}
	}
	for _, p := range Packages {
		if _, ok := seen[p.Path]; !ok && !strings.HasSuffix(p.Path, "/...") {
			t.Logf("note: %s is in the table and has no Go file", p.Path)
		}
	}
}

// TestFileLength reports files past the soft limit and fails at twice as much.
func TestFileLength(t *testing.T) {
	for _, s := range sources(t) {
		n := bytes.Count(s.bytes, []byte("\n"))
		switch {
		case n <= MaxFileLines || s.generated():
		case n <= 2*MaxFileLines:
			t.Logf("note: %s has %d lines, more than %d", s.path, n, MaxFileLines)
		default:
			t.Errorf("%s has %d lines, more than twice the limit of %d: split it", s.path, n, MaxFileLines)
		}
	}
}

func TestCheck(t *testing.T) {
	const (
		agent = "internal/agent/agent.go"
		pol   = "internal/policy/parse.go"
	)
	tests := []struct {
		name, file, path string
		want             string // part of the only message; empty: nothing is wrong
	}{
		{"down", agent, Module + "/internal/enforce", ""},
		{"down two rows", "internal/enforce/load.go", Module + "/internal/policy", ""},
		{"up", pol, Module + "/internal/enforce", "only rows below"},
		{"up from a test", "internal/policy/parse_test.go", Module + "/internal/enforce", "only rows below"},
		{"sideways", "internal/enforce/load.go", Module + "/internal/workload", "only rows below"},
		{"sideways in the bottom row", "internal/ident/ident.go", Module + "/internal/verdict", "only rows below"},
		{"command into core", "cmd/ctl/main.go", Module + "/internal/policy", ""},
		{"core into command", pol, Module + "/cmd/ctl", "only rows below"},
		{"unlisted", agent, Module + "/internal/gadget", "does not list"},
		{"own package from outside", "internal/ident/x_test.go", Module + "/internal/ident", ""},
		{"test support from a test", "internal/policy/x_test.go", Module + "/internal/policy/policytest", ""},
		{"test support from code", pol, Module + "/internal/testneed", "for tests"},
		{"test support into what it serves", "internal/policy/policytest/cases.go", Module + "/internal/policy", ""},
		{"test support upward", "internal/policy/policytest/cases.go", Module + "/internal/enforce", "only rows below"},
		{"vocabulary and a module", "internal/ident/ident.go", "golang.org/x/sys/unix", "standard library only"},
		{"vocabulary test and a module", "internal/ident/ident_test.go", "github.com/google/go-cmp/cmp", ""},
		{"exec in code", agent, "os/exec", "os/exec"},
		{"exec in a test", "internal/agent/agent_test.go", "os/exec", ""},
		{"exec in a tool", "tools/vmtest/main.go", "os/exec", ""},
		{"ebpf at home", "internal/enforce/load.go", "github.com/cilium/ebpf/link", ""},
		{"ebpf elsewhere", agent, "github.com/cilium/ebpf", "cilium/ebpf"},
		{"ebpf in a test elsewhere", "internal/agent/agent_test.go", "github.com/cilium/ebpf", "cilium/ebpf"},
		{"a name that only starts alike", agent, "github.com/cilium/ebpfx", ""},
		{"cgo at home", "bpf/pure/pure.go", "C", ""},
		{"cgo elsewhere", pol, "C", "static"},
		{"log", agent, "log", "global logger"},
		{"slog", agent, "log/slog", ""},
		{"the old random", "internal/journal/x_test.go", "math/rand", "crypto/rand"},
		{"the new random", "internal/workload/x.go", "math/rand/v2", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Check(Import{File: tt.file, Path: tt.path})
			switch {
			case tt.want == "" && len(got) == 0:
			case tt.want != "" && len(got) == 1 && strings.Contains(got[0], tt.want):
			default:
				t.Errorf("Check(%s imports %s) = %q, want one message with %q", tt.file, tt.path, got, tt.want)
			}
		})
	}
}

func TestCheckPackage(t *testing.T) {
	tests := []struct {
		name, dir, pkg string
		want           int
	}{
		{"listed", "internal/policy", "policy", 0},
		{"below a pattern", "tools/attack", "main", 0},
		{"pattern's own folder", "test", "test", 0},
		{"external test", "internal/ident", "ident_test", 0},
		{"unlisted", "internal/gadget", "gadget", 1},
		{"only starts like a pattern", "toolshed", "main", 1},
		{"says nothing", "tools/util", "main", 1},
		{"unlisted and says nothing", "internal/common", "common", 2},
		{"folder and name differ", "internal/ident", "types", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := CheckPackage(tt.dir, tt.pkg); len(got) != tt.want {
				t.Errorf("CheckPackage(%q, %q) = %q, want %d messages", tt.dir, tt.pkg, got, tt.want)
			}
		})
	}
}

// TestTable: the table itself must make sense, and every ban must say why.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range Packages {
		if seen[p.Path] {
			t.Errorf("%s is listed twice", p.Path)
		}
		seen[p.Path] = true
		if p.Row.String() == "unknown" {
			t.Errorf("%s has row %d, which is none", p.Path, p.Row)
		}
	}
	for _, b := range Bans {
		if b.Why == "" {
			t.Errorf("the ban of %s gives no reason", b.Import)
		}
	}
}
