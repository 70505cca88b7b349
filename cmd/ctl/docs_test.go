package main

import (
	"os"
	"testing"
	"time"

	"github.com/belay-project/belay/cmd/manpage"
	"github.com/belay-project/belay/internal/archtest"
)

// TestDocumentedCommands: what the pages tell to run is understood: its commands and flags are there.
func TestDocumentedCommands(t *testing.T) {
	pages, err := archtest.Docs(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	all := archtest.Commands(pages, "belay")
	if len(all) < 20 {
		t.Fatalf("found %d calls of belay", len(all))
	}
	for _, c := range all {
		root, _ := newRoot(&terminal{now: time.Now})
		if err := manpage.Understands(root, c.Args); err != nil {
			t.Errorf("%s: belay %q: %v", c.Where, c.Args, err)
		}
	}
	other, _ := newRoot(&terminal{now: time.Now})
	if err := manpage.Understands(other, []string{"status", "--no-such-flag"}); err == nil {
		t.Error("a flag that is not there is understood")
	}
}
