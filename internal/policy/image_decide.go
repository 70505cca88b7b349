package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/secretname"
	"github.com/belay-project/belay/internal/verdict"
)

// Image is what is known of an image that is to start, or to be pulled. The zero value is
// one of which nothing is known.
type Image struct {
	ID string // "sha256:...", of the configuration or the index; "" for a pull
	// Asked is the reference by which it is asked for; Names are its tags, and Digests the
	// registries' ("repository@sha256:...").
	Asked          string
	Names, Digests []string
	// Labels are those of the container.
	Labels map[string]string
	// Pull says that the image is not here yet: only its name is known, and only rules on
	// registries and digests are asked.
	Pull bool

	// ConfigKnown says that what follows of the configuration is known.
	ConfigKnown bool
	Created     time.Time // zero: the image does not say
	User        string
	Env         []string // NAME=value

	Scan ImageScan

	// NotBefore is a time that has certainly come: when the host's vulnerability database was compiled. Zero: none.
	NotBefore time.Time
}

// ImageScan is what scanning has told of an image. The zero value is: nothing.
type ImageScan struct {
	At time.Time // of the inventory; zero: there is none
	// Tried says that a scan was tried for this decision, and Err why it, or an earlier one,
	// failed.
	Tried bool
	Err   string
	// Database is of which time the vulnerability database is; zero: there is none, and
	// Findings say nothing.
	Database time.Time
	// Unmatched says why there is no Database where the host has one.
	Unmatched string
	// Complete says that all was read and all was matched.
	Complete bool
	Findings []ImageFinding
	// Secrets are those that were found in files, and Unsearched says why not all files that
	// should were searched; "": all were.
	Secrets    []ImageSecret
	Unsearched string
}

// ImageFinding is one vulnerability in one package.
type ImageFinding struct {
	IDs                      []string // all names; never empty
	About                    []string // the vulnerabilities that it is about, if it is an advisory of several
	Severity                 inventory.Severity
	Fixed                    string // version without it that anybody can have; "" if none is known
	Exploited                bool
	EPSS                     float64 // from 0 to 1; 0: nobody has estimated it
	Package, Source, Version string
	// FirstSeen is when the host first had an image with it; zero: long ago.
	FirstSeen time.Time
	// Kind and Path say where the package is, as in an inventory.
	Kind, Path string
	// Use is what was observed of the package in running containers.
	Use inventory.Use
	// Symbols tells whether a Go program has the vulnerable functions; empty is unknown.
	Symbols string
}

// ImageDecision is the answer. The zero value denies.
type ImageDecision struct {
	Allowed bool
	// Audit says that a policy in audit mode would deny.
	Audit bool
	// Policy, Revision and Rule name who denies or would deny: the first in total order.
	Policy, Revision, Rule string
	Reason                 string
	// Details name findings and variables, at most [maxDetails].
	Details []string
	// Expired are exceptions that would have waived what denies, but are over.
	Expired []string
	// Scan says that the image should be scanned first: the decision is what holds if that
	// does not end within Deadline.
	Scan     bool
	Deadline time.Duration
	// Stale says that a policy asks what is inside, and the image was not scanned, or too long ago.
	Stale bool
}

const maxDetails = 8

// Word is allowed, denied or would_deny.
func (d *ImageDecision) Word() string {
	switch {
	case !d.Allowed:
		return string(verdict.Denied)
	case d.Audit:
		return string(verdict.WouldDeny)
	}
	return string(verdict.Allowed)
}

// Who is "policy NAME, rule RULE".
func (d *ImageDecision) Who() string { return "policy " + d.Policy + ", rule " + d.Rule }

// Images decides by the ImagePolicies of a set. It is immutable and safe for concurrent use.
type Images struct{ policies []*ImagePolicy }

// Any reports whether there are policies at all. If there are none, no image is judged.
func (s *Images) Any() bool { return s != nil && len(s.policies) > 0 }

// Enforced reports whether any policy is in enforce mode.
func (s *Images) Enforced() bool {
	return s != nil && slices.ContainsFunc(s.policies, func(p *ImagePolicy) bool { return p.Spec.Mode == verdict.ModeEnforce })
}

// NeedScan reports whether any policy asks what is inside images.
func (s *Images) NeedScan() bool {
	return s != nil && slices.ContainsFunc(s.policies, (*ImagePolicy).needsScan)
}

// ScanMaxAge returns the least age from which on a policy takes a scan for none; 0: no policy minds.
func (s *Images) ScanMaxAge() (least time.Duration) {
	if s == nil {
		return 0
	}
	for _, p := range s.policies {
		if age := p.Spec.ScanMaxAge; age > 0 && (least == 0 || age < least) {
			least = age
		}
	}
	return least
}

// NeedUse reports whether any policy asks which packages are in use.
func (s *Images) NeedUse() bool {
	return s != nil && slices.ContainsFunc(s.policies, func(p *ImagePolicy) bool {
		return slices.ContainsFunc(p.Spec.Findings, func(r FindingRule) bool { return r.Use.any() })
	})
}

// Decide judges an image: it is denied if any policy in enforce mode that selects it denies
// it. Without any policy that selects it, it is allowed.
func (s *Images) Decide(img *Image, at time.Time) ImageDecision {
	now := moment{Time: at, clock: at}
	if at.Before(img.NotBefore) {
		now.Time = img.NotBefore
	}
	d := ImageDecision{Allowed: true, Reason: "no image policy denies it"}
	for _, mode := range []verdict.Mode{verdict.ModeEnforce, verdict.ModeAudit} {
		for _, p := range s.policies {
			if p.Spec.Mode != mode || !p.Spec.Selector.matches(img) {
				continue
			}
			r := p.judge(img, now)
			if r.scan && (d.Deadline == 0 || p.Spec.Deadline < d.Deadline) {
				d.Scan, d.Deadline = true, p.Spec.Deadline
			}
			d.Stale = d.Stale || r.stale
			if r.rule == "" {
				continue
			}
			deny := mode == verdict.ModeEnforce && !r.audit
			if d.Allowed && (deny || !d.Audit) { // the first denial, or else the first report
				d.Policy, d.Revision, d.Rule, d.Reason, d.Details, d.Expired = p.Name, p.Revision, r.rule, r.reason, r.details, r.expired
			}
			d.Allowed = d.Allowed && !deny
			d.Audit = d.Audit || !deny
		}
	}
	if !d.Allowed {
		d.Audit = false
	}
	return d
}

// matches reports whether a policy is for an image: by any name that it has, so that another
// name takes no policy away.
func (s *ImageSelector) matches(img *Image) bool {
	if len(s.Images) > 0 && !slices.ContainsFunc(s.Images, img.named) {
		return false
	}
	return hasLabels(img.Labels, s.Labels)
}

func (img *Image) named(glob string) bool {
	return img.Asked != "" && matchImage(glob, img.Asked) ||
		slices.ContainsFunc(img.Names, func(n string) bool { return matchImage(glob, n) }) ||
		slices.ContainsFunc(img.Digests, func(n string) bool { return matchImage(glob, n) })
}

// hasDigest tells whether want is one of the image's digests.
func (img *Image) hasDigest(want string) bool {
	if img.Pull {
		_, asked, ok := strings.Cut(img.Asked, "@")
		return ok && asked == want
	}
	return img.ID == want || slices.ContainsFunc(img.Digests, func(d string) bool { return digestOf(d) == want })
}

// refusal is what one policy says against an image; without a rule nothing.
type imageRefusal struct {
	rule, reason     string
	details, expired []string
	scan, stale      bool
	// audit says that it is reported only, whatever the mode: it rests on what is not known.
	audit bool
}

// judge asks the rules in the order of the reference, cheap ones first.
func (p *ImagePolicy) judge(img *Image, now moment) imageRefusal {
	s := &p.Spec
	no := func(rule, format string, args ...any) imageRefusal {
		return imageRefusal{rule: rule, reason: fmt.Sprintf(format, args...)}
	}
	if len(s.Registries) > 0 && !img.from(s.Registries) {
		return no("registries", "it is not known to come from a registry that the policy names")
	}
	if len(s.Digests) > 0 && !slices.ContainsFunc(s.Digests, img.hasDigest) {
		return no("digests", "its digest is not on the list")
	}
	if img.Pull {
		return imageRefusal{}
	}
	if (s.MaxAge > 0 || s.NonRoot || s.SecretsInEnv) && !img.ConfigKnown {
		return no("configuration", "the image's configuration is not known")
	}
	if s.MaxAge > 0 {
		switch age := now.Sub(img.Created); {
		case img.Created.IsZero():
			return no("maxAge", "the image does not say when it was made")
		case now.ahead(img.Created):
			return no("maxAge", "it was made in the future, so that its age is not known: a clock was wrong where it was made, or is here")
		case age > s.MaxAge:
			return no("maxAge", "it was made %s ago, more than %s", days(age), days(s.MaxAge))
		}
	}
	if s.NonRoot && rootUser(img.User) {
		return no("nonRoot", "its user is %s; fix: name another with USER", rootName(img.User))
	}
	if s.SecretsInEnv {
		if names := secretVariables(img.Env); len(names) > 0 {
			r := no("secretsInEnv", "its environment holds what looks like a secret; fix: give it at run time")
			r.details = cutDetails(names)
			return r
		}
	}
	if !p.needsScan() {
		return imageRefusal{}
	}
	return p.judgeScan(img, now)
}

// clockSlack is how far ahead of this host's clock those may be that gave images, scans and databases their times.
const clockSlack = time.Hour

// Ahead reports whether a time is so far in the future that how long ago it was is not known.
func Ahead(at, now time.Time) bool { return at.Sub(now) > clockSlack }

// moment is when a decision is made: the least that it can be, and what the host's clock says.
type moment struct {
	time.Time
	clock time.Time
}

// ahead is [Ahead] by a clock that may be right. One that is known to be behind, as after a boot without a battery for
// it, tells nothing of what is newer.
func (m moment) ahead(at time.Time) bool { return !m.clock.Before(m.Time) && Ahead(at, m.Time) }

// judgeScan asks what is inside.
func (p *ImagePolicy) judgeScan(img *Image, now moment) imageRefusal {
	s, sc := &p.Spec, &img.Scan
	old := s.ScanMaxAge > 0 && (now.Sub(sc.At) > s.ScanMaxAge || now.ahead(sc.At))
	if sc.At.IsZero() || old {
		r := imageRefusal{rule: "unscanned", reason: "it was not scanned yet", stale: true, scan: s.Unscanned == ScanFirst && !sc.Tried}
		switch {
		case now.ahead(sc.At):
			r.rule, r.reason = "scanned.maxAge", "its last scan is of the future, so that its age is not known: a clock was wrong; fix: set it right, and the agent scans it again"
		case !sc.At.IsZero():
			r.rule, r.reason = "scanned.maxAge", "its last scan is "+days(now.Sub(sc.At))+" old, more than "+days(s.ScanMaxAge)
		case sc.Err != "":
			r.reason = "it could not be scanned: " + sc.Err
		case sc.Tried:
			r.reason = "it could not be scanned within " + s.Deadline.String()
		}
		what := s.Unscanned
		if what == ScanFirst {
			what = s.Fallback
		}
		if what == Allow {
			r.rule = ""
		}
		return r
	}
	if s.Secrets != nil {
		if r := s.Secrets.judge(sc, s.AllowIncomplete); r.rule != "" {
			return r
		}
	}
	if len(s.Findings) == 0 && s.DatabaseMaxAge == 0 {
		return imageRefusal{}
	}
	switch {
	case sc.Database.IsZero() && sc.Unmatched != "":
		return imageRefusal{rule: "database", reason: "the vulnerability database is of no use for it: " + sc.Unmatched}
	case sc.Database.IsZero():
		return imageRefusal{rule: "database", reason: "the host has no vulnerability database; fix: belay db update"}
	case s.DatabaseMaxAge > 0 && Ahead(sc.Database, now.clock): // it does not vouch for itself
		return imageRefusal{rule: "databaseMaxAge", reason: "the vulnerability database is of the future, so that its age is not known: a clock is wrong; fix: set it right, then belay db update"}
	case s.DatabaseMaxAge > 0 && now.Sub(sc.Database) > s.DatabaseMaxAge:
		return imageRefusal{rule: "databaseMaxAge", reason: "the vulnerability database is " + days(now.Sub(sc.Database)) + " old; fix: belay db update, or import newer records"}
	}
	r := p.judgeFindings(img, now)
	if r.rule != "" && !r.audit {
		return r
	}
	if !sc.Complete && !s.AllowIncomplete {
		return imageRefusal{rule: "incomplete", reason: "not all of it could be read and matched: belay images IMAGE says what"}
	}
	return r
}

// from tells whether the image comes from one of the registries: by a registry's digest,
// since anybody may give any image any tag. A pull is judged by what it asks for.
func (img *Image) from(registries []string) bool {
	return slices.ContainsFunc(registries, func(g string) bool {
		if img.Pull {
			return matchImage(g, img.Asked)
		}
		return slices.ContainsFunc(img.Digests, func(d string) bool { return matchImage(g, d) })
	})
}

// rootUser reports whether the user of a configuration is root: none, 0 or root, whatever
// the group.
func rootUser(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	return name == "" || name == "root" || strings.Trim(name, "0") == ""
}

func rootName(user string) string {
	if user == "" {
		return "root, since it names none"
	}
	return quote(user)
}

// secretVariables returns the names of variables that look like secrets, never a value.
func secretVariables(env []string) []string {
	var out []string
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if secretname.Variable(name, value) {
			out = append(out, short(name))
		}
	}
	return out
}

func cutDetails(list []string) []string { return list[:min(len(list), maxDetails)] }

// days writes a span for people: "3d" or "5h0m0s".
func days(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return d.Round(time.Second).String()
}
