package hostinfo

import "testing"

func TestReadPreemption(t *testing.T) {
	const (
		version, debug   = "/proc/sys/kernel/version", "/sys/kernel/debug/sched/preempt"
		cmdline, release = "/proc/cmdline", "/proc/sys/kernel/osrelease"
		config           = "/boot/config-6.12.1"
		dynamic          = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.1-1 (2026-01-01)\n"
	)
	for _, tt := range []struct {
		name   string
		files  map[string]string
		want   Preemption
		midway bool
	}{
		{"nothing is read", nil, "", false},
		{"built without", map[string]string{version: "#1 SMP Debian 6.1.1-1\n", cmdline: "preempt=full"}, PreemptNone, false},
		{"built with", map[string]string{version: "#1 SMP PREEMPT Arch\n", cmdline: "preempt=none"}, PreemptFull, true},
		{"real time", map[string]string{version: "#1 SMP PREEMPT_RT\n", cmdline: "preempt=none"}, PreemptRT, true},
		{"chosen while it runs", map[string]string{version: dynamic, debug: "none voluntary (full) lazy\n", cmdline: "preempt=none"}, PreemptFull, true},
		{"chosen back", map[string]string{version: dynamic, debug: "none (voluntary) full\n", cmdline: "preempt=full"}, PreemptVoluntary, false},
		{"chosen at the boot, the last counts", map[string]string{version: dynamic, cmdline: "quiet preempt=none preempt=lazy ro\n"}, PreemptLazy, true},
		{"what the kernel does not know", map[string]string{version: dynamic, cmdline: "preempt=full preempt=maybe"}, PreemptFull, true},
		{"as built", map[string]string{version: dynamic, release: "6.12.1\n", config: "CONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT_VOLUNTARY=y\n# CONFIG_PREEMPT is not set\n"}, PreemptVoluntary, false},
		{"as built for full", map[string]string{version: dynamic, release: "6.12.1\n", config: "CONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT=y\n"}, PreemptFull, true},
		{"as built, which is not known", map[string]string{version: dynamic, cmdline: "nopreempt=full"}, "", false},
	} {
		got := ReadPreemption(func(name string) string { return tt.files[name] })
		if got != tt.want || got.Midway() != tt.midway {
			t.Errorf("%s: got %q, midway %v, want %q, %v", tt.name, got, got.Midway(), tt.want, tt.midway)
		}
	}
}
