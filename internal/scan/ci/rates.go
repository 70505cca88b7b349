package ci

import (
	"net/netip"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/policy"
)

// shareOf says for whom a caller's requests are counted. Uids of a user namespace have no
// names in the host's database and are as many as its owner likes, and containers are made at
// will: each of these kinds is one, as one user is. "" is root of the host, who is not bounded.
func shareOf(sub *apicall.Subject) string {
	switch {
	case sub.Kind == apicall.Container:
		return "containers"
	case sub.Kind == apicall.User && sub.UID == 0:
		return ""
	case sub.Kind == apicall.User && sub.Name == "":
		return "nameless"
	}
	return policy.Owner(sub)
}

// shareOfAddress is for callers who are not known yet. A network of IPv6 is one, as its owner
// has all of its addresses.
func shareOfAddress(a netip.Addr) string {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return "address " + p.String()
		}
	}
	return "address " + a.String()
}

// maxShares bounds what is remembered.
const maxShares = 4096

// buckets bounds what each share does.
type buckets struct {
	burst, perSecond float64

	// mu guards byShare.
	mu      sync.Mutex
	byShare map[string]bucket
}

type bucket struct {
	tokens float64
	filled time.Time
}

func newBuckets(burst, perSecond float64) *buckets {
	return &buckets{burst: burst, perSecond: perSecond, byShare: map[string]bucket{}}
}

// has tells whether a share has n tokens, and takes them if so. With n 0 it tells whether there
// is one, and takes none. False too if there are too many shares.
func (r *buckets) has(share string, n float64, now time.Time) bool {
	if share == "" {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.byShare[share]
	if !ok {
		b = bucket{tokens: r.burst, filled: now}
		if len(r.byShare) >= maxShares {
			for s, o := range r.byShare {
				if o.tokens+now.Sub(o.filled).Seconds()*r.perSecond >= r.burst {
					delete(r.byShare, s)
				}
			}
			if len(r.byShare) >= maxShares {
				return false
			}
		}
	}
	b.tokens = min(r.burst, b.tokens+max(0, now.Sub(b.filled).Seconds())*r.perSecond)
	b.filled = now
	ok = b.tokens >= max(n, 1)
	if ok {
		b.tokens -= n
	}
	if ok && n > 0 || b.tokens < r.burst {
		r.byShare[share] = b
	}
	return ok
}
