package enforce

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/belay-project/belay/internal/policy"
)

// Programs are handed over in the order of the hooks, however they were loaded, no more than so many
// are loaded at a time, and what nobody took comes back once.
func TestAhead(t *testing.T) {
	order := []int{3, 1, 4, 0, 5, 2}
	for taken := range len(order) + 1 {
		var begun []int
		var now, most atomic.Int32
		one := make(chan struct{}, 1) // guards begun
		take, rest := ahead(order, 2, func(i int) int {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			one <- struct{}{}
			begun = append(begun, i)
			<-one
			return i
		})
		for want := range taken {
			if got := take(); got != want {
				t.Fatalf("take %d: got %d", want, got)
			}
		}
		left := rest()
		one <- struct{}{}
		var want []int // what was begun and not taken
		for _, i := range begun {
			if i >= taken {
				want = append(want, i)
			}
		}
		slices.Sort(left)
		slices.Sort(want)
		if !slices.Equal(left, want) {
			t.Errorf("%d taken: got %v left, want %v", taken, left, want)
		}
		if again := rest(); len(again) != 0 {
			t.Errorf("%d taken: got %v left a second time", taken, again)
		}
		if most.Load() > 2 {
			t.Errorf("got %d at once, want 2 at most", most.Load())
		}
		if taken == len(order) && len(begun) != len(order) {
			t.Errorf("got %v begun, want all", begun)
		}
	}
}

// The first begun are the first of the order, not of the hooks.
func TestAheadOrder(t *testing.T) {
	order := []int{2, 0, 1}
	var begun []int
	take, rest := ahead(order, 1, func(i int) int { begun = append(begun, i); return i })
	for range order {
		take()
	}
	if rest(); !slices.Equal(begun, order) {
		t.Errorf("got %v begun, want %v", begun, order)
	}
}

// A start that fails at its first hook gives back the programs that were loaded ahead of it.
func TestOpenGivesBack(t *testing.T) {
	needBPF(t)
	empty, err := policy.NewSet(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := Options{
		Log: slog.New(slog.DiscardHandler), PinDir: filepath.Join(dir, "bpf"), SetsFile: filepath.Join(dir, "sets"), Scopes: []string{"/belay-none"},
		Floor: empty.Floor(), Build: empty.Effective(policy.Subject{Class: policy.ClassBuild}),
	}
	t.Cleanup(func() {
		if err := Unload(o.PinDir); err != nil {
			t.Error(err)
		}
	})
	opened := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	was := hooks
	defer func() { hooks = was }()
	hooks = slices.Insert(slices.Clone(hooks[:4]), 0, hook{program: "bl_none", name: "none", backends: everyBackend, need: true})
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it closes what was forgotten
	fails := func() int {
		if _, err := Open(o); err == nil {
			t.Fatal("it opened without a hook that it needs")
		}
		return opened()
	}
	before := fails()                     // what a process opens once is open by then
	if after := fails(); after > before { // fewer, where another test's have been collected
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
