package proxy

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/apicall"
)

// authenticate takes the bearer token that a request has: the call is that token's then,
// whoever connected. A token that is not valid is refused, also where the peer itself could make
// the call: who shows one means to be held to it. It is asked for anew with each request, so
// that one that was revoked does not live on in an open connection.
//
// The field never goes to the daemon: dockerapi passes on only those that it knows.
func (x *exchange) authenticate() *refusal {
	c := x.c
	s := c.s
	value, there := c.req.Lookup("Authorization")
	if !there {
		return nil
	}
	who := guesser(&c.peer)
	if !s.guesses.mayTry(who, x.start) {
		s.counts.tokenLimited.Add(1)
		return &refusal{status: http.StatusTooManyRequests, cause: "token_limited", retryAfter: true,
			msg: "belay: too many tokens were wrong: wait a minute"}
	}
	name, ok := x.tokenOf(value)
	if !ok {
		s.guesses.failed(who, x.start)
		s.counts.tokenWrong.Add(1)
		return &refusal{status: http.StatusUnauthorized, cause: "token",
			msg: "belay: the request's Authorization is no valid bearer token: it is wrong, has expired or was revoked; " +
				"root of the host makes one with belay token create"}
	}
	_, c.token, _ = strings.Cut(value, " ")
	c.sub = apicall.Subject{Kind: apicall.Token, Token: name, PID: c.peer.PID, PIDStart: c.peer.PIDStart, Remote: c.peer.Remote}
	x.ev.Peer = &c.peer
	s.counts.tokens.Add(1)
	if !s.callers.takeAs(callerKey(&c.sub)) {
		s.counts.rate.Add(1)
		return &refusal{status: http.StatusTooManyRequests, cause: "rate", msg: "belay: too many requests", retryAfter: true}
	}
	return nil
}

// tokenOf returns the name of the token in a value of the field Authorization.
//
// Source: RFC 6750, 2.1; the scheme is without case by RFC 9110, 11.1.
func (x *exchange) tokenOf(value string) (name string, ok bool) {
	scheme, secret, _ := strings.Cut(value, " ")
	if x.c.s.o.Tokens == nil || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	name, err := x.c.s.o.Tokens.Verify(secret, x.start)
	return name, err == nil && name != ""
}

// stillValid tells whether the token that a connection was opened with is one still.
func (c *conn) stillValid(now time.Time) bool {
	if c.sub.Kind != apicall.Token {
		return true
	}
	name, err := c.s.o.Tokens.Verify(c.token, now)
	return err == nil && name == c.sub.Token
}

// guesser is who wrong tokens are counted for. A user has many uids if it may make user
// namespaces; they have no names.
func guesser(peer *apicall.Subject) string {
	if peer.Kind == apicall.User && peer.Name == "" {
		return "nameless"
	}
	return callerKey(peer)
}

const (
	// freeGuesses wrong tokens of one peer are looked at, then one in guessEvery.
	freeGuesses = 10
	guessEvery  = 10 * time.Second
	// maxGuessers bounds what is remembered. Beyond it no token of a peer that is not known is
	// looked at.
	maxGuessers = 4096
)

// guesses bounds wrong tokens. The zero value has none.
type guesses struct {
	// mu guards until.
	mu sync.Mutex
	// until is when a peer's wrong tokens are all forgotten.
	until map[string]time.Time
}

// mayTry tells whether a token of the peer is looked at.
func (g *guesses) mayTry(who string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, known := g.until[who]
	if !known {
		return len(g.until) < maxGuessers
	}
	return until.Sub(now) <= (freeGuesses-1)*guessEvery
}

// failed counts a wrong token.
func (g *guesses) failed(who string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	until := g.until[who]
	if until.Before(now) {
		until = now
	}
	if g.until == nil {
		g.until = map[string]time.Time{}
	}
	g.until[who] = until.Add(guessEvery)
}

// forget drops peers whose wrong tokens are long ago.
func (g *guesses) forget(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for who, until := range g.until {
		if until.Before(now) {
			delete(g.until, who)
		}
	}
}
