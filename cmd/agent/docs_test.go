package main

import (
	"os"
	"testing"

	"github.com/belay-project/belay/cmd/manpage"
	"github.com/belay-project/belay/internal/archtest"
)

// TestDocumentedCommands: what the pages tell to run is understood: its commands and flags are there.
func TestDocumentedCommands(t *testing.T) {
	understands := func(args []string) error {
		return manpage.Understands(newRoot(), args)
	}
	if err := archtest.Understood(os.DirFS("../.."), "belay-agent", 3, understands); err != nil {
		t.Error(err)
	}
	if understands([]string{"run", "--no-such-flag"}) == nil {
		t.Error("a flag that is not there is understood")
	}
}
