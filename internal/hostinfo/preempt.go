package hostinfo

import (
	"slices"
	"strings"
)

// Preemption is when the kernel takes the processor from a task that runs inside of it:
// none, voluntary, full, lazy or rt; empty if that is not known.
type Preemption string

// What a kernel without CONFIG_PREEMPT_DYNAMIC was built for is fixed, and none stands for voluntary too.
const (
	PreemptNone      Preemption = "none"
	PreemptVoluntary Preemption = "voluntary"
	PreemptFull      Preemption = "full"
	PreemptLazy      Preemption = "lazy"
	PreemptRT        Preemption = "rt"
)

// Midway tells whether it may be taken anywhere, so also in the midst of a BPF program.
func (p Preemption) Midway() bool { return p == PreemptFull || p == PreemptLazy || p == PreemptRT }

// ReadPreemption finds out by files that read returns by their absolute names, empty for one that cannot be read.
// /sys/kernel/debug says what was chosen while the system ran, which without it is not seen.
//
// Source: init/Makefile (the words of uname -v), kernel/sched/core.c (preempt=, sched/preempt), kernel/Kconfig.preempt.
func ReadPreemption(read func(name string) string) Preemption {
	built := strings.Fields(read("/proc/sys/kernel/version"))
	has := func(word string) bool { return slices.Contains(built, word) }
	switch {
	case len(built) == 0:
		return ""
	case has("PREEMPT_RT"):
		return PreemptRT
	case has("PREEMPT_DYNAMIC"):
		return dynamicPreemption(read)
	case has("PREEMPT"):
		return PreemptFull
	}
	return PreemptNone
}

func dynamicPreemption(read func(name string) string) Preemption {
	modes := []Preemption{PreemptNone, PreemptVoluntary, PreemptFull, PreemptLazy}
	_, rest, _ := strings.Cut(read("/sys/kernel/debug/sched/preempt"), "(")
	chosen, _, _ := strings.Cut(rest, ")")
	if p := Preemption(chosen); slices.Contains(modes, p) {
		return p
	}
	for _, word := range slices.Backward(strings.Fields(read("/proc/cmdline"))) {
		value, ok := strings.CutPrefix(word, "preempt=")
		if p := Preemption(value); ok && slices.Contains(modes, p) {
			return p
		}
	}
	config := strings.Fields(read("/boot/config-" + strings.TrimSpace(read("/proc/sys/kernel/osrelease"))))
	for symbol, p := range map[string]Preemption{
		"CONFIG_PREEMPT_NONE=y": PreemptNone, "CONFIG_PREEMPT_VOLUNTARY=y": PreemptVoluntary, "CONFIG_PREEMPT=y": PreemptFull, "CONFIG_PREEMPT_LAZY=y": PreemptLazy,
	} {
		if slices.Contains(config, symbol) {
			return p
		}
	}
	return ""
}
