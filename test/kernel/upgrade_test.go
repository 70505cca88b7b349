package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/verdict"
)

// upgrades are lives of an agent, one after the other, each with maps of another layout than the
// one before: the same shapes elsewhere, another number of containers, and after maps whose
// entries have another shape.
var upgrades = []struct {
	name, layout  string
	maxContainers uint32
	reshaped      bool
}{
	{"another layout", "-1", 0, false},
	{"fewer containers", "-2", 64, false},
	{"more containers", "-3", 0, false},
	{"entries of another shape", "-4", 0, true},
}

// While containers start, a dropped program is tried and a container's own policy holds, an agent
// dies and one of another layout takes over, again and again: nothing that is forbidden runs, and
// the binding holds throughout.
func TestUpgradeUnderLoad(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	was := h.opts
	floor := mustPolicies(rootDenied("asRoot: deny, drift: deny")).Floor()
	own := mustPolicies(rootDenied("asRoot: deny, drift: deny, deny: [/bin/id]")).Floor()
	h.enact(t, rootDenied("asRoot: deny, drift: deny"))
	bound := newID()
	bind := func() {
		t.Helper()
		if err := h.kernel.Bind(ident.ContainerID(bound), own); err != nil {
			t.Fatal(err)
		}
	}
	bind()
	ran(t, h.run(t, append([]string{"--id", bound, "--detach"}, asUser...), "/bin/sleep", "10000"))
	defer h.remove(t, bound)

	// why tells what the kernel's records say of a container that did not run as it should.
	why := func(id string) (lines []string) {
		for _, ev := range h.take(id, verdict.RuleNone) {
			lines = append(lines, fmt.Sprintf("%+v", *ev))
		}
		return lines
	}
	var stop atomic.Bool
	var starts, tries, execs atomic.Int64
	var workers sync.WaitGroup
	work := func(n *atomic.Int64, turn func()) {
		workers.Go(func() {
			for !stop.Load() {
				turn()
				n.Add(1)
			}
		})
	}
	work(&starts, func() {
		if r := h.run(t, nil, "/bin/id"); r.code == 0 || strings.Contains(r.out, "uid=") {
			t.Errorf("root runs in a new container: %v", r)
		}
		if r := h.run(t, asUser, "/bin/id"); r.code != 0 {
			t.Errorf("a user's program does not run: %v\n%s", r, strings.Join(why(r.id), "\n"))
		}
	})
	work(&tries, func() {
		if r := h.run(t, asUser, "/bin/attack", "--count", "50", "e14-retry"); r.code != 1 {
			t.Errorf("tries of a dropped program: %v\n%s", r, strings.Join(why(r.id), "\n"))
		}
	})
	work(&execs, func() {
		if r := h.exec(t, bound, asUser, "/bin/id"); r.code == 0 || strings.Contains(r.out, "uid=") {
			t.Errorf("the container's own policy does not hold: %v", r)
		}
		if r := h.exec(t, bound, asUser, "/bin/cat", "/dev/null"); r.code != 0 {
			t.Errorf("what the container's own policy allows does not run: %v\n%s", r, strings.Join(why(bound), "\n"))
		}
	})
	end := sync.OnceFunc(func() { stop.Store(true); workers.Wait() })
	defer end()

	take := func(name string, opts enforce.Options) {
		t.Helper()
		if err := h.die(); err != nil {
			t.Fatal(err)
		}
		opts.Floor = floor
		k, err := enforce.Open(opts)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		h.kernel, h.opts = k, opts
		h.listen()
		if k.Adopted() {
			t.Errorf("%s: the maps of another layout were adopted as they are", name)
		}
		bind()
		if err := k.Replace(); err != nil {
			t.Fatal(err)
		}
		before := [3]int64{starts.Load(), tries.Load(), execs.Load()}
		for !t.Failed() && (starts.Load() == before[0] || tries.Load() == before[1] || execs.Load() == before[2]) {
			time.Sleep(20 * time.Millisecond) //nolint:forbidigo // the workers have no other signal
		}
	}
	for _, u := range upgrades {
		if u.reshaped {
			reshape(t, h.opts)
		}
		opts := was
		opts.Layout, opts.MaxContainers = u.layout, u.maxContainers
		take(u.name, opts)
		stateOf(t, h.kernel, bound)
	}
	take("the first layout", was)
	end()
	h.opts = was
	t.Logf("%d starts, %d containers of tries, %d execs under %d agents", starts.Load(), tries.Load(), execs.Load(), len(upgrades)+2)
	if err := h.kernel.Unbind(ident.ContainerID(bound)); err != nil {
		t.Error(err)
	}
}

// A layout with room for fewer containers than run is refused, says so and leaves what there is:
// the programs in force, and the maps that the next agent adopts.
func TestUpgradeWithoutRoom(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	h.enact(t, rootDenied("asRoot: deny"))
	var ids []string
	for range 3 {
		c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sleep", "1000")
		ran(t, c)
		defer h.remove(t, c.id)
		ids = append(ids, c.id)
	}
	before := stateOf(t, h.kernel, ids[2])
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	opts := h.opts
	opts.Floor = mustPolicies(rootDenied("asRoot: deny")).Floor()
	few := opts
	few.Layout, few.MaxContainers = "-few", 2
	k, err := enforce.Open(few)
	if err == nil {
		err = errors.Join(k.Close(), errors.New("it opened"))
	}
	if !errors.Is(err, enforce.ErrFull) || !strings.Contains(err.Error(), "room for 2 containers") {
		t.Errorf("got %v, want %v", err, enforce.ErrFull)
	}
	if left, err := filepath.Glob(filepath.Join(h.opts.PinDir, "abi-*")); err != nil || len(left) != 1 {
		t.Errorf("pins %v, %v; want those of the earlier layout alone", left, err)
	}
	fresh := h.run(t, nil, "/bin/id")
	entered := h.exec(t, ids[0], []string{"--uid", "0"}, "/bin/id")
	for what, r := range map[string]result{"a fresh container": fresh, "an exec into a running one": entered} {
		if r.code == 0 {
			t.Errorf("after the refusal, %s ran as root: %v", what, r)
		}
	}
	if k, err = enforce.Open(opts); err != nil {
		t.Fatal(err)
	}
	h.kernel = k
	h.listen()
	if !k.Adopted() {
		t.Error("the maps of the earlier layout were lost")
	}
	if after := stateOf(t, k, ids[2]); after != before {
		t.Errorf("the container's state is %+v, and was %+v", after, before)
	}
}

// reshape makes the pinned map of containers one of larger entries, as a later version may have
// them. The programs in force keep theirs.
func reshape(t *testing.T, opts enforce.Options) {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(opts.PinDir, "abi-*", "maps", "bl_containers"))
	if err != nil || len(pins) != 1 {
		t.Fatalf("pinned maps %v, %v; want one", pins, err)
	}
	if err := os.Remove(pins[0]); err != nil {
		t.Fatal(err)
	}
	const mapCreate, objPin, hash = 0, 6, 1
	create := struct{ kind, key, value, entries, flags uint32 }{hash, 8, 160, 16, 0}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, mapCreate, uintptr(unsafe.Pointer(&create)), unsafe.Sizeof(create))
	if errno != 0 {
		t.Fatal(fmt.Errorf("make a map: %w", errno))
	}
	defer unix.Close(int(fd))
	path, err := unix.BytePtrFromString(pins[0])
	if err != nil {
		t.Fatal(err)
	}
	pin := struct {
		path      uint64
		fd, flags uint32
	}{uint64(uintptr(unsafe.Pointer(path))), uint32(fd), 0}
	_, _, errno = unix.Syscall(unix.SYS_BPF, objPin, uintptr(unsafe.Pointer(&pin)), unsafe.Sizeof(pin))
	runtime.KeepAlive(path)
	if errno != 0 {
		t.Fatal(fmt.Errorf("pin a map: %w", errno))
	}
}
