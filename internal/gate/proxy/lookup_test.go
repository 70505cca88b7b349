package proxy

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What is looked up to judge a request takes of the caller's room, and is looked up for nobody
// who has no right at all: each request could take as much memory as a container's labels.
func TestLookupsAreBounded(t *testing.T) {
	g := startGate(t, own)
	g.d.more = map[string]any{"X": strings.Repeat("x", 1<<20)}
	var other hold
	if !other.grow(&g.lookups, me(), lookupRoomEach) {
		t.Fatal("no room")
	}
	for _, r := range [][2]string{{"POST", "/v1.41/containers/web/start"}, {"POST", "/v1.41/containers/web/kill"}, {"GET", "/v1.41/containers/web/logs?stdout=1"}} {
		if code, body := do(t, g.client(t), r[0], r[1], ""); code != http.StatusTooManyRequests {
			t.Errorf("%s without room: %d %.100s", r, code, body)
		}
	}
	if n := g.counter("gate_over_memory"); n != 3 {
		t.Errorf("counted %d", n)
	}
	other.leave()
	if code, body := do(t, g.client(t), "POST", "/v1.41/containers/web/start", ""); code != 204 {
		t.Errorf("with room: %d %.100s", code, body)
	}
	// A stream holds nothing of what its container was judged by.
	r, err := g.client(t).Get("http://docker/v1.41/containers/web/logs?stdout=1&follow=1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	waitFor(t, "the room is given back", func() bool {
		g.lookups.mu.Lock()
		defer g.lookups.mu.Unlock()
		return g.lookups.held == 0
	})
}

// Who reads slowly must not keep others from what has to be looked up for them, nor hold more than it is sent.
func TestSlowReaderHoldsItsAnswer(t *testing.T) {
	g := startGate(t, own)
	large := make([]string, 300_000)
	for i := range large {
		large[i] = "a"
	}
	g.d.more = map[string]any{"X": large}
	c := g.dial(t)
	if _, err := io.WriteString(c, "GET /v1.41/containers/web/json HTTP/1.1\r\nHost: d\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || r.StatusCode != 200 {
		t.Fatalf("%v, %+v", err, r)
	}
	defer r.Body.Close()
	g.answers.mu.Lock()
	held := g.answers.held
	g.answers.mu.Unlock()
	if held == 0 || held > 2<<20 {
		t.Errorf("%d bytes are held for an answer of %d", held, r.ContentLength)
	}
	var others hold
	if !others.grow(&g.answers, "uid:7", answerRoom-held) {
		t.Fatal("no room")
	}
	if code, body := do(t, g.client(t), "POST", "/v1.41/containers/web/start", ""); code != 204 {
		t.Errorf("a start: %d %.100s", code, body)
	}
}

func TestNothingIsLookedUpForNobody(t *testing.T) {
	g := startGate(t, strings.Replace(own, "everyone: true", "uids: [4000000]", 1))
	for _, r := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/v1.41/containers/web/json", "", 404}, {"POST", "/v1.41/containers/db/start", "", 404}, {"GET", "/v1.41/images/app/json", "", 403},
		{"GET", "/v1.41/containers/nobody/json", "", 404}, {"POST", "/v1.41/containers/create", `{"Image":"app","HostConfig":{"Binds":["/etc:/x"]}}`, 403},
	} {
		if code, body := do(t, g.client(t), r.method, r.path, r.body); code != r.want {
			t.Errorf("%s: %d %s, want %d", r.path, code, body, r.want)
		}
	}
	if asked := g.d.requests(); len(asked) > 0 {
		t.Errorf("the daemon was asked: %v", asked[0].uri)
	}
	// Who may see a thing is told what it may not do to it.
	g = startGate(t, strings.Replace(own, `"container.*"`, `container.inspect`, 1))
	if code, body := do(t, g.client(t), "POST", "/v1.41/containers/web/start", ""); code != 403 {
		t.Errorf("one's own: %d %s", code, body)
	}
}
