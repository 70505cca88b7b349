package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// TestScanClean: no form of a report brings an image's controls to a terminal.
func TestScanClean(t *testing.T) {
	evil := "a\u009b31m\u202eb\x1b[2J"
	res := &inventory.Result{
		Layers:   []inventory.Layer{{}},
		Packages: []inventory.Package{{Kind: inventory.KindNPM, Name: evil, Version: evil, Path: evil}},
	}
	m := &vulndb.Matches{Findings: []vulndb.Finding{{IDs: []string{"CVE-1"}, Summary: evil, State: vulndb.StateAffected}}}
	s := report.New(evil, time.Unix(1, 0), res, &report.Database{}, m)
	for _, f := range scanFormats {
		var out bytes.Buffer
		if err := (&terminal{out: &out}).writeScan(s, &scanFlags{output: scanFormat(f)}, &scanRules{}); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		isJSON := f != "text" && f != "junit"
		if strings.ContainsAny(out.String(), "\u009b\u202e\x1b") || isJSON && (!json.Valid(out.Bytes()) || !strings.Contains(out.String(), "u009b") && !strings.Contains(out.String(), "%C2%9B")) {
			t.Errorf("%s: %q", f, out.String())
		}
	}
}
