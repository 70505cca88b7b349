package programpages

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const smaps = `00400000-010d6000 r-xp 00000000 fe:00 1 /usr/bin/belay agent
Size:              13144 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
010d6000-01200000 r--p 00cd6000 fe:00 1 /usr/bin/belay agent
Size:              13144 kB
Anonymous:             4 kB
02024000-02205000 rw-p 01c24000 fe:00 1 /usr/bin/belay agent
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 2 /usr/lib/other
Anonymous:             0 kB
7f0000001000-7f0000002000 r--s 00000000 00:0e 3 anon_inode:bpf-map
Anonymous:             0 kB
7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0
Anonymous:             0 kB
`

func TestCleanSpans(t *testing.T) {
	got, err := cleanSpans(strings.NewReader(smaps), "/usr/bin/belay agent")
	if err != nil {
		t.Fatal(err)
	}
	if want := []span{{0x400000, 0x10d6000}}; !slices.Equal(got, want) {
		t.Errorf("spans %x, want %x: what is written to or another's must stay", got, want)
	}
	if _, err := cleanSpans(strings.NewReader("zz-1 r-xp 0 0:0 1 x\n"), "x"); err == nil {
		t.Error("a mapping that cannot be read is no error")
	}
}

// The program goes on after its own pages were taken from under it, with fewer of them mapped.
func TestDrop(t *testing.T) {
	before := rssFile(t)
	if err := Drop(); err != nil {
		t.Fatal(err)
	}
	if after := rssFile(t); after >= before {
		t.Errorf("%d kB of files are mapped, before %d", after, before)
	}
}

// rssFile returns the kB of files' pages that this process has mapped.
//
// Source: proc_pid_status(5), RssFile.
func rssFile(t *testing.T) (kB int) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\nRssFile:")
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		t.Fatalf("no RssFile in /proc/self/status: %v", err)
	}
	return kB
}
