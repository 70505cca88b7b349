package health

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clock is a time that moves by a second with every look.
func clock() func() time.Time {
	var n int64
	return func() time.Time { n++; return time.Unix(n, 0).UTC() }
}

func at(sec int64) time.Time { return time.Unix(sec, 0).UTC() }

func TestSnapshot(t *testing.T) {
	tests := []struct {
		name string
		do   func(r *Registry)
		want Snapshot
	}{
		{
			name: "empty is failed",
			do:   func(*Registry) {},
			want: Snapshot{State: Failed, Time: at(1), Components: []Component{}, Counters: []CounterValue{}},
		},
		{
			name: "ordered by name, worst state wins",
			do: func(r *Registry) {
				r.SetOK("journal")
				r.SetDegraded("docker", "reconnecting")
				r.Counter("z").Add(2)
				r.Counter("a").Add(1)
			},
			want: Snapshot{
				State: Degraded, Time: at(3),
				Components: []Component{
					{Name: "docker", State: Degraded, Reason: "reconnecting", Since: at(2)},
					{Name: "journal", State: OK, Since: at(1)},
				},
				Counters: []CounterValue{{"a", 1}, {"z", 2}},
			},
		},
		{
			name: "since moves with the state, not with the reason",
			do: func(r *Registry) {
				r.SetFailed("hooks", "attach")
				r.SetFailed("hooks", "attach again")
			},
			want: Snapshot{
				State: Failed, Time: at(2),
				Components: []Component{{Name: "hooks", State: Failed, Reason: "attach again", Since: at(1)}},
				Counters:   []CounterValue{},
			},
		},
		{
			name: "recovery clears the reason",
			do: func(r *Registry) {
				r.SetFailed("hooks", "attach")
				r.SetOK("hooks")
			},
			want: Snapshot{
				State: OK, Time: at(3),
				Components: []Component{{Name: "hooks", State: OK, Since: at(2)}},
				Counters:   []CounterValue{},
			},
		},
		{
			name: "expected components fail until they report",
			do: func(r *Registry) {
				r.SetOK("journal")
				r.Expect("journal", "hooks")
			},
			want: Snapshot{
				State: Failed, Time: at(3),
				Components: []Component{
					{Name: "hooks", State: Failed, Reason: "has not reported yet", Since: at(2)},
					{Name: "journal", State: OK, Since: at(1)},
				},
				Counters: []CounterValue{},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := New(clock())
			tt.do(r)
			got := r.Snapshot()
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Fatalf("snapshot (-want +got):\n%s", d)
			}
			b, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			var back Snapshot
			if err := json.Unmarshal(b, &back); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(got, back); d != "" {
				t.Errorf("through JSON (-want +got):\n%s", d)
			}
		})
	}
}

func TestStateText(t *testing.T) {
	var zero State
	if zero != Failed {
		t.Errorf("got zero state %v, want failed", zero)
	}
	for _, s := range []State{Failed, Degraded, OK} {
		var back State
		b, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := back.UnmarshalText(b); err != nil || back != s {
			t.Errorf("got %v, %v, want %v", back, err, s)
		}
	}
	if err := new(State).UnmarshalText([]byte("fine")); err == nil {
		t.Error("got nil for an unknown state, want an error")
	}
}

func TestComponent(t *testing.T) {
	r := New(nil)
	if c, ok := r.Component("x"); ok || c.State != Failed {
		t.Errorf("got %v, %v for an unknown component, want failed, false", c, ok)
	}
	r.SetOK("x")
	if c, ok := r.Component("x"); !ok || c.State != OK || c.Since.IsZero() {
		t.Errorf("got %v, %v, want ok, true", c, ok)
	}
}

func TestCounterRaise(t *testing.T) {
	tests := []struct {
		name  string
		raise []uint64
		want  uint64
	}{
		{name: "grows", raise: []uint64{3, 9}, want: 9},
		{name: "never falls", raise: []uint64{9, 3}, want: 9},
		{name: "never", want: 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c Counter
			for _, v := range tt.raise {
				c.Raise(v)
			}
			if got := c.Load(); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestConcurrent(t *testing.T) {
	r := New(nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				r.SetDegraded(fmt.Sprintf("c%d", i%3), "x")
				r.SetOK(fmt.Sprintf("c%d", i%3))
				r.Counter("shared").Add(1)
				r.Counter("high").Raise(uint64(n))
				r.Snapshot()
			}
		})
	}
	wg.Wait()
	s := r.Snapshot()
	if got := r.Counter("shared").Load(); got != 1600 {
		t.Errorf("got %d, want 1600", got)
	}
	if got := r.Counter("high").Load(); got != 199 {
		t.Errorf("got %d, want 199", got)
	}
	if len(s.Components) != 3 || s.State != OK {
		t.Errorf("got %d components, %v, want 3, ok", len(s.Components), s.State)
	}
}

func BenchmarkCounterAdd(b *testing.B) {
	c := New(nil).Counter("n")
	b.ReportAllocs()
	for b.Loop() {
		c.Add(1)
	}
	if n := testing.AllocsPerRun(100, func() { c.Add(1) }); n != 0 {
		b.Errorf("got %v allocations, want 0", n)
	}
}
