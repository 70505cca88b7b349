package enforce

import (
	"strings"
	"testing"
)

func TestRawMajors(t *testing.T) {
	got, err := parseMajors(strings.NewReader("Character devices:\n  1 mem\n 90 mtd\n241 nvme-generic\n511 bsg\n600 dax\n\nBlock devices:\n 91 mtd\n259 blkext\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := [8]uint64{1: 1 << (90 - 64), 3: 1 << (241 - 192), 7: 1 << 63}; got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	if _, err := rawMajors(); err != nil {
		t.Error(err)
	}
}
