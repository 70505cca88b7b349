package vulndb

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestReleaseTraps: releases, streams and rebuilds of distributions, with what is noted where
// nothing can be told.
// TestOptional: a part that a record need not have loses the record nothing but itself.
func TestOptional(t *testing.T) {
	for _, part := range []string{
		`"modified":{}`, `"summary":5`, `"details":[]`, `"severity":"oops"`, `"severity":[5]`, `"severity":[{"type":"CVSS_V3","score":9.8}]`, `"database_specific":"x"`, `"database_specific":["x"]`,
	} {
		db := build(t, `{"id":"P-1",`+part+`,"affected":[{"package":{"ecosystem":"PyPI","name":"a"},`+upTo2+`}]}`)
		m, err := db.Match(t.Context(), &inventory.Result{Packages: []inventory.Package{{Kind: inventory.KindPython, Name: "a", Version: "1"}}})
		if err != nil || len(m.Findings) != 1 || m.Findings[0].Severity != SeverityUnknown || m.Findings[0].Summary != "" {
			t.Errorf("%s: got %+v, %v", part, m.Findings, err)
		}
	}
	for _, part := range []string{`"severity":5`, `"ecosystem_specific":"x"`, `"ecosystem_specific":{"imports":5,"urgency":[]}`} {
		db := build(t, rec("G-1", "Go", "m", upTo2+","+part))
		m, err := db.Match(t.Context(), &inventory.Result{Packages: []inventory.Package{{Kind: inventory.KindGo, Name: "m", Version: "1.0.0"}}})
		if err != nil || len(m.Findings) != 1 {
			t.Errorf("%s: got %+v, %v", part, m.Findings, err)
		}
	}
	// One of a list is as good as it was.
	db := build(t, `{"id":"P-1","severity":[{"type":5,"score":7},{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],"affected":[{"package":{"ecosystem":"PyPI","name":"a"},`+upTo2+`}]}`)
	if v, err := db.record(0); err != nil || v.Severity != SeverityCritical {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestReleaseTraps(t *testing.T) {
	apk := func(version string) inventory.Package {
		return inventory.Package{Kind: inventory.KindApk, Name: "a", Version: version, Source: "a", SourceVersion: version}
	}
	deb := func(version string) inventory.Package {
		return inventory.Package{Kind: inventory.KindDeb, Name: "a", Version: version, Source: "a", SourceVersion: version}
	}
	rpm := func(version string) inventory.Package {
		return inventory.Package{Kind: inventory.KindRPM, Name: "a", Version: version, Source: "a", SourceVersion: version}
	}
	until := func(v string) string {
		return `"ranges":[` + rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"`+v+`"}`) + `]`
	}
	const ever = `"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]`
	// two is one record about two releases, as Ubuntu's are.
	two := func(eco1, affected1, eco2, affected2 string) string {
		return `{"id":"U-1","affected":[{"package":{"ecosystem":"` + eco1 + `","name":"a"},` + affected1 + `},{"package":{"ecosystem":"` + eco2 + `","name":"a"},` + affected2 + `}]}`
	}
	alpine := func(version string) inventory.OS { return inventory.OS{ID: "alpine", VersionID: version} }
	ubuntu := func(version string) inventory.OS { return inventory.OS{ID: "ubuntu", VersionID: version} }
	rhel, rocky := inventory.OS{ID: "rhel", VersionID: "9.2"}, inventory.OS{ID: "rocky", VersionID: "8.9"}
	tests := []struct {
		name   string
		record string
		os     inventory.OS
		pkg    inventory.Package
		want   string // as in TestTraps
		note   string
	}{
		{"Alpine: fixed in 0 was never affected", rec("A-1", "Alpine:v3.18", "a", until("0")), alpine("3.18.4"), apk("1.0-r0"), "", ""},
		{"Alpine: edge is no release", rec("A-1", "Alpine:v3.21", "a", until("2.0-r0")), alpine("3.21_alpha20240807"), apk("1.0-r0"), "", "advisories for apk packages of Alpine:edge"},
		{"Alpine: records of edge", rec("A-1", "Alpine:edge", "a", until("2.0-r0")), alpine("3.21_alpha20240807"), apk("1.0-r0"), "A-1 fixed 2.0-r0", ""},
		{"Debian: testing and sid have no number", rec("D-1", "Debian:13", "a", upTo2), inventory.OS{ID: "debian"}, deb("1.0"), "", "no advisories for deb packages of debian"},
		{"Debian: a rebuild of the source's version", rec("D-1", "Debian:12", "a", upTo2), debian12, deb("2.0+b1"), "", ""},
		{"Debian: a rebuild before the fix", rec("D-1", "Debian:12", "a", upTo2), debian12, deb("1.9+b1"), "D-1 fixed 2.0", ""},
		{"Raspberry Pi: a rebuild with the same epoch", rec("D-1", "Debian:12", "a", until("8:2.0-1")), debian12, deb("8:1.0-1+rpt1"), "D-1 fixed 8:2.0-1", ""},
		{"Raspberry Pi: a rebuild with another epoch", rec("D-1", "Debian:12", "a", until("7:2.0-1")), debian12, deb("8:1.0-1+rpt1"), "", "cannot be compared"},
		{"Ubuntu: out of standard support, fixed by ESM", two("Ubuntu:14.04:LTS", ever, "Ubuntu:Pro:14.04:LTS", until("1.0+esm1")), ubuntu("14.04"), deb("1.0"), "U-1 needs-subscription 1.0+esm1", ""},
		{"Ubuntu: out of standard support, with ESM's fix", two("Ubuntu:14.04:LTS", ever, "Ubuntu:Pro:14.04:LTS", until("1.0+esm1")), ubuntu("14.04"), deb("1.0+esm1"), "", ""},
		{"Ubuntu: with an older fix of ESM", two("Ubuntu:14.04:LTS", ever, "Ubuntu:Pro:14.04:LTS", until("1.0+esm2")), ubuntu("14.04"), deb("1.0+esm1"), "U-1 needs-subscription 1.0+esm2", ""},
		{"Ubuntu: ESM's word about another flaw", `{"id":"U-2","affected":[{"package":{"ecosystem":"Ubuntu:18.04:LTS","name":"a"},` + ever + `}]}`, ubuntu("18.04"), deb("1.0+esm1"), "U-2 affected", ""},
		{"Ubuntu: FIPS has channels of its own", rec("U-1", "Ubuntu:Pro:FIPS:18.04:LTS", "a", until("1.0.fips.1")), ubuntu("18.04"), deb("1.0"), "", "no advisories for deb packages"},
		{"Ubuntu: an interim release", rec("U-1", "Ubuntu:23.10", "a", until("2.0")), ubuntu("23.10"), deb("1.0"), "U-1 fixed 2.0", ""},
		// An extended-support stream is judged by the main release: too much rather than too little.
		{"Red Hat: EUS is judged by the main release", rec("R-1", "Red Hat:enterprise_linux:9::baseos", "a", until("1-25.el9_3")), rhel, rpm("1-24.el9_2.1"), "R-1 fixed 1-25.el9_3", ""},
		{"Red Hat: records of EUS alone", rec("R-1", "Red Hat:rhel_eus:9.2::baseos", "a", until("1-24.el9_2.1")), rhel, rpm("1-24.el9_2"), "", "no advisories for rpm packages"},
		{"Red Hat: AUS, fixed above the main release's", rec("R-1", "Red Hat:enterprise_linux:9::baseos", "a", until("1-25.el9_3")), rhel, rpm("1-26.el9_2.1"), "", ""},
		// Streams of one module are not named by records: a later one's fix counts for an earlier one too.
		{"modules: a fix of a later stream", rec("R-1", "Rocky Linux:8", "a", until("1:18.1.0-1.module+el8.8.0")), rocky, rpm("1:16.20.0-1.module+el8.8.0"), "R-1 fixed 1:18.1.0-1.module+el8.8.0", ""},
		{"Java without a group", rec("M-1", "Maven", "org.example:core", upTo2), debian12, inventory.Package{Kind: inventory.KindJava, Name: "core", Version: "1.0"}, "", "tells no group"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := build(t, tt.record).Match(t.Context(), &inventory.Result{OS: tt.os, Packages: []inventory.Package{tt.pkg}})
			if err != nil {
				t.Fatal(err)
			}
			var got, notes []string
			for _, f := range m.Findings {
				got = append(got, strings.TrimSpace(strings.Join(f.IDs, ",")+" "+f.State+" "+f.Fixed))
			}
			for _, n := range m.Notes {
				notes = append(notes, n.Text)
			}
			if strings.Join(got, "; ") != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if said := strings.Join(notes, "; "); (said == "") != (tt.note == "") || !strings.Contains(said, tt.note) {
				t.Errorf("notes %q, want %q", said, tt.note)
			}
		})
	}
}
