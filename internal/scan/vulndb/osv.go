package vulndb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	gocvss20 "github.com/pandatix/go-cvss/20"
	gocvss30 "github.com/pandatix/go-cvss/30"
	gocvss31 "github.com/pandatix/go-cvss/31"
	gocvss40 "github.com/pandatix/go-cvss/40"
)

// osvRecord is what we use of a record. Source: https://ossf.github.io/osv-schema/.
type osvRecord struct {
	ID        string           `json:"id"`
	Modified  optional[string] `json:"modified"`
	Withdrawn string           `json:"withdrawn"`
	Aliases   []string         `json:"aliases"`
	Upstream  []string         `json:"upstream"`
	// Related are read of [advisories] alone.
	Related  optional[[]string] `json:"related"`
	Summary  optional[string]   `json:"summary"`
	Details  optional[string]   `json:"details"`
	Severity severities         `json:"severity"`
	Affected []osvAffected      `json:"affected"`
	Database optional[struct {
		Severity any `json:"severity"`
	}] `json:"database_specific"`
}

// optional is a part without which a record is still of use: one that is not of its form is as if it were
// not there, and loses no finding.
type optional[T any] struct{ value T }

// UnmarshalJSON implements [json.Unmarshaler].
func (o *optional[T]) UnmarshalJSON(b []byte) error {
	var v T
	if json.Unmarshal(b, &v) == nil {
		o.value = v
	}
	return nil
}

// severities are a list of which each is read by itself.
type severities = optional[[]optional[osvSeverity]]

type osvSeverity struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

type osvAffected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Severity severities `json:"severity"`
	Ranges   []struct {
		Type   string              `json:"type"`
		Events []map[string]string `json:"events"`
	} `json:"ranges"`
	Versions  []string `json:"versions"`
	Ecosystem optional[struct {
		Urgency  any `json:"urgency"`
		Severity any `json:"severity"`
		// Imports are read of records of Go alone: others may have another thing there.
		Imports optional[[]osvImport] `json:"imports"`
	}] `json:"ecosystem_specific"`
}

// Bounds on a record: longer ones are broken or made to hurt.
const (
	maxRecord   = 32 << 20
	maxSummary  = 200
	maxNameText = 1024
)

// parseRecord reads one record. ok is false for one that is withdrawn.
func parseRecord(b []byte) (r *osvRecord, ok bool, err error) {
	r = new(osvRecord)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, false, err
	}
	if r.ID == "" || len(r.ID) > maxNameText {
		return nil, false, fmt.Errorf("a record with the ID %.40q", r.ID)
	}
	return r, r.Withdrawn == "", nil
}

// modified is when the record was last changed, empty where it does not say so.
func (r *osvRecord) modified() string {
	if _, err := time.Parse(time.RFC3339, r.Modified.value); err != nil {
		return ""
	}
	return r.Modified.value
}

// vulnerability is the record without what it affects.
func (r *osvRecord) vulnerability() Vulnerability {
	v := Vulnerability{ID: r.ID, Summary: r.Summary.value}
	if v.Summary == "" {
		v.Summary, _, _ = strings.Cut(strings.TrimSpace(r.Details.value), "\n")
	}
	if len(v.Summary) > maxSummary {
		v.Summary = v.Summary[:maxSummary]
	}
	v.Summary = strings.ToValidUTF8(v.Summary, "")
	v.Aliases, v.About = r.names()
	v.Severity, v.Score = r.severity()
	return v
}

// advisories begin the IDs of what distributions publish on a fix of several flaws, which AlmaLinux, Rocky
// Linux and older records of others name as related. In all other records related are other flaws.
var advisories = []string{
	"ALSA-", "ALBA-", "ALEA-", "RLSA-", "RLBA-", "RLEA-", "RXSA-", "RHSA-", "RHBA-", "RHEA-",
	"SUSE-SU-", "SUSE-RU-", "SUSE-FU-", "SUSE-OU-", "openSUSE-SU-", "openSUSE-RU-", "OESA-", "MGASA-", "USN-", "DSA-", "DLA-",
}

func isAdvisory(id string) bool {
	return slices.ContainsFunc(advisories, func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// commonName is the name that all others have for what a distribution names UBUNTU-CVE-2024-1 or DEBIAN-CVE-2024-1.
func commonName(id string) string {
	if _, number, ok := strings.Cut(id, "-CVE-"); ok {
		return "CVE-" + number
	}
	return id
}

func commonNames(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = commonName(id)
	}
	return sorted(out)
}

// names are the other names of what a record is, and the flaws that it is about and that are none of these; both sorted.
func (r *osvRecord) names() (aliases, about []string) {
	ours := func(id string) bool { return id == "" || id == r.ID || len(id) > maxNameText }
	advisory := isAdvisory(r.ID)
	upstream := slices.DeleteFunc(slices.Clone(r.Upstream), func(id string) bool { return ours(id) || advisory && isAdvisory(id) })
	flaws := commonNames(upstream)
	aliases = sorted(slices.DeleteFunc(append(slices.Clone(r.Aliases), commonName(r.ID)), ours))
	about = sorted(slices.Concat(flaws, r.related()))
	named := slices.DeleteFunc(slices.Clone(aliases), func(id string) bool { return !isFlaw(id) })
	if all := sorted(slices.Concat(about, commonNames(named))); advisory && several(all) {
		// Whatever its record calls them: an advisory of several flaws is none of them.
		about, aliases = all, slices.DeleteFunc(aliases, isFlaw)
	}
	// One flaw upstream is the same as a distribution sees it. Several are an advisory, which is not the same as
	// each of them.
	if len(flaws) == 1 && !slices.ContainsFunc(about, func(id string) bool { return id != flaws[0] }) {
		return slices.DeleteFunc(sorted(slices.Concat(aliases, upstream, flaws)), ours), nil
	}
	return aliases, slices.DeleteFunc(about, func(id string) bool {
		_, known := slices.BinarySearch(aliases, id)
		return known || ours(id)
	})
}

// isFlaw reports whether a name is one of a flaw, and not of what somebody publishes on some.
func isFlaw(id string) bool { return isCVE(commonName(id)) || strings.HasPrefix(id, "GHSA-") }

// related are the flaws that an advisory names as related, beside which there may be what it was made from.
func (r *osvRecord) related() []string {
	if !isAdvisory(r.ID) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(r.Related.value), func(id string) bool { return !isCVE(id) || len(id) > maxNameText })
}

// several reports whether more than one of these is a CVE number.
func several(ids []string) bool {
	first := slices.IndexFunc(ids, isCVE)
	return first >= 0 && slices.ContainsFunc(ids[first+1:], isCVE)
}

// sorted sorts a list, and leaves each of it once.
func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// summaryWords are Red Hat's severities, with which advisories of its rebuilds begin: "Important: kernel
// update". Source: https://access.redhat.com/security/updates/classification.
var summaryWords = []string{"Critical", "Important", "Moderate", "Low"}

// severity takes the highest CVSS score, or else the source's own word, which may begin its summary.
func (r *osvRecord) severity() (Severity, float64) {
	best := -1.0
	lists := []severities{r.Severity}
	words := []any{r.Database.value.Severity}
	if word, _, ok := strings.Cut(r.Summary.value, ":"); ok && isAdvisory(r.ID) && slices.Contains(summaryWords, word) {
		words = append(words, word)
	}
	for i := range r.Affected {
		lists = append(lists, r.Affected[i].Severity)
		words = append(words, r.Affected[i].Ecosystem.value.Severity, r.Affected[i].Ecosystem.value.Urgency)
	}
	for _, list := range lists {
		for _, s := range list.value {
			if score, err := cvss(s.value.Score); err == nil {
				best = max(best, score)
			}
			words = append(words, s.value.Score) // Ubuntu's type has a word for a score
		}
	}
	if best >= 0 {
		return severityOf(best), best
	}
	worst := SeverityUnknown
	for _, w := range words {
		if s, ok := w.(string); ok {
			if sev, err := ParseSeverity(s); err == nil {
				worst = max(worst, sev)
			}
		}
	}
	return worst, 0
}

// cvss returns the base score of a vector of version 2.0 to 4.0.
func cvss(vector string) (float64, error) {
	switch {
	case strings.HasPrefix(vector, "CVSS:4.0/"):
		v, err := gocvss40.ParseVector(vector)
		if err != nil {
			return 0, err
		}
		return v.Score(), nil
	case strings.HasPrefix(vector, "CVSS:3.1/"):
		v, err := gocvss31.ParseVector(vector)
		if err != nil {
			return 0, err
		}
		return v.BaseScore(), nil
	case strings.HasPrefix(vector, "CVSS:3.0/"):
		v, err := gocvss30.ParseVector(vector)
		if err != nil {
			return 0, err
		}
		return v.BaseScore(), nil
	case strings.HasPrefix(vector, "AV:"):
		v, err := gocvss20.ParseVector(vector)
		if err != nil {
			return 0, err
		}
		return v.BaseScore(), nil
	}
	return 0, fmt.Errorf("no CVSS vector: %.40q", vector)
}

// affects compiles what a record says of one package. Ranges of commits say nothing
// about versions and are passed over, whatever stands before or behind them. bad
// counts versions that the ecosystem's order cannot read.
func (a *osvAffected) affects() (out affected, bad int) {
	eco := a.Package.Ecosystem
	out.imports = a.imports()
	if s, ok := a.Ecosystem.value.Urgency.(string); ok && s == "end-of-life" {
		out.state = stateCode(StateEndOfLife)
	}
	for _, r := range a.Ranges {
		if r.Type != "ECOSYSTEM" && r.Type != "SEMVER" {
			continue
		}
		events, n := sortEvents(eco, r.Events)
		bad += n
		if len(events) > 0 {
			out.ranges = append(out.ranges, events)
		}
	}
	for _, text := range a.Versions {
		// Most lists only spell the ranges out.
		if covered, err := out.covers(eco, text); err != nil || !covered {
			out.versions = append(out.versions, []byte(text))
		}
	}
	return out, bad
}

func (a *affected) covers(eco, text string) (bool, error) {
	v, err := parse(eco, text)
	if err != nil {
		return false, err
	}
	for _, r := range a.ranges {
		in, _, err := v.in(r)
		if in || err != nil {
			return in, err
		}
	}
	return false, nil
}

// sortEvents returns the events in the order of their versions. A version that cannot
// be read is left out and counted.
func sortEvents(eco string, in []map[string]string) (out []event, bad int) {
	parsed := map[string]version{}
	for _, e := range in {
		for name, kind := range map[string]byte{"introduced": eventIntroduced, "fixed": eventFixed, "last_affected": eventLastAffected} {
			text, ok := e[name]
			if !ok {
				continue
			}
			v, err := parse(eco, text)
			if err != nil && !(kind == eventIntroduced && text == "0") {
				bad++
				if kind != eventIntroduced {
					continue
				}
				text = "0" // since when is not known: always, rather than never
			}
			parsed[text] = v
			out = append(out, event{kind, []byte(text)})
		}
	}
	slices.SortStableFunc(out, func(a, b event) int {
		switch {
		case a.kind == b.kind && bytes.Equal(a.version, b.version):
			return 0
		case a.always():
			return -1
		case b.always():
			return 1
		}
		n, err := parsed[string(a.version)].compare(b.version)
		if err != nil {
			return 0
		}
		if n == 0 {
			// Fixed and introduced again at one version: affected.
			return int(rank(a.kind)) - int(rank(b.kind))
		}
		return n
	})
	return out, bad
}

func rank(kind byte) byte {
	switch kind {
	case eventFixed:
		return 0
	case eventIntroduced:
		return 1
	}
	return 2
}
