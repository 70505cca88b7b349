// Package ratelimit bounds what each of many callers may do, by token buckets.
//
// It owns the buckets of one [Buckets], in memory, at most [MaxShares]. Row: vocabulary;
// standard library only.
package ratelimit

import (
	"sync"
	"time"
)

// MaxShares bounds how many buckets are remembered.
const MaxShares = 4096

// Unbounded is the share for which nothing is counted.
const Unbounded = ""

// Buckets has a bucket for each share. Make one with [New]. Safe for concurrent use.
type Buckets struct {
	burst, perSecond float64

	// mu guards byShare.
	mu      sync.Mutex
	byShare map[string]bucket
}

type bucket struct {
	tokens float64
	filled time.Time
}

// New returns buckets that hold burst tokens when they are full, and get perSecond of them in
// a second.
func New(burst, perSecond float64) *Buckets {
	return &Buckets{burst: burst, perSecond: perSecond, byShare: map[string]bucket{}}
}

// Take takes a token of a share's bucket. It is false if there is none, or if too many shares
// are remembered.
func (r *Buckets) Take(share string, now time.Time) bool { return r.has(share, 1, now) }

// Has tells whether [Buckets.Take] would be true, and takes nothing.
func (r *Buckets) Has(share string, now time.Time) bool { return r.has(share, 0, now) }

func (r *Buckets) has(share string, n float64, now time.Time) bool {
	if share == Unbounded {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.byShare[share]
	if !ok {
		b = bucket{tokens: r.burst, filled: now}
		if len(r.byShare) >= MaxShares {
			for s, o := range r.byShare {
				if o.tokens+now.Sub(o.filled).Seconds()*r.perSecond >= r.burst {
					delete(r.byShare, s) // full, as one that is not remembered
				}
			}
			if len(r.byShare) >= MaxShares {
				return false
			}
		}
	}
	b.tokens = min(r.burst, b.tokens+max(0, now.Sub(b.filled).Seconds())*r.perSecond)
	b.filled = now
	ok = b.tokens >= 1
	if ok {
		b.tokens -= n
	}
	if ok && n > 0 || b.tokens < r.burst {
		r.byShare[share] = b
	}
	return ok
}
