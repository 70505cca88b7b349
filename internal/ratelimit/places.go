package ratelimit

import "sync"

// Places bounds how much the shares have open at one time: Most each, and Shared together. What is
// kept beyond Shared only [Unbounded] gets. Safe for concurrent use.
type Places struct {
	Most, Shared int

	// mu guards what follows.
	mu   sync.Mutex
	open map[string]int
	used int
}

// Take takes a place for a share. It returns false if there is none.
func (p *Places) Take(share string) bool {
	if share == Unbounded {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[share] >= p.Most || p.used >= p.Shared {
		return false
	}
	if p.open == nil {
		p.open = map[string]int{}
	}
	p.open[share]++
	p.used++
	return true
}

// Leave gives back a place that was taken.
func (p *Places) Leave(share string) {
	if share == Unbounded {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used--
	if p.open[share]--; p.open[share] <= 0 {
		delete(p.open, share)
	}
}
