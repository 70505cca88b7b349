package survive

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/tools/lab"
)

// A full disk under the journal costs records, which are counted, and no denial; with room
// again records are written again.
func TestDiskFull(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	if err := w.agent.Stop(); err != nil {
		t.Fatal(err)
	}
	state := w.agent.StateDir()
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.agent.Stop()
		if err := unix.Unmount(state, 0); err != nil {
			t.Error(err)
		}
	})
	if err := w.agent.Start(ctx); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(state, "ballast")
	fill(t, ballast)
	lost := func() bool {
		w.enforced(t, "with a full disk")
		return strings.Contains(w.agent.Belay(ctx, "status", "-o", "json").Stdout, "no space left on device")
	}
	if !lab.Await(ctx, time.Minute, lost) {
		t.Errorf("the status does not tell of a full disk: %s", w.agent.Belay(ctx, "status").Text())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	again := lab.Await(ctx, time.Minute, func() bool {
		w.enforced(t, "with room again")
		d, err := w.agent.Denials(ctx, since)
		return err == nil && len(d) > 0
	})
	if !again {
		t.Errorf("with room again nothing is recorded: %s", w.agent.Belay(ctx, "status").Text())
	}
	if r := w.agent.Belay(ctx, "journal", "verify", filepath.Join(state, "journal")); r.Code != 0 {
		t.Errorf("the journal does not verify: %v", r.Err())
	}
}

// fill writes a file until its file system is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; { // then smaller pieces, for the last pages
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// Files of the state directory that are garbage, cut or empty: the agent enforces, or does not
// start and names the file; the rules of the last agent stay until then.
func TestBrokenState(t *testing.T) {
	w := need(t)
	if err := w.agent.Stop(); err != nil {
		t.Fatal(err)
	}
	var files []string
	err := filepath.WalkDir(w.agent.StateDir(), func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(d.Name(), "lock") {
			files = append(files, p)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of state: %v", err)
	}
	spoilers := []struct {
		name  string
		spoil func([]byte) []byte
	}{
		{"garbage", func([]byte) []byte { return []byte("\x00\xff{]garbage\n") }},
		{"cut", func(b []byte) []byte { return b[:len(b)/2] }},
		{"empty", func([]byte) []byte { return nil }},
	}
	rounds := count(t, "BELAY_BROKEN_ROUNDS", 1) // 3: each file in each way
	for round := range min(rounds, len(spoilers)) {
		for i, p := range files {
			how := spoilers[(i+round)%len(spoilers)]
			name, _ := filepath.Rel(w.agent.StateDir(), p)
			t.Run(how.name+" "+name, func(t *testing.T) { w.broken(t, p, how.spoil) })
		}
	}
}

// broken starts the agent over one file that is spoilt, and ends it.
func (w *world) broken(t *testing.T, path string, spoil func([]byte) []byte) {
	whole, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return // the journal has moved on
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, spoil(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	startErr := w.agent.Start(t.Context())
	w.enforced(t, "over a broken "+path)
	if startErr == nil {
		if err := w.agent.Stop(); err != nil {
			t.Error(err)
		}
		return
	}
	if !strings.Contains(startErr.Error(), filepath.Dir(path)) {
		t.Errorf("the agent does not start, and does not name the file: %v", startErr)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A pin that is gone, as after a removal that was cut off: the agent makes up for it, and enforces.
func TestStalePins(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	if err := w.agent.Stop(); err != nil {
		t.Fatal(err)
	}
	bpf := filepath.Join(w.agent.RunDir(), "bpf")
	var pins []string
	err := filepath.WalkDir(bpf, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			pins = append(pins, p)
		}
		return err
	})
	if err != nil || len(pins) == 0 {
		t.Fatalf("no pins in %s: %v", bpf, err)
	}
	if err := os.Remove(pins[0]); err != nil {
		t.Fatal(err)
	}
	if err := w.agent.Start(ctx); err != nil {
		t.Fatalf("with %s gone: %v", filepath.Base(pins[0]), err)
	}
	w.enforced(t, "with a pin gone")
}

// A second agent on the same directories does not start, says so, and disturbs nothing.
func TestTwoAgents(t *testing.T) {
	w := need(t)
	pid := w.agent.PID()
	r := w.agent.Second(t.Context())
	if r.Code == 0 || !strings.Contains(r.Text(), "another --run-dir") {
		t.Errorf("a second agent: exit %d: %s", r.Code, r.Text())
	}
	if w.agent.PID() != pid {
		t.Errorf("the agent is process %d, was %d", w.agent.PID(), pid)
	}
	w.enforced(t, "with a second agent refused")
}

// Policies beyond any bound are refused with the file and a line, those within bounds are
// taken, and what was in force stays in force.
func TestHostilePolicies(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	const head = "apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: hostile}\nspec:\n  mode: enforce\n"
	list := func(n int, f string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, f, i)
		}
		return b.String()
	}
	t.Cleanup(func() {
		if err := w.agent.AwaitPolicies(context.WithoutCancel(ctx), 30*time.Second, "hardened"); err != nil {
			t.Error(err)
		}
	})
	for i, tt := range []struct {
		name, text string
		refused    bool
	}{
		{"a million paths", head + "  exec:\n    deny:\n" + list(1_000_000, "    - /opt/forbidden/%d\n"), true},
		{"a deep glob", head + "  exec:\n    deny: [\"" + strings.Repeat("/**", 2000) + "\"]\n", true},
		{"nested aliases", head + "  exec:\n    deny: &a [x]\n" + "x1: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nx2: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nx3: [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n", true},
		{"an alias of itself", head + "  exec: &a\n    deny: *a\n", true},
		{"deep nesting", head + "  exec: " + strings.Repeat("[", 100_000) + "\n", true},
		{"one name twice", head + "  exec: {deny: [/bin/a]}\n---\n" + head + "  exec: {deny: [/bin/b]}\n", true},
		{"not text", "\x00\x01\x02\xff\xfe", true},
		{"10,000 paths", head + "  exec:\n    deny:\n" + list(10_000, "    - /opt/forbidden/%d\n"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := fmt.Sprintf("hostile%d.yaml", i)
			if err := w.agent.SetPolicy(file, tt.text); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := w.agent.SetPolicy(file, ""); err != nil {
					t.Error(err)
				}
			}()
			if !tt.refused {
				if err := w.agent.AwaitPolicies(ctx, time.Minute, "hardened,hostile"); err != nil {
					t.Error(err)
				}
			} else {
				var said string
				told := lab.Await(ctx, time.Minute, func() bool {
					st, err := w.agent.Status(ctx)
					if err != nil {
						said = err.Error()
						return false
					}
					said = st.Policies.Error
					return strings.Contains(said, file) && st.Names() == "hardened"
				})
				if !told {
					t.Errorf("the status does not name the file, or what was in force is not: %q", said)
				}
			}
			w.enforced(t, "under "+tt.name)
		})
	}
}
