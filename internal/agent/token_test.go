package agent

import (
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/token"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
)

func TestTokens(t *testing.T) {
	store, err := token.Open(filepath.Join(t.TempDir(), "tokens.json"))
	if err != nil {
		t.Fatal(err)
	}
	var notes []string
	at := time.Unix(1_800_000_000, 0)
	ts := &tokens{store: store, note: func(m string) { notes = append(notes, m) }, now: func() time.Time { return at }}
	root := &control.Caller{Subject: apicall.Subject{Kind: apicall.User, UID: 0, Name: "root"}}
	n, err := ts.CreateToken(t.Context(), root, &control.TokenRequest{Name: "ci"})
	if err != nil || !n.Expires.Equal(at.Add(tokenDefault)) || n.Expired {
		t.Fatalf("got %+v, %v", n, err)
	}
	if name, err := ts.Verify(n.Token, at); name != "ci" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
	for _, tt := range []struct {
		q    control.TokenRequest
		want int
	}{
		{control.TokenRequest{Name: "ci"}, 409}, {control.TokenRequest{Name: "a b"}, 400}, {control.TokenRequest{Name: "x", For: time.Second}, 400},
	} {
		if _, err := ts.CreateToken(t.Context(), root, &tt.q); !isStatus(err, tt.want) {
			t.Errorf("%+v: %v, want %d", tt.q, err, tt.want)
		}
	}
	at = at.Add(tokenDefault)
	if l, err := ts.Tokens(t.Context()); err != nil || len(l.Tokens) != 1 || !l.Tokens[0].Expired {
		t.Errorf("list: %+v, %v", l, err)
	}
	if _, err := ts.RevokeToken(t.Context(), root, &control.TokenRequest{Name: "ci"}); err != nil {
		t.Error(err)
	}
	if _, err := ts.RevokeToken(t.Context(), root, &control.TokenRequest{Name: "ci"}); !isStatus(err, http.StatusNotFound) {
		t.Errorf("twice: %v", err)
	}
	if len(notes) != 2 || !strings.Contains(notes[0], "token ci was made by root, valid until") || !strings.Contains(notes[1], "revoked by root") {
		t.Errorf("journal: %q", notes)
	}
	if strings.Contains(strings.Join(notes, ""), n.Token) {
		t.Error("the journal has the secret")
	}
}

// A file that cannot be read is no token for anybody, and is not written over.
func TestTokensUnreadable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tokens.json")
	if err := os.WriteFile(path, []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: Config{StateDir: dir}, health: health.New(nil), log: slog.New(slog.DiscardHandler)}
	a.openTokens()
	if c, ok := a.health.Component("tokens"); !ok || !strings.Contains(c.Reason, path) {
		t.Errorf("health says %+v", c)
	}
	if _, err := a.tokens.Verify("belay_x", time.Now()); err == nil {
		t.Error("a token is taken")
	}
	root := &control.Caller{Subject: apicall.Subject{Kind: apicall.User}}
	if _, err := a.tokens.CreateToken(t.Context(), root, &control.TokenRequest{Name: "ci"}); err == nil {
		t.Error("a token is made")
	}
	_, err1 := a.tokens.Tokens(t.Context())
	_, err2 := a.tokens.RevokeToken(t.Context(), root, &control.TokenRequest{Name: "ci"})
	if err := errors.Join(err1, err2); err1 == nil || err2 == nil {
		t.Errorf("list and revoke: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "[" {
		t.Errorf("the file has become %q, %v", b, err)
	}
}

// The journal says which token called, and what process showed it.
func TestDescribeToken(t *testing.T) {
	r := &journal.Record{API: &journal.API{}}
	sub := &apicall.Subject{Kind: apicall.Token, Token: "ci"}
	(&Agent{}).describeCaller(sub, &apicall.Subject{Kind: apicall.Container, UID: 5, ContainerID: "c", ContainerName: "runner"}, r)
	if r.API.CallerKind != "token" || r.API.Caller != "ci" || r.API.UID == nil || *r.API.UID != 5 || r.Container == nil || r.Container.Name != "runner" {
		t.Errorf("got %+v, %+v", r.API, r.Container)
	}
}
