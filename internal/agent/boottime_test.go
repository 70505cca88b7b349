package agent

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWallTime: what the clock since boot says now is now, at the first call and at those that compare no clocks,
// and once the wall clock was set.
func TestWallTime(t *testing.T) {
	var b bootTime
	check := func(when string) {
		t.Helper()
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		if d := b.wallTime(time.Duration(ts.Nano())).Sub(before); d.Abs() > 5*time.Second {
			t.Errorf("%s: off by %v", when, d)
		}
	}
	check("first")
	check("again")
	// An hour ago, and in an hour, as the wall clock has it that was set meanwhile.
	for _, set := range []time.Duration{-time.Hour, time.Hour} {
		b.at.Add(int64(set))
		b.compared.Add(int64(set))
		check("after the clock was set")
	}
	compared := b.compared.Load()
	if b.wallTime(0); time.Since(time.Unix(0, compared)) < compareEvery && b.compared.Load() != compared {
		t.Error("the clocks are compared for each record")
	}
}
