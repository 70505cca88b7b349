package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// policies holds the set in force. It is replaced as a whole, or not at all.
type policies struct {
	dir      string
	shipped  string // directory of the policies that ship; empty: none
	lastGood string

	// set is in force. Who decides by it waits for no load.
	set atomic.Pointer[policy.Set]

	// mu guards what follows, and lets one change set at a time; files are read and written under it.
	mu      sync.Mutex
	former  *policy.Set       // in force before the last load; nil: nothing was
	unkept  string            // why the set in force would not survive a restart
	refused map[string]string // policy name to why this host does not take it
	all     []*policy.RuntimePolicy
	docs    map[string]*storedPolicy // what set was made of, by name
	oldDocs map[string]*storedPolicy // what former was made of
	loaded  time.Time
	broken  string // why the directory's present content is not in force
	print   string // fingerprint of the directory at the last load
	seen    string // fingerprint at the last look
}

// load reads the policy directory. If its content is bad, the last good policies stay in
// force, and the error says what is wrong; without any last good ones there is no set.
//
// A directory that has lost all its policies is bad content too, since that is what an
// unmounted volume and an editor at work look like. Only root of the host,
// who asks for it (asked), ends the enforcement of everything.
func (p *policies) load(asked bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.print = p.look()
	inForce := p.set.Load()
	p.former, p.oldDocs = inForce, p.docs
	var lost error
	if inForce == nil {
		last, err := policy.ParseFiles(p.lastGood)
		if err == nil {
			p.former, p.oldDocs = last, documentsOf(last)
		} else if st, serr := os.Stat(p.lastGood); !errors.Is(serr, fs.ErrNotExist) && (serr != nil || st.Size() > 0) { // an empty set is an empty file
			lost = err
		}
	}
	set, docs, err := readPolicies(p.dir, p.shipped, nil)
	if err == nil {
		err = p.vanished(set, docs, asked)
	}
	if err == nil && lost != nil && !holdsOwn(docs) {
		err = fmt.Errorf("%s holds no policy, and what was in force before cannot be read: %w; fix: bring the policies back, or remove %s if none is wanted", p.dir, lost, p.lastGood)
	}
	if err == nil {
		p.set.Store(set)
		p.all, p.docs, p.broken, p.loaded = set.Policies(), docs, "", time.Now()
		return nil
	}
	p.broken = err.Error()
	if inForce == nil && p.former != nil {
		p.set.Store(p.former)
		p.all, p.docs, p.loaded = p.former.Policies(), p.oldDocs, time.Now()
	}
	return err
}

// vanished returns an error if the directory holds nothing and the former set had what
// does not ship, or no AccessPolicy is left and there was one: without any the API is
// open to whom the daemon trusts. p.mu is held.
func (p *policies) vanished(set *policy.Set, docs map[string]*storedPolicy, asked bool) error {
	if p.former == nil {
		return nil
	}
	formerly := 0
	for name := range p.oldDocs {
		if d := docs[name]; d == nil || d.shipped == nil {
			formerly++
		}
	}
	switch {
	case len(p.former.AccessPolicies()) > 0 && len(set.AccessPolicies()) == 0 && set.Len() > 0:
		if asked {
			return nil
		}
		return fmt.Errorf("%s holds no AccessPolicy any more; fix: if none is wanted, run belay policy reload as root", p.dir)
	case formerly == 0 || holdsOwn(docs):
		return nil
	}
	if _, err := os.Stat(p.dir); err != nil {
		return fmt.Errorf("%s is gone; fix: bring it back, or make it an empty directory and run belay policy reload as root", p.dir)
	}
	if !asked {
		return fmt.Errorf("%s holds no policy any more; fix: if none is wanted, run belay policy reload as root", p.dir)
	}
	return nil
}

// holdsOwn reports whether any of the policies is the policy directory's own.
func holdsOwn(docs map[string]*storedPolicy) bool {
	for _, d := range docs {
		if d.own {
			return true
		}
	}
	return false
}

// rollback puts the former set back after the kernel side has not taken the new one.
func (p *policies) rollback(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.former == nil {
		return
	}
	p.set.Store(p.former)
	p.all, p.docs, p.broken = p.former.Policies(), p.oldDocs, why.Error()
}

// keep saves the set in force as the last good one, for a start at which the directory
// is broken. That it cannot be saved does not keep it from being in force.
func (p *policies) keep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unkept = ""
	if err := p.save(); err != nil {
		p.unkept = err.Error()
	}
}

// save refuses what could not be read at the next start: the bounds of one file are less than those
// of a directory. What was kept before stays.
func (p *policies) save() error {
	text := p.current().Canonical()
	if _, err := policy.ParseAll(p.lastGood, text); len(text) > 0 && err != nil {
		return fmt.Errorf("keep the policies for the next start: they cannot be read back: %w", err)
	}
	if err := atomicfile.WriteFile(p.lastGood, text, 0o600); err != nil {
		return fmt.Errorf("keep the policies for the next start: %w", err)
	}
	return nil
}

// lacks says which rules of a policy get less here than it requires; empty: none.
func lacks(rp *policy.RuntimePolicy, levels map[verdict.Rule]verdict.Level) string {
	var short []string
	for _, r := range rp.Denies() {
		if rp.Spec.Require != verdict.Unsupported && levels[r] < rp.Spec.Require {
			short = append(short, fmt.Sprintf("%s gets %s", r, levels[r]))
		}
	}
	return strings.Join(short, ", ")
}

// refuse takes out of the set the policies that require a level which this host does
// not give. Where one of the same name was in force until now, that one stays: an edit
// must not end enforcement. Returns true if any were refused.
func (p *policies) refuse(levels map[verdict.Rule]verdict.Level) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	former := map[string]*policy.RuntimePolicy{}
	if p.former != nil {
		for _, rp := range p.former.Policies() {
			former[rp.Name] = rp
		}
	}
	p.refused = map[string]string{}
	var keep []*policy.RuntimePolicy
	for _, rp := range p.all {
		short := lacks(rp, levels)
		if short == "" {
			keep = append(keep, rp)
			continue
		}
		why := fmt.Sprintf("requires %s, but here %s", rp.Spec.Require, short)
		if old := former[rp.Name]; old != nil && lacks(old, levels) == "" {
			keep = append(keep, old)
			why += "; its revision " + old.Revision + " stays in force"
		}
		p.refused[rp.Name] = why
	}
	if len(p.refused) == 0 {
		return false, nil
	}
	docs := p.current().Documents()
	docs.Runtime = keep
	set, err := docs.Set()
	if err != nil {
		return false, err
	}
	p.set.Store(set)
	return true, nil
}

// notKept says why the policies in force would not survive a restart; empty: they would.
func (p *policies) notKept() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unkept
}

// current returns the set in force; nil: none yet.
func (p *policies) current() *policy.Set { return p.set.Load() }

// changed tells whether the directory differs from what was loaded and has come to
// rest: a file that is being written is not half a policy.
func (p *policies) changed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.look()
	rest := now == p.seen
	p.seen = now
	return rest && now != p.print
}

// helpers returns the host programs that the floor names as the runtimes' own, and the
// policies whose helpers are not among them: the kernel side knows helpers for the whole
// host, so what a policy says for some containers cannot be applied.
func (p *policies) helpers() (paths, ignored []string) {
	set := p.current()
	paths = set.Floor().RuntimeHelpers
	for _, rp := range set.Policies() {
		if rp.Spec.Exec == nil {
			continue
		}
		if slices.ContainsFunc(rp.Spec.Exec.RuntimeHelpers, func(h string) bool { return !slices.Contains(paths, h) }) {
			ignored = append(ignored, rp.Name)
		}
	}
	return paths, ignored
}

func (p *policies) status() control.PolicySet {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := control.PolicySet{Dir: p.dir, Loaded: p.loaded, Error: p.broken}
	set := p.current()
	if set != nil {
		s.Revision = set.Revision()
	}
	for _, rp := range p.all {
		s.Policies = append(s.Policies, control.PolicyStatus{
			Kind: policy.Kind, Name: rp.Name, Revision: rp.Revision, Mode: rp.Spec.Mode.String(), File: rp.File, Line: rp.Line,
			Refused: p.refused[rp.Name],
		})
	}
	if set == nil {
		return s
	}
	for _, ap := range set.AccessPolicies() {
		s.Policies = append(s.Policies, control.PolicyStatus{
			Kind: policy.AccessKind, Name: ap.Name, Revision: ap.Revision, Mode: ap.Spec.Mode.String(), File: ap.File, Line: ap.Line,
		})
	}
	for _, ip := range set.ImagePolicies() {
		s.Policies = append(s.Policies, control.PolicyStatus{
			Kind: policy.ImageKind, Name: ip.Name, Revision: ip.Revision, Mode: ip.Spec.Mode.String(), File: ip.File, Line: ip.Line,
		})
	}
	for _, lp := range set.LoadPolicies() {
		s.Policies = append(s.Policies, control.PolicyStatus{
			Kind: policy.LoadKind, Name: lp.Name, Revision: lp.Revision, Mode: loadMode(lp), File: lp.File, Line: lp.Line,
		})
	}
	return s
}

// look returns the fingerprint of what the policies are read from.
func (p *policies) look() string {
	if p.shipped == "" {
		return fingerprint(p.dir)
	}
	return fingerprint(p.dir) + "shipped\n" + fingerprint(p.shipped)
}

// fingerprint changes when a file of the directory does: names, sizes, inodes, times.
func fingerprint(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "absent"
		}
		return err.Error()
	}
	var b strings.Builder
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil {
			fmt.Fprintf(&b, "%s %d %d", e.Name(), info.Size(), info.ModTime().UnixNano())
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				fmt.Fprintf(&b, " %d %d", st.Ino, st.Ctim.Nano())
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}
