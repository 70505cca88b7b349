package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

var topStart = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func topID(n int) string { return fmt.Sprintf("%064x", n) }

func topRecord(container int, d verdict.Decision, at time.Duration) *journal.Record {
	return &journal.Record{
		Time: topStart.Add(at), Kind: journal.KindExec, Decision: d, Container: &journal.Container{ID: ident.ContainerID(topID(container)), Name: fmt.Sprint("app-", container)},
		Policy: &journal.Policy{Name: "web", Rule: "exec.drift"},
	}
}

// topWorld is a picture of n containers, each with what it takes.
func topWorld(n int, at time.Duration) *topPicture {
	p := &topPicture{Time: topStart.Add(at), Host: "web1", Enforcing: true, Backend: "lsm", Policies: 2}
	var list []control.Container
	load := &control.LoadStatus{Watching: true, Caps: []control.LoadCap{{Cap: "memory", Limit: 85, Percent: new(91.0), State: "over"}, {Cap: "cpu", Limit: 80}}}
	for i := range n {
		list = append(list, control.Container{ID: topID(i), Name: fmt.Sprint("app-", i), Image: "img", Mode: "enforce"})
		load.Containers = append(load.Containers, control.LoadOf{ID: topID(i), CPUs: float64(i), MemoryBytes: uint64(n-i) << 20, PIDs: 3})
	}
	p.fill(list, load)
	return p
}

func TestTally(t *testing.T) {
	ty := newTally(topStart)
	for i := range 30 {
		ty.add(topRecord(1, verdict.Denied, time.Duration(i)*time.Second))
		ty.add(topRecord(2, verdict.Allowed, time.Duration(i)*time.Second))
	}
	ty.add(topRecord(2, verdict.WouldDeny, 29*time.Second))
	ty.add(&journal.Record{Time: topStart, Kind: journal.KindLoss, Lost: map[string]uint64{"ring_events": 7}})
	p := topWorld(3, 30*time.Second)
	ty.into(p)
	p.order(byDenials)
	if p.Total != (topCounts{Allowed: 30, Denied: 30, WouldDeny: 1}) || p.Lost != 7 {
		t.Errorf("%+v, lost %d", p.Total, p.Lost)
	}
	if p.Denied != 1 || p.Decisions != 61.0/30 {
		t.Errorf("%v denials, %v decisions a second", p.Denied, p.Decisions)
	}
	if c := p.Containers[0]; c.Name != "app-1" || c.Minute != 30 || c.Denied != 30 {
		t.Errorf("%+v", c)
	}
	if len(p.Last) != 31 || p.Last[0].Decision != verdict.WouldDeny {
		t.Errorf("%d last denials", len(p.Last))
	}
	// A minute later nothing is of the last minute, and counts stay.
	p = topWorld(3, 120*time.Second)
	ty.into(p)
	p.order(byDenials)
	if c := p.Containers[0]; p.Denied != 0 || c.Minute != 0 || c.Denied != 30 || c.Name != "app-1" {
		t.Errorf("a minute later %v a second, %+v", p.Denied, c)
	}
	// What is gone, and was quiet, is forgotten.
	p = topWorld(1, 121*time.Second)
	ty.into(p)
	if len(ty.of) != 0 {
		t.Errorf("%d containers are remembered", len(ty.of))
	}
}

// However many containers come and go, no more than a bound is held.
func TestTallyIsBounded(t *testing.T) {
	ty := newTally(topStart)
	for i := range 3 * topCount {
		ty.add(topRecord(i, verdict.Denied, time.Second))
	}
	if len(ty.of) > topCount || len(ty.last) > 2*topKept || ty.total.Denied != 3*topCount {
		t.Errorf("%d containers, %d records, %d denials", len(ty.of), len(ty.last), ty.total.Denied)
	}
}

func TestTopOrder(t *testing.T) {
	for by, want := range map[topSort]string{byDenials: "app-0", byName: "app-0", byCPU: "app-4", byMemory: "app-0"} {
		p := topWorld(5, 0)
		if p.order(by); p.Containers[0].Name != want {
			t.Errorf("by %s: %s is first", topSortNames[by], p.Containers[0].Name)
		}
	}
}

// Whatever the window and the names, no line is wider and no picture higher than it.
func TestTopFrameFits(t *testing.T) {
	tm := &terminal{colours: true, now: func() time.Time { return topStart }}
	ty := newTally(topStart)
	for i := range 200 {
		r := topRecord(i%40, verdict.Denied, time.Duration(i)*time.Second/4)
		r.Container.Name = strings.Repeat("長い名前\x1b[2J", 8)
		ty.add(r)
	}
	for _, n := range []int{0, 1, 40, 400} {
		p := topWorld(n, 60*time.Second)
		ty.into(p)
		p.Troubles = []string{"own_caps: near\x1b]0;x\x07"}
		for _, size := range [][2]int{{1, 1}, {20, 3}, {80, 24}, {200, 60}, {40, 500}} {
			for _, scroll := range []int{0, 7, 100000} {
				l := topLayout{width: size[0], height: size[1], scroll: scroll, denials: true, keys: true}
				lines := tm.topFrame(p, l)
				if len(lines) > size[1] {
					t.Fatalf("%d containers: %d lines in %d", n, len(lines), size[1])
				}
				for _, line := range lines {
					if w := ansi.StringWidth(line); w > size[0] {
						t.Fatalf("%d containers: a line is %d wide, the window %d: %q", n, w, size[0], line)
					}
					if strings.Contains(line, "\x1b[2J") || strings.Contains(line, "\x1b]") {
						t.Fatalf("a container moves the cursor: %q", line)
					}
				}
			}
		}
	}
}

func TestTopFrame(t *testing.T) {
	tm := &terminal{now: func() time.Time { return topStart }}
	ty := newTally(topStart)
	for range 3 {
		ty.add(topRecord(1, verdict.Denied, 5*time.Second))
	}
	p := topWorld(2, 10*time.Second)
	ty.into(p)
	p.order(byDenials)
	text := strings.Join(tm.topFrame(p, topLayout{denials: true}), "\n")
	for _, want := range []string{"ENFORCING on web1, backend lsm, 2 containers, 2 policies", "denials 0.3/s; 3 denied", "memory 91%/85%  cpu unknown", "LAST DENIALS", "exec.drift, policy web"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if i, j := strings.Index(text, "\napp-1"), strings.Index(text, "\napp-0"); i < 0 || j < i {
		t.Errorf("the one with denials is not first:\n%s", text)
	}
}

// The model asks, counts, and ends with the agent's error.
func TestTopModel(t *testing.T) {
	records, failed := make(chan *journal.Record, 10), make(chan error, 1)
	asked := 0
	m := &topModel{
		t: &terminal{now: func() time.Time { return topStart }}, every: time.Second, tally: newTally(topStart), records: records, failed: failed, denials: true,
		ask: func(context.Context) (*topPicture, error) {
			asked++
			return topWorld(30, time.Duration(asked)*time.Second), nil
		},
	}
	m.Update(tea.WindowSizeMsg{Width: 100, Height: 12})
	records <- topRecord(7, verdict.Denied, time.Second)
	m.Update(m.Init()())
	if m.picture == nil || m.picture.Containers[0].Name != "app-7" {
		t.Fatalf("%+v", m.picture)
	}
	for _, k := range []string{"down", "down", "pgdown", "up"} {
		m.key(k)
	}
	if m.scroll != 2+6-1 {
		t.Errorf("scrolled by %d", m.scroll)
	}
	m.key("s")
	if m.picture.Containers[0].Name != "app-0" {
		t.Errorf("by name, %s is first", m.picture.Containers[0].Name)
	}
	m.key("p")
	if _, cmd := m.Update(topTick{}); cmd == nil || asked != 1 {
		t.Errorf("stopped, it has asked %d times", asked)
	}
	if text := m.View().Content; !strings.Contains(text, "stopped") {
		t.Errorf("it does not say that it is stopped:\n%s", text)
	}
	failed <- nil
	if _, cmd := m.Update(topAnswer{p: topWorld(1, 0)}); cmd == nil || m.err == nil || !strings.Contains(m.err.Error(), "has ended") {
		t.Errorf("the agent's end: %v", m.err)
	}
	m.Update(topAnswer{err: errors.New("no agent")})
	if m.err == nil || m.err.Error() != "no agent" {
		t.Errorf("%v", m.err)
	}
	if cmd := m.key("q"); cmd == nil {
		t.Error("q does not end it")
	}
}

func TestSpark(t *testing.T) {
	if got := spark([]int{0, 1, 4, 8}); got != " ▁▄█" {
		t.Errorf("%q", got)
	}
	if got := spark(make([]int, 3)); got != "   " {
		t.Errorf("%q", got)
	}
}

// TestTopWithoutContainers: what reads the JSON finds a list, also an empty one.
func TestTopWithoutContainers(t *testing.T) {
	p := &topPicture{}
	p.fill(nil, &control.LoadStatus{})
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `"containers":[]`) {
		t.Errorf("got %s", raw)
	}
}
