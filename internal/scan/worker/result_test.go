package worker

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// An inventory that is too large for its functions is one without them; one that is too large
// without them is none, and says so.
func TestLargeResult(t *testing.T) {
	const half = inventory.MaxResultBytes/2 + 1
	for name, tt := range map[string]struct {
		name, functions string
		packages        int
		functionsStay   bool
	}{
		"small":               {"a", "x", 2, true},
		"too many functions":  {"a", strings.Repeat("x", half), 2, false},
		"too many other data": {strings.Repeat("a", half), "x", 0, false},
	} {
		res := &inventory.Result{Schema: inventory.Schema}
		for range 2 {
			res.Packages = append(res.Packages, inventory.Package{Kind: "go", Name: tt.name, Functions: tt.functions})
		}
		b, err := marshal(res)
		if err != nil || len(b) > inventory.MaxResultBytes {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		var got inventory.Result
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if (got.Error == "") != (tt.packages > 0) || tt.packages > 0 && (len(got.Packages) != 2 || (got.Packages[0].Functions != "") != tt.functionsStay) {
			t.Errorf("%s: %d packages, %q", name, len(got.Packages), got.Error)
		}
	}
}
