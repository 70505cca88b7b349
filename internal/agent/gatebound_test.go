package agent

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/ident"
)

// Who makes containers without end costs the agent no more than the bound: one beyond it is
// refused, counted, and no record of it is left.
func TestBindingsBounded(t *testing.T) {
	b := testBinder(t)
	if err := b.recallGate(); err != nil {
		t.Fatal(err)
	}
	b.most = 3
	id := func(i int) ident.ContainerID { return ident.ContainerID(fmt.Sprintf("%064x", i)) }
	for i := range 4 {
		g := testBinding(t, id(i))
		g.Labels = map[string]string{"large": strings.Repeat("x", 1<<16)}
		raw, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.keepGate(id(i), raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.recallGate(); err == nil || !strings.Contains(err.Error(), "which is the most") {
		t.Errorf("four records of three: %v", err)
	}
	if n := b.a.health.Counter("bindings_unreadable").Load(); len(b.gate) != 3 || n != 1 {
		t.Errorf("%d records are known, %d counted; want 3 and 1", len(b.gate), n)
	}
	for id, g := range b.gate {
		if g.Labels != nil {
			t.Error("the labels of the request stay in memory")
		}
		if kept, err := readBinding(b.gateFile(id)); err != nil || len(kept.Labels["large"]) != 1<<16 {
			t.Errorf("the file has no labels: %v", err)
		}
	}
	err := b.bindGate(testBinding(t, id(9)))
	if err == nil || !strings.Contains(err.Error(), "fix: remove containers") || b.a.health.Counter("bindings_full").Load() != 1 {
		t.Errorf("one beyond the bound: %v", err)
	}
	if b.Bound(string(id(9))) {
		t.Error("it is bound")
	}
}

// Names of records that wait for the disk are bounded; then all records are synced.
func TestUnsyncedBounded(t *testing.T) {
	b := testBinder(t)
	if err := b.recallGate(); err != nil {
		t.Fatal(err)
	}
	for i := range maxUnsynced + 10 {
		b.notSynced(fmt.Sprint(i))
	}
	if !b.syncAll || len(b.unsynced) > maxUnsynced {
		t.Errorf("all: %v, %d names", b.syncAll, len(b.unsynced))
	}
	if err := b.syncGate(); err != nil || b.syncAll || len(b.unsynced) > 0 {
		t.Errorf("after it: %v, all: %v, %d names", err, b.syncAll, len(b.unsynced))
	}
	b.a.cfg.StateDir = filepath.Join(b.a.cfg.StateDir, "gone")
	b.syncAll = true
	if err := b.syncGate(); err == nil || !b.syncAll {
		t.Errorf("a sync that failed: %v, is to be done again: %v", err, b.syncAll)
	}
}
