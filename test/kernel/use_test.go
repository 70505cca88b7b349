package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/verdict"
)

// used returns the files of which it was told that a container executed them, when its end was
// seen and its records are in.
func (h *host) used(tb testing.TB, id, last string) []string {
	tb.Helper()
	var files []string
	for range 500 {
		files = files[:0]
		h.mu.Lock()
		for _, ev := range h.events {
			if string(ev.Container) == id && ev.Type == enforce.EventUsed {
				files = append(files, ev.Exe)
			}
		}
		h.mu.Unlock()
		if slices.Contains(files, last) {
			return files
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the ring has no other signal
	}
	tb.Fatalf("nobody told of %s, but of %v", last, files)
	return nil
}

// What a container executes is told once, however short it ran and however often, and not what
// was denied, nor what is not of its root.
func TestUsed(t *testing.T) {
	h := get(t)
	loop := "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/id >/dev/null; done; cp /bin/id /data/copy; /data/copy >/dev/null; /bin/dyn-id"
	flags := append([]string{"--tmpfs", "/data"}, asUser...)
	t.Run("once", func(t *testing.T) {
		h.enact(t, document("none", "audit", nothing))
		r := h.run(t, flags, "/bin/sh", "-c", loop)
		ran(t, r)
		files := h.used(t, r.id, "/bin/dyn-id")
		for _, want := range []string{"/bin/busybox", "/bin/id", "/bin/dyn-id"} {
			if n := len(slices.DeleteFunc(slices.Clone(files), func(f string) bool { return f != want })); n != 1 {
				t.Errorf("%s was told %d times of %v, want once", want, n, files)
			}
		}
		if slices.Contains(files, "/data/copy") {
			t.Errorf("a file of a volume was told of: %v", files)
		}
		h.none(t, r.id)
	})
	for mode, told := range map[string]bool{"enforce": false, "audit": true} {
		t.Run(mode, func(t *testing.T) {
			h.enact(t, document("deny", mode, "  exec: {deny: [/bin/id]}\n"))
			r := h.run(t, flags, "/bin/sh", "-c", loop)
			if len(h.take(r.id, verdict.RulePathDeny)) == 0 {
				t.Errorf("no record of the rule: %v", r)
			}
			if files := h.used(t, r.id, "/bin/dyn-id"); slices.Contains(files, "/bin/id") != told {
				t.Errorf("got %v, want /bin/id told %v", files, told)
			}
		})
	}
}

// TestUsedFlood: more than the ring holds is counted, and changes nothing of what is denied.
func TestUsedFlood(t *testing.T) {
	inFullGuests(t)
	h := get(t)
	h.enact(t, document("deny", "enforce", "  exec: {asRoot: deny}\n"))
	h.cancel() // nobody drains the rings
	<-h.done
	r := h.run(t, asUser, "/bin/sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do cp /bin/id /tmp/id$i; /tmp/id$i >/dev/null; i=$((i+1)); done; /bin/suid-id", 300))
	failures, err := h.kernel.Failures()
	h.listen()
	if err != nil || failures["use_ring"] == 0 {
		t.Errorf("got %v, %v, want lost notes counted: %v", failures, err, r)
	}
	if len(h.take(r.id, verdict.RuleAsRoot)) == 0 {
		t.Error("the denial is not in its ring")
	}
	// Who comes after an agent is told anew, also of what was told before.
	ctr := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.1; done; /bin/id; sleep 1000")
	ran(t, ctr)
	defer h.remove(t, ctr.id)
	h.used(t, ctr.id, "/bin/busybox")
	if err := h.die(); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.events = nil
	h.mu.Unlock()
	if h.kernel, err = enforce.Open(h.opts); err != nil {
		t.Fatal(err)
	}
	h.listen()
	h.used(t, ctr.id, "/bin/busybox")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/tmp/go", firstPID(t, filepath.Join(cgroupMount(t), h.scope, ctr.id))), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	h.used(t, ctr.id, "/bin/id")
}
