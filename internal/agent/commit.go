package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/revision"
)

// policyFileMode is that of new files. Policies can tell what is guarded how.
const policyFileMode = 0o600

// commit makes a change: the files, then what is in force, then the revision. Whatever
// fails, all is put back, by this agent or by the next (undoUnfinished).
func (m *manager) commit(p *plan, rev *revision.Revision) (warning string, err error) {
	if m.policies.stale() {
		return "", fmt.Errorf("the policy directory was %w a moment ago by another; fix: try again", control.ErrChanged)
	}
	pending := &revision.Pending{Author: rev.Author, Files: map[string]revision.Backup{}}
	for path, data := range p.files {
		b, err := backup(path)
		if err != nil {
			return "", err
		}
		if b.Gone = data == nil; !b.Gone {
			b.WillWrite(data)
		}
		pending.Files[path] = b
	}
	if err := m.history.Begin(pending); err != nil {
		return "", err
	}
	if err := m.write(p, pending); err != nil {
		return "", m.putBack(pending, err)
	}
	if err := m.reload(true); err != nil {
		return "", m.putBack(pending, err)
	}
	if err := m.history.Append(rev); err != nil {
		return "", m.putBack(pending, err)
	}
	if err := m.history.End(); err != nil {
		m.log.Warn("policies were changed", attr.Error, err.Error()) // the revision shows that it is done
		warning = err.Error()
	}
	return warning, nil
}

func backup(path string) (revision.Backup, error) {
	data, exists, err := readOptional(path)
	if err != nil {
		return revision.Backup{}, err
	}
	b := revision.Backup{Existed: exists, Before: data, Mode: policyFileMode}
	if info, err := os.Stat(path); err == nil {
		b.Mode = uint32(info.Mode().Perm())
	}
	return b, nil
}

func readOptional(path string) (data []byte, exists bool, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	data, err = policy.ReadFile(path)
	return data, err == nil, err
}

func (m *manager) write(p *plan, pending *revision.Pending) error {
	if err := os.MkdirAll(m.policies.dir, 0o755); err != nil {
		return fmt.Errorf("make the policy directory: %w", err)
	}
	for _, path := range slices.Sorted(maps.Keys(p.files)) {
		if err := writeOrRemove(path, p.files[path], p.files[path] != nil, pending.Files[path].Mode); err != nil {
			return err
		}
	}
	return nil
}

func writeOrRemove(path string, data []byte, exists bool, mode uint32) error {
	if exists {
		return atomicfile.WriteFile(path, data, fs.FileMode(mode))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// putBack undoes an unfinished change and returns why it was not made.
func (m *manager) putBack(pending *revision.Pending, why error) error {
	err := restore(pending)
	if err == nil {
		err = m.reload(true)
	}
	if err == nil {
		err = m.history.End()
	}
	if err != nil {
		m.log.Error("a change of policies was not undone whole", attr.Error, err.Error())
		m.note("a change of policies was not undone whole: " + err.Error())
		return fmt.Errorf("%w: nothing was recorded, and putting the files back: %w; it is tried again before the next change and at the next start", why, err)
	}
	return fmt.Errorf("nothing was changed: %w", why)
}

func restore(pending *revision.Pending) error {
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(pending.Files)) {
		b := pending.Files[path]
		errs = append(errs, writeOrRemove(path, b.Before, b.Existed, b.Mode))
	}
	return errors.Join(errs...)
}

// undoUnfinished puts back what an agent that ended in the middle of a change has left. Files
// that somebody edited since stay as they are.
func (m *manager) undoUnfinished() {
	pending, ok := m.history.Unfinished()
	switch {
	case !ok:
		m.log.Error("the note of an unfinished change of policies cannot be read; the policy directory stays as it is")
		m.note("the note of an unfinished change of policies cannot be read; the policy directory stays as it is")
	case pending != nil:
		for path, b := range pending.Files {
			data, exists, err := readOptional(path)
			if err != nil || !b.Matches(data, exists) {
				delete(pending.Files, path) // not written yet, or edited since
			}
		}
		if err := restore(pending); err != nil {
			m.log.Error("undo an unfinished change of policies", attr.Error, err.Error())
			m.note("an unfinished change of policies was not undone: " + err.Error())
			return // the next start tries again
		}
		m.note(fmt.Sprintf("an unfinished change of policies by %s was undone", pending.Author.Name))
	}
	if err := m.history.End(); err != nil {
		m.log.Warn("an unfinished change of policies", attr.Error, err.Error())
	}
}

// undoFirst undoes a change that could not be undone when it failed, on a full disk for example:
// another on top of it would forget what was there before.
func (m *manager) undoFirst() error {
	if pending, ok := m.history.Unfinished(); ok && pending == nil {
		return nil
	}
	m.undoUnfinished()
	if pending, ok := m.history.Unfinished(); !ok || pending != nil {
		return refused("an earlier change of policies failed and is not undone yet; fix: the agent's log says what is in its way, such as a full disk")
	}
	return m.reload(true)
}

// recordEdits makes revisions of what differs from the history: files that somebody
// edited, one revision an owner. m.mu is held, or nobody else is there yet.
//
// What an unfinished change has left is nobody's edit: there are none until that is undone.
func (m *manager) recordEdits(author *revision.Author) {
	if pending, ok := m.history.Unfinished(); !ok || pending != nil {
		return
	}
	docs := m.policies.stored()
	states := m.history.States()
	byOwner := map[int64][]revision.Change{}
	add := func(c revision.Change) {
		owner := int64(-1) // of what is gone nobody knows
		if info, err := os.Stat(c.File); err == nil && c.AfterDigest != "" {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				owner = int64(st.Uid)
			}
		}
		byOwner[owner] = append(byOwner[owner], c)
	}
	for _, name := range sortedNames(docs) {
		d, st := docs[name], states[name]
		if st.Digest == d.Revision {
			continue
		}
		c := revision.Change{Kind: d.Kind, Name: name, What: revision.Updated, File: d.File, BeforeDigest: st.Digest, AfterDigest: d.Revision, After: d.text}
		if c.Before = m.lastText(name, st); st.Digest == "" {
			c.What = revision.Created
		}
		add(c)
	}
	for _, name := range slices.Sorted(maps.Keys(states)) {
		if st := states[name]; docs[name] == nil && st.Digest != "" {
			add(revision.Change{Kind: st.Kind, Name: name, What: revision.Deleted, BeforeDigest: st.Digest, Before: m.lastText(name, st)})
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(byOwner)) {
		r := &revision.Revision{Op: revision.OpFile, Author: revision.Author{Kind: revision.ByFile}, Changes: byOwner[owner]}
		if author != nil {
			r.Author = *author
		} else if owner >= 0 {
			r.Author.UID = new(uint32(owner))
			r.Author.Name = userName(uint32(owner))
		}
		if err := m.history.Append(r); err != nil {
			m.log.Error("the change of a policy file is not in the history", attr.Error, err.Error())
			m.note("the change of a policy file is not in the history: " + err.Error())
			return // the next look tries again
		}
		m.note(fmt.Sprintf("revision %d of the policies, by files in the policy directory", r.Number))
	}
}

// lastText returns the text that the history has of a policy, empty if it has none.
func (m *manager) lastText(name string, st revision.State) string {
	if st.Digest == "" {
		return ""
	}
	r, err := m.history.Newest(name, st.Number)
	if err != nil || r.Of(name).AfterDigest != st.Digest {
		return ""
	}
	return r.Of(name).After
}

func authorOf(who *control.Caller) revision.Author {
	sub := &who.Subject
	a := revision.Author{Kind: revision.ByUser, UID: new(sub.UID), Name: sub.Name, PID: sub.PID, LoginUID: who.LoginUID, LoginKnown: who.LoginKnown}
	if sub.Kind == apicall.Container {
		a.Kind, a.Name, a.Container = revision.ByContainer, sub.ContainerName, sub.ContainerID
	}
	if a.LoginUID != nil {
		a.LoginName = userName(*a.LoginUID)
	}
	return a
}

// userName returns the name that the host's database has for a user, "" for none.
func userName(uid uint32) string {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return ""
	}
	return u.Username
}

// stored returns the policies in force by name. The map is not changed any more.
func (p *policies) stored() map[string]*storedPolicy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.docs
}

// edited tells whether the directory was changed since it was last loaded, well or not.
func (p *policies) edited() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.look() != p.print
}

// stale tells whether the directory differs from what is in force.
func (p *policies) stale() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken != "" || p.look() != p.print
}
