package ci

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/scan/accept"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
)

// job is one scan. Service.mu guards it, but for what never changes.
type job struct {
	scan  Scan
	share string // for whom it is counted
	ref   reference
	rule  *accept.Rule // nil: nothing fails it
	hook  *hook        // nil: nobody is told
	docs  documents    // until it is over
	// authority is a registry's Authorization, which never gets to the disk; until it is over.
	authority string
	changed   chan struct{}
	size      int64  // of its report, in bytes
	sum       string // SHA-256 of its report
}

// resource is what policies see of a scan.
func (j *job) resource() apicall.Resource {
	return apicall.Resource{
		Kind: apicall.ResourceScan, Asked: j.scan.ID, ID: j.scan.ID, Names: []string{j.scan.ID}, Owner: j.scan.Owner, Image: j.ref.name,
		ImageDigest: j.scan.Digest,
	}
}

// copied returns what may leave the lock.
func (j *job) copied() Scan {
	out := j.scan
	if out.Counts != nil {
		c := *out.Counts
		c.Findings = maps.Clone(c.Findings)
		out.Counts = &c
	}
	out.Links = maps.Clone(out.Links)
	return out
}

func (j *job) tell() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// Error is an answer with a status of HTTP.
type Error struct {
	Status  int
	Message string
	retry   bool
}

func (e *Error) Error() string { return e.Message }

func refuse(status int, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// sameAgain is how long an event about an image of which there is a scan makes no new one:
// registries send events more than once.
const sameAgain = 10 * time.Minute

// add puts a scan into the queue. One that came by an event is that of an earlier event about
// the same image, if there is one.
//
// Errors: *[Error].
func (s *Service) add(j *job) (Scan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending, all, own := 0, j.docs.size(), j.docs.size()
	for _, o := range s.jobs {
		all += o.docs.size()
		if o.share == j.share {
			own += o.docs.size()
		}
		if o.share == j.share && !o.scan.Over() {
			pending++
		}
		same := o.scan.Event && j.scan.Event && o.scan.Owner == j.scan.Owner && o.scan.Image == j.scan.Image && o.scan.FailOn == j.scan.FailOn &&
			o.scan.AllowIncomplete == j.scan.AllowIncomplete
		if same && o.scan.State != StateFailed && s.o.Now().Sub(o.scan.Created) < sameAgain {
			return o.copied(), nil
		}
	}
	switch {
	case pending >= s.o.MaxPending:
		s.count("full")
		return Scan{}, &Error{http.StatusTooManyRequests, fmt.Sprintf("%d scans of yours are waiting, which is the most: fetch their results first", pending), true}
	case j.docs.size() > 0 && (all > maxDocs || own > maxOwnDocs):
		s.count("full")
		return Scan{}, &Error{http.StatusServiceUnavailable, "too many ignore rules and baselines are held by scans that wait: try again later", true}
	case len(s.queue) >= s.o.MaxQueue:
		s.count("full")
		return Scan{}, &Error{http.StatusServiceUnavailable, "too many scans are waiting: try again later", true}
	}
	id := newID()
	j.scan.ID, j.scan.State, j.scan.Created, j.changed = id, StateQueued, s.o.Now().UTC(), make(chan struct{})
	j.scan.Links = links(id)
	if j.hook != nil {
		j.scan.Webhook = hookPending
	}
	s.save(j)
	s.jobs[id] = j
	s.queue = append(s.queue, j)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return j.copied(), nil
}

// links are where a scan is found, in each form.
func links(id string) map[string]string {
	path := "/v1/scans/" + id
	out := map[string]string{"self": path, "events": path + "/events"}
	for form := range formats {
		out[form] = path + "?format=" + form
	}
	return out
}

// work scans what waits until ctx ends.
func (s *Service) work(ctx context.Context) {
	for ctx.Err() == nil {
		if j := s.next(); j != nil {
			s.one(ctx, j)
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
}

// next takes the scan that waits longest of a caller of whom none runs, else of any.
func (s *Service) next() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil
	}
	at := s.fair()
	j := s.queue[at]
	s.queue = append(s.queue[:at:at], s.queue[at+1:]...)
	if len(s.queue) > 0 { // for another worker
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	j.scan.State, j.scan.Started = StateRunning, s.o.Now().UTC()
	j.tell()
	return j
}

// fair returns the place in the queue of the caller who was served longest ago: one that asks
// for many makes nobody wait for all of them.
func (s *Service) fair() int {
	last := map[string]time.Time{}
	for _, o := range s.jobs {
		if o.scan.Started.After(last[o.share]) {
			last[o.share] = o.scan.Started
		}
	}
	at := 0
	for i, j := range s.queue {
		if last[j.share].Before(last[s.queue[at].share]) {
			at = i
		}
	}
	return at
}

// one makes a scan. Whatever goes wrong is its state failed, which is no pass.
func (s *Service) one(ctx context.Context, j *job) {
	limited, cancel := context.WithTimeout(ctx, s.o.ScanTimeout)
	defer cancel()
	sum, err := s.make(limited, j)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("it took more than %s: %w", s.o.ScanTimeout, err)
	}
	if err != nil && ctx.Err() != nil {
		err = errors.New(ended)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &j.scan
	c.Ended = s.o.Now().UTC()
	j.docs, j.authority = documents{}, ""
	if err != nil {
		j.fail(err.Error())
		s.count("failed")
		s.o.Log.Warn("a scan for CI failed", attr.Error, c.Error)
	} else {
		c.State, c.Verdict, c.Digest, c.Counts, c.Database = StateDone, sum.verdict, sum.digest, sum.counts, sum.database
		c.IgnoreNotes = sum.notes
		j.size, j.sum = sum.size, sum.sum
		s.bytes += sum.size
		s.count("done")
	}
	s.save(j)
	if j.hook != nil && ctx.Err() == nil {
		s.send(ctx, j)
	}
	j.tell()
	s.evict()
}

type summary struct {
	verdict, digest string
	counts          *Counts
	database        time.Time
	size            int64
	sum             string
	notes           []string // about ignore rules
}

func (s *Service) make(ctx context.Context, j *job) (*summary, error) {
	res, digest, err := s.read(ctx, j)
	if err != nil {
		return nil, err
	}
	db, matches, err := s.o.Images.Match(ctx, res)
	if err != nil {
		return nil, err
	}
	if db == nil || matches == nil {
		return nil, errors.New("it was not matched with a vulnerability database")
	}
	if len(matches.Findings) > maxFindings {
		return nil, fmt.Errorf("it has %d findings, more than the %d of which a result is kept; fix: belay scan", len(matches.Findings), maxFindings)
	}
	rep := report.New(j.scan.Image, s.o.Now(), res, db, matches)
	sum := &summary{digest: digest, database: db.Built, counts: &Counts{Packages: len(res.Packages), Findings: map[string]int{}, Notes: len(rep.Notes) + len(res.Notes)}}
	if sum.notes, err = j.docs.apply(ctx, rep); err != nil {
		return nil, err
	}
	for i := range rep.Findings {
		f := &rep.Findings[i]
		sum.counts.Findings[f.Severity.String()]++
		if f.Fixable() {
			sum.counts.Fixable++
		}
		if f.Exploited {
			sum.counts.Exploited++
		}
		sum.counts.accept(f.Ignored, f.Known)
		if j.rule == nil || accepted(f) {
			continue
		}
		yes, err := j.rule.Fails(f, &res.Packages[f.Package])
		if err != nil {
			return nil, err
		}
		if yes {
			sum.counts.Failing++
		}
	}
	if err := s.makeConfig(j, rep, sum.counts); err != nil {
		return nil, err
	}
	switch {
	case sum.counts.Failing > 0:
		sum.verdict = VerdictFail
	case (!rep.Complete || unseen(j.rule, rep) != "") && !j.scan.AllowIncomplete:
		sum.verdict = VerdictIncomplete
	default:
		sum.verdict = VerdictPass
	}
	sum.size, sum.sum, err = s.keep(j.scan.ID, rep)
	return sum, err
}

// makeConfig counts what is wrong with the configuration and the files and fails the scan.
func (s *Service) makeConfig(j *job, rep *report.Scan, counts *Counts) error {
	for i := range rep.Misconfigurations {
		if m := &rep.Misconfigurations[i]; !m.Ordinary() {
			counts.accept(m.Ignored, m.Known)
		}
	}
	if j.rule == nil || !j.rule.AboutConfig() {
		return nil
	}
	for i := range rep.Misconfigurations {
		m := &rep.Misconfigurations[i]
		if m.Accepted() {
			continue
		}
		yes, err := j.rule.FailsConfig(m)
		if err != nil {
			return err
		}
		if yes {
			counts.Failing++
		}
	}
	return nil
}

// unseen says what could not be looked at of the configuration and the files, about which the rule
// has a word, so that the scan does not pass; "" if there is nothing.
func unseen(rule *accept.Rule, rep *report.Scan) string {
	inv := rep.Inventory
	switch {
	case rule == nil || !rule.AboutConfig():
		return ""
	case !inv.ConfigRead:
		return "failOn is about the image's configuration, which is not shown"
	case inv.Unsearched != nil:
		return "failOn has the word misconfiguration, and files were not searched for secrets: " + inv.Unsearched.Path + ": " + inv.Unsearched.Text
	case len(inv.Skipped) > 0:
		return "failOn may be about what was not looked for: " + strings.Join(inv.Skipped, ", ")
	}
	return ""
}

// read has the image read where it is: on this host, or else in its registry.
func (s *Service) read(ctx context.Context, j *job) (*inventory.Result, string, error) {
	if !j.ref.remote {
		res, digest, err := s.o.Images.Local(ctx, j.ref.name, j.scan.Platform)
		switch {
		case err == nil || !errors.Is(err, ErrNoImage):
			return res, digest, err
		case j.ref.host == "":
			return nil, "", fmt.Errorf("%w; for an image of a registry say %s%s", err, registryPrefix, j.ref.name)
		case !s.permits(j.ref.host):
			return nil, "", fmt.Errorf("%w, and no image is fetched from %s; fix: belay-agent run --scan-registry %s", err, j.ref.host, j.ref.host)
		}
	}
	return s.o.Images.Remote(ctx, j.ref.name, j.scan.Platform, j.authority)
}

// permits tells whether images may be fetched from a registry. One on this host or its link is
// permitted only by its name.
func (s *Service) permits(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	addr, err := netip.ParseAddr(name)
	home := name == "localhost" || strings.HasSuffix(name, ".localhost") || err == nil && special(addr)
	for _, r := range s.o.Registries {
		if r == "*" && !home || strings.EqualFold(r, host) {
			return true
		}
	}
	return false
}

// evict forgets results beyond the bounds, the oldest first: of callers with too many, then of
// whoever has most. s.mu is held.
func (s *Service) evict() {
	now := s.o.Now()
	kept, byShare := 0, map[string]int{}
	for id, j := range s.jobs {
		switch {
		case !j.scan.Over():
		case now.Sub(j.scan.Ended) > s.o.KeepFor:
			s.forget(id)
		default:
			kept++
			byShare[j.share]++
		}
	}
	for {
		share, most := "", 0
		for sh, n := range byShare {
			if n > most {
				share, most = sh, n
			}
		}
		if most == 0 || most <= s.o.MaxPerOwner && kept <= s.o.MaxKept && s.bytes <= s.o.MaxBytes {
			return
		}
		var oldest *job
		for _, j := range s.jobs {
			if j.share == share && j.scan.Over() && (oldest == nil || j.scan.Ended.Before(oldest.scan.Ended)) {
				oldest = j
			}
		}
		s.forget(oldest.scan.ID)
		kept--
		byShare[share]--
	}
}

func (s *Service) forget(id string) {
	j := s.jobs[id]
	s.bytes -= j.size
	delete(s.jobs, id)
	j.tell() // whoever follows it looks it up, and does not find it
	s.remove(id + recordSuffix)
	s.remove(id + reportSuffix)
}

// short bounds a text that may come from a process which has read hostile bytes, or from a
// registry.
func short(t string) string { return t[:min(len(t), 1024)] }
