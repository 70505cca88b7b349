package factor

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

var web, db = strings.Repeat("1", 64), strings.Repeat("2", 64)

func TestCovering(t *testing.T) {
	c := newClock()
	var el Elevations
	all, err := el.Grant(Elevation{UID: alice, Session: "audit:1", Actions: []string{"container.exec", "container.exec.start"}}, 15*time.Minute, c.now())
	if err != nil {
		t.Fatal(err)
	}
	one, err := el.Grant(Elevation{UID: bob, Session: "audit:2", Actions: []string{"container.copy.in"}, Target: web}, time.Minute, c.now())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name            string
		uid             uint32
		session, action string
		containers      []string
		after           time.Duration
		want            string
	}{
		{"the call it is for", alice, "audit:1", "container.exec", []string{web}, 0, all.ID},
		{"any target", alice, "audit:1", "container.exec.start", nil, 0, all.ID},
		{"the last moment", alice, "audit:1", "container.exec", nil, 15*time.Minute - time.Second, all.ID},
		{"expired", alice, "audit:1", "container.exec", nil, 15 * time.Minute, ""},
		{"the clock set back", alice, "audit:1", "container.exec", nil, -time.Hour, ""},
		{"other session", alice, "audit:2", "container.exec", []string{web}, 0, ""},
		{"no session", alice, "", "container.exec", []string{web}, 0, ""},
		{"other uid", bob, "audit:1", "container.exec", []string{web}, 0, ""},
		{"root is another uid", 0, "audit:1", "container.exec", []string{web}, 0, ""},
		{"other action", alice, "audit:1", "container.delete", []string{web}, 0, ""},
		{"the beginning of an action", alice, "audit:1", "container", []string{web}, 0, ""},
		{"its target", bob, "audit:2", "container.copy.in", []string{web}, 0, one.ID},
		{"its target twice", bob, "audit:2", "container.copy.in", []string{web, web}, 0, one.ID},
		{"other target", bob, "audit:2", "container.copy.in", []string{db}, 0, ""},
		{"its target and another", bob, "audit:2", "container.copy.in", []string{web, db}, 0, ""},
		{"no target", bob, "audit:2", "container.copy.in", nil, 0, ""},
		{"a name that was not resolved", bob, "audit:2", "container.copy.in", []string{""}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := el.peek(tt.uid, tt.session, tt.action, tt.containers, c.now().Add(tt.after))
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("got %q, %v, want %q", got, ok, tt.want)
			}
		})
	}
}

// peek is Covering on a copy: an expired one would be swept away.
func (t *Elevations) peek(uid uint32, session, action string, containers []string, now time.Time) (string, bool) {
	c := Elevations{byUser: map[uint32][]*Elevation{uid: t.byUser[uid]}}
	return c.Covering(uid, session, action, containers, now)
}

func TestListAndDrop(t *testing.T) {
	c := newClock()
	var el Elevations
	if el.Any(alice) {
		t.Error("an empty table has one")
	}
	grant := func(uid uint32, action string, lasts time.Duration) Elevation {
		e, err := el.Grant(Elevation{UID: uid, Session: "s", Actions: []string{action}}, lasts, c.now())
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := grant(alice, "a", time.Minute)
	again := grant(alice, "a", time.Hour)
	grant(alice, "b", time.Minute)
	grant(bob, "a", time.Hour)
	if first.ID == again.ID {
		t.Error("two elevations have one ID")
	}
	uid := uint32(alice)
	if got := el.List(&uid, c.now()); len(got) != 2 || got[0].UID != alice {
		t.Errorf("alice's: got %+v, want 2: the second replaces the first", got)
	}
	if got := el.List(nil, c.now()); len(got) != 3 {
		t.Errorf("all: got %d, want 3", len(got))
	}
	if _, ok := el.Covering(alice, "s", "a", nil, c.now()); !ok {
		t.Error("not covered")
	}
	if got := el.List(&uid, c.now()); got[0].Uses+got[1].Uses != 1 {
		t.Errorf("uses: %+v", got)
	}
	if got := el.Drop(new(uint32(bob)), []string{again.ID}, c.now()); len(got) != 0 {
		t.Errorf("bob dropped alice's: %+v", got)
	}
	c.forward(2 * time.Minute)
	if got := el.List(&uid, c.now()); len(got) != 1 {
		t.Errorf("after one has expired: %+v", got)
	}
	if got := el.Drop(&uid, nil, c.now()); len(got) != 1 || got[0].ID != again.ID {
		t.Errorf("dropped %+v", got)
	}
	if el.Any(alice) || !el.Any(bob) {
		t.Error("want none of alice's and bob's still")
	}
	if _, ok := el.Covering(alice, "s", "a", nil, c.now()); ok {
		t.Error("covered by one that was dropped")
	}
}

func TestTooMany(t *testing.T) {
	c := newClock()
	var el Elevations
	var err error
	for i := range maxPerUser + 1 {
		_, err = el.Grant(Elevation{UID: alice, Session: "s", Target: string(rune('a' + i))}, time.Hour, c.now())
	}
	if !errors.Is(err, ErrTooMany) {
		t.Errorf("got %v, want ErrTooMany", err)
	}
	if _, err := el.Hold(&Elevation{UID: alice, Session: "s"}, c.now()); !errors.Is(err, ErrTooMany) {
		t.Errorf("a place beyond the bound: %v", err)
	}
	release, err := el.Hold(&Elevation{UID: alice, Session: "s", Target: "a"}, c.now())
	if err != nil {
		t.Fatalf("a place for one that replaces another: %v", err)
	}
	release()
	release() // twice gives back one
	if len(el.held) > 0 {
		t.Errorf("held: %v", el.held)
	}
	c.forward(time.Hour)
	if _, err := el.Grant(Elevation{UID: alice, Session: "s"}, time.Hour, c.now()); err != nil {
		t.Errorf("when they have expired: %v", err)
	}
}

func TestElevationsConcurrent(t *testing.T) {
	var el Elevations
	var wg sync.WaitGroup
	now := time.Now()
	for i := range uint32(8) {
		wg.Go(func() {
			for range 200 {
				e, err := el.Grant(Elevation{UID: i, Session: "s", Actions: []string{"a"}}, time.Hour, now)
				if err != nil {
					t.Error(err)
				}
				if _, ok := el.Covering(i, "s", "a", nil, now); !ok {
					t.Error("not covered")
				}
				el.Any(i)
				el.List(nil, now)
				el.Drop(&i, []string{e.ID}, now)
			}
		})
	}
	wg.Wait()
}
