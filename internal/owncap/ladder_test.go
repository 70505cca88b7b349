package owncap

import (
	"testing"
	"time"
)

// walk gives a ladder a reading each two seconds and returns the steps.
func walk(l *Ladder, from time.Time, n int, memory, throttled float64) (steps []Step, end time.Time) {
	for range n {
		steps = append(steps, l.Next(from, memory, throttled))
		from = from.Add(2 * time.Second)
	}
	return steps, from
}

func last(s []Step) Step { return s[len(s)-1] }

func TestLadderClimbsStepByStep(t *testing.T) {
	var l Ladder
	got, _ := walk(&l, time.Unix(0, 0), 6, .96, 0)
	for i, want := range []Step{NoScans, SmallCaches, Sampled, Plain, Plain, Plain} {
		if got[i] != want {
			t.Errorf("reading %d: %v, want %v", i, got[i], want)
		}
	}
}

func TestLadderStopsWhereItHelps(t *testing.T) {
	var l Ladder
	got, at := walk(&l, time.Unix(0, 0), 100, .84, 0)
	if last(got) != SmallCaches {
		t.Fatalf("%v, want %v", last(got), SmallCaches)
	}
	// Between what it is climbed at and what it is left at, it stays.
	if got, at = walk(&l, at, 100, .75, 0); last(got) != SmallCaches {
		t.Fatalf("%v within the margin, want %v", last(got), SmallCaches)
	}
	if got, _ = walk(&l, at, 200, .3, 0); last(got) != Normal {
		t.Fatalf("%v, want %v", last(got), Normal)
	}
	down := 0
	for i := 1; i < len(got); i++ {
		if got[i] < got[i-1] {
			down++
		}
		if got[i-1]-got[i] > 1 && got[i] < got[i-1] {
			t.Errorf("two steps down at once")
		}
	}
	if down != 2 {
		t.Errorf("%d steps down, want 2", down)
	}
}

func TestLadderDoesNotFlap(t *testing.T) {
	var l Ladder
	at, changes, was := time.Unix(0, 0), 0, Normal
	for i := range 600 { // twenty minutes of a load that comes and goes
		memory := .5
		if i%10 < 5 {
			memory = .77
		}
		s := l.Next(at, memory, 0)
		if s != was {
			changes++
		}
		was, at = s, at.Add(2*time.Second)
	}
	if changes != 1 {
		t.Errorf("%d changes, want 1", changes)
	}
}

func TestLadderOfTheProcessor(t *testing.T) {
	var l Ladder
	got, at := walk(&l, time.Unix(0, 0), 2, 0, 1)
	if last(got) != Normal {
		t.Errorf("%v after a burst, want %v", last(got), Normal)
	}
	if got, at = walk(&l, at, 60, 0, 1); last(got) != Plain {
		t.Errorf("%v, want %v", last(got), Plain)
	}
	if got, _ = walk(&l, at, 100, 0, 0); last(got) != Normal {
		t.Errorf("%v, want %v", last(got), Normal)
	}
}
