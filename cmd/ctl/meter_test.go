package main

import (
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/scan/feed"
	"github.com/belay-project/belay/internal/scan/target"
)

// TestMeter: at most a line a second, on one line that is gone in the end, and nothing where no terminal is.
func TestMeter(t *testing.T) {
	var b strings.Builder
	now := time.Unix(0, 0)
	tm := &terminal{err: &b, now: func() time.Time { return now }, live: true}
	took := func() string {
		defer b.Reset()
		return strings.ReplaceAll(b.String(), "\r\x1b[K", "<")
	}
	m := tm.meter()
	o := m.watching(target.Options{}, "evil\x1b[2J\n"+strings.Repeat("x", 200))
	if got := took(); !strings.HasPrefix(got, `<reading evil\x1b[2J`) || strings.ContainsAny(got, "\x1b\n") || len([]rune(got)) > meterWidth+1 {
		t.Errorf("first %q", got)
	}
	for range 10 {
		now = now.Add(99 * time.Millisecond)
		o.Progress(target.Progress{Layers: 1, Of: 3, Read: 1 << 20, Size: 4 << 20})
	}
	if got := took(); got != "" {
		t.Errorf("within a second: %q", got)
	}
	now = now.Add(time.Second)
	o.Progress(target.Progress{Layers: 2, Of: 3, Read: 3 << 19, Size: 4 << 20})
	if got := took(); strings.Count(got, "<") != 1 || !strings.HasSuffix(got, ": layer 2 of 3, 1.5 of 4.0 MiB") || len([]rune(got)) > meterWidth+1 {
		t.Errorf("after a second: %q", got)
	}
	m.end()
	m.end()
	if got := took(); got != "<" {
		t.Errorf("at the end %q", got)
	}
	for _, tt := range []struct {
		far  feed.Far
		want string
	}{
		{feed.Far{What: "npm", Done: 3, All: 20, Records: true}, "<npm: record 3 of 20"},
		{feed.Far{What: "npm", Done: 1 << 20, All: 2 << 20}, "<npm: 1.0 of 2.0 MiB"},
		{feed.Far{What: "kev", Done: 1 << 20, All: -1}, "<kev: 1.0 MiB"},
	} {
		now = now.Add(time.Minute)
		m.downloads(tt.far)
		if got := took(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	now = now.Add(time.Minute)
	if n, err := m.counts(io.Discard, 2).Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if got := took(); got != "<database: 0.0 of 0.0 MiB" {
		t.Errorf("got %q", got)
	}
	tm.live = false
	m = tm.meter()
	if o := m.watching(target.Options{}, "x"); o.Progress != nil {
		t.Error("who is no terminal is told")
	}
	m.show("x")
	m.downloads(feed.Far{})
	m.counts(io.Discard, 2).Write([]byte("x"))
	m.end()
	if got := took(); got != "" {
		t.Errorf("without a terminal %q", got)
	}
}

// TestMoveMeter: what a move copies is one line of a terminal, which the next step takes the place of; elsewhere it is lines.
func TestMoveMeter(t *testing.T) {
	copied := func(n int64) move.Event {
		return move.Event{Step: move.StepCopy, Text: "copy \x1b[2Jdata", CopiedBytes: true, Bytes: n << 20, Total: 8 << 20}
	}
	for _, tt := range []struct {
		name string
		live bool
		want string
	}{
		{"terminal", true, `<    copy \x1b[2Jdata: 1.0 MiB of about 8.0 MiB<    copy \x1b[2Jdata: 3.0 MiB of about 8.0 MiB<start: go`},
		{"file", false, `    copy \x1b[2Jdata: 1.0 MiB of about 8.0 MiB|    copy \x1b[2Jdata: 3.0 MiB of about 8.0 MiB|start: go`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			now := time.Unix(0, 0)
			tm := &terminal{err: &b, now: func() time.Time { return now }, live: tt.live}
			tell, end := tm.moveProgress(tm.meter())
			tell(copied(1))
			tell(copied(2)) // within the second
			now = now.Add(time.Second)
			tell(copied(3))
			tell(move.Event{Step: move.StepStart, Text: "go"})
			got := strings.NewReplacer("\r\x1b[K", "<", "\n", "|").Replace(b.String())
			if got != tt.want+"|" {
				t.Errorf("got  %q\nwant %q", got, tt.want+"|")
			}
			var told sync.WaitGroup
			for n := range int64(8) { // at once, as the race detector sees
				told.Go(func() { tell(copied(n)); end() })
			}
			told.Wait()
		})
	}
}
