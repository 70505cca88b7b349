package stock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// matchTime bounds the matching of one image: what it holds may be made to take long.
const matchTime = 30 * time.Second

// reload opens the database if it is another than before, and matches the images that
// hold a package of which it says something else. A new one that is broken leaves the old
// one in use.
func (k *Keeper) reload(ctx context.Context) {
	info, err := os.Stat(k.o.DB)
	if err != nil {
		// One that is gone is used no more only when the agent starts anew: it may be on its
		// way. Of which time it is is known, and policies ask.
		k.without(err)
		return
	}
	if k.dbFile != nil && sameFile(k.dbFile, info) {
		return
	}
	db, err := vulndb.Open(k.o.DB)
	broken := errors.Is(err, vulndb.ErrBroken)
	if err == nil || broken {
		k.dbFile = info // what else keeps it from being opened may pass: it is tried again
	}
	if err != nil {
		if text := err.Error(); broken || text != k.dbErr { // told once, however often it is tried
			k.dbErr = text
			k.o.Health.Counter("vulndb_unreadable").Add(1)
			k.o.Log.Error("the vulnerability database is not used; the former one stays", attr.Error, text)
		}
		k.without(err)
		return
	}
	k.dbErr = ""
	first := k.db == nil
	k.closeDB()
	k.use(db)
	k.without(nil)
	touched, err := k.touched()
	if err != nil {
		k.broken(err)
		return
	}
	n := 0
	for _, s := range k.List() {
		if s.At.IsZero() || ctx.Err() != nil {
			continue
		}
		k.scanNext(ctx, 1) // somebody may wait: one at a time, or matching would never end
		s, ok := k.State(s.ID)
		if !ok {
			continue // dropped for what was scanned
		}
		if !first && !s.Database.IsZero() && !touched(s.ID) {
			k.mu.Lock()
			if now := k.states[s.ID]; now != nil {
				now.Database = db.AsOf()
			}
			k.mu.Unlock()
			continue
		}
		n++
		m, res, err := k.read(s.ID)
		if err != nil {
			k.forget(s.ID, err)
			continue
		}
		k.match(ctx, m, res)
		k.changed(s.ID)
	}
	k.o.Health.Counter("rematched").Add(uint64(n))
	k.o.Log.Info("a vulnerability database is in use", attr.File, k.o.DB, attr.Count, n)
}

// prepareTime is what one image may take of the time of all that are prepared.
const prepareTime = 3 * time.Second

// Prepare matches the inventories of some images before [Keeper.Run], which matches all: for who cannot
// wait for that. What keeps the database or an inventory from being read is told by Run.
func (k *Keeper) Prepare(ctx context.Context, ids []string) {
	db, err := vulndb.Open(k.o.DB)
	if err != nil {
		k.without(err)
		return
	}
	k.use(db)
	defer k.closeDB() // Run opens it as one that is new to it
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		if m, res, err := k.read(id); err == nil {
			one, cancel := context.WithTimeout(ctx, prepareTime)
			k.match(one, m, res)
			cancel()
		}
	}
}

// sameFile tells whether a path still has the file that it had.
func sameFile(a, b os.FileInfo) bool {
	if !os.SameFile(a, b) || a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()) {
		return false
	}
	x, ok1 := a.Sys().(*syscall.Stat_t)
	y, ok2 := b.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && x.Ctim == y.Ctim
}

func (k *Keeper) use(db *vulndb.DB) {
	k.db = db
	k.mu.Lock()
	defer k.mu.Unlock()
	k.built = db.Built()
}

func (k *Keeper) closeDB() {
	if k.db != nil {
		k.db.Close()
		k.db = nil
	}
}

// without notes why no database is in use, if none is, for policies to tell.
func (k *Keeper) without(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unused = ""
	if k.db == nil && err != nil && !errors.Is(err, os.ErrNotExist) {
		k.unused = short(err.Error())
	}
}

// broken gives a database up.
func (k *Keeper) broken(err error) {
	k.o.Health.Counter("vulndb_unreadable").Add(1)
	k.o.Log.Error("the vulnerability database is not used any more", attr.Error, err.Error())
	k.closeDB()
	k.without(err)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.states {
		s.Database = time.Time{} // nothing is known of anything
	}
	clear(k.prints)
}

// forget drops an inventory that cannot be read back; its image is scanned again.
func (k *Keeper) forget(id string, err error) {
	k.o.Health.Counter("inventories_unreadable").Add(1)
	k.o.Log.Warn("an inventory is not used; its image is scanned again", attr.Error, err.Error())
	_ = os.Remove(k.path(id))
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.states, id)
	delete(k.keys, id)
	k.enqueue(id, 1, retryAfter, false)
}

// touched looks up what the database says of all packages that are known, each once, and
// tells of images whether that is something else than before.
func (k *Keeper) touched() (func(id string) bool, error) {
	k.mu.Lock()
	used := map[int32]bool{}
	for _, list := range k.keys {
		for _, n := range list {
			used[n] = true
		}
	}
	byNumber := make(map[int32]vulndb.Key, len(used))
	for key, n := range k.names {
		if used[n] {
			byNumber[n] = key
		}
	}
	k.mu.Unlock()
	now := make(map[int32]uint64, len(byNumber))
	other := map[int32]bool{}
	err := k.guard(func() error {
		for n, key := range byNumber {
			p, err := k.db.Fingerprint(key)
			if err != nil {
				return err
			}
			now[n] = p
			if was, ok := k.prints[n]; !ok || was != p {
				other[n] = true
			}
		}
		return nil
	})
	k.prints = now
	return func(id string) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return slices.ContainsFunc(k.keys[id], func(n int32) bool { return other[n] })
	}, err
}

// learnKeys notes what the database says of a new image's packages.
func (k *Keeper) learnKeys(id string) {
	if k.db == nil {
		return
	}
	k.mu.Lock()
	mine := map[int32]vulndb.Key{}
	for _, n := range k.keys[id] {
		if _, ok := k.prints[n]; !ok {
			mine[n] = vulndb.Key{}
		}
	}
	if len(mine) > 0 {
		for key, n := range k.names {
			if _, ok := mine[n]; ok {
				mine[n] = key
			}
		}
	}
	k.mu.Unlock()
	_ = k.guard(func() error {
		for n, key := range mine {
			p, err := k.db.Fingerprint(key)
			if err != nil {
				return err // its match fails too
			}
			k.prints[n] = p
		}
		return nil
	})
}

// guard turns a fault of the mapped file into an error: somebody may cut it short in place.
func (k *Keeper) guard(f func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(before)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w (%v)", vulndb.ErrBroken, p)
		}
	}()
	return f()
}

// match matches one inventory, keeps what came of it, and reports what is new.
func (k *Keeper) match(ctx context.Context, m *meta, res *inventory.Result) {
	if k.db == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, matchTime)
	defer cancel()
	var matches vulndb.Matches
	err := k.guard(func() (err error) {
		matches, err = k.db.Match(ctx, res)
		return err
	})
	if err != nil {
		k.unmatched(m.ID, err)
		return
	}
	findings := make([]policy.ImageFinding, 0, min(len(matches.Findings), maxFindings))
	now, behind := k.now()
	k.mu.Lock()
	for i := range matches.Findings {
		if len(findings) == maxFindings {
			break
		}
		findings = append(findings, k.finding(&matches.Findings[i], res, now, behind))
	}
	k.mu.Unlock()
	fresh, more := remember(m, findings)
	if err := k.writeFirst(); err != nil {
		k.o.Health.Counter("first_seen_unwritten").Add(1)
		k.o.Log.Warn("a grace period may begin anew after a restart", attr.Error, err.Error())
	}
	k.mu.Lock()
	if s := k.states[m.ID]; s != nil {
		s.Findings, s.Database, s.Unmatched, s.Matched = findings, k.db.AsOf(), "", now
		s.Complete = res.Complete() && len(matches.Notes) == 0 && len(matches.Findings) <= maxFindings
		notes := slices.Concat(res.Notes, matches.Notes)
		if len(matches.Findings) > maxFindings {
			notes = append(notes, inventory.Note{Text: fmt.Sprintf("more than %d findings; the worst are kept", maxFindings), Count: 1})
		}
		s.Notes = notes[:min(len(notes), maxNotes)]
	}
	k.mu.Unlock()
	if len(fresh) > 0 && k.o.Report != nil {
		k.o.Report(m.ID, fresh)
	}
	if !more {
		return
	}
	// After the report: to hear of something twice after a crash is better than never.
	if err := k.write(m, res); err != nil {
		k.o.Health.Counter("inventories_unwritten").Add(1)
		k.o.Log.Warn("findings may be reported again after a restart", attr.Error, err.Error())
	}
}

// unmatched notes that an image could not be matched: policies take it for one of which
// there is no database.
func (k *Keeper) unmatched(id string, err error) {
	k.o.Health.Counter("matches_failed").Add(1)
	k.o.Log.Warn("an image could not be matched", attr.ImageDigest, id, attr.Error, err.Error())
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.states[id]; s != nil {
		s.Database, s.Findings, s.Complete = time.Time{}, nil, false
		s.Unmatched = "it could not be matched: " + short(err.Error())
		s.Notes = append(slices.Clone(s.Notes), inventory.Note{Text: s.Unmatched, Count: 1})
	}
}

// finding words a finding, and notes when the host first saw it. By a clock that is behind no first sight is of the
// future. k.mu is held.
func (k *Keeper) finding(f *vulndb.Finding, res *inventory.Result, now time.Time, behind bool) policy.ImageFinding {
	p := &res.Packages[f.Package]
	out := policy.ImageFinding{
		IDs: f.IDs, About: f.About, Severity: f.Severity, Exploited: f.Exploited, EPSS: f.EPSS, Package: p.Name, Source: p.Source, Version: p.Version,
		Kind: p.Kind, Path: p.Path, Symbols: f.SymbolState(),
	}
	if f.Fixable() {
		out.Fixed = f.Fixed
	}
	if k.lost {
		return out // long ago
	}
	// One of the future is of a clock that was wrong.
	counts := func(id string) (t int64, ok bool) {
		t, ok = k.first[id]
		return t, ok && (behind || t <= now.Unix())
	}
	// A later record may bring another first name: the earliest of all counts.
	first, known := now.Unix(), false
	for _, id := range f.IDs {
		if t, ok := counts(id); ok && (!known || t < first) {
			first, known = t, true
		}
	}
	for _, id := range f.IDs {
		if _, ok := counts(id); ok {
			continue
		}
		if _, ok := k.first[id]; !ok && len(k.first) >= maxFirst {
			k.o.Health.Counter("first_seen_full").Add(1)
			return out
		}
		k.first[id], k.dirty = first, true
	}
	out.FirstSeen = time.Unix(first, 0).UTC()
	return out
}

// remember notes which vulnerabilities an image has had, and returns those that are new since
// it was matched before, each once; more tells whether there is something to keep.
func remember(m *meta, findings []policy.ImageFinding) (fresh []policy.ImageFinding, more bool) {
	had := make(map[string]bool, len(m.Seen))
	for _, id := range m.Seen {
		had[id] = true
	}
	known := len(m.Seen)
	for i := range findings {
		f := &findings[i]
		if m.Matched && !slices.ContainsFunc(f.IDs, func(id string) bool { return had[id] }) {
			fresh = append(fresh, *f)
		}
		for _, id := range f.IDs {
			if !had[id] && len(m.Seen) < 10*maxFindings {
				had[id] = true
				m.Seen = append(m.Seen, id)
			}
		}
	}
	more = !m.Matched || known < len(m.Seen)
	m.Matched = true
	return fresh, more
}
