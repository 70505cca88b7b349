package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/testneed"
)

func unloadConfig(t *testing.T) Config {
	t.Helper()
	return Config{RunDir: t.TempDir(), StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
}

// lastRecord returns the newest record of a journal; nil if it has none.
func lastRecord(t *testing.T, cfg *Config) (last *journal.Record, n int) {
	t.Helper()
	err := journal.Read(t.Context(), cfg.journalDir(), journal.ReadOptions{}, func(r *journal.Record) error {
		last, n = r, n+1
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return last, n
}

// TestUnloadIsRecorded: what takes enforcement away is in the journal, with who did it, and the chain holds.
func TestUnloadIsRecorded(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "needs root to mount a bpffs")
	cfg := unloadConfig(t)
	if err := os.Mkdir(cfg.PinDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", cfg.PinDir(), "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(cfg.PinDir(), unix.MNT_DETACH) }) // unloaded, if the test went well
	j, err := journal.Open(journal.Options{Dir: cfg.journalDir()})
	if err != nil {
		t.Fatal(err)
	}
	j.Append(&journal.Record{Kind: journal.KindAgent, Message: "agent stopped"})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	running, err := lockDir(cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unload(cfg); !errors.Is(err, ErrRunning) {
		t.Errorf("beside an agent: got %v, want %v", err, ErrRunning)
	}
	if _, n := lastRecord(t, &cfg); n != 1 {
		t.Errorf("an unload that was refused has left %d records, want 1", n)
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}

	removed, err := Unload(cfg)
	if err != nil || !removed {
		t.Fatalf("got %v, %v", removed, err)
	}
	r, n := lastRecord(t, &cfg)
	if n != 2 || r.Kind != journal.KindAgent || !strings.Contains(r.Message, "--unload") || time.Since(r.Time) > time.Minute ||
		!strings.Contains(r.Message, "uid 0, started by "+word(fmt.Sprintf("/proc/%d/comm", os.Getppid()))) {
		t.Errorf("%d records, the last is %+v", n, r)
	}
	if v, err := journal.Verify(cfg.journalDir()); err != nil || !v.OK() {
		t.Errorf("the chain: %+v, %v", v, err)
	}
	if removed, err := Unload(cfg); removed || err != nil {
		t.Errorf("a second time: got %v, %v", removed, err)
	}
}

func TestRecordUnload(t *testing.T) {
	t.Run("no journal is made", func(t *testing.T) {
		cfg := unloadConfig(t)
		if err := recordUnload(&cfg, nil); err != nil {
			t.Error(err)
		}
		if entries, err := os.ReadDir(cfg.StateDir); err != nil || len(entries) != 0 {
			t.Errorf("got %v, %v", entries, err)
		}
	})
	t.Run("what failed", func(t *testing.T) {
		cfg := unloadConfig(t)
		if err := os.Mkdir(cfg.journalDir(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := recordUnload(&cfg, errors.New("device busy")); err != nil {
			t.Fatal(err)
		}
		if r, n := lastRecord(t, &cfg); n != 1 || !strings.Contains(r.Message, "could not remove") || !strings.Contains(r.Message, "device busy") {
			t.Errorf("%d records, the last is %+v", n, r)
		}
	})
	t.Run("nothing is dropped for it", func(t *testing.T) {
		cfg := unloadConfig(t)
		j, err := journal.Open(journal.Options{Dir: cfg.journalDir(), MaxBytes: keepAll, SegmentBytes: 4096})
		if err != nil {
			t.Fatal(err)
		}
		for range 12 {
			j.Append(&journal.Record{Kind: journal.KindAgent, Message: strings.Repeat("x", 2000)})
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.JournalBytes = 16 << 10
		if err := recordUnload(&cfg, nil); err != nil {
			t.Fatal(err)
		}
		if _, n := lastRecord(t, &cfg); n != 13 {
			t.Errorf("got %d records, want 13", n)
		}
	})
	t.Run("another agent writes there", func(t *testing.T) {
		cfg := unloadConfig(t)
		j, err := journal.Open(journal.Options{Dir: cfg.journalDir()})
		if err != nil {
			t.Fatal(err)
		}
		if err := recordUnload(&cfg, nil); !errors.Is(err, journal.ErrLocked) {
			t.Errorf("got %v, want %v", err, journal.ErrLocked)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
