package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/revision"
)

// maxMessage bounds the reason that an author gives, in bytes.
const maxMessage = 1024

// plan is a change that was allowed and not made yet.
type plan struct {
	files     map[string][]byte // contents of files of the policy directory to be; nil: none
	changes   []revision.Change
	unchanged []string
	to        uint64
	told      []allowance
}

type allowance struct {
	action string
	res    []apicall.Resource
	d      policy.AccessDecision
}

// target is what a policy shall become; a nil entry: it goes.
type target struct {
	name  string
	entry *policy.Entry
	text  []byte
}

// Change implements [control.Manager].
func (m *manager) Change(ctx context.Context, who *control.Caller, c *control.ChangeRequest) (*control.ChangeResult, error) {
	if err := checkChange(c); err != nil {
		return nil, err
	}
	if err := m.screenFor(who, possibleActions(c.Op)...); err != nil {
		return nil, err
	}
	// Before the others wait: it is most of the work.
	given, err := parseGiven(c.Files)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err() // nobody waits for the answer any more
	}
	if err := m.undoFirst(); err != nil {
		return nil, err
	}
	if err := m.settle(who); err != nil {
		return nil, err
	}
	p, err := m.plan(who, c, given)
	if err == nil {
		var res *control.ChangeResult
		if res, err = m.carryOut(who, c, p); err == nil {
			return res, nil
		}
	}
	if p != nil { // what the policies deny is told already
		m.tellFailed(who, p, err)
	}
	return nil, err
}

// tellFailed records what the policies allowed and did not come about.
func (m *manager) tellFailed(who *control.Caller, p *plan, why error) {
	for i := range p.told {
		a := &p.told[i]
		d := a.d
		d.Allowed, d.Reason = false, why.Error()
		m.tell(who, a.action, a.res, &d, "")
	}
}

// carryOut makes a change that the policies allow.
func (m *manager) carryOut(who *control.Caller, c *control.ChangeRequest, p *plan) (*control.ChangeResult, error) {
	if err := m.unchangedSince(c, p); err != nil {
		return nil, err
	}
	next, err := m.try(who, p)
	if err != nil {
		return nil, err
	}
	res := &control.ChangeResult{DryRun: c.DryRun, Changes: m.shown(who, p.changes), Unchanged: p.unchanged}
	if len(p.changes) > 0 && m.policies.current().Access().Enforced() && !next.Access().Enforced() {
		res.Warning = "no access policy is enforced any more: only root of the host may manage policies, and the gate goes by the engine's own rule"
	}
	if c.DryRun || len(p.changes) == 0 {
		return res, nil
	}
	rev := &revision.Revision{Author: authorOf(who), Op: c.Op, Message: c.Message, To: p.to, Changes: p.changes}
	warning, err := m.commit(p, rev)
	if err != nil {
		return nil, err
	}
	if warning != "" {
		res.Warning = strings.TrimPrefix(res.Warning+"; "+warning, "; ")
	}
	res.Revision = rev.Number
	for i := range p.told {
		a := &p.told[i]
		m.tell(who, a.action, a.res, &a.d, fmt.Sprintf("revision %d of the policies: %s", rev.Number, c.Message))
	}
	return res, nil
}

func checkChange(c *control.ChangeRequest) error {
	switch {
	case len(c.Message) > maxMessage:
		return refused("the message has more than %d bytes", maxMessage)
	case strings.ContainsFunc(c.Message, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }):
		return refused("the message holds characters that cannot be printed")
	case c.Op == revision.OpApply && (len(c.Files) == 0 || c.Name != ""):
		return refused("an apply takes files")
	case (c.Op == revision.OpDelete || c.Op == revision.OpRollback) && (c.Name == "" || len(c.Files) > 0):
		return refused("it takes the name of one policy")
	case c.Op != revision.OpApply && c.Op != revision.OpDelete && c.Op != revision.OpRollback:
		return refused("%q is no change of policies", c.Op)
	}
	return nil
}

// settle makes what was edited by hand be in force, and known to the history, before a
// change is made on top of it.
func (m *manager) settle(who *control.Caller) error {
	if !m.policies.stale() {
		return nil
	}
	// Whoever edits decides when he is done, and not a caller in the middle of it.
	if !isHostRoot(&who.Subject) {
		if m.policies.edited() {
			return refused("the policy directory is being edited; fix: try again in some seconds")
		}
		return refused("what the policy directory holds is not in force; fix: ask an administrator, to whom belay status says why")
	}
	if err := m.reload(false); err != nil {
		return fmt.Errorf("%w: what the policy directory holds is not in force, and must be mended first: %w", control.ErrRefused, err)
	}
	m.recordEdits(nil)
	return nil
}

// plan asks whether the caller may, and works out what the files will hold. With an error that
// is not the policies' it also returns what they have allowed. targets are what is applied.
func (m *manager) plan(who *control.Caller, c *control.ChangeRequest, targets []target) (*plan, error) {
	p := &plan{files: map[string][]byte{}}
	docs := m.policies.stored()
	switch c.Op {
	case revision.OpDelete:
		targets = []target{{name: c.Name}}
	case revision.OpRollback:
		// Before the history says anything.
		if err := m.authorize(who, c.Op, docs[c.Name], target{name: c.Name, entry: m.entryOf(docs[c.Name], c.Name)}, &plan{}); err != nil {
			return nil, err
		}
		var err error
		if targets, err = m.rollbackTarget(c, p); err != nil {
			return nil, err
		}
	}
	for _, t := range targets {
		cur := docs[t.name]
		if err := m.authorize(who, c.Op, cur, t, p); err != nil {
			return nil, err
		}
		if err := m.place(p, c.Op, cur, t); err != nil {
			return p, err
		}
	}
	return p, nil
}

// entryOf returns the policy as it is. One that there is not, and so cannot go either, has
// its name and the kind that it had.
func (m *manager) entryOf(d *storedPolicy, name string) *policy.Entry {
	if d != nil {
		return &d.Entry
	}
	e := &policy.Entry{Name: name}
	switch m.history.States()[name].Kind {
	case policy.AccessKind:
		e.Access = &policy.AccessPolicy{}
	case policy.ImageKind:
		e.Image = &policy.ImagePolicy{}
	case policy.LoadKind:
		e.Load = &policy.LoadPolicy{}
	}
	return e
}

func (m *manager) rollbackTarget(c *control.ChangeRequest, p *plan) ([]target, error) {
	head, _ := m.history.Head()
	limit := c.To
	if limit == 0 {
		limit = head
	} else if limit > head {
		return nil, fmt.Errorf("%w: there is no revision %d yet; the newest is %d", control.ErrRefused, limit, head)
	}
	r, err := m.history.Newest(c.Name, limit)
	if err != nil {
		return nil, historyError(err)
	}
	ch := r.Of(c.Name)
	text, digest := ch.After, ch.AfterDigest
	if p.to = r.Number; c.To == 0 {
		text, digest, p.to = ch.Before, ch.BeforeDigest, r.Number-1
	}
	if digest == "" {
		return []target{{name: c.Name}}, nil
	}
	if text == "" {
		return nil, fmt.Errorf("%w: the history does not have the text of %s before revision %d; fix: name another with --to", control.ErrRefused, c.Name, r.Number)
	}
	file := fmt.Sprintf("%s@%d", c.Name, p.to)
	docs, err := policy.ParseAll(file, []byte(text))
	if err != nil {
		return nil, err // the language has changed since
	}
	es := docs.Entries()
	if len(es) != 1 || es[0].Name != c.Name {
		return nil, fmt.Errorf("%w: revision %d does not hold policy %s", control.ErrRefused, r.Number, c.Name)
	}
	return []target{{c.Name, &es[0], []byte(text)}}, nil
}

// authorize asks for the policy as it is and as it shall be: who may change only some
// policies neither takes one out of them nor puts one among them.
func (m *manager) authorize(who *control.Caller, op string, cur *storedPolicy, t target, p *plan) error {
	facts := apicall.Facts{Name: t.name, SelectorChanges: !policy.SameSelector(cur.entry(), t.entry)}
	var sides []apicall.Resource
	if cur != nil {
		facts.NamesCaller = cur.Access != nil && cur.Access.Names(&who.Subject)
		facts.Loosens = cur.Runtime.Loosens()
		sides = append(sides, cur.Resource())
	}
	if t.entry != nil {
		facts.Loosens = facts.Loosens || t.entry.Runtime.Loosens()
		facts.NamesCaller = facts.NamesCaller || t.entry.Access != nil && t.entry.Access.Names(&who.Subject)
		sides = append(sides, t.entry.Resource())
	}
	if len(sides) == 0 {
		sides = append(sides, m.entryOf(nil, t.name).Resource())
	}
	for _, action := range actionsFor(op, cur, t) {
		var d policy.AccessDecision
		for _, res := range sides {
			var err error
			if d, err = m.ask(who, action, facts, res); err != nil {
				return err
			}
		}
		p.told = append(p.told, allowance{action, sides[:1], d})
	}
	return nil
}

// actionsFor returns what must be allowed. A rollback that takes a policy away is a
// delete too, and one that brings it back a create.
func actionsFor(op string, cur *storedPolicy, t target) []string {
	switch {
	case op == revision.OpDelete:
		return []string{actDelete}
	case op == revision.OpRollback && t.entry == nil:
		return []string{actRollback, actDelete}
	case op == revision.OpRollback && cur == nil:
		return []string{actRollback, actCreate}
	case op == revision.OpRollback:
		return []string{actRollback}
	case cur == nil:
		return []string{actCreate}
	}
	return []string{actUpdate}
}

// possibleActions are those of which one must be allowed for any change of this kind.
func possibleActions(op string) []string {
	switch op {
	case revision.OpDelete:
		return []string{actDelete}
	case revision.OpRollback:
		return []string{actRollback}
	}
	return []string{actUpdate, actCreate}
}

// needed says whether a policy must be changed to become what it shall be.
func needed(op string, cur *storedPolicy, t target) (bool, error) {
	switch {
	case cur == nil && t.entry == nil && op == revision.OpRollback:
		return false, nil
	case cur == nil && t.entry == nil:
		return false, fmt.Errorf("%w: %s; fix: belay policy list shows all", control.ErrNoPolicy, t.name)
	case t.entry == nil && !cur.own:
		return false, refused("policy %s ships with Belay (%s): it can be overridden by a policy of the same name and never be deleted; "+
			"fix: to loosen it, apply an override, such as the same text in mode audit", t.name, cur.File)
	case cur != nil && t.entry != nil && cur.Kind != t.entry.Kind:
		return false, refused("policy %s is %s, and this is %s; fix: delete the one first, or use another name", t.name, cur.Kind, t.entry.Kind)
	case cur != nil && t.entry != nil && cur.Revision == t.entry.Revision && !cur.own:
		return false, nil // an override that says the same would outlive the package's next version
	case cur != nil && t.entry != nil && cur.Revision == t.entry.Revision:
		return !bytes.Equal(bytes.TrimSpace([]byte(cur.text)), bytes.TrimSpace(t.text)), nil
	}
	return true, nil
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{control.ErrRefused}, args...)...)
}

// place puts one target into the files of the plan.
func (m *manager) place(p *plan, op string, cur *storedPolicy, t target) error {
	if change, err := needed(op, cur, t); err != nil {
		return err
	} else if !change {
		p.unchanged = append(p.unchanged, t.name)
		return nil
	}
	ch := revision.Change{Name: t.name}
	if cur != nil {
		ch.Kind, ch.Before, ch.BeforeDigest = cur.Kind, cur.text, cur.Revision
	}
	path := filepath.Join(m.policies.dir, t.name+".yaml")
	if cur != nil && cur.own {
		path = cur.File
	}
	old, exists, err := m.content(p, path)
	if err != nil {
		return err
	}
	var before, after []byte
	switch {
	case cur != nil && cur.own:
		if before, after, err = without(path, old, t.name); err != nil {
			return refused("%s: %w", path, err)
		}
	case exists:
		before = old // of other policies
	}
	if t.entry != nil {
		ch.Kind, ch.After, ch.AfterDigest, ch.What = t.entry.Kind, string(t.text), t.entry.Revision, revision.Updated
		if cur == nil {
			ch.What = revision.Created
		}
		p.files[path] = policy.JoinDocuments(before, t.text, after)
	} else {
		ch.What = revision.Deleted
		if cur.shipped != nil {
			ch.What, ch.AfterDigest, ch.After = revision.Restored, cur.shipped.Revision, canonical(cur.shipped)
		}
		rest := policy.JoinDocuments(before, after)
		if docs, err := policy.ParseAll(path, rest); err != nil || docs.Len() == 0 {
			rest = nil // comments at most: what is wrong in it would show in the trial
			if others, err := policy.ParseAll(path, old); err != nil || others.Len() > 1 {
				return refused("%s: the other policies of the file cannot be kept; fix: give each a file of its own", path)
			}
		}
		p.files[path] = rest
	}
	ch.File = path
	p.changes = append(p.changes, ch)
	return nil
}

// content returns what a file holds by the plan so far.
func (m *manager) content(p *plan, path string) (data []byte, exists bool, err error) {
	if data, ok := p.files[path]; ok {
		return data, data != nil, nil
	}
	data, exists, err = readOptional(path)
	return data, exists, err
}

// without returns the file's text before and after the document of a policy.
func without(path string, text []byte, name string) (before, after []byte, err error) {
	docs, err := policy.ParseAll(path, text)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range docs.Entries() {
		if e.Name == name {
			_, before, after, err = policy.CutDocument(text, e.Line)
			return before, after, err
		}
	}
	return nil, nil, errors.New("the policy is not in it any more")
}

// unchangedSince keeps a change from undoing one that its author has not seen.
func (m *manager) unchangedSince(c *control.ChangeRequest, p *plan) error {
	if c.IfRevision == nil {
		return nil
	}
	head, _ := m.history.Head()
	if *c.IfRevision > head {
		return fmt.Errorf("%w: there is no revision %d yet; the newest is %d", control.ErrRefused, *c.IfRevision, head)
	}
	states := m.history.States()
	for _, ch := range p.changes {
		if n := states[ch.Name].Number; n > *c.IfRevision {
			return fmt.Errorf("policy %s was %w revision %d, by revision %d; fix: look at it (belay policy diff %s), and apply again with --if-revision %d",
				ch.Name, control.ErrChanged, *c.IfRevision, n, ch.Name, head)
		}
	}
	return nil
}

// try reads the policies as they would be, and refuses what would not be in force whole
// or is more than was asked.
func (m *manager) try(who *control.Caller, p *plan) (*policy.Set, error) {
	next, docs, err := readPolicies(m.policies.dir, m.policies.shipped, p.files)
	if err != nil {
		return nil, err
	}
	touched := func(name string) bool {
		return slices.ContainsFunc(p.changes, func(c revision.Change) bool { return c.Name == name })
	}
	for name, d := range m.policies.stored() {
		if n := docs[name]; !touched(name) && (n == nil || n.Revision != d.Revision) {
			return nil, fmt.Errorf("%w: it would change policy %s too, which is in the same file; fix: give each a file of its own", control.ErrRefused, name)
		}
	}
	for _, c := range p.changes {
		d := docs[c.Name]
		if d == nil && c.AfterDigest != "" || d != nil && d.Revision != c.AfterDigest {
			return nil, fmt.Errorf("%w: policy %s would not be what was given", control.ErrRefused, c.Name)
		}
		if d != nil && d.Load != nil {
			if why := lacksRight(who, d.Load); why != "" {
				return nil, fmt.Errorf("%w: policy %s: %s", control.ErrRefused, c.Name, why)
			}
		}
		if d == nil || d.Runtime == nil {
			continue
		}
		if short := lacks(d.Runtime, m.levels()); short != "" {
			return nil, fmt.Errorf("%w: policy %s requires %s, but here %s; fix: belay status shows what this host can do",
				control.ErrRefused, c.Name, d.Runtime.Spec.Require, short)
		}
	}
	if m.policies.current().Access().Enforced() && !next.Access().Enforced() && !isHostRoot(&who.Subject) {
		return nil, fmt.Errorf("%w: no access policy would be enforced any more, and the engine would be open to whom it trusts itself; only root of the host can do that",
			control.ErrRefused)
	}
	return next, nil
}

// shown returns changes as the caller may see them.
func (m *manager) shown(who *control.Caller, cs []revision.Change) []revision.Change {
	out := slices.Clone(cs)
	docs := m.policies.stored()
	for i := range out {
		call := m.call(who, actRead, m.entryOf(docs[out[i].Name], out[i].Name).Resource())
		if d := m.decide(call); !d.Allowed {
			out[i].Before, out[i].After = "", ""
		}
	}
	if out == nil {
		out = []revision.Change{}
	}
	return out
}
