package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Findings of a running container are ordered by urgency, none is left out, and each says
// what was seen; without a look the order is that of the match and there is no column.
func TestUsesInText(t *testing.T) {
	since := time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
	res := &inventory.Result{Schema: inventory.Schema, Layers: []inventory.Layer{{}}}
	var uses []inventory.Use
	var m vulndb.Matches
	for i, p := range []struct {
		name      string
		exploited bool
		epss      float64
		use       inventory.Use
	}{
		{"unused", false, 0.9, inventory.Use{State: inventory.NotSeen}},
		{"unknown", false, 0.9, inventory.Use{State: inventory.UseUnknown}},
		{"used", false, 0.1, inventory.Use{State: inventory.InUse, Mapped: since}},
		{"reachable", false, 0.1, inventory.Use{State: inventory.InUse, Executed: since, Listening: []string{"tcp 0.0.0.0:1"}, Reachable: []string{"tcp 0.0.0.0:2->1"}}},
		{"likely", false, 0.2, inventory.Use{State: inventory.InUse, Opened: since}},
		{"exploited", true, 0, inventory.Use{State: inventory.NotSeen}},
	} {
		res.Packages = append(res.Packages, inventory.Package{Kind: "deb", Name: p.name, Version: "1", Path: "s"})
		p.use.Since, p.use.Until, p.use.Looks = since, since, 2
		uses = append(uses, p.use)
		m.Findings = append(m.Findings, vulndb.Finding{Package: i, IDs: []string{"CVE-2026-1"}, Severity: vulndb.SeverityHigh, EPSS: p.epss, Exploited: p.exploited})
	}
	text := func(uses []inventory.Use) string {
		var out bytes.Buffer
		s := report.New("app", since, res, &report.Database{Built: since, Records: 1}, &m)
		attachUses(s, uses)
		tm := &terminal{out: &out, err: &out, now: func() time.Time { return since }}
		tm.writeFindings(s)
		return out.String()
	}
	got := text(uses)
	at := -1
	for _, want := range []string{
		"exploited  1", "reachable  1", "likely ", "used ", "unknown ", "unused ", "in use as seen in 2 looks at its processes since 2026-03-08 12:00:00 UTC",
	} {
		i := strings.Index(got, want)
		if i <= at {
			t.Fatalf("%q is not in its place in\n%s", want, got)
		}
		at = i
	}
	for _, want := range []string{"IN USE", "executed, listening on tcp 0.0.0.0:1, published as tcp 0.0.0.0:2->1", "not seen since 03-08 12:00", "6 findings"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if got := text(nil); strings.Contains(got, "IN USE") || strings.Index(got, "unused") > strings.Index(got, "exploited  1") {
		t.Errorf("without a look:\n%s", got)
	}
}
