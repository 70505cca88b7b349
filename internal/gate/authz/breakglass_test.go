package authz

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/health"
)

func TestBreakGlass(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "break-glass")
	var ahead atomic.Int64
	p := start(t, func(o *Options) {
		o.BreakGlass = file
		o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	passes := func(h map[string]string, uri string) bool {
		t.Helper()
		a := p.ask(t, asked{RequestMethod: "POST", RequestURI: uri, RequestHeaders: h})
		ev := p.last(t)
		if a.Allow && (ev.Cause != CauseBreakGlass || ev.Decision != Allowed || !strings.Contains(ev.Reason, "ticket 4711")) {
			t.Errorf("passed, and the record is %+v", ev)
		}
		return a.Allow
	}
	const stop = "/v1.41/containers/x/stop"
	if passes(nil, stop) {
		t.Fatal("it passes without the file")
	}
	if err := os.WriteFile(file, []byte("ticket 4711:\n the gate is \x1b[1mdown\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !passes(nil, stop) {
		t.Error("it does not pass though the glass is broken")
	}
	if got := p.health.Snapshot().Components; len(got) != 1 || got[0].State != health.Degraded {
		t.Errorf("health says %+v", got)
	}
	if passes(nil, "/v1.41/plugins/belay/disable") {
		t.Error("D17 the plugin can be disabled while the glass is broken")
	}
	if passes(map[string]string{ticket.Header: "x"}, stop) {
		t.Error("a forged ticket passes while the glass is broken")
	}
	ahead.Store(int64(16 * time.Minute))
	if passes(nil, stop) {
		t.Error("it passes after its time")
	}
	p.mu.Lock()
	notes := strings.Join(p.notes, "\n")
	p.mu.Unlock()
	if strings.Count(notes, "ticket 4711: the gate is [1mdown") != 1 || strings.Count(notes, "break-glass: over") != 1 {
		t.Errorf("notes: %q", notes)
	}
	if n := p.counts.broken; n.Load() != 1 {
		t.Errorf("%d requests are counted, want 1", n.Load())
	}
}

func TestBreakGlassFile(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		make func(t *testing.T, file string) error
		ok   bool
	}{
		{"good", func(_ *testing.T, f string) error { return os.WriteFile(f, []byte("why"), 0o600) }, true},
		{"others may read it", func(_ *testing.T, f string) error { return os.WriteFile(f, []byte("why"), 0o644) }, true},
		{"no reason", func(_ *testing.T, f string) error { return os.WriteFile(f, []byte(" \n"), 0o600) }, false},
		{"others may write it", func(_ *testing.T, f string) error {
			return first(os.WriteFile(f, []byte("why"), 0o600), os.Chmod(f, 0o602))
		}, false},
		{"its directory is open", func(_ *testing.T, f string) error {
			return first(os.WriteFile(f, []byte("why"), 0o600), os.Chmod(filepath.Dir(f), 0o777))
		}, false},
		{"a symbolic link", func(t *testing.T, f string) error {
			other := filepath.Join(t.TempDir(), "x")
			return first(os.WriteFile(other, []byte("why"), 0o600), os.Symlink(other, f))
		}, false},
		{"a hard link", func(_ *testing.T, f string) error {
			return first(os.WriteFile(f+".x", []byte("why"), 0o600), os.Link(f+".x", f))
		}, false},
		{"a directory", func(_ *testing.T, f string) error { return os.Mkdir(f, 0o700) }, false},
		{"old", func(_ *testing.T, f string) error {
			return first(os.WriteFile(f, []byte("why"), 0o600), os.Chtimes(f, now, now.Add(-16*time.Minute)))
		}, false},
		{"from the future", func(_ *testing.T, f string) error {
			return first(os.WriteFile(f, []byte("why"), 0o600), os.Chtimes(f, now, now.Add(time.Hour)))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			g := breakGlass{file: filepath.Join(dir, "break-glass"), lasts: 15 * time.Minute}
			if err := c.make(t, g.file); err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := g.look(time.Now()); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
