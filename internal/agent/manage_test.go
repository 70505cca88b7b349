package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/revision"
	"github.com/belay-project/belay/internal/verdict"
)

// editors may change what is there and delete nothing; alice's own grant is out of reach.
const editors = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: editors}
spec:
  mode: enforce
  subjects: {users: [alice]}
  rules:
    - {name: look, effect: allow, actions: [policy.list, policy.read, policy.history]}
    - {name: edit, effect: allow, actions: [policy.create, policy.update, policy.rollback], checks: [notOwnPolicy]}
    - {name: locked, effect: forbid, actions: ["policy.*"], resources: {names: [locked]}}
`

// admins may do everything, as far as no other policy forbids it.
const admins = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: admins}
spec:
  mode: enforce
  subjects: {users: [root]}
  rules: [{name: all, effect: allow, actions: ["*"]}]
`

var (
	rootCaller = &control.Caller{Subject: apicall.Subject{Kind: apicall.User, Name: "root"}}
	alice      = &control.Caller{Subject: apicall.Subject{Kind: apicall.User, UID: 1000, Name: "alice", PID: 7}, LoginUID: new(uint32(1000))}
	bob        = &control.Caller{Subject: apicall.Subject{Kind: apicall.User, UID: 1001, Name: "bob"}}
	inside     = &control.Caller{Subject: apicall.Subject{Kind: apicall.Container, Name: "root", ContainerID: strings.Repeat("a", 64)}}
)

type managed struct {
	*manager
	t      *testing.T
	events []proxy.Event
	state  string
	broken error // of the kernel side, at the next load
}

func newManaged(t *testing.T, shipped string, files map[string]string) *managed {
	t.Helper()
	m := &managed{t: t, state: t.TempDir()}
	dir := filepath.Join(t.TempDir(), "policies")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	m.restart(dir, shipped)
	return m
}

// restart is what an agent does that starts.
func (m *managed) restart(dir, shipped string) {
	m.t.Helper()
	history, err := revision.Open(filepath.Join(m.state, "history"))
	if err != nil {
		m.t.Fatal(err)
	}
	p := &policies{dir: dir, shipped: shipped, lastGood: filepath.Join(m.state, "last-good.yaml")}
	m.manager = &manager{
		policies: p, history: history, log: slog.New(slog.DiscardHandler), note: func(string) {},
		levels: func() map[verdict.Rule]verdict.Level {
			return map[verdict.Rule]verdict.Level{verdict.RuleAsRoot: verdict.Kill}
		},
		record: func(ev *proxy.Event) { m.events = append(m.events, *ev) },
	}
	m.manager.reload = func(asked bool) error {
		if err := p.load(asked); err != nil {
			return err
		}
		if err := m.broken; err != nil {
			m.broken = nil
			p.rollback(err)
			return err
		}
		p.keep()
		return nil
	}
	m.undoUnfinished()
	if err := m.manager.reload(false); err != nil {
		m.t.Fatal(err)
	}
	m.recordEdits(nil)
}

func (m *managed) apply(who *control.Caller, text string, change ...func(*control.ChangeRequest)) (*control.ChangeResult, error) {
	c := &control.ChangeRequest{Op: revision.OpApply, Files: []control.ChangeFile{{Name: "given.yaml", Text: text}}}
	for _, f := range change {
		f(c)
	}
	return m.Change(m.t.Context(), who, c)
}

func (m *managed) named(who *control.Caller, op, name string, change ...func(*control.ChangeRequest)) (*control.ChangeResult, error) {
	c := &control.ChangeRequest{Op: op, Name: name}
	for _, f := range change {
		f(c)
	}
	return m.Change(m.t.Context(), who, c)
}

// inForce returns what a policy says now, "" for none.
func (m *managed) inForce(name string) string {
	for _, rp := range m.policies.current().Policies() {
		if rp.Name == name {
			return string(rp.Canonical())
		}
	}
	for _, ap := range m.policies.current().AccessPolicies() {
		if ap.Name == name {
			return string(ap.Canonical())
		}
	}
	return ""
}

func (m *managed) must(_ *control.ChangeResult, err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func ifRevision(n uint64) func(*control.ChangeRequest) {
	return func(c *control.ChangeRequest) { c.IfRevision = &n }
}

var (
	web  = document("web", "exec: {asRoot: deny}")
	web2 = document("web", "exec: {drift: deny}")
)

func TestWhoMayManage(t *testing.T) {
	open := map[string]string{"web.yaml": web}
	closed := map[string]string{"web.yaml": web, "locked.yaml": document("locked", "exec: {asRoot: deny}"), "a.yaml": editors, "b.yaml": admins}
	apply := func(text string) func(*managed, *control.Caller) error {
		return func(m *managed, who *control.Caller) error { _, err := m.apply(who, text); return err }
	}
	op := func(op, name string) func(*managed, *control.Caller) error {
		return func(m *managed, who *control.Caller) error { _, err := m.named(who, op, name); return err }
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		who   *control.Caller
		do    func(*managed, *control.Caller) error
		want  bool
	}{
		{"no access policy: root", open, rootCaller, apply(web2), true},
		{"no access policy: a user", open, alice, apply(web2), false},
		{"no access policy: root of a container", open, inside, apply(web2), false},
		{"no access policy: nobody", open, &control.Caller{}, apply(web2), false},
		{"only audited: a user", map[string]string{"a.yaml": strings.Replace(editors, "enforce", "audit", 1)}, alice, apply(web2), false},
		{"root by its policy", closed, rootCaller, op(revision.OpDelete, "web"), true},
		{"update", closed, alice, apply(web2), true},
		{"create", closed, alice, apply(document("new", "exec: {asRoot: deny}")), true},
		{"delete", closed, alice, op(revision.OpDelete, "web"), false},
		{"delete of what is not there", closed, alice, op(revision.OpDelete, "none"), false},
		{"forbid wins", closed, alice, apply(document("locked", "exec: {drift: deny}")), false},
		{"forbid is for whom it names", closed, rootCaller, apply(document("locked", "exec: {drift: deny}")), true},
		{"one's own grant", closed, alice, apply(strings.Replace(editors, "[look", "[x", 1) + "    - {name: more, effect: allow, actions: [\"*\"]}\n"), false},
		{"a new grant to oneself", closed, alice, apply(strings.NewReplacer("root", "alice", "admins", "mine").Replace(admins)), false},
		{"one of two is denied", closed, alice, apply(web2 + "---\n" + document("locked", "exec: {drift: deny}")), false},
		{"another user", closed, bob, apply(web2), false},
		{"root of a container", closed, inside, apply(web2), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newManaged(t, "", tt.files)
			before := m.policies.current().Revision()
			err := tt.do(m, tt.who)
			if got := err == nil; got != tt.want {
				t.Fatalf("allowed: %v (%v), want %v", got, err, tt.want)
			}
			if !tt.want {
				if !errors.Is(err, control.ErrForbidden) || m.policies.current().Revision() != before {
					t.Errorf("got %v, and the policies changed: %v", err, m.policies.current().Revision() != before)
				}
			}
			if len(m.events) == 0 || (m.events[len(m.events)-1].Decision == proxy.Allowed) != tt.want {
				t.Errorf("recorded: %+v", m.events)
			}
		})
	}
}

// A rollback to before a policy existed takes it away, and must be allowed as that.
func TestRollbackIsNoDelete(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": editors, "b.yaml": admins})
	m.must(m.apply(alice, web))
	if _, err := m.named(alice, revision.OpRollback, "web"); !errors.Is(err, control.ErrForbidden) || m.inForce("web") == "" {
		t.Errorf("alice took web away by a rollback: %v", err)
	}
	m.must(m.named(rootCaller, revision.OpRollback, "web"))
	if m.inForce("web") != "" {
		t.Error("web is in force still")
	}
	m.must(m.named(alice, revision.OpRollback, "web"))
	if m.inForce("web") == "" {
		t.Error("what was taken away does not come back")
	}
	if _, err := m.named(bob, revision.OpRollback, "never-there"); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("bob learns what there was: %v", err)
	}
}

func TestChangeAndRollback(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": editors, "b.yaml": admins})
	base, _ := m.history.Head()
	m.must(m.apply(alice, "# why\n"+web, func(c *control.ChangeRequest) { c.Message = "first" }))
	first := m.inForce("web")
	m.must(m.apply(alice, web2))
	if !strings.Contains(m.inForce("web"), "drift") {
		t.Fatalf("in force: %s", m.inForce("web"))
	}
	m.must(m.named(alice, revision.OpRollback, "web"))
	if m.inForce("web") != first {
		t.Errorf("after the rollback: %s", m.inForce("web"))
	}
	if b, err := os.ReadFile(filepath.Join(m.policies.dir, "web.yaml")); err != nil || string(b) != "# why\n"+web {
		t.Errorf("the file: %q, %v", b, err)
	}
	m.must(m.named(alice, revision.OpRollback, "web", func(c *control.ChangeRequest) { c.To = base + 2 }))
	if !strings.Contains(m.inForce("web"), "drift") {
		t.Errorf("after the rollback to %d: %s", base+2, m.inForce("web"))
	}
	res, err := m.apply(alice, web2, func(c *control.ChangeRequest) { c.DryRun = true })
	if err != nil || res.Revision != 0 || len(res.Unchanged) != 1 {
		t.Errorf("the same again: %+v, %v", res, err)
	}
	h, err := m.History(t.Context(), alice, "web")
	if err != nil || len(h.Revisions) != 4 {
		t.Fatalf("history: %+v, %v", h, err)
	}
	r := h.Revisions[0]
	if r.Message != "first" || r.Author.Name != "alice" || *r.Author.UID != 1000 || *r.Author.LoginUID != 1000 || r.Changes[0].What != revision.Created || r.Changes[0].After != "" {
		t.Errorf("the first revision: %+v", r)
	}
	if h.Revisions[3].Op != revision.OpRollback || h.Revisions[3].To != base+2 {
		t.Errorf("the last revision: %+v", h.Revisions[3])
	}
	l, err := m.Policies(t.Context(), alice, control.PolicyQuery{Name: "web", Revision: base + 1})
	if err != nil || l.Policies[0].Text != "# why\n"+web {
		t.Errorf("as revision %d left it: %+v, %v", base+1, l, err)
	}
	if l, err = m.Policies(t.Context(), alice, control.PolicyQuery{}); err != nil || len(l.Policies) != 3 || l.Head != base+4 {
		t.Errorf("list: %+v, %v", l, err)
	}
}

// A policy that is wrong leaves all as it was, and says where.
func TestBadChange(t *testing.T) {
	m := newManaged(t, "", map[string]string{"web.yaml": web})
	before := m.policies.current().Revision()
	for name, tt := range map[string]struct{ text, want string }{
		"syntax":  {document("web", "exec: {asroot: deny}"), "given.yaml:4:"},
		"no host": {document("web", "require: prevent, exec: {asRoot: deny}"), "requires prevent"},
		"kind":    {strings.Replace(admins, "admins", "web", 1), "delete the one first"},
		"twice":   {web + "---\n" + web2, "leave one out"},
	} {
		_, err := m.apply(rootCaller, tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "fix: ") {
			t.Errorf("%s: got %v, want %q and a fix", name, err, tt.want)
		}
	}
	m.broken = errors.New("the kernel side says no")
	if _, err := m.apply(rootCaller, web2); err == nil || !strings.Contains(err.Error(), "nothing was changed: the kernel side says no") {
		t.Errorf("got %v", err)
	}
	if got := m.policies.current().Revision(); got != before || m.policies.stale() {
		t.Errorf("in force: %s, want %s; stale: %v", got, before, m.policies.stale())
	}
	if b, _ := os.ReadFile(filepath.Join(m.policies.dir, "web.yaml")); string(b) != web {
		t.Errorf("the file: %s", b)
	}
	if n, _ := m.history.Head(); n != 1 {
		t.Errorf("%d revisions", n)
	}
	write(t, filepath.Join(m.policies.dir, "x.yaml"), "no policy")
	if _, err := m.apply(rootCaller, web2); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "x.yaml:1") {
		t.Errorf("on top of a directory that is broken: %v", err)
	}
}

// Two writers lose nothing: neither each other's changes nor those of an editor.
func TestIfRevision(t *testing.T) {
	m := newManaged(t, "", map[string]string{"web.yaml": web, "db.yaml": document("db", "exec: {asRoot: deny}")})
	seen, _ := m.history.Head()
	m.must(m.apply(rootCaller, web2, ifRevision(seen)))
	if _, err := m.apply(rootCaller, web, ifRevision(seen)); !errors.Is(err, control.ErrChanged) || !strings.Contains(err.Error(), "fix: ") {
		t.Errorf("the second writer: %v", err)
	}
	m.must(m.apply(rootCaller, document("db", "exec: {drift: deny}"), ifRevision(seen))) // nobody touched that one
	now, _ := m.history.Head()
	write(t, filepath.Join(m.policies.dir, "web.yaml"), document("web", "exec: {memfd: deny}"))
	if _, err := m.apply(rootCaller, web, ifRevision(now)); !errors.Is(err, control.ErrChanged) {
		t.Errorf("over an edit by hand: %v", err)
	}
	if !strings.Contains(m.inForce("web"), "memfd") {
		t.Errorf("the edit by hand is lost: %s", m.inForce("web"))
	}
	if _, err := m.apply(rootCaller, web, ifRevision(99)); !errors.Is(err, control.ErrRefused) {
		t.Errorf("of the future: %v", err)
	}
}

// Edits by hand are revisions by the file's owner.
func TestEditsByHand(t *testing.T) {
	m := newManaged(t, "", map[string]string{"web.yaml": web})
	write(t, filepath.Join(m.policies.dir, "web.yaml"), web2)
	write(t, filepath.Join(m.policies.dir, "db.yaml"), document("db", "exec: {asRoot: deny}"))
	if err := m.manager.reload(false); err != nil {
		t.Fatal(err)
	}
	m.recordEdits(nil)
	r, err := m.history.Newest("web", 99)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Of("web"); r.Number != 2 || r.Author.Kind != revision.ByFile || *r.Author.UID != uint32(os.Getuid()) || c.Before != web || c.After != web2 || r.Of("db").What != revision.Created {
		t.Errorf("got %+v", r)
	}
	if err := os.Remove(filepath.Join(m.policies.dir, "db.yaml")); err != nil {
		t.Fatal(err)
	}
	m.restart(m.policies.dir, "")
	if r, err = m.history.Newest("db", 99); err != nil || r.Number != 3 || r.Changes[0].What != revision.Deleted {
		t.Errorf("after a restart: %+v, %v", r, err)
	}
	m.restart(m.policies.dir, "")
	if n, _ := m.history.Head(); n != 3 {
		t.Errorf("a restart without a change made revision %d", n)
	}
	m.must(m.named(rootCaller, revision.OpRollback, "web"))
	if !strings.Contains(m.inForce("web"), "asRoot") {
		t.Errorf("after the rollback of an edit by hand: %s", m.inForce("web"))
	}
}

// An agent that ends in the middle of a change leaves the next one what was before.
func TestCrashInChange(t *testing.T) {
	for _, after := range []string{"begin", "first file", "all files", "revision"} {
		t.Run(after, func(t *testing.T) {
			m := newManaged(t, "", map[string]string{"web.yaml": web})
			dir := m.policies.dir
			c := &control.ChangeRequest{Op: revision.OpApply, Files: []control.ChangeFile{{Name: "x", Text: web2 + "---\n" + document("a", "exec: {asRoot: deny}")}}}
			given, err := parseGiven(c.Files)
			if err != nil {
				t.Fatal(err)
			}
			p, err := m.plan(rootCaller, c, given)
			if err != nil {
				t.Fatal(err)
			}
			pending := &revision.Pending{Files: map[string]revision.Backup{}}
			for path, data := range p.files {
				b, err := backup(path)
				if err != nil {
					t.Fatal(err)
				}
				b.WillWrite(data)
				pending.Files[path] = b
			}
			if err := m.history.Begin(pending); err != nil {
				t.Fatal(err)
			}
			switch after {
			case "first file":
				write(t, filepath.Join(dir, "a.yaml"), string(p.files[filepath.Join(dir, "a.yaml")]))
			case "all files", "revision":
				if err := m.write(p, pending); err != nil {
					t.Fatal(err)
				}
			}
			if after == "revision" {
				if err := m.history.Append(&revision.Revision{Op: c.Op, Changes: p.changes}); err != nil {
					t.Fatal(err)
				}
			}
			m.restart(dir, "")
			done := strings.Contains(m.inForce("web"), "drift") && m.inForce("a") != ""
			undone := strings.Contains(m.inForce("web"), "asRoot") && m.inForce("a") == ""
			if after == "revision" && !done || after != "revision" && !undone {
				t.Errorf("in force: web %q, a %q", m.inForce("web"), m.inForce("a"))
			}
			want := uint64(1)
			if after == "revision" {
				want = 2
			}
			if n, _ := m.history.Head(); n != want {
				t.Errorf("%d revisions, want %d", n, want)
			}
			if p, ok := m.history.Unfinished(); p != nil || !ok {
				t.Error("the change is unfinished still")
			}
		})
	}
}

// TestToldAsAsked: a decision is recorded with the request that it was about.
func TestToldAsAsked(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": admins})
	who := *bob
	who.Method, who.Path = "GET", "/v1/policies/history"
	if _, err := m.History(t.Context(), &who, "web"); err == nil {
		t.Fatal("bob may read the history")
	}
	if len(m.events) != 1 || m.events[0].Method != "GET" || m.events[0].Path != "/v1/policies/history" {
		t.Errorf("recorded %+v, want one GET of /v1/policies/history", m.events)
	}
}
