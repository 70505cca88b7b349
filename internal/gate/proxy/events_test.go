package proxy

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// One container with a large label does not end everybody's streams of events.
func TestLargeEventIsLeftOut(t *testing.T) {
	g := startGate(t, own)
	event := func(owner, text string) string {
		return `{"Type":"container","Action":"create","Actor":{"ID":"x","Attributes":{"belay.dev/owner":"` + owner + `","l":"` + text + `"}}}` + "\n"
	}
	g.d.events = event(me(), "one") + event("uid:77", strings.Repeat("z", 2*maxEvent)) + event(me(), strings.Repeat("y", maxEvent/2)) + event(me(), strings.Repeat("w", 3*maxEvent)) + event(me(), "two")
	r, err := g.client(t).Get("http://docker/v1.41/events?until=1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(bufio.NewReader(r.Body))
	got := string(b)
	if err != nil || !strings.Contains(got, `"one"`) || !strings.Contains(got, "yyy") || !strings.Contains(got, `"two"`) || strings.Contains(got, "zz") || strings.Contains(got, "ww") {
		t.Errorf("%d bytes, %v: %.200s", len(got), err, got)
	}
	if n := g.counter("gate_unfiltered"); n != 2 {
		t.Errorf("counted %d, want 2", n)
	}
	waitFor(t, "the room is given back", func() bool {
		g.answers.mu.Lock()
		defer g.answers.mu.Unlock()
		return g.answers.held == 0
	})
}

// Who stops reading has the room of a large event for no longer than that of an answer.
func TestLargeEventIsTakenInTime(t *testing.T) {
	g := startGate(t, own, func(o *Options) { o.Limits.TakeTime = 50 * time.Millisecond })
	g.d.events = `{"Type":"container","Action":"create","Actor":{"ID":"x","Attributes":{"belay.dev/owner":"` + me() + `","l":"` + strings.Repeat("y", maxEvent-1000) + `"}}}` + "\n"
	c := g.dial(t)
	if _, err := io.WriteString(c, "GET /v1.41/events HTTP/1.1\r\nHost: d\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the stream ends", func() bool { return g.callers.total() == 0 })
}
