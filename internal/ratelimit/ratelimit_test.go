package ratelimit

import (
	"fmt"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	r := New(20, 1)
	now := time.Unix(1000, 0)
	for range 20 {
		if !r.Has("a", now) || !r.Take("a", now) {
			t.Fatal("the burst is not given")
		}
	}
	if r.Has("a", now) || r.Take("a", now) || !r.Take("b", now) {
		t.Error("want a limited and b not")
	}
	if r.Take("a", now.Add(-time.Hour)) {
		t.Error("a clock set back gives tokens")
	}
	if !r.Take("a", now.Add(2*time.Second)) {
		t.Error("no token after two seconds")
	}
	for i := range 2 * MaxShares {
		r.Take(fmt.Sprint(i), now)
	}
	if len(r.byShare) > MaxShares || r.Take("new", now) || !r.Take(Unbounded, now) {
		t.Errorf("%d shares are remembered; want %d, new ones refused and root not", len(r.byShare), MaxShares)
	}
	if !r.Take("new", now.Add(time.Minute)) {
		t.Error("full buckets are not forgotten")
	}
}

// A look takes nothing, and makes no bucket.
func TestHas(t *testing.T) {
	r, now := New(1, 1), time.Unix(1000, 0)
	for range 3 {
		if !r.Has("a", now) {
			t.Fatal("a look took the token")
		}
	}
	if len(r.byShare) != 0 {
		t.Error("a look at a full bucket is remembered")
	}
	if !r.Take("a", now) || r.Has("a", now) {
		t.Error("want one token")
	}
}
