package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
)

// fakeTokens notes what it was asked for.
type fakeTokens struct{ asked []string }

func (f *fakeTokens) CreateToken(_ context.Context, who *Caller, q *TokenRequest) (*NewToken, error) {
	f.asked = append(f.asked, "create "+q.Name+" "+q.For.String())
	return &NewToken{TokenInfo: TokenInfo{Name: q.Name, CreatedBy: who.Subject.UID}, Token: "t"}, nil
}

func (f *fakeTokens) Tokens(context.Context) (*TokenList, error) {
	f.asked = append(f.asked, "list")
	return &TokenList{Tokens: []TokenInfo{{Name: "ci"}}}, nil
}

func (f *fakeTokens) RevokeToken(_ context.Context, _ *Caller, q *TokenRequest) (*TokenInfo, error) {
	f.asked = append(f.asked, "revoke "+q.Name)
	return &TokenInfo{Name: q.Name}, nil
}

func serveTokens(t *testing.T, sub apicall.Subject, users bool) (*Client, *fakeTokens) {
	t.Helper()
	f := &fakeTokens{}
	path := socketPath(t)
	s, err := Listen(&fakeAgent{}, Options{
		Path: path, GID: os.Getegid(), Tokens: f, UsersOnly: users,
		Manage: &ManageOptions{Identify: func(net.Conn) (apicall.Subject, error) { return sub, nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	return NewClient(path), f
}

func TestTokens(t *testing.T) {
	c, f := serveTokens(t, apicall.Subject{Kind: apicall.User, UID: 0}, false)
	if n, err := c.CreateToken(t.Context(), &TokenRequest{Name: "ci", For: time.Hour}); err != nil || n.Name != "ci" || n.Token != "t" {
		t.Errorf("create: %+v, %v", n, err)
	}
	if l, err := c.Tokens(t.Context()); err != nil || len(l.Tokens) != 1 {
		t.Errorf("list: %+v, %v", l, err)
	}
	if k, err := c.RevokeToken(t.Context(), &TokenRequest{Name: "ci"}); err != nil || k.Name != "ci" {
		t.Errorf("revoke: %+v, %v", k, err)
	}
	if got := strings.Join(f.asked, ", "); got != "create ci 1h0m0s, list, revoke ci" {
		t.Errorf("asked for %s", got)
	}
	for _, body := range []string{`{"name":"a","uid":0}`, `{"name":"a"} {}`, ``, `{"name":"` + strings.Repeat("x", maxBodyBytes) + `"}`} {
		if resp := get(t, c, http.MethodPost, "/v1/tokens/create", body); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%.40s: %d", body, resp.StatusCode)
		}
	}
}

// Nobody but root of the host comes to tokens, whoever may open the socket.
func TestTokensAreRoots(t *testing.T) {
	for name, sub := range map[string]apicall.Subject{
		"user": {Kind: apicall.User, UID: 1000, Name: "alice"}, "root of a container": {Kind: apicall.Container, UID: 0, ContainerID: "a"}, "nobody": {},
	} {
		c, f := serveTokens(t, sub, false)
		_, err1 := c.CreateToken(t.Context(), &TokenRequest{Name: "ci"})
		_, err2 := c.Tokens(t.Context())
		_, err3 := c.RevokeToken(t.Context(), &TokenRequest{Name: "ci"})
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, ErrForbidden) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(f.asked) > 0 {
			t.Errorf("%s: the agent was asked: %v", name, f.asked)
		}
	}
	c, _ := serveTokens(t, apicall.Subject{Kind: apicall.User, UID: 0}, true)
	if resp := get(t, c, http.MethodGet, "/v1/tokens", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("on the socket for users: %d", resp.StatusCode)
	}
}
