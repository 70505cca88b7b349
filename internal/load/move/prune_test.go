package move

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/movesdir"
)

// TestPrune: journals and locks of moves that have ended go after a while, or when there are too many, and no others.
func TestPrune(t *testing.T) {
	w := newWorld(t, false)
	now := time.Now()
	put := func(id string, phase Phase, age time.Duration) {
		t.Helper()
		j := &Journal{Schema: journalSchema, ID: id, Phase: phase, Step: StepLease, Member: Member{Container: strings.Repeat("0", 64), Name: "old"}}
		b, err := json.Marshal(j)
		if err := errors.Join(err, os.WriteFile(filepath.Join(w.dir, id+".json"), b, 0o600), os.WriteFile(filepath.Join(w.dir, id+".lock"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{".json", ".lock"} {
			if err := os.Chtimes(filepath.Join(w.dir, id+kind), now.Add(-age), now.Add(-age)); err != nil {
				t.Fatal(err)
			}
		}
	}
	day := 24 * time.Hour
	put("00000000000000a1", Finished, 31*day)
	put("00000000000000a2", RolledBack, 31*day)
	put("00000000000000a3", Kept, 400*day)
	put("00000000000000a4", Back, 400*day)
	put("00000000000000a5", Forward, 400*day)
	put("00000000000000a6", Finished, 29*day)
	put("00000000000000a7", Finished, 400*day) // somebody has its lock
	unlock, err := movesdir.Lock(w.dir, "00000000000000a7")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	put("00000000000000a8", Finished, 400*day) // a lock alone
	if err := os.Remove(filepath.Join(w.dir, "00000000000000a8.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "notes.json"), nil, 0o600); err != nil { // not ours
		t.Fatal(err)
	}
	there := func() (out []string) {
		entries, err := os.ReadDir(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	j, err := w.move()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{j.ID + ".json", j.ID + ".lock", "notes.json"}
	for _, n := range []int{3, 4, 5, 6, 7} {
		want = append(want, fmt.Sprintf("00000000000000a%d.json", n), fmt.Sprintf("00000000000000a%d.lock", n))
	}
	slices.Sort(want)
	if got := there(); !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	for i := range maxEnded + 10 {
		put(fmt.Sprintf("00000000000b%04x", i), Finished, 2*day+time.Duration(i)*time.Minute)
	}
	put("00000000000c0000", Finished, day/2) // too young, however many there are
	prune(w.dir, now)
	var left int
	for _, name := range there() {
		if strings.HasPrefix(name, "00000000000b") && strings.HasSuffix(name, ".json") {
			left++
		}
	}
	if left > maxEnded || left < maxEnded-10 || !slices.Contains(there(), "00000000000c0000.json") || !slices.Contains(there(), "00000000000b0000.lock") {
		t.Errorf("%d left", left)
	}
}
