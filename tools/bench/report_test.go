package main

import (
	"errors"
	"strings"
	"testing"
)

// What is measured again takes the place of what was, the rest stays, and what was missed is
// gathered from both.
func TestReportKeeps(t *testing.T) {
	old := &report{context: "then", chapters: map[string]string{}}
	old.add(sections[0], []figure{atMost("a", 2, 1, "%.0f ns"), plain("b", "x")}, "1", nil)
	old.add(sections[1], []figure{atMost("c", 3, 1, "%.0f ns")}, "1", nil)
	now := &report{context: "now", chapters: map[string]string{}}
	now.add(sections[1], []figure{atMost("c", 1, 1, "%.0f ns")}, "2", nil)
	now.keep(old.text())
	text := now.text()
	for _, want := range []string{
		"- " + sections[0].title + ": a: 2 ns (target ≤ 1 ns)", "Measured then; load 1", "Measured now; load 2", "| b | x |  |  |", "| c | 1 ns | ≤ 1 ns | met |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "3 ns") || strings.Count(text, "Measured then") != 1 {
		t.Errorf("what was measured again is still there:\n%s", text)
	}
	again := &report{chapters: map[string]string{}}
	again.keep(text)
	if again.text() != text {
		t.Errorf("a report that is kept whole changes:\n%s\n%s", text, again.text())
	}
}

// Of repeated runs the first is shown, the least processor time, and the most of what must stay small.
func TestRepeated(t *testing.T) {
	runs := []*spent{{cost: cost{cpu: 3, peak: 1}, disk: 7}, {cost: cost{cpu: 1, peak: 2}}, {cost: cost{cpu: 2, peak: 9}}}
	n := 0
	first, least, err := repeated(len(runs), func() (*spent, error) { n++; return runs[n-1], nil })
	if err != nil || first != runs[0] || first.peak != 1 || least.cpu != 1 || least.peak != 9 || least.disk != 7 {
		t.Errorf("%v: first %+v, least %+v", err, first, least)
	}
	gone := errors.New("gone")
	if _, _, err := repeated(2, func() (*spent, error) { return nil, gone }); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}
