package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
			if string(ev.Container) == id && ev.Type == enforce.EventUsed && ev.Hook == "sched_process_exec" {
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

// usedHow returns the base names of the files that a container was told to use by a hook, sorted.
func (h *host) usedHow(id, hook string) []string {
	var files []string
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ev := range h.events {
		if string(ev.Container) == id && ev.Type == enforce.EventUsed && ev.Hook == hook {
			files = append(files, filepath.Base(ev.Exe))
		}
	}
	slices.Sort(files)
	return files
}

// What a container maps as code is told, and what it opens as code by its name: archives one by one, of
// scripts one for each folder, but in those of Python, where a file can be a package. Nothing is told of
// what is written, of what is denied and of what is not of its root.
func TestUsedLoaded(t *testing.T) {
	h := get(t)
	const (
		node    = "/tmp/node_modules/x/lib/"
		n31     = "aaaaaaaaaaaaaaaaaaaaaaaaaaa"
		edges   = n31 + ".jar " + n31 + "a.jar " + n31 + "aaaa.jar " + n31 + "aaaaaaaa.jar " + n31 + "aaaaaaaaa.jar"
		long    = "a_module_with_a_name_that_is_not_in_the_entry"
		prepare = "mkdir -p " + node + "deep " + node + "dir.js /tmp/site-packages/__pycache__ /tmp/app/__pycache__; cd /tmp; " +
			"for f in " + node + "a.js " + node + "b.js " + node + "deep/c.mjs " + node + "d.json site-packages/one.py site-packages/" + long + ".py " +
			"site-packages/__pycache__/two.pyc site-packages/__pycache__/three.pyc app/__pycache__/four.pyc app/__pycache__/five.pyc x.jar y.jar " +
			"denied.php /data/vol.py " + edges + "; do echo > $f; done; "
		read = "cat " + node + "a.js " + node + "a.js " + node + "b.js " + node + "deep/c.mjs " + node + "d.json site-packages/one.py site-packages/" + long + ".py " +
			"site-packages/__pycache__/two.pyc site-packages/__pycache__/three.pyc app/__pycache__/four.pyc app/__pycache__/five.pyc x.jar y.jar x.jar " +
			edges + " /data/vol.py >/dev/null; cat denied.php >/dev/null 2>&1; ls " + node + "dir.js; /bin/dyn-id >/dev/null; /bin/id >/dev/null"
	)
	flags := append([]string{"--tmpfs", "/data"}, asUser...)
	for mode, denied := range map[string]bool{"enforce": true, "audit": false} {
		t.Run(mode, func(t *testing.T) {
			h.enact(t, document("deny", mode, "  files: {rules: [{paths: [/tmp/denied.php], deny: [read]}]}\n"))
			r := h.run(t, flags, "/bin/sh", "-c", prepare+read)
			h.used(t, r.id, "/bin/id")
			opened, mapped := h.usedHow(r.id, "file_open"), h.usedHow(r.id, "mmap_file")
			if h.kernel.Backend() == verdict.BackendSignal {
				if len(opened)+len(mapped) > 0 {
					t.Errorf("got %v and %v of a backend that sees programs alone", opened, mapped)
				}
				return
			}
			want := []string{"a.js", "c.mjs", "four.pyc", long + ".py", "one.py", "three.pyc", "two.pyc", "x.jar", "y.jar"}
			want = append(want, strings.Fields(edges)...)
			if !denied {
				want = append(want, "denied.php")
			}
			slices.Sort(want)
			if !slices.Equal(opened, want) {
				t.Errorf("opened: got %v, want %v: %v", opened, want, r)
			}
			if n := slices.IndexFunc(mapped, func(f string) bool { return strings.HasPrefix(f, "libc.") }); n < 0 || len(slices.Compact(slices.Clone(mapped))) != len(mapped) {
				t.Errorf("mapped: got %v, want a libc, and each once", mapped)
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
