package main

import (
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
