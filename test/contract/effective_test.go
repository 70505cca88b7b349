//go:build cgo

package contract

import (
	"time"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// effectiveFrom builds a policy from fuzz bytes: two for each rule and slot, then the
// rest.
func effectiveFrom(seed []byte) *policy.Effective {
	next := func() byte {
		if len(seed) == 0 {
			return 1
		}
		b := seed[0]
		seed = seed[1:]
		return b
	}
	e := &policy.Effective{Revision: "fuzz", AllowPolicy: []uint16{1, 2, 3, 4, 5, 6, 7, 8}}
	for slot := range e.Rules {
		for r := range e.Rules[slot] {
			b := next()
			e.Rules[slot][r] = policy.Rule{Verdict: verdict.Verdict(b & 1), Opt: b >> 1 & 7, Policy: uint16(b >> 4)}
		}
		e.AllowNeed[slot] = uint32(next())
		e.StartFor[slot] = time.Duration(next()) * time.Second
	}
	return e
}

func clampAge(ns int64) time.Duration { return time.Duration(ns % int64(10*time.Minute)) }
