package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/revision"
	"github.com/belay-project/belay/internal/testneed"
)

// fakeManager answers what it is given, and notes who asked for what.
type fakeManager struct {
	list *PolicyList
	hist *History
	res  *ChangeResult
	err  error

	who   *Caller
	query PolicyQuery
	name  string
	asked *ChangeRequest
}

func (f *fakeManager) Policies(_ context.Context, who *Caller, q PolicyQuery) (*PolicyList, error) {
	f.who, f.query = who, q
	return f.list, f.err
}

func (f *fakeManager) History(_ context.Context, who *Caller, name string) (*History, error) {
	f.who, f.name = who, name
	return f.hist, f.err
}

func (f *fakeManager) Change(_ context.Context, who *Caller, c *ChangeRequest) (*ChangeResult, error) {
	f.who, f.asked = who, c
	return f.res, f.err
}

func serveManager(t *testing.T, o *ManageOptions, users bool) (*Client, string) {
	t.Helper()
	if o.Identify == nil {
		o.Identify = func(net.Conn) (apicall.Subject, error) {
			return apicall.Subject{Kind: apicall.User, UID: 1000, Name: "alice", PID: int32(os.Getpid())}, nil
		}
	}
	path := socketPath(t)
	s, err := Listen(&fakeAgent{status: &Status{}}, Options{Path: path, GID: os.Getegid(), Manage: o, UsersOnly: users})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	start(t, s)
	return NewClient(path), path
}

func TestManage(t *testing.T) {
	m := &fakeManager{
		list: &PolicyList{Head: 3, Policies: []ManagedPolicy{{Name: "web", Text: "x"}}},
		hist: &History{Head: 3, Revisions: []revision.Revision{{Number: 3, Changes: []revision.Change{{Name: "web"}}}}, Problems: []string{}},
		res:  &ChangeResult{Revision: 4, Changes: []revision.Change{{Name: "web", What: revision.Updated}}},
	}
	c, _ := serveManager(t, &ManageOptions{Manager: m}, true)
	l, err := c.Policies(t.Context(), PolicyQuery{Name: "web", Revision: 2})
	if diff := cmp.Diff(m.list, l); err != nil || diff != "" || m.query != (PolicyQuery{"web", 2}) {
		t.Errorf("Policies: %v, asked %+v\n%s", err, m.query, diff)
	}
	h, err := c.History(t.Context(), "web")
	if diff := cmp.Diff(m.hist, h); err != nil || diff != "" || m.name != "web" {
		t.Errorf("History: %v, asked %q\n%s", err, m.name, diff)
	}
	want := &ChangeRequest{
		Op: revision.OpApply, Files: []ChangeFile{{"a", strings.Repeat("# é\n", 100000)}}, IfRevision: new(uint64(0)), Message: "m", DryRun: true,
	}
	res, err := c.Change(t.Context(), want)
	if diff := cmp.Diff(m.res, res); err != nil || diff != "" || !cmp.Equal(want, m.asked) {
		t.Errorf("Change: %v\n%s", err, diff)
	}
	if m.who.Subject.Name != "alice" || m.who.Subject.UID != 1000 {
		t.Errorf("asked by %+v", m.who)
	}
	for _, sentinel := range []error{ErrForbidden, ErrNoPolicy, ErrChanged, ErrRefused} {
		m.err = fmt.Errorf("it was %w; fix: x", sentinel)
		if _, err := c.Change(t.Context(), want); !errors.Is(err, sentinel) || err.Error() != m.err.Error() {
			t.Errorf("got %v, want %v", err, m.err)
		}
	}
	m.err = policy.Errors{{File: "a", Line: 2, Msg: "m", Fix: "f"}}
	if _, err := c.Change(t.Context(), want); !errors.Is(err, ErrRefused) || err.Error() != "a:2: m; fix: f" {
		t.Errorf("bad policies: %v", err)
	}
}

// Who is not known, or cannot be allowed anything, is turned away before a body is read.
func TestManageRefuses(t *testing.T) {
	m := &fakeManager{res: &ChangeResult{}}
	unknown := func(net.Conn) (apicall.Subject, error) { return apicall.Subject{}, errors.New("gone") }
	c, _ := serveManager(t, &ManageOptions{Manager: m, Identify: unknown}, false)
	if _, err := c.Change(t.Context(), &ChangeRequest{}); !errors.Is(err, ErrForbidden) || m.asked != nil {
		t.Errorf("an unknown caller: %v", err)
	}
	if _, err := c.Policies(t.Context(), PolicyQuery{}); !errors.Is(err, ErrForbidden) {
		t.Errorf("an unknown caller: %v", err)
	}
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("an unknown caller, the other routes: %v", err)
	}
	c, _ = serveManager(t, &ManageOptions{Manager: m, Screen: func(*Caller) error { return ErrForbidden }}, false)
	if _, err := c.Change(t.Context(), &ChangeRequest{}); !errors.Is(err, ErrForbidden) || m.asked != nil {
		t.Errorf("a caller that no policy names: %v", err)
	}
	c, _ = serveManager(t, &ManageOptions{Manager: m}, true)
	for _, tt := range []struct{ body, want string }{
		{`{"op":"apply","opp":"x"}`, "unknown field"},
		{`{"op":"apply"} {}`, "more than one"},
		{`[`, "the change"},
		{`{"op":"` + strings.Repeat("x", maxChangeBytes) + `"}`, "too large"},
	} {
		resp := get(t, c, http.MethodPost, "/v1/policies/change", tt.body)
		if body := text(t, resp); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, tt.want) {
			t.Errorf("%.40s: %d %s", tt.body, resp.StatusCode, body)
		}
	}
	for path, want := range map[string]int{"/v1/status": 404, "/v1/reload": 404, "/v1/events": 404, "/v1/policies?revision=1": 400, "/v1/policies?name=a&revision=x": 400} {
		if resp := get(t, c, http.MethodGet, path, ""); resp.StatusCode != want {
			t.Errorf("%s on the socket for users: %d, want %d", path, resp.StatusCode, want)
		}
	}
	if m.asked != nil {
		t.Errorf("the manager was asked for %+v", m.asked)
	}
}

func TestUsersSocket(t *testing.T) {
	for gid, want := range map[int]fs.FileMode{0: 0o666, os.Getegid() + 0: 0o660} {
		if gid == 0 && os.Getegid() == 0 {
			want = 0o666
		}
		path := filepath.Join(t.TempDir(), UsersSocketName)
		s, err := Listen(nil, Options{Path: path, GID: gid, UsersOnly: true, Manage: &ManageOptions{}})
		if err != nil {
			if gid == 0 && os.Geteuid() != 0 {
				continue // only root can give it to group 0
			}
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("gid %d: mode %v, %v; want %v", gid, info.Mode(), err, want)
		}
		s.Close()
	}
}

// A user who may not open the control socket is sent to the one for users.
func TestClientFallsBack(t *testing.T) {
	testneed.Need(t, "unprivileged", os.Geteuid() != 0, "root may open every socket")
	m := &fakeManager{list: &PolicyList{Head: 7}}
	_, path := serveManager(t, &ManageOptions{Manager: m}, true)
	closed := socketPath(t)
	l, err := net.Listen("unix", closed)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := NewClient(closed).Or(path).Policies(t.Context(), PolicyQuery{}); err != nil || got.Head != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := NewClient(closed).Or(path+"-none").Policies(t.Context(), PolicyQuery{}); err == nil || !strings.Contains(err.Error(), "no permission") {
		t.Errorf("without the other socket: %v", err)
	}
}
