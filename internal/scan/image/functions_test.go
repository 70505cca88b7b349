package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestFunctionsOfLayers: what is kept of a layer has room for the functions of the largest module,
// and an image no more of them than it may have, however many programs or names of one it has.
func TestFunctionsOfLayers(t *testing.T) {
	pkg := inventory.Package{Kind: inventory.KindGo, Name: "x.example/m", Version: "v1.0.0", Path: strings.Repeat("p", inventory.MaxText), Functions: strings.Repeat("A", inventory.MaxFunctions)}
	var b bytes.Buffer
	log := &recorder{w: bufio.NewWriter(&b)}
	log.putJSON(recordPackage, &pkg)
	log.w.Flush()
	kind, texts, err := readRecord(bufio.NewReader(&b))
	var got inventory.Package
	if log.err != nil || err != nil || kind != recordPackage || json.Unmarshal([]byte(texts[0]), &got) != nil || got != pkg {
		t.Fatalf("%v, %v: the package is lost", log.err, err)
	}

	r, err := newReader(context.Background(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.res = &inventory.Result{}
	seen := map[string]read{}
	kept := 0
	for i := range 3 * inventory.MaxAllFunctions / inventory.MaxFunctions {
		list := []inventory.Package{pkg}
		list[0].Path = strings.Repeat("p", i+1)
		r.limitFunctions(list)
		kept += len(list[0].Functions)
		seen[list[0].Path] = read{"program", inventory.File{Packages: []inventory.Package{pkg}}} // as by hard links
		seen[list[0].Path].Packages[0].Path = list[0].Path
	}
	if kept > inventory.MaxAllFunctions {
		t.Errorf("%d bytes are held while layers are read", kept)
	}
	if _, err := r.fill(seen); err != nil {
		t.Fatal(err)
	}
	r.res.Schema, r.res.Layers = inventory.Schema, make([]inventory.Layer, 1)
	if err := r.res.Check(); err != nil || r.res.Packages[0].Functions == "" {
		t.Errorf("the result: %v", err)
	}
}
