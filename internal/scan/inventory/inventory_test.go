package inventory

import (
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"
)

func good() Result {
	return Result{
		Schema: Schema, Layers: []Layer{{DiffID: "sha256:a", Entries: 3}},
		Packages: []Package{{Kind: KindDeb, Name: "a", Version: "1", Path: "var/lib/dpkg/status"}},
	}
}

func TestReadResult(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Result)
		want   string
	}{
		{"good", func(*Result) {}, ""},
		{"schema", func(r *Result) { r.Schema = "x" }, "different versions"},
		{"layer index", func(r *Result) { r.Packages[0].Layer = 1 }, "layer 1 of 1"},
		{"negative layer", func(r *Result) { r.Packages[0].Layer = -1 }, "layer -1"},
		{"base of more layers", func(r *Result) { r.Base = &ClaimedBase{Layers: 2} }, "a base of 2 of 1"},
		{"long base", func(r *Result) { r.Base = &ClaimedBase{Name: strings.Repeat("1", MaxText+1)} }, "a text of"},
		{"no name", func(r *Result) { r.Packages[0].Name = "" }, "no kind, name or version"},
		{"long version", func(r *Result) { r.Packages[0].Version = strings.Repeat("1", MaxVersion+1) }, "a version of more"},
		{"long text", func(r *Result) { r.OS.Pretty = strings.Repeat("1", MaxText+1) }, "a text of"},
		{"many notes", func(r *Result) { r.Notes = make([]Note, MaxNotes+1) }, "too many"},
		{"many pieces of a sandbox", func(r *Result) { r.Sandbox.Lost = make([]string, maxPieces+1) }, "too many"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := good()
			tt.change(&r)
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ReadResult(strings.NewReader(string(b)))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ReadResult: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestReadResultBounds(t *testing.T) {
	if _, err := ReadResult(strings.NewReader(strings.Repeat(" ", MaxResultBytes+1))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a result past the bound: %v, want ErrTooLarge", err)
	}
	for _, s := range []string{"", "{", `{"schema":"` + Schema + `","who":1}`, `{"schema":"` + Schema + `"} {}`} {
		if _, err := ReadResult(strings.NewReader(s)); err == nil {
			t.Errorf("ReadResult(%q) gave no error", s)
		}
	}
}

// TestReadResultSmallBytes: few bytes do not become much memory before they are counted.
func TestReadResultSmallBytes(t *testing.T) {
	many := func(what string, n int) string { return strings.Repeat(what+",", n-1) + what }
	for name, s := range map[string]string{
		"packages":           `{"packages":[` + many("{}", 2_000_000) + `]}`,
		"null packages":      `{"packages":[` + many("null", 1_000_000) + `]}`,
		"texts":              `{"tags":[` + many(`""`, 2_000_000) + `]}`,
		"one list in others": `{"packages":[` + many("[{}]", 1_000_000) + `]}`,
		"levels":             strings.Repeat("[", 1_000_000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ReadResult(strings.NewReader(s))
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), "too many") {
			t.Errorf("%s: %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 100<<20 {
			t.Errorf("%s: %d MiB for %d bytes", name, got>>20, len(s))
		}
	}
	// A result at its bounds is read.
	r := good()
	for len(r.Packages) < MaxPackages {
		r.Packages = append(r.Packages, r.Packages[0])
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadResult(strings.NewReader(string(b))); err != nil {
		t.Errorf("%d packages: %v", len(r.Packages), err)
	}
}

func FuzzReadResult(f *testing.F) {
	b, err := json.Marshal(good())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add(`{"packages":[{"layer":-1}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ReadResult(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, p := range r.Packages {
			_ = r.Layers[p.Layer]
		}
	})
}
