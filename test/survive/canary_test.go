package survive

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// An agent that tries each second what must be denied tries it when asked too. When somebody
// takes its programs away it attaches them anew, and the journal and belay doctor tell of it.
func TestCanaryMends(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	// What the shared agent left in the kernel would deny in the place of this one's programs.
	if err := w.agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.agent.Unload(ctx); err != nil {
		t.Fatal(err)
	}
	a, err := w.newAgent(ctx, "canary", "--canary-every", "1s")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
		if err := a.Unload(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	tried := func(least, failed uint64) bool {
		var st struct {
			Canary struct{ Count, Failed uint64 }
		}
		r := a.Belay(ctx, "status", "-o", "json")
		return json.Unmarshal([]byte(r.Stdout), &st) == nil && st.Canary.Count >= least && st.Canary.Failed == failed
	}
	doctor := func(want int, text string, flags ...string) {
		t.Helper()
		r := a.Belay(ctx, append([]string{"doctor", "--only", "agent.canary"}, flags...)...)
		if r.Code != want || !regexp.MustCompile(text).MatchString(r.Stdout) {
			t.Errorf("belay doctor %s: exit %d, want %d with %q: %s", strings.Join(flags, " "), r.Code, want, text, r.Text())
		}
	}
	if !lab.Await(ctx, time.Minute, func() bool { return tried(4, 0) }) {
		t.Fatalf("nothing is tried each second: %s", a.Belay(ctx, "status").Text())
	}
	doctor(0, "was denied in each of", "--canary")
	w.enforced(t, "with a canary each second")

	for _, l := range pinned(t, a, "links/*/*") {
		if err := os.Remove(l); err != nil {
			t.Fatal(err)
		}
	}
	var told string
	mended := lab.Await(ctx, time.Minute, func() bool {
		told = a.Belay(ctx, "events").Stdout
		return strings.Contains(told, "enforcement was mended")
	})
	if !mended || !strings.Contains(told, "programs were detached") {
		t.Fatalf("the journal does not tell that enforcement was mended: %s", told)
	}
	w.enforced(t, "with programs attached anew")
	doctor(4, `is denied, and was not in \d+ of`)
	doctor(4, `is denied, and was not in \d+ of`, "--canary")
	pinned(t, a, "links/*/*") // else they would end with the agent
}
