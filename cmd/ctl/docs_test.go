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
	understands := func(args []string) error {
		root, _ := newRoot(&terminal{now: time.Now})
		return manpage.Understands(root, args)
	}
	if err := archtest.Understood(os.DirFS("../.."), "belay", 20, understands); err != nil {
		t.Error(err)
	}
	if understands([]string{"status", "--no-such-flag"}) == nil {
		t.Error("a flag that is not there is understood")
	}
}
