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
	IDs []string `json:"ids"`
	// About are those of [Vulnerability].
	About     []string `json:"about,omitempty"`
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
	var answers []packageAnswer
	total := 0
	f := db.finder()
	defer f.done()
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
			// Records of other ecosystems may name it all the same.
			note(p, fmt.Sprintf("the database has no advisories for %s packages of %s", p.Kind, cmp.Or(strings.Join(ecosystems, ", "), res.OS.ID, "an unknown system")))
		}
		key := lookupKey{p.Kind, p.Name, p.Version, p.Source, p.SourceVersion}
		a, ok := f.cache[key]
		if !ok {
			var err error
			if a.found, a.undecided, err = f.find(ctx, ecosystems, names); err != nil {
				return Matches{}, err
			}
			f.cache[key] = a
		}
		if groupless(p) && len(a.found) == 0 {
			note(p, "an archive of Java that tells no group, by which advisories name it")
		}
		if a.undecided > 0 {
			note(p, "a version that cannot be compared with those of advisories")
		}
		if total += len(a.found); total > MaxFindings {
			return Matches{}, fmt.Errorf("%w: %d", ErrTooManyFindings, MaxFindings)
		}
		if len(a.found) > 0 {
			answers = append(answers, packageAnswer{i, withSymbols(a.found, p)})
		}
	}
	m.Findings = ordered(answers, total)
	return m, nil
}

// packageAnswer are the findings of one package.
type packageAnswer struct {
	pkg   int
	found []Finding
}

// withSymbols says of each finding whether the program of that package has the functions that the flaw
// is in. found is what all programs with that module have in common, and stays as it is.
func withSymbols(found []Finding, p *inventory.Package) []Finding {
	if !slices.ContainsFunc(found, func(f Finding) bool { return f.flaw != nil }) {
		return found
	}
	set, told := p.FunctionSet()
	found = slices.Clone(found)
	for i := range found {
		if f := &found[i]; f.flaw != nil {
			f.Symbols = f.flaw.in(set, told)
		}
	}
	return found
}

// ordered puts findings together, the worst first. They are large: places are sorted, and each
// finding is written once.
func ordered(answers []packageAnswer, total int) []Finding {
	type place struct {
		pkg int
		f   *Finding
	}
	places := make([]place, 0, total)
	for _, a := range answers {
		for i := range a.found {
			places = append(places, place{a.pkg, &a.found[i]})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(-cmp.Compare(a.f.Severity, b.f.Severity), -cmp.Compare(a.f.Score, b.f.Score), a.pkg-b.pkg, cmp.Compare(a.f.IDs[0], b.f.IDs[0]))
	})
	var out []Finding // nil for none
	if total > 0 {
		out = make([]Finding, total)
	}
	for i, p := range places {
		out[i] = *p.f
		out[i].Package, out[i].flaw = p.pkg, nil
	}
	return out
}

// lookupKey is a package as it is looked up: all of one kind in one image have the same
// ecosystems.
type lookupKey struct{ kind, name, version, source, sourceVersion string }

// answer is what one look-up gave.
type answer struct {
	found     []Finding
	undecided int
}

// finder looks packages up, one after the other, and uses its memory again, as the next match does.
type finder struct {
	db    *DB
	all   merger
	mends fixes
	a     affected
	// Many programs hold the same module: each is looked up once.
	cache map[lookupKey]answer
	// A record is about many packages: each is decoded once, and its texts are shared.
	records map[int]Vulnerability
}

func (x *finder) record(i int) (Vulnerability, error) {
	if rec, ok := x.records[i]; ok {
		return rec, nil
	}
	rec, err := x.db.record(i)
	if err == nil {
		x.records[i] = rec
	}
	return rec, err
}

func (db *DB) finder() *finder {
	if f, ok := db.finders.Get().(*finder); ok {
		return f
	}
	return &finder{db: db, all: merger{byID: map[string]int{}}, mends: fixes{}, cache: map[lookupKey]answer{}, records: map[int]Vulnerability{}}
}

// maxKept is beyond which size a finder is not kept for the next match.
const maxKept = 10_000

func (x *finder) done() {
	if len(x.cache) > maxKept || len(x.records) > maxKept || cap(x.all.list) > maxKept {
		return
	}
	clear(x.cache)
	clear(x.records)
	clear(x.all.list[:cap(x.all.list)])
	x.all.reset()
	clear(x.mends)
	x.db.finders.Put(x)
}

// find returns which records of any of the names are about a version, those with a common
// name of their own as one.
// undecided counts records whose versions could not be compared with this one.
func (x *finder) find(ctx context.Context, ecosystems []string, names []wanted) (found []Finding, undecided int, err error) {
	x.all.reset()
	clear(x.mends)
	for _, eco := range ecosystems {
		for _, w := range names {
			e, err := x.db.lookup(eco, w.name)
			if err != nil {
				return nil, 0, err
			}
			if e.n == 0 {
				continue
			}
			n, err := x.findIn(ctx, e, eco, w.version)
			if err != nil {
				return nil, 0, err
			}
			undecided += n
		}
	}
	return mended(x.all.findings(), x.mends), undecided, nil
}

// findIn adds the findings of one ecosystem, and to mends the names of flaws that the version
// has a subscriber's fix of.
func (x *finder) findIn(ctx context.Context, e entry, eco, text string) (undecided int, err error) {
	v, verr := parse(eco, text)
	pro, a := strings.HasPrefix(eco, ubuntuPro), &x.a
	for e.n > 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := e.next(a); err != nil {
			return 0, err
		}
		f, hit, err := a.match(v, verr, text)
		if err != nil || a.otherEpoch(eco, text) {
			undecided++
		}
		if !hit && verr == nil && pro && esm(text) && a.mends(v) {
			rec, err := x.record(a.record)
			if err != nil {
				return 0, err
			}
			x.mends.note(append([]string{rec.ID}, rec.Aliases...), false)
		}
		if !hit || otherModule(eco, text, f.Fixed) {
			continue
		}
		if f.State == StateFixed && pro {
			f.State = StateSubscription
		}
		rec, err := x.record(a.record)
		if err != nil {
			return 0, err
		}
		f.IDs = append(append(make([]string, 0, 1+len(rec.Aliases)), rec.ID), rec.Aliases...)
		f.About = rec.About
		f.Severity, f.Score, f.Exploited, f.Summary = rec.Severity, rec.Score, rec.Exploited, rec.Summary
		if pro {
			x.mends.note(f.IDs, true)
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
		x.all.add(f)
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
	list []Finding // without names where one was taken into another
	byID map[string]int
}

func (m *merger) reset() {
	clear(m.byID)
	m.list = m.list[:0]
}

// add adds a finding, and keeps its names: with the others of its names it keeps the highest
// severity, and the first text and fix.
func (m *merger) add(f Finding) {
	to := len(m.list)
	for _, id := range f.IDs {
		if i, ok := m.byID[id]; ok {
			to = min(to, i)
		}
	}
	if to < len(m.list) {
		m.into(to, &f)
		return
	}
	n := 0
	for _, id := range f.IDs {
		if _, twice := m.byID[id]; !twice {
			m.byID[id] = to
			f.IDs[n] = id
			n++
		}
	}
	f.IDs = f.IDs[:n]
	m.list = append(m.list, f)
}

// into takes f, and whatever has one of its names, into the finding at to.
func (m *merger) into(to int, f *Finding) {
	g := &m.list[to]
	for _, id := range f.IDs {
		switch i, ok := m.byID[id]; {
		case !ok:
			g.IDs = append(g.IDs, id)
			m.byID[id] = to
		case i != to:
			other := m.list[i]
			m.list[i] = Finding{}
			for _, id := range other.IDs {
				m.byID[id] = to
			}
			g.IDs = append(g.IDs, other.IDs...)
			g.absorb(&other)
		}
	}
	g.absorb(f)
}

func (f *Finding) absorb(o *Finding) {
	f.Severity, f.Score = max(f.Severity, o.Severity), max(f.Score, o.Score)
	f.Exploited = f.Exploited || o.Exploited
	f.EPSS, f.Percentile = max(f.EPSS, o.EPSS), max(f.Percentile, o.Percentile)
	f.Summary = cmp.Or(f.Summary, o.Summary)
	f.About = union(f.About, o.About)
	f.flaw = f.flaw.absorb(o.flaw)
	switch free := o.State != StateSubscription; {
	case o.Fixed != "" && (f.Fixed == "" || free && f.State == StateSubscription):
		// A fix for all goes before one for subscribers.
		f.Fixed, f.State = o.Fixed, o.State
	case f.Fixed == "" && f.State == StateAffected:
		f.State = o.State // what the distribution says of it is more than that it is there
	}
}

// union adds to a list, which others may have, what it lacks of another.
func union(list, more []string) []string {
	for _, id := range more {
		if !slices.Contains(list, id) {
			list = append(slices.Clip(list), id)
		}
	}
	return list
}

// findings returns copies: the list is used again.
func (m *merger) findings() []Finding {
	n := 0
	for i := range m.list {
		if len(m.list[i].IDs) > 0 {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]Finding, 0, n)
	for i := range m.list {
		if f := &m.list[i]; len(f.IDs) > 0 {
			cveFirst(f.IDs)
			out = append(out, *f)
		}
	}
	return out
}
