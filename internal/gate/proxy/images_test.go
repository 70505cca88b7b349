package proxy

import (
	"strings"
	"testing"
	"time"
)

// An image's name that moves between the check and the create: the container that came of
// it does not start.
func TestImageMoves(t *testing.T) {
	g := startGate(t, own)
	c := g.client(t)
	if status, body := do(t, c, "POST", "/containers/create?name=x", `{"Image":"app"}`); status != 201 {
		t.Fatal(status, body)
	}
	if sent := g.d.acted(); len(sent) != 1 || !strings.Contains(sent[0].body, `"belay.dev/image":"sha256:aa"`) {
		t.Errorf("the daemon was sent %+v", sent)
	}
	if status, body := do(t, c, "POST", "/containers/web/start", ""); status != 204 {
		t.Errorf("with the image that was judged: %d, %s", status, body)
	}
	g.d.mu.Lock()
	g.d.image = "sha256:bb"
	g.d.mu.Unlock()
	if status, body := do(t, c, "POST", "/containers/web/start", ""); status != 409 {
		t.Errorf("with another image: %d, %s", status, body)
	}
}

func TestImages(t *testing.T) {
	var m images
	f := &found{ID: "sha256:aa"}
	_, turn := m.get("app")
	m.put("app", f, turn)
	if got, _ := m.get("app"); got != nil {
		t.Error("it remembers though it hears nothing")
	}
	m.forget(func(bool) bool { return true })
	_, turn = m.get("app")
	m.put("app", f, turn)
	if got, _ := m.get("app"); got != f {
		t.Error("it does not remember")
	}
	_, turn = m.get("app")
	m.forget(asBefore)
	m.put("app", f, turn)
	if got, _ := m.get("app"); got != nil {
		t.Error("an answer from before a change is remembered")
	}
	_, turn = m.get("large")
	m.put("large", &found{Labels: map[string]string{"a": strings.Repeat("x", maxImageBytes)}}, turn)
	if got, _ := m.get("large"); got != nil {
		t.Error("labels without bound are remembered")
	}
}

// With the daemon's events heard, an image is asked for once until something changes.
func TestImagesAreAskedOnce(t *testing.T) {
	g := startGate(t, own)
	c := g.client(t)
	deadline := time.Now().Add(10 * time.Second)
	for live := false; !live; time.Sleep(20 * time.Millisecond) {
		g.images.mu.Lock()
		live = g.images.live
		g.images.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("the events are not heard")
		}
	}
	asked := func() (n int) {
		for _, r := range g.d.requests() {
			if r.uri == "/images/app/json" {
				n++
			}
		}
		return n
	}
	for range 3 {
		do(t, c, "POST", "/containers/create?name=x", `{"Image":"app"}`)
	}
	if n := asked(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	do(t, c, "POST", "/images/load?quiet=1", "")
	do(t, c, "POST", "/containers/create?name=x", `{"Image":"app"}`)
	if n := asked(); n != 2 {
		t.Errorf("after a load: asked %d times, want twice", n)
	}
}

// A call about a thing that is not there goes no further: its name may stand for something by the
// time the daemon looks. What has no id of its own, and what the call makes, goes on.
func TestAbsent(t *testing.T) {
	g := startGate(t, strings.ReplaceAll(strings.ReplaceAll(rerouting, "  obligations: {dockerSocket: WHAT}\n", ""), "CHECKS", "notPrivileged"))
	c := g.client(t)
	for _, line := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"POST", "/containers/nobody/start", 404, "No such container: nobody"},
		{"DELETE", "/containers/nobody?force=1", 404, "No such container: nobody"},
		{"POST", "/networks/nowhere/connect", 404, "network nowhere not found"},
		{"DELETE", "/volumes/nothing?force=1", 204, ""},
		{"POST", "/networks/net1/disconnect", 204, ""},
	} {
		before, body := len(g.d.acted()), ""
		if strings.HasPrefix(line.path, "/networks") {
			body = `{"Container":"nobody"}`
		}
		status, answer := do(t, c, line.method, line.path, body)
		if status != line.status || !strings.Contains(answer, line.body) {
			t.Errorf("%s %s: %d, %s", line.method, line.path, status, answer)
		}
		if sent := len(g.d.acted()) > before; sent != (line.status == 204) {
			t.Errorf("%s %s: the daemon was sent it: %v", line.method, line.path, sent)
		}
		if all := g.rec.all(); all[len(all)-1].Decision != Allowed || all[len(all)-1].Status != line.status {
			t.Errorf("%s %s: recorded as %+v", line.method, line.path, all[len(all)-1])
		}
	}
}
