package move

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
)

// faults are what the matrix loses.
var faults = []lose{
	{name: "target", to: true}, {name: "source", from: true}, {name: "both", from: true, to: true}, {name: "mover", dies: true},
	{name: "mover and target", to: true, dies: true}, {name: "mover and source", from: true, dies: true},
}

// nth does something at the nth of all points, from 0.
func nth(n int, do func()) func(string) {
	return func(string) {
		if n--; n == -1 {
			do()
		}
	}
}

// pointsIn returns all points of what a world does, in their order.
func pointsIn(w *world, do func()) (points []string) {
	w.at = func(p string) { points = append(points, p) }
	do()
	w.at = nil
	return points
}

// chosen reports whether a point is one of those that are tried: all with BELAY_MATRIX=full, else those behind which
// something may be different for some of a group alone, and a few between steps.
func chosen(points []string, i int) bool {
	if os.Getenv("BELAY_MATRIX") == "full" {
		return true
	}
	p := points[i]
	return !strings.HasSuffix(p, "/begin") && (i == 0 || points[i-1] != p || strings.HasPrefix(p, "stop-source") || strings.HasPrefix(p, "start"))
}

// TestMatrixGroup is [TestMatrix] for groups, at each point, also between the containers of one step. Never is one of a group
// here in the end and another there.
func TestMatrixGroup(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		w := newGroup(t, stateful)
		points := pointsIn(w, func() {
			if _, err := w.move(); err != nil {
				t.Fatal(err)
			}
		})
		w.want(false, 1)
		for _, f := range faults {
			for i, point := range points {
				if !chosen(points, i) {
					continue
				}
				t.Run(fmt.Sprintf("stateful %v/%s/%d-%s", stateful, f.name, i, point), func(t *testing.T) {
					t.Parallel()
					tryMatrix(t, newGroup(t, stateful), f, func(do func()) func(string) { return nth(i, do) })
				})
			}
		}
	}
}

// unwell has the copy of one of a group end by itself once all have been started.
func (w *world) unwell(name string, then func(string)) func(string) {
	end := once("start/end", func() {
		w.to.set(func() { w.to.stop(w.to.find(name)) })
	})
	return func(p string) {
		end(p)
		if then != nil {
			then(p)
		}
	}
}

// TestMatrixGroupBack takes a group back, of which one copy has ended, with a fault at each point of the way back.
func TestMatrixGroupBack(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		for _, name := range []string{"agent", "db"} {
			if !stateful {
				name = map[string]string{"agent": "web", "db": "api"}[name]
			}
			w := newGroup(t, stateful)
			var points []string
			w.at = w.unwell(name, func(p string) { points = append(points, p) })
			if _, err := w.move(); !errors.As(err, new(*BackError)) || !strings.Contains(err.Error(), name) {
				t.Fatalf("got %v", err)
			}
			w.want(true, 0)
			first := slices.Index(points, "back/begin")
			for _, f := range faults {
				for i := first; i < len(points); i++ {
					t.Run(fmt.Sprintf("stateful %v/%s/%s/%d-%s", stateful, name, f.name, i, points[i]), func(t *testing.T) {
						t.Parallel()
						w := newGroup(t, stateful)
						tryMatrix(t, w, f, func(do func()) func(string) { return w.unwell(name, nth(i, do)) })
					})
				}
			}
		}
	}
}

// TestMatrixGroupKept aborts a group that is done, with the mover or the target lost at each point of that.
func TestMatrixGroupKept(t *testing.T) {
	kept := func(t *testing.T, stateful bool) (*world, string) {
		t.Helper()
		w := newGroup(t, stateful)
		j, err := w.move()
		if err != nil {
			t.Fatal(err)
		}
		return w, j.ID
	}
	for _, stateful := range []bool{true, false} {
		w, id := kept(t, stateful)
		points := pointsIn(w, func() {
			if _, err := w.mover().Abort(t.Context(), id, Allow{LoseWrites: true}); err != nil {
				t.Fatal(err)
			}
		})
		w.want(true, 0)
		for _, f := range faults {
			for i, point := range points {
				t.Run(fmt.Sprintf("stateful %v/%s/%d-%s", stateful, f.name, i, point), func(t *testing.T) {
					t.Parallel()
					w, id := kept(t, stateful)
					w.from.starts = func() {
						w.to.mu.Lock()
						defer w.to.mu.Unlock()
						for _, c := range w.to.containers {
							if stateful && c.running {
								t.Error("two writers")
							}
						}
					}
					down := func(is bool) {
						w.from.set(func() { w.from.down = is && f.from })
						w.to.set(func() { w.to.down = is && f.to })
					}
					var came bool
					w.at = nth(i, func() {
						came = true
						down(true)
						if f.dies {
							panic(killed{})
						}
					})
					mayBeKilled(func() { _, _ = w.mover().Abort(t.Context(), id, Allow{LoseWrites: true}) })
					if w.at = nil; !came {
						t.Fatal("the fault did not come")
					}
					if w.journal().Phase == Back {
						_, _ = w.mover().Resume(t.Context(), id)
					}
					down(false)
					var err error
					switch w.journal().Phase {
					case Kept: // nothing had begun
						_, err = w.mover().Abort(t.Context(), id, Allow{LoseWrites: true})
					case Back:
						_, err = w.mover().Resume(t.Context(), id)
					}
					if j := w.journal(); j.Phase != RolledBack || len(w.copies()) != 0 {
						t.Errorf("phase %s, %d copies: %v", j.Phase, len(w.copies()), err)
					}
					w.want(true, 0)
					if left := w.from.leases() + w.to.leases(); left != "" {
						t.Errorf("left: %s", left)
					}
				})
			}
		}
	}
}

// TestGroup: one that needs another is made after it, from its copy; what they share is copied once; all go with their source's
// names, and one ID stands for all.
func TestGroup(t *testing.T) {
	w := newGroup(t, true)
	copied := 0
	w.to.before = func(method, path string) {
		if method == "PUT" && strings.HasSuffix(path, "/archive") {
			copied++
		}
	}
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	w.want(false, 1)
	if j.Names() != "db, agent" || copied != 1 || len(j.Volumes) != 1 {
		t.Errorf("order %s, %d copied", j.Names(), copied)
	}
	if got, want := w.to.find("agent").host["NetworkMode"], "container:"+w.to.find("db").id; got != want {
		t.Errorf("the network is %s, want %s", got, want)
	}
	if strings.Join(w.hooks, " ") != "hand-over" {
		t.Errorf("hooks %v", w.hooks)
	}
	w.now = w.now.Add(2 * time.Hour)
	w.to.set(func() { w.to.stop(w.to.find("agent")) })
	if _, err := w.mover().Resume(t.Context(), j.ID); err == nil || len(w.from.containers) != 2 {
		t.Errorf("a source was removed though a copy does not run: %v", err)
	}
	w.to.set(func() { w.to.start(w.to.find("agent")) })
	if got, err := w.mover().Resume(t.Context(), j.ID); err != nil || got.Phase != Finished || len(w.from.containers) != 0 {
		t.Errorf("got %v", err)
	}
}

// TestGroupJournal: whoever knows of no groups does not take the journal of one for that of its first container.
func TestGroupJournal(t *testing.T) {
	w := newGroup(t, true)
	w.kill("copy/begin")
	j := w.journal()
	if j.Schema == journalSchema || len(j.members()) != 2 || j.With[0].Name != "agent" || !j.With[0].SourceStopped {
		t.Errorf("got %+v", j)
	}
	j.Schema = journalSchema
	if err := j.write(w.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := readJournal(w.dir, j.ID); err == nil {
		t.Error("a group is read as a single move")
	}
	const before = `{"schema":"belay.dev/move/v1","id":"0123456789abcdef","phase":"moving","step":"copy","container":"0123456789abcdef","name":"db","stateful":true,"sourceStopped":true,"stoppedAt":"x","target":"fedcba9876543210"}`
	got, err := parseJournal("0123456789abcdef", []byte(before))
	if err != nil || got.Name != "db" || !got.sourceStopped() || got.copyStarted() || got.Target != "fedcba9876543210" || got.StoppedAt != "x" || len(got.members()) != 1 {
		t.Errorf("a journal of before there were groups: %+v, %v", got, err)
	}
}

// TestGroupRefused: a group is refused as a whole, for reasons of each.
func TestGroupRefused(t *testing.T) {
	for _, c := range []struct {
		name     string
		stateful bool
		names    []string
		do       func(w *world)
		want     string
	}{
		{name: "one of it alone", stateful: true, names: []string{"db"}, want: `"agent" shares a namespace with it`},
		{name: "the other alone", stateful: true, names: []string{"agent"}, want: "move both as one"},
		{name: "one of a network alone", names: []string{"web"}, want: `"api" is on its network "shop"`},
		{name: "a third is on the network", names: []string{"web", "api"}, do: func(w *world) {
			w.from.start(w.from.add("cache", map[string]any{"Image": "web:1"}, map[string]any{"NetworkMode": "shop"}, map[string]any{"shop": map[string]any{}}))
		}, want: `"web": "cache" is on its network "shop"`},
		{name: "one cannot be moved", names: []string{"web", "api"}, do: func(w *world) { w.group["api"].host["Privileged"] = true }, want: `"api": it is privileged`},
		{name: "named twice", names: []string{"web", "web"}, want: "named twice"},
		{name: "a name is taken there", names: []string{"web", "api"}, do: func(w *world) { w.to.add("api", map[string]any{"Image": "web:1"}, nil, nil) }, want: `"api": the target`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newGroup(t, c.stateful)
			if c.do != nil {
				c.do(w)
			}
			_, err := w.mover().Move(t.Context(), c.names[0], engine.Address{URL: w.from.url}, engine.Address{URL: w.to.url}, w.s, c.names[1:]...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if list, _ := List(w.dir); len(list) != 0 {
				t.Error("it has begun")
			}
		})
	}
}

// refuses has an engine fail at the request of a kind that comes after so many others.
func refuses(method, end string, after int) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !strings.HasSuffix(r.URL.Path, end) || strings.HasPrefix(r.URL.Query().Get("name"), "belay-move-") {
			return false
		}
		if after--; after != -1 {
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
}

// TestGroupMemberFails: whichever of a group fails, all go back, and none that served was stopped without need.
func TestGroupMemberFails(t *testing.T) {
	for _, c := range []struct {
		name             string
		stateful         bool
		from, to         func(w http.ResponseWriter, r *http.Request) bool
		stopped, written bool
	}{
		{name: "the second is not made", stateful: true, to: refuses("POST", "/containers/create", 1)},
		{name: "the second does not stop", stateful: true, from: refuses("POST", "/stop", 1), stopped: true},
		{name: "the volume is not written", stateful: true, to: refuses("PUT", "/archive", 0), stopped: true},
		{name: "the second does not start", stateful: true, to: refuses("POST", "/start", 1), stopped: true, written: true},
		{name: "the second does not start, without volumes", to: refuses("POST", "/start", 1)},
		{name: "the second does not stop, without volumes", from: refuses("POST", "/stop", 1), stopped: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newGroup(t, c.stateful)
			w.from.answer, w.to.answer = c.from, c.to
			if _, err := w.move(); !errors.As(err, new(*BackError)) {
				t.Fatalf("got %v", err)
			}
			w.want(true, 0)
			stopped := false
			for _, s := range w.group {
				stopped = stopped || s.starts > 1
			}
			if stopped != c.stopped || len(w.copies()) != 0 || w.from.leases()+w.to.leases() != "" {
				t.Errorf("stopped %v, %d copies, left %s%s", stopped, len(w.copies()), w.from.leases(), w.to.leases())
			}
			if _, kept := w.to.volumes["records"]; kept != c.written {
				t.Errorf("the volume on the target is there: %v", kept)
			}
			if len(w.to.networks) != 1 {
				t.Errorf("networks on the target: %v", w.to.networks)
			}
		})
	}
}

// TestGroupSourceRemoved: of a group that has lost a source the copies take over if all run. Else it goes back to the sources
// that are there, unless a copy is the last of its container.
func TestGroupSourceRemoved(t *testing.T) {
	for _, c := range []struct {
		name, at string
		stateful bool
		ends     string // the copy that ends by itself then
		phase    Phase
		source   bool // the source that is there runs in the end
		copies   int
	}{
		{name: "all copies run", at: "healthy/begin", stateful: true, phase: Finished, copies: 2},
		{name: "all copies run, without volumes", at: "drain/end", phase: Finished, copies: 2},
		{name: "a copy has ended", at: "start/end", stateful: true, ends: "agent", phase: Back, copies: 1},
		{name: "no copy has run", at: "copy/end", stateful: true, phase: Back},
		{name: "before it stopped", at: "create/end", stateful: true, phase: RolledBack, source: true},
		{name: "found when it was to stop, without volumes", at: "create/end", phase: Finished, copies: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newGroup(t, c.stateful)
			gone, there := w.group["db"], w.group["agent"]
			if !c.stateful {
				gone, there = w.group["api"], w.group["web"]
			}
			w.at = once(c.at, func() {
				w.from.remove(gone)
				if c.ends != "" {
					w.to.set(func() { w.to.stop(w.to.find(c.ends)) })
				}
			})
			_, err := w.move()
			w.at = nil
			check := func() {
				t.Helper()
				running := 0
				for _, x := range w.copies() {
					if x.running {
						running++
					}
				}
				if j := w.journal(); j.Phase != c.phase || there.running != c.source || running != c.copies {
					t.Errorf("got %v; phase %s, the other source runs: %v, %d copies", err, j.Phase, there.running, running)
				}
			}
			check()
			if c.phase != Back {
				if !errors.As(err, new(*GoneError)) || w.from.leases()+w.to.leases() != "" {
					t.Errorf("got %v; left %s%s", err, w.from.leases(), w.to.leases())
				}
				return
			}
			if !errors.As(err, new(*StuckError)) {
				t.Errorf("got %v", err)
			}
			_, err = w.mover().Resume(t.Context(), w.journal().ID) // nobody has decided
			check()
			w.to.set(func() {
				for _, name := range []string{"db", "agent"} {
					w.to.start(w.to.find(name))
				}
			})
			c.phase, c.copies = Finished, 2
			_, err = w.mover().Resume(t.Context(), w.journal().ID)
			check()
			if !errors.As(err, new(*GoneError)) || w.from.leases()+w.to.leases() != "" {
				t.Errorf("got %v; left %s%s", err, w.from.leases(), w.to.leases())
			}
		})
	}
}

// TestGroupStoppedSourceRemoved: of a group of which no copy has ever run, those serve again whose sources are there, though one was
// removed after it had stopped. Its copy is the last of it, and stays until somebody has decided; the target need not answer.
func TestGroupStoppedSourceRemoved(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := newGroup(t, true)
		db := w.group["db"]
		w.at = once("copy/end", func() {
			w.from.remove(w.group["agent"])
			w.to.set(func() { w.to.down = lost })
		})
		_, err := w.move()
		w.at = nil
		if !errors.As(err, new(*StuckError)) || strings.Contains(err.Error(), "docker restart") || !lost && !strings.Contains(err.Error(), `docker rm it there`) {
			t.Errorf("got %v", err)
		}
		w.to.set(func() { w.to.down = false })
		if c := w.to.find("agent"); c == nil || c.running || !db.running {
			t.Fatalf("the other serves: %v, the copy %+v", db.running, c)
		}
		if _, err = w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*StuckError)) || db.starts != 2 {
			t.Errorf("got %v; it was started %d times", err, db.starts)
		}
		w.to.remove(w.to.find("agent"))
		if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*GoneError)) || !db.running || len(w.copies()) != 0 || w.from.leases()+w.to.leases() != "" {
			t.Errorf("got %v; the other runs: %v, %d copies, left %s%s", err, db.running, len(w.copies()), w.from.leases(), w.to.leases())
		}
		if w.to.volumes["records"] == nil {
			t.Error("the volume is gone with its copy")
		}
	}
}

// TestGroupCopyCutOff: copies of which one has the network of an earlier run of another do not take over from a source that is gone,
// until both have been started as the message says.
func TestGroupCopyCutOff(t *testing.T) {
	w := newGroup(t, true)
	w.at = once("start/end", func() {
		w.from.remove(w.group["agent"])
		w.to.set(func() { w.to.stop(w.to.find("db")) })
	})
	_, err := w.move()
	w.at = nil
	if !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), "docker restart db agent there") {
		t.Errorf("got %v", err)
	}
	w.to.set(func() { w.to.start(w.to.find("db")) })
	if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*StuckError)) {
		t.Errorf("got %v", err)
	}
	w.to.set(func() {
		for _, name := range []string{"db", "agent"} {
			w.to.stop(w.to.find(name))
			w.to.start(w.to.find(name))
		}
	})
	if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*GoneError)) || w.journal().Phase != Finished {
		t.Errorf("got %v", err)
	}
}

// TestGroupSourceBesideCopies: copies that run do not take over from a source that somebody has started beside them; once that is removed,
// as the message says, they do.
func TestGroupSourceBesideCopies(t *testing.T) {
	w := newGroup(t, true)
	w.at = once("healthy/begin", func() {
		w.from.remove(w.group["agent"])
		w.from.set(func() { w.from.start(w.group["db"]) })
	})
	_, err := w.move()
	w.at = nil
	if !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), "docker rm -f db") {
		t.Errorf("got %v", err)
	}
	w.from.remove(w.group["db"])
	if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*GoneError)) || len(w.copies()) != 2 || w.journal().Phase != Finished {
		t.Errorf("got %v", err)
	}
}

// TestLinkOnNetwork: a container that names another one by a link on a network of the user's is started without that one too. As any
// other on that network it is a reason against a move only while it runs, and the other's operator has not given it up.
func TestLinkOnNetwork(t *testing.T) {
	link := func(w *world) {
		w.group["web"].networks = map[string]any{"shop": map[string]any{"Links": []string{"api:backend"}}}
		delete(w.group, "web")
	}
	for _, c := range []struct {
		name string
		do   func(w *world)
		want string
	}{
		{name: "it runs", do: func(*world) {}, want: `"web" is on its network "shop"`},
		{name: "the networks are split", do: func(w *world) { w.s.SplitNetworks = true }},
		{name: "it does not run", do: func(w *world) { w.from.stop(w.from.find("web")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newGroup(t, false)
			link(w)
			c.do(w)
			_, err := w.move()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestInOrder: whoever needs another, or names it by a link, starts after it, and else they start as they were named.
func TestInOrder(t *testing.T) {
	of := func(id, name, host, network string) *recreate.Container {
		c, err := recreate.Read(fmt.Appendf(nil, `{"Id":%q,"Name":%q,"Config":{},"State":{},"NetworkSettings":{"Networks":{"shop":{%s}}},"HostConfig":{%s}}`, strings.Repeat(id, 64), "/"+name, network, host))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	db, web := of("b", "db", "", ""), of("d", "web", "", "")
	app, agent := of("a", "app", `"Links":["/db:/app/db"]`, ""), of("c", "agent", `"NetworkMode":"container:`+strings.Repeat("a", 64)+`"`, "")
	here, there := of("e", "here", "", `"Links":["there:t"]`), of("f", "there", "", `"Links":["here:h"]`)
	for _, c := range []struct {
		cs   []*recreate.Container
		want string
	}{
		{[]*recreate.Container{agent, app, web, db}, "web db app agent"},
		{[]*recreate.Container{of("e", "cron", "", `"Links":["db:d"]`), db}, "db cron"},
		{[]*recreate.Container{here, there, web}, "web here there"},
		{[]*recreate.Container{app, of("b", "db", `"NetworkMode":"container:app"`, "")}, "in a circle"},
	} {
		got, err := inOrder(c.cs)
		var names []string
		for _, x := range got {
			names = append(names, x.ShortName())
		}
		if strings.Join(names, " ") != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("order %v, %v; want %s", names, err, c.want)
		}
	}
}

// TestGroupCopyStartedByHand: whichever copy somebody starts before its data is there, it has gone before a source serves again,
// and what it may have written to stays.
func TestGroupCopyStartedByHand(t *testing.T) {
	for _, name := range []string{"db", "agent"} {
		w := newGroup(t, true)
		w.at = once("copy/volume", func() {
			w.to.set(func() {
				w.to.start(w.to.find("db"))
				w.to.start(w.to.find("agent"))
				for _, c := range w.to.containers {
					if c.running && c.name != name {
						c.running, c.started = false, "0001-01-01T00:00:00Z"
					}
				}
			})
		})
		w.from.starts = func() {
			w.to.mu.Lock()
			defer w.to.mu.Unlock()
			for _, c := range w.to.containers {
				if c.running {
					t.Errorf("two writers, with %s", c.name)
				}
			}
		}
		if _, err := w.move(); !errors.As(err, new(*BackError)) || !strings.Contains(err.Error(), name+": target: somebody has started the copy") {
			t.Fatalf("got %v", err)
		}
		w.want(true, 0)
		if w.to.volumes["records"] == nil || len(w.journal().LeftBehind) != 1 {
			t.Errorf("the volume is gone: %q", w.journal().LeftBehind)
		}
	}
}

// TestGroupSourceStartedAgain: whichever source somebody starts again while the others rest, no copy starts beside it.
func TestGroupSourceStartedAgain(t *testing.T) {
	for _, name := range []string{"db", "agent"} {
		for _, at := range []string{"stop-source/end", "copy/volume", "start/begin"} {
			w := newGroup(t, true)
			w.at = once(at, func() { w.from.set(func() { w.from.start(w.group[name]) }) })
			w.to.starts = func() { t.Errorf("%s at %s: a copy starts beside a source", name, at) }
			if _, err := w.move(); !errors.As(err, new(*BackError)) || !strings.Contains(err.Error(), name+": source: somebody has started it again") {
				t.Errorf("%s at %s: got %v", name, at, err)
			}
			w.want(true, 0)
		}
	}
}

// TestGroupCopyEnds: a copy that was healthy, and ends while another one is waited for, does not take over.
func TestGroupCopyEnds(t *testing.T) {
	w := newGroup(t, true)
	w.at = once("healthy/member", func() { w.to.set(func() { w.to.stop(w.to.find("db")) }) })
	if _, err := w.move(); !errors.As(err, new(*BackError)) || len(w.hooks) > 0 {
		t.Errorf("got %v, hooks %v", err, w.hooks)
	}
	w.want(true, 0)
}

// again returns an At that does something when a point is come to for the nth time, from 1.
func again(point string, nth int, do func()) func(string) {
	return func(p string) {
		if p == point {
			if nth--; nth == 0 {
				do()
			}
		}
	}
}

// TestGroupFullDisk: of a group whose journal cannot be written those serve again that were stopped, if no copy has started. It is
// carried on, or taken back, when there is room again; whoever has the network of another has that of its last run.
func TestGroupFullDisk(t *testing.T) {
	for _, c := range []struct {
		at  string
		nth int
	}{{"stop-source/policy", 1}, {"stop-source/member", 1}, {"stop-source/policy", 2}, {"copy/volume", 1}, {"start/begin", 1}} {
		for _, abort := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %d, abort %v", c.at, c.nth, abort), func(t *testing.T) {
				w := newGroup(t, true)
				w.at = again(c.at, c.nth, func() {
					if err := os.Rename(w.dir, w.dir+"-full"); err != nil {
						t.Error(err)
					}
				})
				if _, err := w.move(); !errors.As(err, new(*StuckError)) || !errors.Is(err, errJournal) {
					t.Fatalf("got %v", err)
				}
				w.want(true, 0)
				if err := os.Rename(w.dir+"-full", w.dir); err != nil {
					t.Fatal(err)
				}
				id, end := w.journal().ID, w.mover().Resume
				if abort {
					end = func(ctx context.Context, id string) (*Journal, error) { return w.mover().Abort(ctx, id, Allow{}) }
				}
				if _, err := end(t.Context(), id); err != nil && !errors.As(err, new(*BackError)) {
					t.Fatal(err)
				}
				if j := w.journal(); j.Phase == Kept && !abort {
					w.want(false, 1)
				} else {
					w.want(true, 0)
				}
			})
		}
	}
}

// TestGroupNotStopped: a source that does not stop on the way back is stopped and started with whoever has its network, once it does;
// until then those do not run in what is about to end.
func TestGroupNotStopped(t *testing.T) {
	w := newGroup(t, true)
	db := w.group["db"]
	w.from.answer = func(rw http.ResponseWriter, r *http.Request) bool {
		no := strings.HasSuffix(r.URL.Path, "/"+db.id+"/stop")
		if no {
			rw.WriteHeader(http.StatusInternalServerError)
		}
		return no
	}
	if _, err := w.move(); !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), "agent: db, whose namespace it has") {
		t.Errorf("got %v", err)
	}
	if w.group["agent"].running {
		t.Error("it runs in a network that is about to end")
	}
	w.from.set(func() { w.from.answer = nil })
	if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*BackError)) {
		t.Errorf("got %v", err)
	}
	w.want(true, 0)
}

// TestGroupCopyStartedAgain: a copy that has ended and is started by who carries the move on is started with those that have its
// network.
func TestGroupCopyStartedAgain(t *testing.T) {
	for _, at := range []string{"start/end", "keep/end"} {
		w := newGroup(t, true)
		id := w.kill(at)
		w.to.set(func() { w.to.stop(w.to.find("db")) })
		if _, err := w.mover().Resume(t.Context(), id); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		w.want(false, 1)
	}
}

// TestGroupOfThree: of three that go back, of which one does not start, those serve again that need it not, with a fault of the
// mover at each point of that; once it starts all serve, with the networks that they share.
func TestGroupOfThree(t *testing.T) {
	three := func(t *testing.T, fails string) *world {
		t.Helper()
		w := newGroup(t, true)
		c := w.from.add("cache", map[string]any{"Image": "web:1"}, map[string]any{"NetworkMode": "bridge", "RestartPolicy": map[string]any{"Name": "always"}, "CgroupnsMode": "private"}, nil)
		w.from.start(c)
		w.group["cache"] = c
		w.to.answer = refuses("PUT", "/archive", 0)
		w.from.answer = func(rw http.ResponseWriter, r *http.Request) bool {
			no := strings.HasSuffix(r.URL.Path, "/"+w.group[fails].id+"/start")
			if no {
				rw.WriteHeader(http.StatusInternalServerError)
			}
			return no
		}
		return w
	}
	for fails, serve := range map[string]string{"cache": "agent db", "db": "cache", "agent": "cache db"} {
		w := three(t, fails)
		points := pointsIn(w, func() {
			if _, err := w.move(); !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), fails+": source: start container") {
				t.Errorf("got %v", err)
			}
		})
		for i := slices.Index(points, "back/begin"); i < len(points); i++ {
			w := three(t, fails)
			came := false
			w.at = nth(i, func() { came = true; panic(killed{}) })
			mayBeKilled(func() { _, _ = w.move() })
			if w.at = nil; !came {
				t.Fatal("the fault did not come")
			}
			id := w.journal().ID
			_, err := w.mover().Resume(t.Context(), id)
			var running []string
			for _, name := range slices.Sorted(maps.Keys(w.group)) {
				if w.group[name].running {
					running = append(running, name)
				}
			}
			if got := strings.Join(running, " "); got != serve || !errors.As(err, new(*StuckError)) {
				t.Errorf("without %s, killed at %s: %s serve: %v", fails, points[i], got, err)
			}
			w.from.set(func() { w.from.answer = nil })
			if _, err := w.mover().Resume(t.Context(), id); !errors.As(err, new(*BackError)) {
				t.Errorf("without %s, killed at %s: %v", fails, points[i], err)
			}
			w.want(true, 0)
		}
	}
}

// TestGroupBackInTurn: on the way back too a source with a health check has to be healthy before the next one starts; one that is not
// keeps the others from serving no longer than that takes.
func TestGroupBackInTurn(t *testing.T) {
	for _, heals := range []bool{true, false} {
		w := newGroup(t, true)
		db, agent := w.group["db"], w.group["agent"]
		db.config["Healthcheck"] = map[string]any{"Test": []string{"CMD", "true"}}
		w.s.Healthy = 2 * healthAfter
		w.at = once("copy/begin", func() {
			w.from.set(func() { w.from.unwell = !heals })
			w.to.set(func() { w.to.answer = refuses("PUT", "/archive", 0) })
		})
		w.from.starts = func() {
			if at, err := time.Parse(time.RFC3339Nano, db.started); agent.running && (err != nil || time.Since(at) < healthAfter) {
				t.Errorf("the second starts at once: %v", err)
			}
		}
		if _, err := w.move(); !errors.As(err, new(*BackError)) {
			t.Fatalf("got %v", err)
		}
		w.want(true, 0)
	}
}

// TestGroupBackTime: the time that the way back has grows with the number of those that go back.
func TestGroupBackTime(t *testing.T) {
	for _, w := range []*world{newWorld(t, false), newGroup(t, false)} {
		j, err := w.move()
		if err != nil {
			t.Fatal(err)
		}
		var left time.Duration
		m := New(Options{Dir: w.dir, RunHook: func(ctx context.Context, _ string, _ []string, _ []byte, _ time.Duration) error {
			end, _ := ctx.Deadline()
			left = time.Until(end)
			return nil
		}})
		if _, err := m.Abort(t.Context(), j.ID, Allow{}); err != nil {
			t.Fatal(err)
		}
		if want := time.Duration(len(w.group)) * backTimeout; left < want-time.Minute || left > want {
			t.Errorf("%d go back in %s; want %s", len(w.group), left, want)
		}
	}
}

// TestBackDoesNotRun: a source that ends when it has been started again is not as it was: it is named, and the move is not taken back
// until it runs.
func TestBackDoesNotRun(t *testing.T) {
	for _, c := range []struct {
		name, ends string
		world      func(*testing.T, bool) *world
		stateful   bool
	}{
		{"one", "web", newWorld, true},
		{"one without volumes", "web", newWorld, false},
		{"of a group", "agent", newGroup, true},
		{"of a group without volumes", "api", newGroup, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := c.world(t, c.stateful)
			w.s.Hook = nil
			if c.stateful {
				w.to.answer = refuses("PUT", "/archive", 0)
			} else {
				w.from.answer = refuses("POST", "/rename", 0)
			}
			w.from.starts = func() { w.from.stop(w.group[c.ends]) }
			if _, err := w.move(); !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), c.ends+" has ended with status 0") {
				t.Errorf("got %v", err)
			}
			w.from.set(func() { w.from.starts = nil })
			if _, err := w.mover().Resume(t.Context(), w.journal().ID); !errors.As(err, new(*BackError)) {
				t.Errorf("got %v", err)
			}
			w.want(true, 0)
		})
	}
}

// TestGroupWritesNotLost: a group that has taken over does not go back by itself, though one of it is gone on both sides: what the
// others wrote would be lost. Whoever removes their copies has decided.
func TestGroupWritesNotLost(t *testing.T) {
	w := newGroup(t, true)
	w.at = once("hand-over/end", func() {
		w.from.remove(w.group["agent"])
		w.to.remove(w.to.find("agent"))
	})
	if _, err := w.move(); !errors.As(err, new(*StuckError)) {
		t.Fatalf("got %v", err)
	}
	w.at = nil
	id, db := w.journal().ID, w.group["db"]
	_, err := w.mover().Resume(t.Context(), id)
	if c := w.to.find("db"); !errors.As(err, new(*StuckError)) || c == nil || !c.running || db.running {
		t.Fatalf("got %v; phase %s, the source runs: %v", err, w.journal().Phase, db.running)
	}
	w.to.set(func() { w.to.stop(w.to.find("db")) })
	w.to.remove(w.to.find("db"))
	if _, err := w.mover().Resume(t.Context(), id); !errors.As(err, new(*GoneError)) || !db.running {
		t.Errorf("got %v; the source runs: %v", err, db.running)
	}
}
