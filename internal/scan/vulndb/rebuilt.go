package vulndb

import (
	"slices"
	"strings"
)

// Rebuilds by others than those whose records a package is matched by.

// esm reports whether a version of Ubuntu's was built for its subscribers: 1.0-1ubuntu2+esm1, or
// in older ones 1.0-1ubuntu2~esm1. Such a version is judged by records of Ubuntu Pro.
func esm(version string) bool {
	return strings.Contains(version, "+esm") || strings.Contains(version, "~esm")
}

// mends reports whether ranges say that a version has the fix: it is not in them, and would be
// without one.
func (a *affected) mends(v version) bool {
	return slices.ContainsFunc(a.ranges, func(r []event) bool {
		return slices.ContainsFunc(r, func(e event) bool {
			if e.kind != eventFixed {
				return false
			}
			n, err := v.compare(e.version)
			return err == nil && n >= 0
		})
	})
}

// fixes are the names of flaws that a version has a subscriber's fix of, by one record of Ubuntu
// Pro, or is open to all the same by another: true.
type fixes map[string]bool

func (x fixes) note(ids []string, open bool) {
	for _, id := range ids {
		x[id] = x[id] || open
	}
}

// mended drops the findings without a fix that a record of Ubuntu Pro about the same flaw says the
// version has, and none says it lacks: the record for all is about versions without it.
func mended(found []Finding, x fixes) []Finding {
	if len(x) == 0 {
		return found
	}
	return slices.DeleteFunc(found, func(f Finding) bool {
		fixed := false
		for _, id := range f.IDs {
			open, known := x[id]
			if open {
				return false
			}
			fixed = fixed || known
		}
		return fixed && f.Fixed == ""
	})
}

// otherEpoch reports whether a rebuild of Raspberry Pi OS, 8:5.1.6-0+deb12u1+rpt1, has an epoch that
// is not that of the records, which are Debian's: then it is above or below all of them whatever it has.
func (a *affected) otherEpoch(eco, text string) bool {
	if !strings.HasPrefix(eco, "Debian:") || !strings.Contains(text, "+rpt") {
		return false
	}
	mine := epoch(text)
	return slices.ContainsFunc(a.ranges, func(r []event) bool {
		return slices.ContainsFunc(r, func(e event) bool { return e.kind != eventIntroduced && epoch(string(e.version)) != mine })
	})
}

func epoch(version string) string {
	if e, _, ok := strings.Cut(version, ":"); ok {
		return e
	}
	return "0"
}
