package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
)

// TestHelp holds every command to a help that explains and shows an example.
func TestHelp(t *testing.T) {
	root, _ := newRoot(&terminal{now: time.Now})
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if len(strings.Fields(c.Long)) < 10 || !strings.HasPrefix(c.Example, "  belay ") && !strings.Contains(c.Example, "| belay ") {
			t.Errorf("%s: the help is too short, or has no example", c.CommandPath())
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the one-line help is %q", c.CommandPath(), c.Short)
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 91 {
				t.Errorf("%s: line of %d characters in the help", c.CommandPath(), len(line))
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// TestFollowPrintsAtOnce reads a followed record while the command is running, and
// ends it as Ctrl-C does.
func TestFollowPrintsAtOnce(t *testing.T) {
	dir, err := os.MkdirTemp("", "belay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	line := `{"schema":"belay.dev/event/v1","time":"2026-03-01T08:00:01Z","kind":"agent","message":"policies reloaded"}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "events.jsonl"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := control.Listen(fileAgent{dir}, control.Options{Path: filepath.Join(dir, control.SocketName), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	agentCtx, stopAgent := context.WithCancel(t.Context())
	agentDone := make(chan error, 1)
	go func() { agentDone <- s.Run(agentCtx) }()

	ctx, interrupt := context.WithTimeout(t.Context(), 20*time.Second)
	defer interrupt()
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, &terminal{out: w, err: io.Discard, now: func() time.Time { return testNow }},
			[]string{"--run-dir", dir, "events", "--follow"})
		w.Close()
	}()
	got, err := bufio.NewReader(r).ReadString('\n')
	if err != nil || !strings.Contains(got, "policies reloaded") {
		t.Errorf("got %q, %v", got, err)
	}
	interrupt()
	if c := <-code; c != exitOK {
		t.Errorf("got exit status %d after an interrupt, want %d", c, exitOK)
	}
	stopAgent()
	if err := <-agentDone; err != nil {
		t.Errorf("agent: %v", err)
	}
}
