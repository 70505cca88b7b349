package proxy

import (
	"net/http"
	"testing"
)

// What is redacted costs many times its size while it is, and that is counted.
func TestRedactionTakesRoom(t *testing.T) {
	g := startGate(t, own)
	large := make([]string, 100_000)
	for i := range large {
		large[i] = "a"
	}
	g.d.more = map[string]any{"X": large}
	var other hold
	if !other.grow(&g.answers, me(), answerRoomEach-4<<20) {
		t.Fatal("no room")
	}
	if code, body := do(t, g.client(t), "GET", "/v1.41/containers/web/json", ""); code != http.StatusTooManyRequests {
		t.Errorf("got %d %.100s, want 429", code, body)
	}
	other.leave()
	if code, body := do(t, g.client(t), "GET", "/v1.41/containers/web/json", ""); code != 200 {
		t.Errorf("alone: %d %.100s", code, body)
	}
	waitFor(t, "the room is given back", func() bool {
		g.answers.mu.Lock()
		defer g.answers.mu.Unlock()
		return g.answers.held == 0
	})
}
