package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/control"
)

// fakeTokens serves bearer tokens on $RUN/control.sock until the script ends, to root, or with
// the argument "other" to somebody else.
func fakeTokens(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: faketokens [other]")
	}
	uid := uint32(len(args) * 1000)
	s, err := control.Listen(fileAgent{}, control.Options{
		Path: filepath.Join(ts.Getenv("RUN"), control.SocketName), GID: os.Getegid(), Tokens: tokenStore{},
		Manage: &control.ManageOptions{Identify: func(net.Conn) (apicall.Subject, error) {
			return apicall.Subject{Kind: apicall.User, UID: uid}, nil
		}},
	})
	ts.Check(err)
	serve(ts, "fake tokens", s.Run)
}

// tokenStore has one token that is valid and one that has expired; names are not looked at.
type tokenStore struct{}

func tokenInfo(name string, left time.Duration) control.TokenInfo {
	return control.TokenInfo{Name: name, Created: testNow.Add(-time.Hour), Expires: testNow.Add(left), Expired: left <= 0}
}

func (tokenStore) CreateToken(_ context.Context, _ *control.Caller, q *control.TokenRequest) (*control.NewToken, error) {
	if q.For == 0 {
		q.For = 30 * 24 * time.Hour
	}
	return &control.NewToken{TokenInfo: tokenInfo(q.Name, q.For), Token: "belay_00_11"}, nil
}

func (tokenStore) Tokens(context.Context) (*control.TokenList, error) {
	return &control.TokenList{Tokens: []control.TokenInfo{tokenInfo("ci", 48*time.Hour), tokenInfo("old", -time.Hour)}}, nil
}

func (tokenStore) RevokeToken(_ context.Context, _ *control.Caller, q *control.TokenRequest) (*control.TokenInfo, error) {
	if q.Name == "none" {
		return nil, &control.Error{Status: 404, Message: "there is no token of that name"}
	}
	k := tokenInfo(q.Name, time.Hour)
	return &k, nil
}
