package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/buildkit"
)

// fakeTokens are secrets and the names of their tokens.
type fakeTokens map[string]string

func (f fakeTokens) Verify(secret string, _ time.Time) (string, error) {
	if name, ok := f[secret]; ok {
		return name, nil
	}
	return "", errors.New("no")
}

// The peer itself may list, and ci may list and create.
const forTokens = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: peers}
spec:
  mode: enforce
  subjects: {uids: ["0-4294967294"]}
  rules: [{name: look, effect: allow, actions: [container.list, system.ping]}]
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: ci}
spec:
  mode: enforce
  subjects: {tokens: ["ci-*"]}
  rules: [{name: run, effect: allow, actions: [container.create, container.list]}]
`

func tokenGate(t *testing.T, change ...func(*Options)) *testGate {
	return startGate(t, forTokens, append([]func(*Options){func(o *Options) { o.Tokens = fakeTokens{"good": "ci-1", "other": "web"} }}, change...)...)
}

// ask sends a request with an Authorization field, none if auth is "-".
func ask(t *testing.T, c *http.Client, method, path, body, auth string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://d"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if auth != "-" {
		req.Header["Authorization"] = []string{auth}
	}
	req.Header.Set("X-Registry-Auth", "registry")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

const runApp = `{"Image":"app","User":"1000"}`

// A token is the caller, whoever connected, for the one request that has it.
func TestToken(t *testing.T) {
	g := tokenGate(t)
	c := g.client(t)
	for _, tt := range []struct {
		name, auth string
		want       int
	}{
		{"the peer", "-", 403}, {"its token", "Bearer good", 201}, {"the peer again, on the same connection", "-", 403},
		{"scheme without case", "bEARER good", 201}, {"a token that no policy names", "Bearer other", 403},
	} {
		if status, answer := ask(t, c, "POST", "/containers/create", runApp, tt.auth); status != tt.want {
			t.Errorf("%s: got %d %s", tt.name, status, answer)
		}
	}
	sent := g.d.acted()
	if len(sent) != 2 || !strings.Contains(sent[0].body, `"belay.dev/owner":"token:ci-1"`) {
		t.Errorf("the daemon got %+v", sent)
	}
	for _, r := range g.d.requests() {
		if r.header.Get("Authorization") != "" || strings.Contains(fmt.Sprint(r), "good") {
			t.Errorf("the token went to the daemon: %+v", r)
		}
	}
	if sent[0].header.Get("X-Registry-Auth") != "registry" {
		t.Error("the registry's credentials did not")
	}
	ev := g.rec.all()
	if ev[1].Subject.Kind != apicall.Token || ev[1].Subject.Token != "ci-1" || ev[1].Peer == nil || ev[1].Peer.Kind != apicall.User {
		t.Errorf("record %+v", ev[1])
	}
	if ev[2].Subject.Kind != apicall.User || ev[2].Peer != nil {
		t.Errorf("record of the peer %+v", ev[2])
	}
	if g.counter("gate_token_calls") != 3 {
		t.Errorf("%d calls counted", g.counter("gate_token_calls"))
	}
}

// A wrong token is refused where the peer alone would pass, and no secret is in what is said.
func TestWrongToken(t *testing.T) {
	for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer  good", "Bearer good ", "Basic good", "good", "Bearer\tgood", "Bearer good,x"} {
		t.Run(auth, func(t *testing.T) {
			g := tokenGate(t)
			c := g.client(t)
			if status, answer := ask(t, c, "GET", "/containers/json", "", "-"); status != 200 {
				t.Fatalf("the peer: got %d %s", status, answer)
			}
			status, answer := ask(t, c, "GET", "/containers/json", "", auth)
			if auth == "Bearer good " { // white space around a value is no part of it
				if status != 200 {
					t.Errorf("got %d %s", status, answer)
				}
				return
			}
			if status != 401 && status != 400 || strings.Contains(answer, "wrong\"") {
				t.Errorf("got %d %s", status, answer)
			}
			ev := g.rec.all()
			if last := ev[len(ev)-1]; status == 401 && (last.Cause != "token" || last.Decision != Denied || last.Subject.Kind != apicall.User) {
				t.Errorf("record %+v", last)
			}
		})
	}
	t.Run("no tokens at all", func(t *testing.T) {
		g := tokenGate(t, func(o *Options) { o.Tokens = nil })
		if status, answer := ask(t, g.client(t), "GET", "/containers/json", "", "Bearer good"); status != 401 {
			t.Errorf("got %d %s", status, answer)
		}
	})
	t.Run("no policies at all", func(t *testing.T) {
		g := startGate(t, "", func(o *Options) { o.Tokens = fakeTokens{"good": "ci-1"} })
		if status, answer := ask(t, g.client(t), "GET", "/containers/json", "", "Bearer good"); status != 403 {
			t.Errorf("got %d %s", status, answer)
		}
	})
}

// Who guesses is not listened to any more, also with a right token; others are.
func TestGuesses(t *testing.T) {
	g := tokenGate(t)
	c := g.client(t)
	last := 0
	for range freeGuesses + 3 {
		last, _ = ask(t, c, "GET", "/containers/json", "", "Bearer wrong")
	}
	if status, _ := ask(t, c, "GET", "/containers/json", "", "Bearer good"); last != 429 || status != 429 {
		t.Errorf("after %d wrong ones: got %d, and %d with a right one", freeGuesses+3, last, status)
	}
	if status, _ := ask(t, c, "GET", "/containers/json", "", "-"); status != 200 {
		t.Errorf("without a token: got %d", status)
	}
	if n := g.counter("gate_token_refused"); n != freeGuesses {
		t.Errorf("%d were looked at, want %d", n, freeGuesses)
	}

	var gs guesses
	now := time.Unix(1000, 0)
	for range freeGuesses {
		if !gs.mayTry("a", now) {
			t.Fatal("the first ones are not looked at")
		}
		gs.failed("a", now)
	}
	if gs.mayTry("a", now) || !gs.mayTry("b", now) || !gs.mayTry("a", now.Add(guessEvery)) {
		t.Error("want a to wait and b not")
	}
	for i := range 2 * maxGuessers {
		if who := fmt.Sprint(i); gs.mayTry(who, now) {
			gs.failed(who, now)
		}
	}
	if len(gs.until) > maxGuessers || gs.mayTry("new", now) {
		t.Errorf("%d are remembered", len(gs.until))
	}
	if gs.forget(now.Add(time.Hour)); !gs.mayTry("new", now) {
		t.Error("nothing is forgotten")
	}
	if a, b := guesser(&apicall.Subject{Kind: apicall.User, UID: 100000}), guesser(&apicall.Subject{Kind: apicall.User, UID: 100001}); a != b {
		t.Error("each uid without a name guesses for itself")
	}
}

// A token has a rate of its own, whatever peers show it.
func TestTokenRate(t *testing.T) {
	c := callers{limits: &Limits{Rate: 1, Burst: 2}}
	if !c.takeAs("token:a") || !c.takeAs("token:a") || c.takeAs("token:a") || !c.takeAs("token:b") {
		t.Error("want a limited after two and b not")
	}
	if c.forget(time.Now().Add(time.Hour)); len(c.byKey) != 0 {
		t.Error("they are kept")
	}
}

// A connection to BuildKit stays open for long: the token that it was opened with may not.
func TestRevokedTokenOnAnOpenConnection(t *testing.T) {
	tokens := fakeTokens{"good": "ci-1"}
	g := tokenGate(t, func(o *Options) { o.Tokens = tokens })
	c := &conn{s: g.Server, caller: &caller{}, token: "good", sub: apicall.Subject{Kind: apicall.Token, Token: "ci-1"}}
	ask := func() buildkit.Verdict {
		return (&buildJudge{c: c}).Ask(&buildkit.Question{Method: "m", Action: "container.list"})
	}
	hypothetical := &buildkit.Question{Action: "container.create", Hypothetical: true}
	if v := (&buildJudge{c: c}).Ask(hypothetical); !v.Allowed {
		t.Fatalf("a valid token: %+v", v)
	}
	tokens["good"] = "ci-2" // another's name by now
	if v := (&buildJudge{c: c}).Ask(hypothetical); v.Allowed {
		t.Error("a secret of another name is taken")
	}
	delete(tokens, "good")
	if v := ask(); v.Allowed || !strings.Contains(v.Message, "not valid any more") {
		t.Errorf("a revoked token: %+v", v)
	}
	if all := g.rec.all(); len(all) != 1 || all[0].Cause != "token" || all[0].Decision != Denied {
		t.Errorf("recorded %+v", all)
	}
}
