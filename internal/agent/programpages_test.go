package agent

import (
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

// The program goes on after its own pages were taken from under it.
func TestDropProgramPages(t *testing.T) {
	if err := dropProgramPages(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if spans, err := cleanSpans(f, exe); err != nil || len(spans) == 0 {
		t.Errorf("%d mappings of the program itself can be given back (%v)", len(spans), err)
	}
}
