package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/revision"
	"github.com/belay-project/belay/internal/verdict"
)

// The actions of managing policies.
const (
	actList     = "policy.list"
	actRead     = "policy.read"
	actHistory  = "policy.history"
	actCreate   = "policy.create"
	actUpdate   = "policy.update"
	actDelete   = "policy.delete"
	actRollback = "policy.rollback"
)

// manager lets callers manage the policies, as far as the AccessPolicies in force let
// them. Where none is enforced, only root of the host may.
type manager struct {
	policies *policies
	history  *revision.Store
	// reload makes what the policy directory holds be in force, or leaves what was.
	reload func(asked bool) error
	levels func() map[verdict.Rule]verdict.Level
	record func(*proxy.Event)
	note   func(message string)
	// elevated tells whether a live elevation of the caller covers an action; nil: never.
	elevated func(sub *apicall.Subject, action string) bool
	log      *slog.Logger

	// mu is held while policies are changed or loaded: one change at a time. It is taken
	// before policies.mu.
	mu sync.Mutex
}

var _ control.Manager = (*manager)(nil)

// screen refuses a caller who cannot be allowed to change anything.
func (m *manager) screen(who *control.Caller) error {
	return m.screenFor(who, actUpdate, actCreate, actDelete, actRollback)
}

// admit tells whether a container may ask the control socket for more than policies: if one that
// is enforced could allow it any action of policy.*.
func (m *manager) admit(who *control.Caller) bool {
	access := m.policies.current().Access()
	return access.Enforced() && slices.ContainsFunc([]string{actList, actRead, actHistory, actCreate, actUpdate, actDelete, actRollback},
		func(action string) bool { return access.CouldAllow(&who.Subject, action) })
}

// screenFor refuses a caller to whom the policies can allow none of the actions, whatever of: nothing
// is read or compiled for him.
func (m *manager) screenFor(who *control.Caller, actions ...string) error {
	access := m.policies.current().Access()
	could := func(action string) bool { return access.CouldAllow(&who.Subject, action) }
	if access.Enforced() && slices.ContainsFunc(actions, could) || !access.Enforced() && isHostRoot(&who.Subject) {
		return nil
	}
	_, err := m.ask(who, actions[0], apicall.Facts{})
	if err == nil { // the policies changed in between
		err = fmt.Errorf("%w: try again", control.ErrForbidden)
	}
	return err
}

func isHostRoot(sub *apicall.Subject) bool { return sub.Kind == apicall.User && sub.UID == 0 }

// ask decides on one action of one policy, and records what is denied.
func (m *manager) ask(who *control.Caller, action string, facts apicall.Facts, res ...apicall.Resource) (policy.AccessDecision, error) {
	call := m.call(who, action, res...)
	call.Facts = facts
	d := m.decide(call)
	if d.Allowed {
		return d, nil
	}
	m.tell(who, action, res, &d, "")
	return d, fmt.Errorf("%w: %s", control.ErrForbidden, denialText(action, res, &d))
}

// call is what the policies are asked about.
func (m *manager) call(who *control.Caller, action string, res ...apicall.Resource) *apicall.Call {
	return &apicall.Call{
		Subject: who.Subject, Action: action, Resources: res,
		Elevated: m.elevated != nil && m.elevated(&who.Subject, action),
	}
}

// decide asks the policies. Where none is enforced the zero value stands, except for
// root of the host.
func (m *manager) decide(call *apicall.Call) policy.AccessDecision {
	access := m.policies.current().Access()
	if access.Enforced() {
		return access.Decide(call, time.Now())
	}
	if !isHostRoot(&call.Subject) {
		return policy.AccessDecision{Reason: "no access policy is enforced: only root of the host may, until one is"}
	}
	d := access.Decide(call, time.Now())
	d.Allowed = true
	return d
}

func denialText(action string, res []apicall.Resource, d *policy.AccessDecision) string {
	var b strings.Builder
	b.WriteString(action)
	if len(res) > 0 {
		b.WriteString(" of " + res[0].Asked)
	}
	b.WriteString(" is denied")
	if d.Policy != "" {
		b.WriteString(" by policy " + d.Policy)
		if d.Rule != "" {
			b.WriteString(", rule " + d.Rule)
		}
	}
	b.WriteString(": " + d.Reason)
	if len(d.Checks) > 0 {
		b.WriteString(": " + strings.Join(d.Checks, "; "))
	}
	if d.NeedSecondFactor {
		b.WriteString(" (allowed after: belay elevate --action " + policy.ElevationHint(action) + ")")
	}
	return b.String()
}

// tell puts a decision into the journal.
func (m *manager) tell(who *control.Caller, action string, res []apicall.Resource, d *policy.AccessDecision, done string) {
	ev := &proxy.Event{
		Time: time.Now(), Subject: &who.Subject, Action: action, Method: who.Method, Path: who.Path, Decision: proxy.Denied,
		Policy: d.Policy, Revision: d.Revision, Rule: d.Rule, Reason: d.Reason, Checks: d.Checks, Status: 403,
		Unmanaged: !m.policies.current().Access().Enforced(),
	}
	if d.Allowed {
		ev.Decision, ev.Reason, ev.Status = proxy.Allowed, done, 200
		if d.Audit {
			ev.Decision = proxy.WouldDeny
		}
	}
	for _, r := range res {
		if !slices.Contains(ev.IDs, r.Asked) {
			ev.IDs = append(ev.IDs, r.Asked)
		}
	}
	m.record(ev)
}

// Policies implements [control.Manager].
func (m *manager) Policies(_ context.Context, who *control.Caller, q control.PolicyQuery) (*control.PolicyList, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	head, _ := m.history.Head()
	list := &control.PolicyList{Head: head, Policies: []control.ManagedPolicy{}}
	switch {
	case q.Name == "":
		return list, m.list(who, list)
	case q.Revision != 0:
		p, err := m.formerly(who, q)
		if err != nil {
			return nil, err
		}
		list.Policies = append(list.Policies, *p)
		return list, nil
	}
	d := m.policies.stored()[q.Name]
	if _, err := m.ask(who, actRead, apicall.Facts{}, m.entryOf(d, q.Name).Resource()); err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("%w: %s; fix: belay policy list shows all", control.ErrNoPolicy, q.Name)
	}
	p := m.managed(d)
	p.Text = d.text
	list.Policies = append(list.Policies, p)
	return list, nil
}

func (m *manager) list(who *control.Caller, list *control.PolicyList) error {
	d, err := m.ask(who, actList, apicall.Facts{})
	if err != nil {
		return err
	}
	call := m.call(who, actList)
	docs := m.policies.stored()
	for _, name := range sortedNames(docs) {
		res := docs[name].Resource()
		if d.Scope.Filter && !m.policies.current().Access().VisibleTo(call, &res, time.Now()) {
			continue
		}
		list.Policies = append(list.Policies, m.managed(docs[name]))
	}
	return nil
}

func (m *manager) managed(d *storedPolicy) control.ManagedPolicy {
	p := control.ManagedPolicy{
		Kind: d.Kind, Name: d.Name, Digest: d.Revision, Revision: m.history.States()[d.Name].Number,
		Origin: d.origin(), File: d.File, Line: d.Line,
	}
	p.Mode = d.Mode().String()
	return p
}

// formerly returns a policy as a revision left it.
func (m *manager) formerly(who *control.Caller, q control.PolicyQuery) (*control.ManagedPolicy, error) {
	cur := m.policies.stored()[q.Name]
	if _, err := m.ask(who, actHistory, apicall.Facts{}, m.entryOf(cur, q.Name).Resource()); err != nil {
		return nil, err
	}
	r, err := m.history.Newest(q.Name, q.Revision)
	if err != nil {
		return nil, historyError(err)
	}
	c := r.Of(q.Name)
	if head, _ := m.history.Head(); q.Revision > head {
		return nil, fmt.Errorf("%w: there is no revision %d yet; the newest is %d", control.ErrNoPolicy, q.Revision, head)
	}
	if c.AfterDigest == "" {
		return nil, fmt.Errorf("%w: %s was deleted by revision %d", control.ErrNoPolicy, q.Name, r.Number)
	}
	if err := m.askOfFormer(who, c.Name, c.After); err != nil {
		return nil, err
	}
	return &control.ManagedPolicy{
		Kind: c.Kind, Name: c.Name, Digest: c.AfterDigest, Revision: r.Number, Origin: control.OriginOwn, File: c.File, Text: c.After,
	}, nil
}

// askOfFormer asks about a policy as it was: it may have had another kind or other
// annotations than what has its name today.
func (m *manager) askOfFormer(who *control.Caller, name, text string) error {
	docs, err := policy.ParseAll(name, []byte(text))
	if err != nil || docs.Len() != 1 {
		if isHostRoot(&who.Subject) {
			return nil
		}
		return fmt.Errorf("%w: what %s was cannot be read any more, and so not judged; fix: ask root", control.ErrForbidden, name)
	}
	_, err = m.ask(who, actHistory, apicall.Facts{}, docs.Entries()[0].Resource())
	return err
}

// historyError words what the history does not give.
func historyError(err error) error {
	if errors.Is(err, revision.ErrNotFound) {
		return fmt.Errorf("%w: %w; fix: belay policy history shows those that are kept", control.ErrNoPolicy, err)
	}
	return err
}

// History implements [control.Manager].
func (m *manager) History(_ context.Context, who *control.Caller, name string) (*control.History, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	docs := m.policies.stored()
	if name != "" {
		if _, err := m.ask(who, actHistory, apicall.Facts{}, m.entryOf(docs[name], name).Resource()); err != nil {
			return nil, err
		}
	}
	h := &control.History{Revisions: []revision.Revision{}, Kept: revision.MaxRevisions, Problems: m.history.Verify()}
	if h.Problems == nil {
		h.Problems = []string{}
	}
	h.Head, h.Forgotten = m.history.Head()
	h.Gone = m.history.Gone()
	hidden := false
	may := map[string]bool{name: name != ""}
	for _, r := range m.history.List() {
		all := len(r.Changes)
		r.Changes = slices.DeleteFunc(r.Changes, func(c revision.Change) bool {
			if name != "" {
				return c.Name != name
			}
			ok, asked := may[c.Name]
			if !asked {
				call := m.call(who, actHistory, m.entryOf(docs[c.Name], c.Name).Resource())
				d := m.decide(call)
				ok = d.Allowed
				may[c.Name] = ok
			}
			hidden = hidden || !ok
			return !ok
		})
		if len(r.Changes) > 0 || all == 0 {
			h.Revisions = append(h.Revisions, r)
		}
	}
	if hidden && len(h.Revisions) == 0 {
		_, err := m.ask(who, actHistory, apicall.Facts{})
		return h, err
	}
	return h, nil
}

func sortedNames(docs map[string]*storedPolicy) []string {
	names := make([]string, 0, len(docs))
	for n := range docs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
