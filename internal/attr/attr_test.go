package attr

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"testing"
)

// keys returns every constant of the package by its name. They are read from the
// source: a list kept by hand would miss the next one.
func keys(t *testing.T) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "attr.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			t.Fatalf("got a declaration that is no const at offset %d; the package holds keys only", d.Pos())
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			for i, n := range v.Names {
				lit, ok := v.Values[i].(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					t.Fatalf("%s: want a string literal", n.Name)
				}
				key, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				out[n.Name] = key
			}
		}
	}
	return out
}

func TestKeys(t *testing.T) {
	snake := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	// Keys that slog itself writes: a second one makes the record ambiguous.
	seen := map[string]string{"time": "slog", "level": "slog", "msg": "slog", "source": "slog"}
	ks := keys(t)
	if len(ks) == 0 {
		t.Fatal("got no keys")
	}
	for name, key := range ks {
		if !snake.MatchString(key) {
			t.Errorf("%s: got %q, want snake_case", name, key)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("%s: got %q, which is the key of %s too", name, key, other)
		}
		seen[key] = name
	}
}
