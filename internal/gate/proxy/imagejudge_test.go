package proxy

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/belay-project/belay/internal/policy"
)

// fakeJudge answers with a decision and keeps what it was asked.
type fakeJudge struct {
	decision policy.ImageDecision

	// mu guards asked.
	mu    sync.Mutex
	asked []ImageQuery
}

func (j *fakeJudge) Judges() bool { return true }

func (j *fakeJudge) JudgeImage(_ context.Context, q *ImageQuery) policy.ImageDecision {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked = append(j.asked, *q)
	return j.decision
}

const anybody = "apiVersion: belay.dev/v1\nkind: AccessPolicy\nmetadata: {name: all}\nspec:\n  mode: enforce\n  subjects: {everyone: true}\n" +
	"  rules: [{name: all, effect: allow, actions: [\"container.*\", \"image.*\"]}]\n"

// Creates, starts, restarts and pulls are asked about, with and without access policies;
// what is denied never reaches the daemon, and the zero decision denies.
func TestImagesAreJudged(t *testing.T) {
	calls := []struct{ name, path, body, id, asked string }{
		{"create", "/containers/create", `{"Image":"app","Labels":{"a":"b"}}`, "sha256:aa", "app"},
		{"start", "/containers/web/start", "", "sha256:aa", "app"},
		{"restart", "/containers/web/restart", "", "sha256:aa", "app"},
		{"pull", "/images/create?fromImage=evil.example.com/x&tag=1", "", "", "evil.example.com/x:1"},
	}
	denied := policy.ImageDecision{Policy: "images", Rule: "critical", Reason: "it has 1 finding", Details: []string{"CVE-2026-1 in x"}}
	audited := denied
	audited.Allowed, audited.Audit = true, true
	for _, access := range []string{anybody, ""} {
		for _, c := range calls {
			t.Run(c.name, func(t *testing.T) {
				for word, d := range map[string]policy.ImageDecision{Denied: denied, WouldDeny: audited, Allowed: {Allowed: true}, "zero": {}} {
					j := &fakeJudge{decision: d}
					g := startGate(t, access, func(o *Options) { o.Images = j })
					status, answer := do(t, g.client(t), "POST", c.path, c.body)
					if len(j.asked) != 1 || j.asked[0].ID != c.id || j.asked[0].Asked != c.asked || j.asked[0].Pull != (c.name == "pull") {
						t.Fatalf("asked %+v", j.asked)
					}
					if c.name == "create" && j.asked[0].Labels["a"] != "b" {
						t.Errorf("labels %v", j.asked[0].Labels)
					}
					refused := word == Denied || word == "zero"
					if (status == 403) != refused || refused != (len(g.d.acted()) == 0) {
						t.Errorf("%s: got %d %s; the daemon got %+v", word, status, answer, g.d.acted())
					}
					if word == Denied && !strings.Contains(answer, "policy images, rule critical: it has 1 finding; CVE-2026-1 in x") {
						t.Errorf("got %s", answer)
					}
					if ev := g.rec.all(); word != "zero" && (len(ev) != 1 || ev[0].Decision != word || word != Allowed && ev[0].Policy != "images") {
						t.Errorf("%s: records %+v", word, ev)
					}
				}
			})
		}
	}
}

// Who may not call learns nothing of images and has nothing scanned; other calls ask nothing.
func TestImagesAreNotJudged(t *testing.T) {
	j := &fakeJudge{}
	g := startGate(t, strings.Replace(anybody, `["container.*", "image.*"]`, "[container.exec, container.list]", 1), func(o *Options) { o.Images = j })
	if status, answer := do(t, g.client(t), "POST", "/containers/create", `{"Image":"app"}`); status != 403 || strings.Contains(answer, "image app is denied") {
		t.Errorf("got %d %s", status, answer)
	}
	if status, _ := do(t, g.client(t), "GET", "/containers/json", ""); status != 200 {
		t.Errorf("a list: %d", status)
	}
	if len(j.asked) > 0 {
		t.Errorf("asked %+v", j.asked)
	}
}
