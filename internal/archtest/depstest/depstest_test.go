package depstest

import (
	"slices"
	"strings"
	"testing"
)

const listing = `
{"ImportPath": "archive/tar", "Standard": true}
{"ImportPath": "example.org/lib/inner", "Imports": ["archive/tar"], "Module": {}}
{"ImportPath": "example.org/lib", "Imports": ["example.org/lib/inner"], "Module": {}}
{"ImportPath": "example.com/me/cmd", "Imports": ["example.org/lib"], "Module": {"Main": true}}
`

func TestRules(t *testing.T) {
	pkgs, err := decode(strings.NewReader(listing))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := foreign(pkgs), []string{"example.org/lib", "example.org/lib/inner"}; !slices.Equal(got, want) {
		t.Errorf("foreign = %q, want %q", got, want)
	}
	tests := []struct {
		name, ban, except string
		want              []string // parts of the messages, one each
	}{
		{"not linked", "archive/zip", "", nil},
		{"standard library, deep below", "archive/tar", "", []string{"through example.org/lib/inner"}},
		{"with all below it", "example.org/lib", "", []string{"links example.org/lib/inner", "links example.org/lib "}},
		{"but for one below it", "example.org/lib", "example.org/lib/inner", []string{"links example.org/lib "}},
		{"starts alike", "example.org/li", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := broken(pkgs, []Ban{{Package: tt.ban, Except: tt.except, Why: "a reason"}})
			if len(got) != len(tt.want) {
				t.Fatalf("broken = %q, want %d messages", got, len(tt.want))
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) || !strings.Contains(got[i], "a reason") {
					t.Errorf("message %q, want %q and the reason in it", got[i], tt.want[i])
				}
			}
		})
	}
}

func TestDecodeRefusesGarbage(t *testing.T) {
	if _, err := decode(strings.NewReader(listing + "{")); err == nil {
		t.Error("decode of a cut listing: got no error, want one")
	}
}

func TestCompare(t *testing.T) {
	tests := []struct{ name, committed, linked, diff string }{
		{"same", "a\nb\n", "a\nb\n", ""},
		{"more", "a\n", "a\nb\n", "+ b"},
		{"less", "a\nb\n", "a\n", "- b"},
		{"both", "a\nb\n", "a\nc\n", "+ c\n- b"},
		{"order", "b\na\n", "a\nb\n", "the order of the lines"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := compare(tt.committed, tt.linked); got != tt.diff {
				t.Errorf("compare = %q, want %q", got, tt.diff)
			}
		})
	}
}
