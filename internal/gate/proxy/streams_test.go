package proxy

import "testing"

// Each raw stream has two buffers.
func TestStreamsAreBounded(t *testing.T) {
	g := startGate(t, own)
	g.streams.mu.Lock()
	g.streams.each = 2
	g.streams.mu.Unlock()
	const attach = "POST /v1.41/containers/web/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	for i, want := range []int{101, 101, 429} {
		if r := g.raw(t, attach); r.StatusCode != want {
			t.Errorf("stream %d: status %d, want %d", i, r.StatusCode, want)
		}
	}
	if code, body := do(t, g.client(t), "GET", "/v1.41/containers/web/logs?stdout=1", ""); code != 200 {
		t.Errorf("what is no raw stream: %d %s", code, body)
	}
}
