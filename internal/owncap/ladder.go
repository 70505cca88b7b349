package owncap

import "time"

// Step is how much is given up. Each has those before it in it. Enforcement and denials are
// on no step.
type Step uint8

// The steps, least first.
const (
	Normal      Step = iota
	NoScans          // scans that nobody waits for are put off
	SmallCaches      // what can be asked for again is forgotten, and memory given back
	Sampled          // of records about what was allowed one in [SampleOf] is kept
	Plain            // records about what was allowed have no more than who, what and where
)

// SampleOf is of how many records one is kept under [Sampled].
const SampleOf = 16

var stepNames = [...]string{"normal", "no_scans", "small_caches", "sampled", "plain"}

// String returns the step's name, as metrics and records have it.
func (s Step) String() string { return stepNames[min(int(s), len(stepNames)-1)] }

// What a step begins at, and how a step down is earned.
const (
	backOff  = 0.10             // below the step's beginning …
	backTime = 30 * time.Second // … for so long
	smooth   = 0.2              // weight of the last reading of the processor
)

var (
	// memoryFrom is by step the share of the memory cap.
	memoryFrom = [...]float64{NoScans: .75, SmallCaches: .82, Sampled: .88, Plain: .94}
	// cpuFrom is by step the share of periods in which the agent was kept from the processor, over
	// some readings. Smaller caches only cost more of that.
	cpuFrom = [...]float64{NoScans: .5, SmallCaches: .75, Sampled: .75, Plain: .9}
)

// Ladder is the step that is stood on. It climbs one step for each reading that asks for
// it, so that each has time to work, and comes down one after half a minute in which it would not
// have been climbed. The zero value stands on [Normal]. Not safe for concurrent use.
type Ladder struct {
	step  Step
	cpu   float64 // smoothed
	since time.Time
}

// Next takes a reading and returns the step from now on. memory is the share of the cap, 0 if there
// is none; throttled as in [Use].
func (l *Ladder) Next(now time.Time, memory, throttled float64) Step {
	l.cpu += (throttled - l.cpu) * smooth
	reached := func(s Step, off float64) bool { return memory >= memoryFrom[s]-off || l.cpu >= cpuFrom[s]-off }
	switch {
	case l.step < Plain && reached(l.step+1, 0):
		l.step++
		l.since = now
	case l.step > Normal && !reached(l.step, backOff):
		if now.Sub(l.since) >= backTime {
			l.step--
			l.since = now
		}
	default:
		l.since = now
	}
	return l.step
}
