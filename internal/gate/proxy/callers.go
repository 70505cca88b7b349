package proxy

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/ratelimit"
)

// callers counts what each caller has open. A caller is a user, a container, a
// certificate's holder or a token, not a connection.
type callers struct {
	limits *Limits
	places ratelimit.Places

	// mu guards what follows.
	mu    sync.Mutex
	byKey map[string]*caller
	conns int
}

type caller struct {
	key   string
	share string // of places
	conns int
	// of the token bucket
	tokens float64
	filled time.Time
}

func callerKey(sub *apicall.Subject) string {
	switch sub.Kind {
	case apicall.User:
		return "uid:" + strconv.FormatUint(uint64(sub.UID), 10)
	case apicall.Container:
		return "container:" + sub.ContainerID
	case apicall.Certificate:
		return "cert:" + sub.CN + "\x00" + strings.Join(sub.Orgs, "\x00")
	case apicall.Token:
		return "token:" + sub.Token
	}
	return "nobody"
}

// keptForRoot is how many connections nobody but root of the host has, so that an administrator gets
// in whatever others do.
const keptForRoot = 64

func newCallers(l *Limits) callers {
	return callers{limits: l, places: ratelimit.Places{Most: l.ConnsPerCaller, Shared: l.Conns - min(keptForRoot, l.Conns/2)}}
}

// shareOf says for whom a connection is counted: containers, and the uids of user namespaces, are as
// many as their owner likes, and have what one caller has.
func shareOf(sub *apicall.Subject) string {
	switch {
	case sub.Kind == apicall.Container:
		return "containers"
	case sub.Kind == apicall.User && sub.UID == 0:
		return ratelimit.Unbounded
	}
	return guesser(sub)
}

// open enters a connection. It returns false if the caller, or all of them, have too many.
func (c *callers) open(sub *apicall.Subject) (*caller, bool) {
	key, share := callerKey(sub), shareOf(sub)
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.byKey[key]
	if !ok {
		k = &caller{key: key, tokens: c.limits.Burst, filled: time.Now()}
	}
	if k.conns == 0 {
		k.share = share // the same until all are closed
	}
	if c.conns >= c.limits.Conns || k.conns >= c.limits.ConnsPerCaller || !c.places.Take(k.share) {
		return nil, false
	}
	if !ok {
		if c.byKey == nil {
			c.byKey = map[string]*caller{}
		}
		c.byKey[key] = k
	}
	c.conns++
	k.conns++
	return k, true
}

func (c *callers) close(k *caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns--
	k.conns--
	c.places.Leave(k.share)
	// With a rate, who reconnects for every request must not start afresh.
	if k.conns == 0 && (c.limits.Rate <= 0 || len(c.byKey) > 4096) {
		delete(c.byKey, k.key)
	}
}

// take takes a token of the caller's. It returns false if there is none.
func (c *callers) take(k *caller) bool {
	if c.limits.Rate <= 0 {
		return true
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	k.tokens = min(c.limits.Burst, k.tokens+now.Sub(k.filled).Seconds()*c.limits.Rate)
	k.filled = now
	if k.tokens < 1 {
		return false
	}
	k.tokens--
	return true
}

// takeAs takes a token of the bucket of a caller that has no connections of its own.
func (c *callers) takeAs(key string) bool {
	if c.limits.Rate <= 0 {
		return true
	}
	c.mu.Lock()
	k, ok := c.byKey[key]
	if !ok {
		k = &caller{key: key, tokens: c.limits.Burst, filled: time.Now()}
		if c.byKey == nil {
			c.byKey = map[string]*caller{}
		}
		c.byKey[key] = k
	}
	c.mu.Unlock()
	return c.take(k)
}

// total returns the number of open connections.
func (c *callers) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conns
}

// forget drops callers that have nothing open and whose bucket is full again.
func (c *callers) forget(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, k := range c.byKey {
		if k.conns == 0 && now.Sub(k.filled) > time.Minute {
			delete(c.byKey, key)
		}
	}
}
