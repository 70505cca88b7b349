package enforce

import (
	"testing"
	"time"
	"unsafe"
)

// What an earlier agent's programs saw between the first copy and the attachment of these is taken
// over; one exec that both saw is one.
func TestOlderState(t *testing.T) {
	const at = uint64(time.Hour)
	started := kernelBlContainer{Started: containerStarted, StartNs: at}
	with := func(change func(*kernelBlContainer)) kernelBlContainer {
		c := started
		change(&c)
		return c
	}
	for _, c := range []struct {
		name    string
		was, is kernelBlContainer
		want    bool
	}{
		{"has not started", kernelBlContainer{}, kernelBlContainer{}, false},
		{"started meanwhile", started, kernelBlContainer{}, true},
		{"a later exec was taken for the first", started, with(func(c *kernelBlContainer) { c.StartNs += uint64(time.Second) }), true},
		{"both saw the first exec", started, with(func(c *kernelBlContainer) { c.StartNs += 1000 }), false},
		{"the first exec is being noted", started, kernelBlContainer{Started: containerStarting}, false},
		{"listened meanwhile", with(func(c *kernelBlContainer) { c.Listened = 1 }), started, true},
		{"moved meanwhile", with(func(c *kernelBlContainer) { c.Moved = 1 }), started, true},
		{"mounted meanwhile", with(func(c *kernelBlContainer) { c.MountedAfter = 1 }), started, true},
		{"entered meanwhile", with(func(c *kernelBlContainer) { c.Admin = 1 }), started, true},
		{"the same", started, started, false},
		{"these saw more", started, with(func(c *kernelBlContainer) { c.Listened = 1 }), false},
		{"these saw the start", kernelBlContainer{}, started, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := olderState(&c.was, &c.is); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestAdminIsAlone: what an entry notes of who has entered lies where no earlier version noted anything.
func TestAdminIsAlone(t *testing.T) {
	var c kernelBlContainer
	if at, last := unsafe.Offsetof(c.Admin), unsafe.Sizeof(c)-1; at != last {
		t.Errorf("admin is byte %d, want %d: the one before it was whose loopback a container has", at, last)
	}
}
