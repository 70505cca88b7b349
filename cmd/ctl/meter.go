package main

import (
	"fmt"
	"io"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/belay-project/belay/internal/scan/feed"
	"github.com/belay-project/belay/internal/scan/target"
)

// A meter's line is written at most so often, and is so wide at most: one that a terminal wraps cannot be
// written over.
const (
	meterEvery = time.Second
	meterWidth = 79
	meterName  = 36
)

// meter is one line of a terminal that tells how far something is, until it is over. A nil meter, where no
// terminal is, does nothing. Not safe for concurrent use.
type meter struct {
	w     io.Writer
	now   func() time.Time
	next  time.Time
	shown bool
}

func (t *terminal) meter() *meter {
	if !t.live {
		return nil
	}
	return &meter{w: t.err, now: t.now}
}

// show writes the line anew, unless it was a moment ago.
func (m *meter) show(format string, args ...any) {
	if m == nil {
		return
	}
	now := m.now()
	if now.Before(m.next) {
		return
	}
	m.next, m.shown = now.Add(meterEvery), true
	fmt.Fprint(m.w, "\r"+ansi.EraseLineRight+ansi.Truncate(clean(fmt.Sprintf(format, args...)), meterWidth, "…"))
}

// end takes the line away, so that other lines can follow.
func (m *meter) end() {
	if m != nil && m.shown {
		fmt.Fprint(m.w, "\r"+ansi.EraseLineRight)
		m.shown = false
	}
}

// watching has the reading of a target told.
func (m *meter) watching(o target.Options, name string) target.Options {
	if m == nil {
		return o
	}
	name = ansi.Truncate(clean(name), meterName, "…")
	m.show("reading %s", name)
	o.Progress = func(p target.Progress) {
		m.show("reading %s: layer %d of %d, %s", name, p.Layers, p.Of, ofBytes(p.Read, p.Size))
	}
	return o
}

// downloads tells of a feed.
func (m *meter) downloads(f feed.Far) {
	switch {
	case m == nil:
	case f.Records:
		m.show("%s: record %d of %d", f.What, f.Done, f.All)
	default:
		m.show("%s: %s", f.What, ofBytes(f.Done, f.All))
	}
}

// counts tells how much of size was written to w.
func (m *meter) counts(w io.Writer, size int64) io.Writer {
	if m == nil {
		return w
	}
	return &metered{w: w, m: m, size: size}
}

type metered struct {
	w          io.Writer
	m          *meter
	done, size int64
}

// Write implements [io.Writer].
func (c *metered) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.done += int64(n)
	c.m.show("database: %s", ofBytes(c.done, c.size))
	return n, err
}

// ofBytes is "1.0 of 2.5 MiB"; all is negative where nobody knows it.
func ofBytes(done, all int64) string {
	if all < 0 {
		return mebibytes(int(done))
	}
	return fmt.Sprintf("%.1f of %s", float64(done)/(1<<20), mebibytes(int(all)))
}
