package agent

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is when the host was booted, by the wall clock as it stands. The zero value is ready. Safe for
// concurrent use.
type bootTime struct {
	compared atomic.Int64 // when the clocks were compared last, as Unix nanoseconds
	at       atomic.Int64 // what they said, likewise
}

// compareEvery is how long a comparison holds, unless the wall clock is set: CLOCK_BOOTTIME takes a system call,
// which the wall clock does not, and records come by the ten thousand a second.
const compareEvery = 50 * time.Millisecond

// wallTime turns a CLOCK_BOOTTIME time into one of the wall clock.
func (b *bootTime) wallTime(sinceBoot time.Duration) time.Time {
	now := time.Now()
	if age := now.UnixNano() - b.compared.Load(); age < 0 || age >= int64(compareEvery) {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			return now
		}
		b.at.Store(now.UnixNano() - ts.Nano())
		b.compared.Store(now.UnixNano())
	}
	return time.Unix(0, b.at.Load()+int64(sinceBoot))
}
