package main

import (
	"os"
	"testing"

	"github.com/belay-project/belay/cmd/manpage"
	"github.com/belay-project/belay/internal/archtest"
)

// TestDocumentedCommands: what the pages tell to run is understood: its commands and flags are there.
func TestDocumentedCommands(t *testing.T) {
	pages, err := archtest.Docs(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	all := archtest.Commands(pages, "belay-agent")
	if len(all) < 3 {
		t.Fatalf("found %d calls of belay-agent", len(all))
	}
	for _, c := range all {
		root := newRoot()
		if err := manpage.Understands(root, c.Args); err != nil {
			t.Errorf("%s: belay-agent %q: %v", c.Where, c.Args, err)
		}
	}
	if err := manpage.Understands(newRoot(), []string{"run", "--no-such-flag"}); err == nil {
		t.Error("a flag that is not there is understood")
	}
}
