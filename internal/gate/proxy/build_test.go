package proxy

import (
	"context"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/gate/buildkit"
)

// A session is whose opened it, while it is open; a build waits for it for a moment.
func TestSessionsOwned(t *testing.T) {
	var s sessions
	if s.open("", "a") || s.open(strings.Repeat("x", buildkit.MaxRef+1), "a") {
		t.Error("a session without a name, or with a long one, is taken")
	}
	if !s.open("one", "a") || s.open("one", "b") {
		t.Error("two have the same session")
	}
	ctx, cancel := context.WithCancel(t.Context())
	if !s.owned(ctx, "one", "a") || s.owned(ctx, "one", "b") {
		t.Error("the wrong caller has it")
	}
	got := make(chan bool)
	go func() { got <- s.owned(ctx, "two", "b") }()
	s.open("other", "b")
	s.open("two", "b")
	if !<-got {
		t.Error("it did not wait")
	}
	s.close("one")
	cancel()
	if s.owned(ctx, "one", "a") {
		t.Error("a closed session is owned")
	}
	if k := s.key(); k != s.key() || k == (&sessions{}).key() {
		t.Error("keys are not one for each gate")
	}
}

func TestBuildsClaimed(t *testing.T) {
	var c claims
	if c.owned("r", "a") || c.claim("", "a") || c.claim(strings.Repeat("x", buildkit.MaxRef+1), "a") {
		t.Error("a name that nobody can have is had")
	}
	if !c.claim("r", "a") || !c.claim("r", "a") || c.claim("r", "b") || !c.owned("r", "a") || c.owned("r", "b") {
		t.Error("a build is not whose named it first")
	}
}

// A build by BuildKit is refused if its session is not the caller's, or if nobody can keep
// its Dockerfile from naming a frontend.
func TestBuildRefused(t *testing.T) {
	const builds = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: builds}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules:
    - {name: build, effect: allow, actions: [image.build, build.session], checks: [frontends]}
`
	g := startGate(t, builds)
	post := func(target string) int {
		t.Helper()
		r := g.raw(t, "POST "+target+" HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: 0\r\n\r\n")
		defer r.Body.Close()
		return r.StatusCode
	}
	for target, want := range map[string]string{
		"/build?version=2": "frontend",
		"/build?version=2&remote=https://example.org/x.git":      "frontend",
		"/build?version=2&remote=client-session&session=another": buildkit.CauseForeign,
	} {
		if want == buildkit.CauseForeign && testing.Short() {
			continue
		}
		if status := post(target); status != 403 || len(g.d.acted()) > 0 {
			t.Errorf("%s: status %d, want a refusal (%s); the daemon saw %v", target, status, want, g.d.acted())
		}
	}
	if status := post("/build"); status == 403 {
		t.Error("a build by the engine's own builder is refused")
	}
}
