package vulndb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// States of a finding.
const (
	StateFixed        = "fixed"              // a version without it is known
	StateAffected     = "affected"           // none is known
	StateEndOfLife    = "end-of-life"        // and none will come for this release
	StateWillNotFix   = "will-not-fix"       // the distribution has decided against one
	StateDeferred     = "deferred"           // one may come, with something more urgent or a point release
	StateSubscription = "needs-subscription" // one is there for paying users (Ubuntu Pro)
	StateUndetermined = "undetermined"       // nobody has looked whether this release has it
)

// stateCodes are the states that a record of a distribution may have beside its
// ranges, by their number in the file. Numbers are never used again.
var stateCodes = [...]string{StateAffected, StateEndOfLife, StateWillNotFix, StateDeferred, StateSubscription, StateUndetermined}

func stateCode(state string) byte { return byte(slices.Index(stateCodes[:], state)) }

// negligible is set in a state's number if the distribution calls the flaw unimportant.
const negligible = 0x80

// stateOf is the state of a number. One that is not known is the plain one: affected.
func stateOf(code byte) string {
	if code &^= negligible; int(code) < len(stateCodes) {
		return stateCodes[code]
	}
	return StateAffected
}

// Finding is one vulnerability in one package.
type Finding struct {
	Package int `json:"package"` // index in [inventory.Result.Packages]
	// IDs are all names of it, the CVE number first if there is one.
	IDs       []string `json:"ids"`
	Severity  Severity `json:"severity"`
	Score     float64  `json:"score,omitempty"`
	Exploited bool     `json:"exploited,omitempty"`
	// EPSS and Percentile are those of [Vulnerability].
	EPSS       float64 `json:"epss,omitempty"`
	Percentile float64 `json:"percentile,omitempty"`
	State      string  `json:"state"`
	// Fixed is the first version without it, of the source package for
	// distributions; empty if none is known.
	Fixed   string `json:"fixed,omitempty"`
	Summary string `json:"summary,omitempty"`
	// Ignored is the reason for which somebody has accepted it, Known says that an
	// earlier scan had it; both are set by whoever asks, and never by a match.
	Ignored string `json:"ignored,omitempty"`
	// IgnoredBy is where the rule is by which it is ignored: FILE:LINE.
	IgnoredBy string `json:"ignoredBy,omitempty"`
	Known     bool   `json:"known,omitempty"`
	// FromBase says that its package is of a base image that somebody named, ClaimedBase that it
	// is of one by the image's own word; set by whoever asks, too.
	FromBase    bool `json:"fromBase,omitempty"`
	ClaimedBase bool `json:"claimedBase,omitempty"`
	// Use is what was observed of the package in a running container; nil: nobody looked. It
	// is set by whoever did.
	Use *inventory.Use `json:"use,omitempty"`
	// Symbols tells whether a Go program has a function that the flaw is in; nil for other packages.
	Symbols *Symbols `json:"symbols,omitempty"`

	flaw *flaw // of Go
}

// Fixable reports whether there is a version to go to that anybody can have.
func (f *Finding) Fixable() bool { return f.Fixed != "" && f.State != StateSubscription }

// Urgency orders findings whose packages' use was looked at, the most urgent first: known to
// be exploited; in use, those that a published port leads to before others, what is not known
// before what was not seen; by EPSS; by severity.
func (f *Finding) Urgency(o *Finding) int {
	exploited := func(f *Finding) int {
		if f.Exploited {
			return 0
		}
		return 1
	}
	return cmp.Or(exploited(f)-exploited(o), f.use().Rank()-o.use().Rank(), -cmp.Compare(f.EPSS, o.EPSS), -cmp.Compare(f.Severity, o.Severity))
}

func (f *Finding) use() *inventory.Use {
	if f.Use == nil {
		return &inventory.Use{}
	}
	return f.Use
}

// Matches is what the database says of an image.
type Matches struct {
	Findings []Finding
	// Notes are packages that could not be matched, and why.
	Notes []inventory.Note
}

// MaxFindings bounds what [DB.Match] gives: an image chooses its packages, and each may
// have thousands of records.
const MaxFindings = 500_000

// ErrTooManyFindings says that an inventory has more than [MaxFindings] findings.
var ErrTooManyFindings = errors.New("the packages have more findings than a scan may list")

// Match looks all packages of an inventory up.
//
// Packages of a distribution are matched by source package and source version.
// Packages of a language that a distribution's package owns are left to the
// distribution's records, if that package is installed and they know its source: a
// list of files alone, or a package of somebody else, hides nothing. Errors: [ErrBroken], [ErrTooManyFindings], that of ctx.
func (db *DB) Match(ctx context.Context, res *inventory.Result) (Matches, error) {
	var m Matches
	// Many programs hold the same module: each is looked up once.
	cache := map[lookupKey]answer{}
	known := map[string]bool{}
	own := newOwners(db, res)
	notes := map[string]int{}
	note := func(p *inventory.Package, text string) {
		if i, ok := notes[text]; ok {
			m.Notes[i].Count++
			return
		}
		notes[text] = len(m.Notes)
		m.Notes = append(m.Notes, inventory.Note{Path: p.Name, Text: text, Count: 1})
	}
	for i := range res.Packages {
		if err := ctx.Err(); err != nil {
			return Matches{}, err
		}
		p := &res.Packages[i]
		if p.Owner != "" {
			covered, err := own.covers(p.Owner)
			if err != nil {
				return Matches{}, err
			}
			if covered {
				continue
			}
		}
		ecosystems, names := query(res.OS, p)
		covered := false
		for _, eco := range ecosystems {
			yes, ok := known[eco]
			if !ok {
				yes = db.has(eco)
				known[eco] = yes
			}
			covered = covered || yes
		}
		if !covered {
			note(p, fmt.Sprintf("the database has no advisories for %s packages of %s", p.Kind, cmp.Or(strings.Join(ecosystems, ", "), res.OS.ID, "an unknown system")))
			continue
		}
		key := lookupKey{p.Kind, p.Name, p.Version, p.Source, p.SourceVersion}
		a, ok := cache[key]
		if !ok {
			var err error
			if a.found, a.undecided, err = db.find(ctx, ecosystems, names); err != nil {
				return Matches{}, err
			}
			cache[key] = a
		}
		if groupless(p) && len(a.found) == 0 {
			note(p, "an archive of Java that tells no group, by which advisories name it")
		}
		if a.undecided > 0 {
			note(p, "a version that cannot be compared with those of advisories")
		}
		if len(m.Findings)+len(a.found) > MaxFindings {
			return Matches{}, fmt.Errorf("%w: %d", ErrTooManyFindings, MaxFindings)
		}
		var set inventory.FunctionSet
		told := false
		if p.Kind == inventory.KindGo && len(a.found) > 0 {
			set, told = p.FunctionSet()
		}
		for _, f := range a.found {
			f.Package = i
			if f.flaw != nil {
				f.Symbols = f.flaw.in(set, told)
			}
			f.flaw = nil
			m.Findings = append(m.Findings, f)
		}
	}
	slices.SortStableFunc(m.Findings, func(a, b Finding) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), -cmp.Compare(a.Score, b.Score), cmp.Compare(a.Package, b.Package), cmp.Compare(a.IDs[0], b.IDs[0]))
	})
	return m, nil
}

// lookupKey is a package as it is looked up: all of one kind in one image have the same
// ecosystems.
type lookupKey struct{ kind, name, version, source, sourceVersion string }

// answer is what one look-up gave.
type answer struct {
	found     []Finding
	undecided int
}

// find returns which records of any of the names are about a version, those with a common
// name of their own as one.
// undecided counts records whose versions could not be compared with this one.
func (db *DB) find(ctx context.Context, ecosystems []string, names []wanted) (found []Finding, undecided int, err error) {
	all := merger{byID: map[string]int{}}
	mends := fixes{}
	for _, eco := range ecosystems {
		for _, w := range names {
			e, err := db.lookup(eco, w.name)
			if err != nil {
				return nil, 0, err
			}
			if e.n == 0 {
				continue
			}
			n, err := db.findIn(ctx, &all, mends, e, eco, w.version)
			if err != nil {
				return nil, 0, err
			}
			undecided += n
		}
	}
	return mended(all.findings(), mends), undecided, nil
}

// findIn adds the findings of one ecosystem to all, and to mends the names of flaws that the version
// has a subscriber's fix of.
func (db *DB) findIn(ctx context.Context, all *merger, mends fixes, e entry, eco, text string) (undecided int, err error) {
	v, verr := parse(eco, text)
	var a affected
	for e.n > 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := e.next(&a); err != nil {
			return 0, err
		}
		f, hit, err := a.match(v, verr, text)
		if err != nil || a.otherEpoch(eco, text) {
			undecided++
		}
		if !hit && verr == nil && esm(text) && strings.HasPrefix(eco, ubuntuPro) && a.mends(v) {
			rec, err := db.record(a.record)
			if err != nil {
				return 0, err
			}
			mends.note(append([]string{rec.ID}, rec.Aliases...), false)
		}
		if !hit || otherModule(eco, text, f.Fixed) {
			continue
		}
		if f.State == StateFixed && strings.HasPrefix(eco, ubuntuPro) {
			f.State = StateSubscription
		}
		rec, err := db.record(a.record)
		if err != nil {
			return 0, err
		}
		f.IDs, f.Severity, f.Score, f.Exploited, f.Summary = append([]string{rec.ID}, rec.Aliases...), rec.Severity, rec.Score, rec.Exploited, rec.Summary
		if strings.HasPrefix(eco, ubuntuPro) {
			mends.note(f.IDs, true)
		}
		f.EPSS, f.Percentile = rec.EPSS, rec.Percentile
		if eco == "Go" {
			if f.flaw, err = flawOf(a.imports, rec.ID); err != nil {
				return 0, err
			}
		}
		if a.state&negligible != 0 {
			f.Severity = SeverityNegligible
		}
		all.add(f)
	}
	return undecided, nil
}

// match tells whether a version is affected, and what would fix it.
func (a *affected) match(v version, verr error, text string) (f Finding, hit bool, err error) {
	f.State = stateOf(a.state)
	for _, r := range a.ranges {
		if err = verr; err != nil {
			break
		}
		in, fixed, e := v.in(r)
		if err = e; err != nil {
			break
		}
		if in {
			hit = true
			if len(fixed) > 0 && f.Fixed == "" {
				f.Fixed, f.State = string(fixed), StateFixed
			}
		}
	}
	for _, w := range a.versions {
		if hit {
			break
		}
		if string(w) == text {
			hit = true
		} else if verr == nil {
			// Equal by the ecosystem's order, not by spelling: 1.0 is 1.0.0 for PyPI.
			n, e := v.compare(w)
			hit = e == nil && n == 0
		}
	}
	return f, hit, err
}

// merger gathers the findings of one package; those that share a name become one.
type merger struct {
	list []*Finding // nil where one was taken into another
	byID map[string]int
}

// add adds a finding: with the others of its names it keeps the highest severity, and
// the first text and fix.
func (m *merger) add(f Finding) {
	to := len(m.list)
	for _, id := range f.IDs {
		if i, ok := m.byID[id]; ok {
			to = min(to, i)
		}
	}
	if to == len(m.list) {
		m.list = append(m.list, &Finding{State: f.State, Fixed: f.Fixed, Summary: f.Summary})
	}
	m.into(to, &f)
}

// into takes f, and whatever has one of its names, into the finding at to.
func (m *merger) into(to int, f *Finding) {
	g := m.list[to]
	for _, id := range f.IDs {
		switch i, ok := m.byID[id]; {
		case !ok:
			g.IDs = append(g.IDs, id)
			m.byID[id] = to
		case i != to:
			other := m.list[i]
			m.list[i] = nil
			for _, id := range other.IDs {
				m.byID[id] = to
			}
			g.IDs = append(g.IDs, other.IDs...)
			g.absorb(other)
		}
	}
	g.absorb(f)
}

func (f *Finding) absorb(o *Finding) {
	f.Severity, f.Score = max(f.Severity, o.Severity), max(f.Score, o.Score)
	f.Exploited = f.Exploited || o.Exploited
	f.EPSS, f.Percentile = max(f.EPSS, o.EPSS), max(f.Percentile, o.Percentile)
	f.Summary = cmp.Or(f.Summary, o.Summary)
	f.flaw = f.flaw.absorb(o.flaw)
	switch free := o.State != StateSubscription; {
	case o.Fixed != "" && (f.Fixed == "" || free && f.State == StateSubscription):
		// A fix for all goes before one for subscribers.
		f.Fixed, f.State = o.Fixed, o.State
	case f.Fixed == "" && f.State == StateAffected:
		f.State = o.State // what the distribution says of it is more than that it is there
	}
}

func (m *merger) findings() []Finding {
	var out []Finding
	for _, f := range m.list {
		if f != nil {
			cveFirst(f.IDs)
			out = append(out, *f)
		}
	}
	return out
}
