package load

import "time"

// rule is what a cap asks for.
type rule struct {
	percent    float64
	hysteresis float64       // points
	lasting    time.Duration // the policy's for:
	coolDown   time.Duration
}

// phase is where a cap is.
type phase uint8

const (
	calm    phase = iota // not over
	pending              // over, not yet for long enough
	over                 // over for long enough, until relieved for as long
)

func (p phase) String() string {
	switch p {
	case pending:
		return "pending"
	case over:
		return "over"
	}
	return "calm"
}

// blindAfter is how long a reading may fail before it is an alert.
const blindAfter = 6 * time.Second

// machine is the state of one cap for one subject. It is pure: time and reading are given.
//
// A reading that fails changes nothing but what is known: a cap that was over stays so, one
// that was not does not become so.
type machine struct {
	phase    phase
	since    time.Time // of the first reading over the cap, in pending and over
	relief   time.Time // of the first reading below the cap less the hysteresis, in over
	told     bool      // the present over was told
	lastTold time.Time // when an over was last told: the cool-down counts from there
	heldBack uint64    // overs that the cool-down kept from being told, until it ended or they did

	failing   time.Time // of the first failed reading in a row
	blind     bool      // that was told
	lastBlind time.Time
}

// step takes a reading and returns what is to be told now: an Event*, or "".
func (m *machine) step(now time.Time, r rule, percent float64, err error) string {
	if err != nil {
		return m.fail(now, r)
	}
	m.failing = time.Time{}
	if m.blind {
		m.blind = false
		return EventReadable // the reading counts from the next one on
	}
	switch m.phase {
	case calm:
		if percent > r.percent {
			m.phase, m.since = pending, now
		}
	case pending:
		switch {
		case percent <= r.percent:
			m.phase = calm
		case now.Sub(m.since) >= r.lasting:
			m.phase, m.relief = over, time.Time{}
			if m.tell(now, r) {
				return EventOver
			}
			m.heldBack++
		}
	case over:
		return m.whileOver(now, r, percent)
	}
	return ""
}

func (m *machine) whileOver(now time.Time, r rule, percent float64) string {
	if percent > r.percent-r.hysteresis {
		m.relief = time.Time{}
		// One that the cool-down has held back is told when it ends, if it is still so.
		if !m.told && percent > r.percent && m.tell(now, r) {
			return EventOver
		}
		return ""
	}
	if m.relief.IsZero() {
		m.relief = now
	}
	if now.Sub(m.relief) < r.lasting {
		return ""
	}
	m.phase = calm
	if m.told {
		m.told = false
		return EventRelieved
	}
	return ""
}

// tell reports whether the cool-down lets an over be told, and notes that it is.
func (m *machine) tell(now time.Time, r rule) bool {
	if !m.lastTold.IsZero() && now.Sub(m.lastTold) < r.coolDown {
		return false
	}
	m.told, m.lastTold = true, now
	return true
}

func (m *machine) fail(now time.Time, r rule) string {
	if m.failing.IsZero() {
		m.failing = now
	}
	if m.blind || now.Sub(m.failing) < blindAfter || !m.lastBlind.IsZero() && now.Sub(m.lastBlind) < r.coolDown {
		return ""
	}
	m.blind, m.lastBlind = true, now
	return EventUnreadable
}
