package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
)

// maxExamples bounds what is listed of findings beyond the answers, for each family.
const maxExamples = 8

// page is docs/accuracy.md.
func (m *measurement) page(traps map[string][]string) []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("<!-- Written by `make accuracy`. Do not edit. -->")
	p("# Accuracy of matching")
	p("")
	p("Measured against recorded answers of api.osv.dev, restricted to records that the feeds at hand have for the package: what the public service found for a")
	p("version, and we know of, must be found. The feeds are older and newer than the answers, which have no date: a finding of a record that was published")
	p("after the newest one of its answer, or of which that cannot be told, is *newer*; one of an older record that the answer lacks is *beyond* it, and counts")
	p("against precision, though the record may have been changed since. Findings, of which one may stand for several records, are counted once; answers that were cut off count for recall alone.")
	p("A record of another database counts by its name where one of ours has that too; *otherwise* are those of which the answer has not ours: the two databases differ about the version.")
	p("")
	p("| Ecosystem | Records in the feeds | Packages compared | Not comparable | Found | Missed | Recall | Otherwise | Newer | Beyond | Precision |")
	p("|---|---|---|---|---|---|---|---|---|---|---|")
	rows := maps.Clone(m.rows)
	for eco := range m.records {
		if rows[eco] == nil {
			rows[eco] = &row{}
		}
	}
	for _, eco := range slices.Sorted(maps.Keys(rows)) {
		p("%s", line(eco, fmt.Sprint(m.records[eco]), *rows[eco]))
	}
	all := 0
	for _, n := range m.records {
		all += n
	}
	p("%s", line("**all**", fmt.Sprint(all), m.total()))
	p("")
	p("*Not comparable* are packages of releases of which the feeds at hand have no record, so that nothing is known about them here; that is not a figure of Belay.")
	p("")
	p("The feeds have records of these too, and none that an answer could be compared with; that they are matched rightly is shown by the vectors, the statements and the traps below alone:")
	p("")
	for _, eco := range slices.Sorted(maps.Keys(incomparable)) {
		p("- %s: %s", eco, incomparable[eco])
	}
	p("")
	for _, eco := range slices.Sorted(maps.Keys(m.rows)) {
		r := m.rows[eco]
		if len(r.examples) == 0 {
			continue
		}
		p("Beyond the answers of %s:", eco)
		p("")
		for _, e := range r.examples[:min(len(r.examples), maxExamples)] {
			p("- %s", e)
		}
		if more := len(r.examples) - maxExamples; more > 0 {
			p("- and %d more", more)
		}
		p("")
	}
	if len(m.otherwise) > 0 {
		p("Otherwise:")
		p("")
		for _, s := range m.otherwise {
			p("- %s", s)
		}
		p("")
	}
	p("## Statements of distributions")
	p("")
	p("Real statements about packages (tests of grype and vunnel, in vunnel's form), translated into OSV's: each must be found just below its fix, and not at it. The names of OSV's ecosystems")
	p("come from the translation and not from the data. Streams of extended support are left out: Belay matches them by the main release. Hand-made labels (vulnerability-match-labels) are not")
	p("used: they are about inventories that are not at hand.")
	p("")
	p("| Distribution | Statements | Tried below the fix | Tried at the fix | Wrong |")
	p("|---|---|---|---|---|")
	for _, name := range slices.Sorted(maps.Keys(m.fixtures)) {
		f := m.fixtures[name]
		p("| %s | %d | %d | %d | %d |", name, f.statements, f.below, f.at, len(f.wrong))
	}
	p("")
	p("## Order of versions")
	p("")
	p("| Vectors | Pairs | Out of order |")
	p("|---|---|---|")
	pairs, bad := 0, 0
	for _, v := range m.vectors {
		p("| %s | %d | %d |", v.file, v.pairs, v.bad)
		pairs, bad = pairs+v.pairs, bad+v.bad
	}
	p("| **all** | %d | %d |", pairs, bad)
	p("")
	p("## Traps")
	p("")
	count := 0
	for _, names := range traps {
		count += len(names)
	}
	p("Each is a way in which a scanner was wrong, and a test with an image or a record of its own, by package below `internal/scan` and test. All %d pass.", count)
	for _, test := range slices.Sorted(maps.Keys(traps)) {
		p("")
		p("### %s", test)
		p("")
		for _, t := range traps[test] {
			p("- %s", t)
		}
	}
	return b.Bytes()
}

func line(name, records string, r row) string {
	return fmt.Sprintf("| %s | %s | %d | %d | %d | %d | %s | %d | %d | %d | %s |", name, records, r.packages, r.foreign, r.found, r.missed,
		share(r.found, r.missed), r.otherwise, r.newer, r.beyond, share(r.found, r.beyond))
}

// share is a of a and b, in percent.
func share(a, b int) string {
	if a+b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(a)/float64(a+b))
}
