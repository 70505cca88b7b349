package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/workload"
)

const useSpec = "  mode: enforce\n  findings: [{name: used, inUse: true}]\n"

func executed(t *testing.T, id ident.ContainerID, path string) *enforce.Event {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return &enforce.Event{Type: enforce.EventUsed, Container: id, Exe: path, SinceBoot: time.Duration(ts.Nano())}
}

// A program that ran between two looks is known to have run, and when.
func TestUsesToldBetweenLooks(t *testing.T) {
	u, c := testUses(t, useSpec)
	list := []workload.Container{c}
	now := time.Now()
	u.tick(t.Context(), list, now)
	state := func() inventory.Use {
		return u.attach(judgedID, []policy.ImageFinding{findingIn("b")})[0].Use
	}
	if s := state(); s.State != inventory.NotSeen {
		t.Fatalf("before: %+v", s)
	}
	u.told(executed(t, c.ID, "/usr/bin/b"))
	u.tick(t.Context(), list, now.Add(useTick))
	if s := state(); s.State != inventory.NotSeen {
		t.Errorf("at once, and not after %s: %+v", useSettle, s)
	}
	u.tick(t.Context(), list, now.Add(useSettle)) // a look takes it too
	s := state()
	if s.State != inventory.InUse || s.Executed.Sub(now).Abs() > time.Minute || len(s.Files) != 1 || s.Files[0] != "usr/bin/b" {
		t.Errorf("after: %+v", s)
	}
	// And without a look.
	looks := u.a.health.Counter("use_looks").Load()
	u.told(executed(t, c.ID, "/usr/bin/data"))
	u.tick(t.Context(), list, now.Add(2*useSettle-time.Second))
	u.tick(t.Context(), list, now.Add(2*useSettle))
	if _, ok := u.of[c.ID].seen.Files["usr/bin/data"]; !ok || u.of[c.ID].noted != nil {
		t.Errorf("%d looks more, and %+v is not settled", u.a.health.Counter("use_looks").Load()-looks, u.of[c.ID].noted)
	}
	if got := u.a.health.Counter("use_told").Load(); got != 2 {
		t.Errorf("counted %d", got)
	}
}

// Of what the kernel tells, a library counts as mapped and an archive as opened; scripts beyond what is
// remembered are counted, and leave what was not seen known.
func TestUsesToldHow(t *testing.T) {
	u, c := testUses(t, useSpec)
	list := []workload.Container{c}
	now := time.Now()
	u.tick(t.Context(), list, now)
	tell := func(hook, path string) {
		ev := executed(t, c.ID, path)
		ev.Hook = hook
		u.told(ev)
	}
	for i := range maxNoted {
		tell("file_open", fmt.Sprintf("/app/node_modules/p%d/i.js", i))
	}
	tell("file_open", "/usr/lib/python3.11/os.py") // no package is known by it
	cut := executed(t, c.ID, "/deep/node_modules/x/y.js")
	cut.Hook, cut.PathCut = "file_open", true
	u.told(cut)
	u.tick(t.Context(), list, now.Add(useSettle))
	if s := u.attach(judgedID, []policy.ImageFinding{findingIn("b")})[0].Use; s.State != inventory.NotSeen {
		t.Errorf("after scripts: %+v", s)
	}
	// One more, since the program that was seen takes a place.
	if n := u.a.health.Counter("use_cut").Load(); n != maxNoted/2+2 {
		t.Errorf("%d were counted as left out, want %d", n, maxNoted/2+2)
	}
	tell("mmap_file", "/usr/bin/b")
	tell("file_open", "/app/x.jar")
	u.tick(t.Context(), list, now.Add(2*useSettle))
	if s := u.attach(judgedID, []policy.ImageFinding{findingIn("b")})[0].Use; s.State != inventory.InUse || s.Mapped.IsZero() || !s.Executed.IsZero() {
		t.Errorf("after a mapping: %+v", s)
	}
	if f := u.of[c.ID].seen.Files["app/x.jar"]; f == nil || f.Opened.IsZero() {
		t.Errorf("the archive: %+v", f)
	}
}

// Where paths of all containers are too many, scripts go first.
func TestNotedScriptsGoFirst(t *testing.T) {
	u, _ := testUses(t, useSpec)
	id := func(c int) ident.ContainerID { return ident.ContainerID(fmt.Sprintf("%064x", c)) }
	long := strings.Repeat("x", 1500)
	for c := range 4 {
		for i := range maxNoted / 2 {
			u.told(&enforce.Event{Type: enforce.EventUsed, Hook: "file_open", Container: id(c), Exe: fmt.Sprintf("/%s/node_modules/p%d/i.js", long, i)})
		}
		u.told(&enforce.Event{Type: enforce.EventUsed, Hook: "sched_process_exec", Container: id(c), Exe: "/bin/a"})
	}
	size := 0
	for i, by := range u.of {
		if by.cut > 0 || !slices.ContainsFunc(slices.Collect(maps.Keys(by.noted)), func(n noted) bool { return n.path == "/bin/a" }) {
			t.Errorf("of %s %d programs were left out", i, by.cut)
		}
		for n := range by.noted {
			size += len(n.path)
		}
	}
	if size != u.notedBytes || size > maxNotedBytes || u.a.health.Counter("use_cut").Load() == 0 {
		t.Errorf("%d bytes wait, said to be %d", size, u.notedBytes)
	}
}

// Of a container that was over before it could be looked at, it is known what it executed, and
// nothing of what it did not.
func TestUsesToldOfShortContainer(t *testing.T) {
	u, c := testUses(t, useSpec)
	now := time.Now()
	u.told(executed(t, c.ID, "/usr/bin/b"))
	u.tick(t.Context(), nil, now)
	if u.of[c.ID] == nil {
		t.Fatal("it is over before the engine has told of it")
	}
	u.of[c.ID].image = judgedID
	u.tick(t.Context(), nil, now.Add(2*useUnknown))
	if len(u.of) != 0 {
		t.Error("it is kept for ever")
	}
	got := u.attach(judgedID, []policy.ImageFinding{findingIn("a"), findingIn("b")})
	if got[0].Use.State != inventory.UseUnknown || got[1].Use.State != inventory.InUse {
		t.Errorf("got %+v", got)
	}
	u.a.openUses()
	if s := u.a.uses.attach(judgedID, []policy.ImageFinding{findingIn("b")})[0].Use; s.State != inventory.InUse {
		t.Errorf("the next agent: %+v", s)
	}
}

// What is told beyond the bound is unknown, and not unused.
func TestUsesToldBounds(t *testing.T) {
	u, c := testUses(t, useSpec)
	list := []workload.Container{c}
	now := time.Now()
	u.tick(t.Context(), list, now)
	for i := range maxNoted + 5 {
		u.told(executed(t, c.ID, fmt.Sprintf("/tmp/%d", i)))
	}
	for _, ev := range []*enforce.Event{
		{Type: enforce.EventUsed, Exe: "/x"}, {Type: enforce.EventUsed, Exe: "/x", Container: c.ID, Build: true},
	} {
		u.told(ev)
	}
	u.tick(t.Context(), list, now.Add(time.Hour))
	if s := u.attach(judgedID, []policy.ImageFinding{findingIn("b")})[0].Use; s.State != inventory.UseUnknown {
		t.Errorf("got %+v, want unknown", s)
	}
	if n := u.a.health.Counter("use_cut").Load(); n < 5 {
		t.Errorf("counted %d left out, want at least 5", n)
	}
	if n := len(u.of[c.ID].seen.Files); n > maxNoted {
		t.Errorf("%d files are remembered", n)
	}
}

// A path that is not whole, or longer than is remembered, leaves nothing known not to be used.
func TestUsesToldCut(t *testing.T) {
	cut := executed(t, "", "/deep")
	cut.PathCut = true
	for name, ev := range map[string]*enforce.Event{"cut": cut, "long": executed(t, "", "/"+strings.Repeat("x", 600))} {
		t.Run(name, func(t *testing.T) {
			u, c := testUses(t, useSpec)
			now := time.Now()
			u.tick(t.Context(), []workload.Container{c}, now)
			ev.Container = c.ID
			u.told(ev)
			u.tick(t.Context(), []workload.Container{c}, now.Add(time.Hour))
			if s := u.attach(judgedID, []policy.ImageFinding{findingIn("b")})[0].Use; s.State != inventory.UseUnknown {
				t.Errorf("got %+v, want unknown", s)
			}
		})
	}
}

// Once a record of an executed file is lost, nothing is known to be unused any more, by whatever
// container and of whatever image, after a restart of the agent neither; what was seen in use stays.
func TestUsesLostNotes(t *testing.T) {
	for name, counted := range map[string]func() (uint64, error){
		"lost":              func() (uint64, error) { return 1, nil },
		"cannot be counted": func() (uint64, error) { return 0, errors.New("no map") },
	} {
		t.Run(name, func(t *testing.T) {
			u, c := testUses(t, useSpec)
			now := time.Now()
			other := "sha256:" + strings.Repeat("d", 64)
			u.past[other] = &inuse.Facts{Looks: 1, NotSeen: []inuse.Key{inuse.KeyOf("deb", "b", "1", "s")}}
			state := func(image, pkg string) string {
				return u.attach(image, []policy.ImageFinding{findingIn(pkg)})[0].Use.State
			}
			u.tick(t.Context(), []workload.Container{c}, now)
			for _, image := range []string{judgedID, other} {
				if s := state(image, "b"); s != inventory.NotSeen {
					t.Fatalf("before: %s of %s", s, image)
				}
			}
			u.losses = counted
			u.tick(t.Context(), []workload.Container{c}, now.Add(time.Second)) // no look is due
			check := func(when string) {
				t.Helper()
				for _, image := range []string{judgedID, other} {
					if s := state(image, "b"); s != inventory.UseUnknown {
						t.Errorf("%s: %s of %s, want unknown", when, s, image)
					}
				}
				if s := state(judgedID, "a"); s != inventory.InUse {
					t.Errorf("%s: what was seen in use is %s", when, s)
				}
			}
			check("at once")
			u.losses = func() (uint64, error) { return u.lost, nil }
			u.tick(t.Context(), []workload.Container{c}, now.Add(time.Hour))
			check("after another look")
			u.tick(t.Context(), nil, now.Add(2*time.Hour))
			check("after its end")
			u.a.openUses()
			u = u.a.uses
			check("the next agent")
		})
	}
}

// What was lost before a container is listed may be its: of that container, what was not seen is not
// known to be unused.
func TestUsesLostBeforeListed(t *testing.T) {
	for name, counted := range map[string]func() (uint64, error){
		"lost":              func() (uint64, error) { return 1, nil },
		"cannot be counted": func() (uint64, error) { return 0, errors.New("no map") },
	} {
		for after, want := range map[time.Duration]string{useTick: inventory.UseUnknown, 2 * useUnknown: inventory.NotSeen} {
			u, c := testUses(t, useSpec)
			now := time.Now()
			u.losses = counted
			u.tick(t.Context(), nil, now)
			u.losses = func() (uint64, error) { return u.lost, nil }
			u.tick(t.Context(), []workload.Container{c}, now.Add(after))
			u.tick(t.Context(), []workload.Container{c}, now.Add(after+useSettle))
			if s := u.attach(judgedID, []policy.ImageFinding{findingIn("b")})[0].Use.State; s != want {
				t.Errorf("%s %s before: %s, want %s", name, after, s, want)
			}
		}
	}
}

// TestNotedOfAll: what waits of all containers together is bounded, it is cut where most waits, and what is left out is known to be.
func TestNotedOfAll(t *testing.T) {
	u, _ := testUses(t, useSpec)
	id := func(c int) ident.ContainerID { return ident.ContainerID(fmt.Sprintf("%064x", c)) }
	tell := func(c int, exe string) {
		u.told(&enforce.Event{Type: enforce.EventUsed, Container: id(c), Exe: exe})
	}
	tell(0, "/small")
	long := strings.Repeat("x", 2000)
	for c := 1; c < 20; c++ {
		for i := range 200 * c {
			tell(c, fmt.Sprintf("/%s/%d", long, i))
		}
	}
	size, cut := 0, 0
	for _, by := range u.of {
		n := 0
		for f := range by.noted {
			n += len(f.path)
		}
		if n != by.notedBytes {
			t.Errorf("%d bytes are said to wait, and %d do", by.notedBytes, n)
		}
		size += n
		cut += by.cut
	}
	if size > 4<<20 || size != u.notedBytes || cut == 0 {
		t.Errorf("%d bytes of paths wait, said to be %d, and %d were cut; want 4 MiB at most, and some cut", size, u.notedBytes, cut)
	}
	if small := u.of[id(0)]; len(small.noted) != 1 || small.cut != 0 {
		t.Errorf("of a container that executed one file %d wait and %d were cut", len(small.noted), small.cut)
	}
	for c := range 20 {
		u.end(id(c), time.Now())
	}
	if u.notedBytes != 0 {
		t.Errorf("%d bytes are said to wait of containers that are gone", u.notedBytes)
	}
}
