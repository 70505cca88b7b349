package vulndb

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestMatchBounds: an image that names one package ever again, for which there are many
// records, ends a scan with an error, and not the memory of its host.
func TestMatchBounds(t *testing.T) {
	var records []string
	for i := range 100 {
		records = append(records, rec(fmt.Sprintf("D-%d", i), "Debian:12", "linux", upTo2))
	}
	db := build(t, records...)
	linux := inventory.Package{Kind: inventory.KindDeb, Name: "linux", Version: "1.0"}
	res := &inventory.Result{OS: debian12}
	for range MaxFindings / len(records) {
		res.Packages = append(res.Packages, linux)
	}
	if m, err := db.Match(t.Context(), res); err != nil || len(m.Findings) != MaxFindings {
		t.Errorf("at the bound: %d findings, %v", len(m.Findings), err)
	}
	res.Packages = append(res.Packages, linux)
	if m, err := db.Match(t.Context(), res); !errors.Is(err, ErrTooManyFindings) || len(m.Findings) != 0 {
		t.Errorf("past the bound: %d findings, %v", len(m.Findings), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.Match(ctx, res); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
