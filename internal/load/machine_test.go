package load

import (
	"errors"
	"slices"
	"testing"
	"time"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// play steps a machine through readings that are each held for two seconds a sample, and
// returns what was told and when, in seconds.
func play(m *machine, r rule, from time.Time, readings []span) (told []string, end time.Time) {
	now := from
	for _, s := range readings {
		for until := now.Add(s.lasting); now.Before(until); now = now.Add(tickEvery) {
			if e := m.step(now, r, s.percent, s.err); e != "" {
				told = append(told, e+"@"+now.Sub(from).String())
			}
		}
	}
	return told, now
}

type span struct {
	percent float64
	lasting time.Duration
	err     error
}

func TestMachine(t *testing.T) {
	r := rule{percent: 80, hysteresis: 10, lasting: 20 * time.Second, coolDown: 5 * time.Minute}
	broken := errors.New("broken")
	for _, tt := range []struct {
		name string
		in   []span
		want []string
	}{
		{"a short peak is nothing", []span{{50, time.Minute, nil}, {99, 18 * time.Second, nil}, {50, time.Minute, nil}}, nil},
		{"at the cap is not over it", []span{{80, time.Hour, nil}}, nil},
		{"over, then relieved", []span{{50, 10 * time.Second, nil}, {81, time.Minute, nil}, {70, time.Minute, nil}}, []string{"over@30s", "relieved@1m30s"}},
		{"between the two nothing changes", []span{{81, time.Minute, nil}, {71, time.Hour, nil}}, []string{"over@20s"}},
		{"a short relief is none", []span{{81, time.Minute, nil}, {10, 10 * time.Second, nil}, {75, time.Minute, nil}, {10, 18 * time.Second, nil}, {81, time.Minute, nil}}, []string{"over@20s"}},
		{
			"load that swings slowly is told once in a cool-down",
			slices.Repeat([]span{{95, 30 * time.Second, nil}, {10, 30 * time.Second, nil}}, 10),
			[]string{"over@20s", "relieved@50s", "over@5m20s", "relieved@5m50s"},
		},
		{"load that swings fast is not told", slices.Repeat([]span{{95, 10 * time.Second, nil}, {10, 10 * time.Second, nil}}, 60), nil},
		{
			"what the cool-down held back is told when it ends",
			[]span{{95, 30 * time.Second, nil}, {10, 30 * time.Second, nil}, {95, 10 * time.Minute, nil}},
			[]string{"over@20s", "relieved@50s", "over@5m20s"},
		},
		{"a failure that passes is nothing", []span{{50, 10 * time.Second, nil}, {0, 4 * time.Second, broken}, {50, time.Minute, nil}}, nil},
		{"one that lasts is told, and its end", []span{{50, 10 * time.Second, nil}, {0, time.Minute, broken}, {50, time.Minute, nil}}, []string{"unreadable@16s", "readable@1m10s"}},
		{
			"a failure neither ends nor begins what is over",
			[]span{{95, 30 * time.Second, nil}, {0, time.Minute, broken}, {95, time.Minute, nil}, {10, time.Minute, nil}},
			[]string{"over@20s", "unreadable@36s", "readable@1m30s", "relieved@2m50s"},
		},
		{
			"failures that come and go are told once in a cool-down",
			slices.Repeat([]span{{50, 10 * time.Second, nil}, {0, 20 * time.Second, broken}}, 10),
			[]string{"unreadable@16s", "readable@30s"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m machine
			got, _ := play(&m, r, t0, tt.in)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestMachineCounts what is held back.
func TestMachineHeldBack(t *testing.T) {
	var m machine
	r := rule{percent: 80, hysteresis: 10, lasting: 20 * time.Second, coolDown: time.Hour}
	play(&m, r, t0, slices.Repeat([]span{{95, 30 * time.Second, nil}, {10, 30 * time.Second, nil}}, 5))
	if m.heldBack != 4 {
		t.Errorf("got %d held back, want 4", m.heldBack)
	}
}
