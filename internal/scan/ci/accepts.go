package ci

import (
	"context"
	"net/http"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/scan/accept"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

const (
	maxIgnore      = 256 << 10 // the text of ignore rules, in bytes
	maxBaseline    = 4 << 20
	maxDocs        = 32 << 20 // of all scans that are not over
	maxOwnDocs     = 8 << 20  // of one caller's
	maxIgnoreNotes = 20
	maxIgnoreNote  = 256
)

// documents say which findings do not count, as they came: they are smaller so than parsed.
type documents struct{ ignore, baseline []byte }

func (d *documents) size() int { return len(d.ignore) + len(d.baseline) }

// large has a request that may be large wait for its turn, before its body is read. Who can never
// send one has none: turns are for those who may. The caller calls free.
func (s *Service) large(r *http.Request, sub *apicall.Subject) (free func(), err error) {
	if r.ContentLength >= 0 && r.ContentLength <= maxBody {
		return func() {}, nil
	}
	for _, action := range []string{ActCreate, ActAccept} {
		if s.o.Access.Grants(sub, action) {
			continue
		}
		s.count("denied")
		return nil, refuse(http.StatusForbidden, "no policy allows %s: a request of more than %d bytes is for ignore rules and baselines", action, maxBody)
	}
	busy := &Error{http.StatusServiceUnavailable, "too many large requests are read at a time: try again", true}
	key := "large " + shareOf(sub)
	if !s.take(key, 1) {
		return nil, busy
	}
	select {
	case s.larges <- struct{}{}:
		return func() { <-s.larges; s.leave(key) }, nil
	default:
		s.leave(key)
		return nil, busy
	}
}

// accepts takes ignore rules and a baseline from a caller who may send them.
func (s *Service) accepts(sub *apicall.Subject, j *job, q *Request) error {
	if q.Ignore == "" && len(q.Baseline) == 0 {
		return nil
	}
	if err := s.ask(sub, ActAccept, j); err != nil {
		return err
	}
	switch {
	case len(q.Ignore) > maxIgnore:
		return refuse(http.StatusRequestEntityTooLarge, "ignore: larger than %d bytes", maxIgnore)
	case len(q.Baseline) > maxBaseline:
		return refuse(http.StatusRequestEntityTooLarge, "baseline: larger than %d bytes; fix: belay ci scan --baseline, which sends what is needed of it", maxBaseline)
	}
	if q.Ignore != "" {
		if _, err := accept.ParseIgnores("ignore", []byte(q.Ignore)); err != nil {
			return refuse(http.StatusBadRequest, "%v", err)
		}
		j.docs.ignore, j.scan.Ignore = []byte(q.Ignore), true
	}
	if len(q.Baseline) > 0 {
		if _, err := accept.ParseBaseline(q.Baseline); err != nil {
			return refuse(http.StatusBadRequest, "baseline: %v", err)
		}
		j.docs.baseline, j.scan.Baseline = q.Baseline, true
	}
	return nil
}

// apply marks what does not count, and returns lines about rules that are out of date.
//
// Errors: ctx has ended.
func (d *documents) apply(ctx context.Context, rep *report.Scan) (notes []string, err error) {
	marked := accept.Marked{Findings: rep.Findings, Packages: rep.Inventory.Packages, Faults: rep.Misconfigurations, PURL: rep.PackageURL}
	if len(d.ignore) > 0 {
		g, err := accept.ParseIgnores("ignore", d.ignore)
		if err != nil {
			return nil, err
		}
		if notes, err = g.Apply(ctx, marked, rep.Time); err != nil {
			return nil, err
		}
	}
	if len(d.baseline) > 0 {
		b, err := accept.ParseBaseline(d.baseline)
		if err != nil {
			return nil, err
		}
		b.Apply(marked)
	}
	notes = notes[:min(len(notes), maxIgnoreNotes)]
	for i, n := range notes {
		notes[i] = n[:min(len(n), maxIgnoreNote)]
	}
	return notes, nil
}

// accepted tells whether a finding does not count.
func accepted(f *vulndb.Finding) bool { return f.Ignored != "" || f.Known }
