package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

func diffIDs(letters string) (out []string) {
	for _, r := range letters {
		out = append(out, "sha256:"+strings.Repeat(string(r), 64))
	}
	return out
}

// layered is a scan of an image with a package, a finding and a secret in each layer.
func layered(letters string) *Scan {
	res := &inventory.Result{Schema: inventory.Schema}
	m := &vulndb.Matches{}
	for i, d := range diffIDs(letters) {
		res.Layers = append(res.Layers, inventory.Layer{DiffID: d, CreatedBy: "RUN " + string(letters[i])})
		res.Packages = append(res.Packages, inventory.Package{Kind: inventory.KindNPM, Name: "p", Version: "1", Path: string(letters[i]), Layer: i})
		res.Misconfigurations = append(res.Misconfigurations, inventory.Misconfiguration{ID: inventory.FileSecret, Path: "x", Layer: i, FromBase: true})
		m.Findings = append(m.Findings, vulndb.Finding{Package: i, IDs: []string{"CVE-1"}, State: vulndb.StateAffected, FromBase: true})
	}
	return New("app", time.Unix(1, 0), res, &Database{Records: 1}, m)
}

func writeTo(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	p := filepath.Join(t.TempDir(), "f.json")
	if err == nil {
		err = os.WriteFile(p, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFindBase: a base is that with the most layers whose digests are the image's lowest, in
// order; what is above it, and what an image says of itself, is not from it.
func TestFindBase(t *testing.T) {
	list := writeTo(t, map[string]any{"schema": BasesSchema, "bases": []any{
		map[string]any{"name": "one", "diffIds": diffIDs("a")}, map[string]any{"name": "other", "diffIds": diffIDs("b")},
		map[string]any{"name": "swapped", "diffIds": diffIDs("bac")}, map[string]any{"name": "longer", "diffIds": diffIDs("abcd")},
	}})
	scanned := layered("ab")
	scanned.Target = "two"
	bases, err := ReadBases(list, writeTo(t, scanned))
	if err != nil {
		t.Fatal(err)
	}
	s := layered("abc")
	for i, f := range s.Findings {
		if f.FromBase || s.Misconfigurations[i].FromBase {
			t.Errorf("the mark of finding %d that came with it was kept", i)
		}
	}
	s.FindBase(bases)
	if s.Base == nil || s.Base.Name != "two" || s.Base.Layers != 2 || !s.Base.Proven() || s.Base.Findings != 2 || s.Base.Own != 1 {
		t.Fatalf("got %+v, want two", s.Base)
	}
	for i, want := range []bool{true, true, false} {
		if s.Findings[i].FromBase != want || s.Misconfigurations[i].FromBase != want || s.Findings[i].ClaimedBase {
			t.Errorf("layer %d: %+v", i, s.Findings[i])
		}
	}
	if got := s.Where(&s.Inventory.Packages[0]); got != "a (layer 1, base)" {
		t.Errorf("where: %q", got)
	}
	var b bytes.Buffer
	if err := s.WriteSARIF(&b, "1"); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"fromBase": true`, `"fromBase": false`, `"layerCreatedBy": "RUN c"`, `"base": "two"`, diffIDs("c")[0]} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("SARIF without %s:\n%s", part, b.String())
		}
	}
	b.Reset()
	if err := s.WriteCycloneDX(&b, "1"); err != nil || !strings.Contains(b.String(), "belay:base") || !strings.Contains(b.String(), "belay:layer:diffId") {
		t.Errorf("CycloneDX: %v\n%s", err, b.String())
	}
	s.FindBase(nil)
	if s.Base != nil || s.Findings[0].FromBase || s.Misconfigurations[0].FromBase {
		t.Errorf("what was marked is not forgotten: %+v %+v", s.Base, s.Findings[0])
	}
	// By its own word.
	s.Inventory.Base = &inventory.ClaimedBase{Name: "claimed", Layers: 3}
	s.FindBase(nil)
	if s.Base.Proven() || s.Findings[0].FromBase || s.Misconfigurations[0].FromBase || !s.Findings[0].ClaimedBase || s.Where(&s.Inventory.Packages[0]) != "a (layer 1)" {
		t.Errorf("a claim: %+v, %+v", s.Base, s.Findings[0])
	}
	if s.FindBase(bases); s.Base.Name != "two" {
		t.Errorf("a claim goes before what is known: %+v", s.Base)
	}
	// A report does not bring its own marks.
	s.Findings[2].FromBase = true
	var again bytes.Buffer
	if err := json.NewEncoder(&again).Encode(s); err != nil {
		t.Fatal(err)
	}
	r, err := Read(&again)
	if err != nil || r.Findings[2].FromBase || r.Findings[0].FromBase {
		t.Errorf("read: %v, %+v", err, r)
	}
}

func TestReadBases(t *testing.T) {
	for name, tt := range map[string]struct {
		v    any
		want string
	}{
		"another schema": {map[string]any{"schema": "x", "bases": []any{}}, "belay.dev/bases/v1"},
		"unknown field":  {map[string]any{"schema": BasesSchema, "more": 1}, "unknown field"},
		"none":           {map[string]any{"schema": BasesSchema, "bases": []any{}}, "no base image"},
		"no layers":      {map[string]any{"schema": BasesSchema, "bases": []any{map[string]any{"name": "a"}}}, "0 layers"},
		"no digest":      {map[string]any{"schema": BasesSchema, "bases": []any{map[string]any{"name": "a", "diffIds": []string{""}}}}, "digest"},
		"a directory's":  {New("root", time.Unix(1, 0), &inventory.Result{Schema: inventory.Schema, Layers: []inventory.Layer{{}}}, nil, nil), "digest"},
	} {
		if _, err := ReadBases(writeTo(t, tt.v)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if _, err := ReadBases("/nowhere"); err == nil {
		t.Error("a file that is not there was read")
	}
}
