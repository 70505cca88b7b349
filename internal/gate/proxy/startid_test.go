package proxy

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/policy"
)

// What starts is what was judged, whoever has its name a moment later.
func TestStartIsJudgedByID(t *testing.T) {
	j := &fakeJudge{decision: policy.ImageDecision{Allowed: true}}
	g := startGate(t, own, func(o *Options) { o.Images, o.Cordon = j, func() string { return "full" } })
	g.d.started = "2026-03-01T00:00:00Z"
	if code, body := do(t, g.client(t), "POST", "/v1.41/containers/web/start", ""); code != 204 {
		t.Fatalf("%d %s", code, body)
	}
	var byName, byID int
	for _, r := range g.d.requests() {
		switch {
		case strings.HasSuffix(r.uri, "/containers/web/json"):
			byName++
		case strings.HasSuffix(r.uri, "/containers/"+idWeb+"/json"):
			byID++
		}
	}
	if byName != 1 || byID != 2 {
		t.Errorf("looked up %d times by name and %d by id, want 1 and 2", byName, byID)
	}
}
