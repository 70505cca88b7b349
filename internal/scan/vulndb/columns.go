package vulndb

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Bounds on what is joined to the records.
const (
	maxEPSS    = 256 << 20 // bytes of text, unpacked
	maxTracker = 1 << 30
)

// epss is FIRST's estimate for one CVE number.
type epss struct{ score, percentile float64 }

// readEPSS reads FIRST's daily list, epss_scores-current.csv.gz: a comment, a header,
// then lines of CVE number, score and percentile.
//
// Source: https://www.first.org/epss/data_stats. Errors: those of the file, a line that
// is none, a list without lines.
func readEPSS(path string) (map[string]epss, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: want epss_scores-current.csv.gz: %w", path, err)
	}
	limited := &io.LimitedReader{R: z, N: maxEPSS}
	out := map[string]epss{}
	s := bufio.NewScanner(limited)
	for line := 1; s.Scan(); line++ {
		text := s.Text()
		if strings.HasPrefix(text, "#") || strings.HasPrefix(text, "cve,") || text == "" {
			continue
		}
		cve, rest, _ := strings.Cut(text, ",")
		score, percentile, _ := strings.Cut(rest, ",")
		a, err := share(score)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		b, err := share(percentile)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		out[cve] = epss{a, b}
	}
	switch {
	case s.Err() != nil:
		return nil, fmt.Errorf("%s: %w", path, s.Err())
	case limited.N <= 0:
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxEPSS)
	case len(out) == 0:
		return nil, fmt.Errorf("%s has no score: want epss_scores-current.csv.gz", path)
	}
	return out, nil
}

// share reads a number from 0 to 1.
func share(text string) (float64, error) {
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || !(x >= 0 && x <= 1) {
		return 0, fmt.Errorf("%.40q is no number from 0 to 1", text)
	}
	return x, nil
}

// trackerKey is a flaw in a source package of a release.
type trackerKey struct{ ecosystem, source, cve string }

// trackerSays is what Debian's security team says of it.
type trackerSays struct {
	state      byte
	negligible bool // "unimportant": no flaw as Debian builds or ships it
}

// tracker is all that it says. odd counts entries of another form, which were passed over.
type tracker struct {
	says map[trackerKey]trackerSays
	odd  int
}

// readTracker reads Debian's security tracker in JSON, which alone has the states that
// records in the OSV format lose.
//
// Source: https://security-tracker.debian.org/tracker/data/json, and "Issues not
// warranting a security advisory" in Debian's security-tracker introduction: ignored
// will not be fixed; postponed and no-dsa (no reason given) may be, later.
func readTracker(path string) (out tracker, err error) {
	f, err := os.Open(path)
	if err != nil {
		return out, err
	}
	defer f.Close()
	out.says = map[trackerKey]trackerSays{}
	d := json.NewDecoder(bufio.NewReaderSize(io.LimitReader(f, maxTracker), 1<<16))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return out, fmt.Errorf("%s: want the JSON of Debian's security tracker", path)
	}
	// One source package at a time: all of it takes half a gigabyte when decoded.
	for d.More() {
		source, err := d.Token()
		if err != nil {
			return out, fmt.Errorf("%s: %w", path, err)
		}
		var flaws map[string]json.RawMessage
		if err := d.Decode(&flaws); err != nil {
			return out, fmt.Errorf("%s: %v: %w", path, source, err)
		}
		for cve, b := range flaws {
			var flaw trackerFlaw
			if json.Unmarshal(b, &flaw) != nil {
				out.odd++
				continue
			}
			for codename, r := range flaw.Releases {
				o, known := inventory.Release(codename)
				if says := r.says(); known && says != (trackerSays{}) {
					out.says[trackerKey{debDistribution(o)[0], fmt.Sprint(source), cve}] = says
				}
			}
		}
	}
	if _, err := d.Token(); err != nil {
		return out, fmt.Errorf("%s: %w", path, err)
	}
	if len(out.says) == 0 {
		return out, fmt.Errorf("%s says nothing of a release of Debian", path)
	}
	return out, nil
}

type trackerFlaw struct {
	Releases map[string]trackerRelease `json:"releases"`
}

type trackerRelease struct {
	Status  string  `json:"status"`
	Urgency string  `json:"urgency"`
	NoDSA   *string `json:"nodsa"`
	Reason  string  `json:"nodsa_reason"`
}

func (r *trackerRelease) says() (s trackerSays) {
	s.negligible = r.Urgency == "unimportant"
	switch {
	case r.Status == "resolved":
	case r.Status == "undetermined":
		s.state = stateCode(StateUndetermined)
	case r.Urgency == "end-of-life":
		s.state = stateCode(StateEndOfLife)
	case r.NoDSA == nil && r.Reason == "":
	case r.Reason == "ignored":
		s.state = stateCode(StateWillNotFix)
	default: // postponed, or not worth an advisory of its own
		s.state = stateCode(StateDeferred)
	}
	return s
}

// columns is what is joined to records.
type columns struct {
	kev     map[string]bool
	epss    map[string]epss
	tracker tracker
	// trackerPart names the tracker's part; empty if there is none.
	trackerPart string
}

func readColumns(o BuildOptions) (c columns, err error) {
	if o.KEV != "" {
		if c.kev, err = readKEV(o.KEV); err != nil {
			return c, err
		}
	}
	if o.EPSS != "" {
		if c.epss, err = readEPSS(o.EPSS); err != nil {
			return c, err
		}
	}
	if o.Tracker != "" {
		if c.tracker, c.trackerPart, err = o.Parts.tracker(o.Tracker); err != nil {
			return c, err
		}
	}
	return c, nil
}

// exploit says whether CISA's catalogue has one of a record's names, or of the flaws that it is about.
func (c *columns) exploit(v *Vulnerability) {
	known := func(id string) bool { return c.kev[id] }
	v.Exploited = known(v.ID) || slices.ContainsFunc(v.Aliases, known) || slices.ContainsFunc(v.About, known)
}

// rate sets a record's EPSS: the highest of all its names, and of the flaws that it is about.
func (c *columns) rate(v *Vulnerability) {
	for _, id := range slices.Concat([]string{v.ID}, v.Aliases, v.About) {
		if e, ok := c.epss[id]; ok && e.score >= v.EPSS {
			v.EPSS, v.Percentile = e.score, e.percentile
		}
	}
}

// join takes Debian's word on one package of a record.
func (c *columns) join(a *affected, v *Vulnerability, eco, name string) {
	for _, id := range append([]string{v.ID}, v.Aliases...) {
		says, ok := c.tracker.says[trackerKey{eco, name, id}]
		if !ok {
			continue
		}
		if says.state != 0 {
			a.state = a.state&negligible | says.state
		}
		if says.negligible {
			a.state |= negligible
		}
	}
}

// readKEV returns the CVE numbers of CISA's catalogue.
func readKEV(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := inventory.ReadAll(f, 64<<20)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var kev struct {
		Vulnerabilities []struct {
			CVE string `json:"cveID"`
		} `json:"vulnerabilities"`
	}
	if err := json.Unmarshal(b, &kev); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := map[string]bool{}
	for _, v := range kev.Vulnerabilities {
		out[v.CVE] = true
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no vulnerability: want CISA's known_exploited_vulnerabilities.json", path)
	}
	return out, nil
}
