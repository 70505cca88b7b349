package agent

import (
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/factor"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

var webID = ident.ContainerID(strings.Repeat("1", 64))

// factorWorld is a second factor with a clock and a journal of its own.
type factorWorld struct {
	*secondFactor
	at      time.Time
	records []*journal.Record
	counts  map[string]int
}

func newFactorWorld(t *testing.T) *factorWorld {
	t.Helper()
	w := &factorWorld{at: time.Unix(1_800_000_000, 0), counts: map[string]int{}}
	now := func() time.Time { return w.at }
	store, err := factor.Open(t.TempDir(), "", now)
	if err != nil {
		t.Fatal(err)
	}
	w.secondFactor = &secondFactor{
		store: store, live: &factor.Elevations{}, max: time.Hour, issuer: "Belay test", now: now,
		append: func(r *journal.Record) { w.records = append(w.records, r) },
		count:  func(name string) { w.counts[name]++ },
		report: func() {},
		container: func(ref string) (ident.ContainerID, string, error) {
			if ref != "web" {
				return "", "", control.ErrNotFound
			}
			return webID, "web", nil
		},
	}
	return w
}

func (w *factorWorld) last(t *testing.T) *journal.Record {
	t.Helper()
	if len(w.records) == 0 {
		t.Fatal("nothing is in the journal")
	}
	return w.records[len(w.records)-1]
}

func userCaller(uid uint32, session string) *control.FactorCaller {
	return &control.FactorCaller{UID: uid, Name: "someone", PID: 4711, Session: session}
}

// enrol enrols a caller and returns its secret.
func (w *factorWorld) enrol(t *testing.T, c *control.FactorCaller, user string) string {
	t.Helper()
	e, err := w.Enrol(context.Background(), c, &control.EnrolRequest{User: user})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Confirm(context.Background(), c, &control.ConfirmRequest{User: user, ID: e.ID, Code: w.code(t, e.Secret)}); err != nil {
		t.Fatal(err)
	}
	w.at = w.at.Add(factor.Period)
	return e.Secret
}

func (w *factorWorld) code(t *testing.T, secret string) string {
	t.Helper()
	code, err := factor.CodeAt(secret, w.at)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestElevate(t *testing.T) {
	w, ctx, alice := newFactorWorld(t), t.Context(), userCaller(70001, "audit:1")
	secret := w.enrol(t, alice, "")
	if r := w.last(t); r.Factor.Event != "enrolled" || r.Factor.UID != 70001 || r.Decision != verdict.Allowed {
		t.Errorf("record of the enrolment: %+v", r.Factor)
	}
	e, err := w.Elevate(ctx, alice, &control.ElevateRequest{Code: w.code(t, secret), Actions: []string{"exec"}, Target: "web", For: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if !e.Here || e.Target != string(webID) || !e.Expires.Equal(w.at.Add(time.Minute)) || !slices.Equal(e.Actions, []string{"exec"}) {
		t.Errorf("got %+v", e)
	}
	if r := w.last(t); r.Factor.Event != "elevated" || r.Factor.Elevation != e.ID || r.Factor.Session != "audit:1" || r.Factor.Target != string(webID) {
		t.Errorf("record: %+v", r.Factor)
	}
	covered := func(session, action string, container ident.ContainerID) bool {
		_, ok := w.live.Covering(70001, session, action, []string{string(container)}, w.at)
		return ok
	}
	if !covered("audit:1", "container.exec", webID) || !covered("audit:1", "container.exec.start", webID) {
		t.Error("it does not cover an exec")
	}
	if covered("audit:2", "container.exec", webID) || covered("audit:1", "container.delete", webID) || covered("audit:1", "container.exec", "x") {
		t.Error("it covers too much")
	}
	// Others see nothing of it, root sees it and can end it.
	for uid, want := range map[uint32]int{70001: 1, 70002: 0, 0: 1} {
		l, err := w.Factors(ctx, userCaller(uid, "audit:9"))
		if err != nil || len(l.Elevations) != want || len(l.Users) != want {
			t.Errorf("uid %d sees %+v, %v", uid, l, err)
		}
	}
	if _, err := w.Drop(ctx, userCaller(70002, "audit:1"), &control.DropRequest{IDs: []string{e.ID}}); err == nil {
		t.Error("another user dropped it")
	}
	if d, err := w.Drop(ctx, userCaller(0, "audit:9"), &control.DropRequest{IDs: []string{e.ID}}); err != nil || len(d.Elevations) != 1 {
		t.Errorf("root's drop: %+v, %v", d, err)
	}
	if covered("audit:1", "container.exec", webID) || w.last(t).Factor.Event != "dropped" {
		t.Error("it is live after the drop, or not in the journal")
	}
}

// A code is not used up for an elevation that there is no room for.
func TestElevateFullKeepsTheCode(t *testing.T) {
	w, ctx, alice := newFactorWorld(t), t.Context(), userCaller(70001, "audit:1")
	e, err := w.Enrol(ctx, alice, &control.EnrolRequest{})
	if err != nil {
		t.Fatal(err)
	}
	enrolled, err := w.Confirm(ctx, alice, &control.ConfirmRequest{ID: e.ID, Code: w.code(t, e.Secret)})
	if err != nil {
		t.Fatal(err)
	}
	actions := []string{"exec"}
	for i := range 16 {
		if _, err := w.live.Grant(factor.Elevation{UID: 70001, Session: "audit:1", Actions: []string{strings.Repeat("x", i+1)}}, time.Hour, w.at); err != nil {
			t.Fatal(err)
		}
	}
	q := &control.ElevateRequest{Code: enrolled.Recovery[0], Actions: actions}
	for range 3 {
		if _, err := w.Elevate(ctx, alice, q); !isStatus(err, http.StatusConflict) || w.last(t).Factor.Cause != "too_many" {
			t.Fatalf("beyond the bound: %v, %+v", err, w.last(t).Factor)
		}
	}
	if n := w.store.State(70001).Recovery; n != len(enrolled.Recovery) {
		t.Errorf("%d recovery codes are left of %d", n, len(enrolled.Recovery))
	}
	if _, err := w.Drop(ctx, alice, &control.DropRequest{}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if _, err := w.Elevate(ctx, alice, q); (err == nil) != want {
			t.Errorf("use %d of the code after a drop: %v", i+1, err)
		}
	}
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*control.Error](err)
	return ok && e.Status == status
}

func TestElevateRefuses(t *testing.T) {
	w, ctx, alice := newFactorWorld(t), t.Context(), userCaller(70001, "audit:1")
	secret := w.enrol(t, alice, "")
	code := w.code(t, secret)
	for _, tt := range []struct {
		name   string
		c      *control.FactorCaller
		q      control.ElevateRequest
		cause  string
		status int
		says   string
	}{
		{"not enrolled", userCaller(70002, "audit:1"), control.ElevateRequest{Code: code}, "not_enrolled", 403, "belay enroll"},
		{"no session", &control.FactorCaller{UID: 70001, NoSession: "it has ended"}, control.ElevateRequest{Code: code}, "session", 403, "it has ended"},
		{"too long", alice, control.ElevateRequest{Code: code, For: 2 * time.Hour}, "too_long", 403, "1h0m0s"},
		{"too short", alice, control.ElevateRequest{Code: code, For: -time.Hour}, "too_long", 400, "second"},
		{"no such action", alice, control.ElevateRequest{Code: code, Actions: []string{"exce"}}, "action", 400, "not an action"},
		{"no such container", alice, control.ElevateRequest{Code: code, Target: "nothing"}, "target", 404, "no such container"},
		{"a container without a code", alice, control.ElevateRequest{Code: "000000", Target: "nothing"}, "wrong", 403, "wrong"},
		{"no code", alice, control.ElevateRequest{}, "wrong", 403, "wrong"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.Elevate(ctx, tt.c, &tt.q)
			e, ok := errors.AsType[*control.Error](err)
			if !ok || e.Status != tt.status || !strings.Contains(e.Message, tt.says) {
				t.Fatalf("got %v, want %d with %q", err, tt.status, tt.says)
			}
			if r := w.last(t); r.Factor.Cause != tt.cause || r.Decision != verdict.Denied || r.Factor.Event != "refused" || !r.Denial() {
				t.Errorf("record %+v, want cause %s", r.Factor, tt.cause)
			}
			if w.live.Any(tt.c.UID) {
				t.Error("there is an elevation")
			}
		})
	}
	// None of that used the code up; guesses lock.
	for range 3 {
		_, _ = w.Elevate(ctx, alice, &control.ElevateRequest{Code: "000000"})
	}
	_, err := w.Elevate(ctx, alice, &control.ElevateRequest{Code: code})
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Status != http.StatusTooManyRequests || w.last(t).Factor.Cause != "locked" || w.last(t).Factor.Until.IsZero() {
		t.Errorf("locked: %v, %+v", err, w.last(t).Factor)
	}
	if w.counts["factor_locked"] != 2 || w.counts["factor_refused"] < 10 {
		t.Errorf("counters %v", w.counts)
	}
	w.at = w.at.Add(10 * time.Minute)
	e, err := w.Elevate(ctx, alice, &control.ElevateRequest{Code: w.code(t, secret)})
	if err != nil || e.Refused != 4 {
		t.Errorf("after the lock: %+v, %v, want 4 refused codes told", e, err)
	}
}

func TestWhoMayEnrol(t *testing.T) {
	w, ctx := newFactorWorld(t), t.Context()
	nameless := &control.FactorCaller{UID: 170001, Session: "audit:1"}
	if _, err := w.Enrol(ctx, nameless, &control.EnrolRequest{}); err == nil || !strings.Contains(err.Error(), "no name") {
		t.Errorf("a uid without a name: %v", err)
	}
	if _, err := w.Enrol(ctx, userCaller(70001, "audit:1"), &control.EnrolRequest{User: "70002"}); err == nil {
		t.Error("a user enrolled another")
	}
	if _, err := w.Enrol(ctx, userCaller(0, "audit:1"), &control.EnrolRequest{User: "no-such-user"}); err == nil {
		t.Error("a user that is not there")
	}
	// Root enrols whom it likes, and the user elevates.
	secret := w.enrol(t, userCaller(0, "audit:1"), "170001")
	if _, err := w.Elevate(ctx, nameless, &control.ElevateRequest{Code: w.code(t, secret)}); err != nil {
		t.Errorf("elevate: %v", err)
	}
	w.byRoot = true
	if _, err := w.Enrol(ctx, userCaller(70001, "audit:1"), &control.EnrolRequest{}); err == nil || !strings.Contains(err.Error(), "only root") {
		t.Errorf("with --enroll-by-root: %v", err)
	}
}

func TestRemoveFactor(t *testing.T) {
	w, ctx, alice := newFactorWorld(t), t.Context(), userCaller(70001, "audit:1")
	secret := w.enrol(t, alice, "")
	if _, err := w.Elevate(ctx, alice, &control.ElevateRequest{Code: w.code(t, secret)}); err != nil {
		t.Fatal(err)
	}
	// Who has the account but not the factor gets rid of it in no way.
	for name, f := range map[string]func() error{
		"without a code": func() error { _, err := w.Remove(ctx, alice, &control.RemoveRequest{}); return err },
		"by name, which is root's": func() error {
			_, err := w.Remove(ctx, userCaller(70002, "audit:1"), &control.RemoveRequest{User: "70001"})
			return err
		},
		"by one's own name": func() error { _, err := w.Remove(ctx, alice, &control.RemoveRequest{User: "70001"}); return err },
		"by a new one":      func() error { _, err := w.Enrol(ctx, alice, &control.EnrolRequest{}); return err },
	} {
		if err := f(); err == nil || w.store.Count() != 1 || !w.live.Any(70001) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := w.Remove(ctx, userCaller(0, "audit:9"), &control.RemoveRequest{User: "70001"})
	if err != nil || r.Dropped != 1 || w.live.Any(70001) || w.store.Count() != 0 {
		t.Errorf("root: %+v, %v", r, err)
	}
	if rec := w.last(t); rec.Factor.Event != "removed" || rec.Factor.CallerUID != 0 || rec.Factor.UID != 70001 {
		t.Errorf("record %+v", rec.Factor)
	}
}

// No secret and no code is in the journal.
func TestJournalHasNoSecrets(t *testing.T) {
	w, alice := newFactorWorld(t), userCaller(70001, "audit:1")
	secret := w.enrol(t, alice, "")
	code := w.code(t, secret)
	for range 2 {
		_, _ = w.Elevate(t.Context(), alice, &control.ElevateRequest{Code: code})
	}
	w.stranger(&control.FactorCaller{UID: 0}, string(webID), "no")
	if r := w.last(t); r.Container == nil || r.Container.ID != webID || r.Factor.Cause != "container" {
		t.Errorf("stranger: %+v", r)
	}
	for _, r := range w.records {
		text := r.Message + strings.Join([]string{r.Factor.Event, r.Factor.Cause, r.Factor.User}, " ")
		if strings.Contains(text, secret) || strings.Contains(text, code) {
			t.Errorf("record %+v %q", r.Factor, r.Message)
		}
	}
}

func TestElevateMax(t *testing.T) {
	c := Config{}
	if err := c.fillFactor(); err != nil || c.ElevateMax != time.Hour {
		t.Errorf("default %v, %v", c.ElevateMax, err)
	}
	c.ElevateMax = 25 * time.Hour
	if err := c.fillFactor(); err == nil {
		t.Error("25 h is taken")
	}
	if got, err := lookUpUser("4294967295"); err == nil {
		t.Errorf("uid -1: got %d", got)
	}
	if name := userName(uint32(os.Getuid())); name != "" {
		if uid, err := lookUpUser(name); err != nil || uid != uint32(os.Getuid()) {
			t.Errorf("%s: got %d, %v", name, uid, err)
		}
	}
}
