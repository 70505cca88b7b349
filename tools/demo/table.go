package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// table prints results as they come.
type table struct {
	out          io.Writer
	color        bool
	results      []result
	kept, broken int
	open         int // not promised on this host
}

func newTable(out io.Writer, color bool) *table { return &table{out: out, color: color} }

// Colours, ECMA-48 SGR.
const (
	bold  = "1"
	dim   = "2"
	red   = "1;31"
	green = "32"
)

func (t *table) paint(sgr, s string) string {
	if !t.color {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

func (t *table) header(s *stage) {
	ssh := "OpenSSH of the distribution"
	if !s.target.Real {
		ssh = "a stand-in that speaks the first lines"
	}
	fmt.Fprintf(t.out, "\n%s\n\n", t.paint(bold, "Belay: what is promised, tried with real containers"))
	fmt.Fprintf(t.out, "  kernel %s · backend %s · Docker %s (%s) · SSH: %s\n", lab.Kernel(), t.paint(bold, s.status.Backend), s.engine.Version, s.engine.Driver, ssh)
	fmt.Fprintf(t.out, "  policies %s · only containers below cgroup %s\n", s.status.Names(), s.engine.Scope)
	fmt.Fprintf(t.out, "  what this host can do about each rule:\n")
	var levels []string
	for _, l := range s.status.Levels {
		levels = append(levels, l.Rule+" "+l.Level)
	}
	for len(levels) > 0 {
		n := min(5, len(levels))
		fmt.Fprintf(t.out, "  %s\n", t.paint(dim, strings.Join(levels[:n], " · ")))
		levels = levels[n:]
	}
}

const rowFormat = "%-42s %-9s %s"

func (t *table) phase(p phase) {
	fmt.Fprintf(t.out, "\n%s %s\n", t.paint(bold, p.title), t.paint(dim, "(mode: "+p.mode+")"))
	if len(t.results) > 0 {
		return // the heads of the columns are said once
	}
	for _, cols := range [][]any{{"scene", "expected", "what happened"}, {"  what was tried", "", "rule of policy · kernel hook · file's layer · level · decision"}} {
		fmt.Fprintf(t.out, "    %s\n", t.paint(dim, fmt.Sprintf(rowFormat, cols...)))
	}
}

func (t *table) row(r result) {
	mark := t.paint(green, "✓")
	switch {
	case !r.Promised:
		t.open++
		mark, r.Happened = t.paint(dim, "–"), r.Happened+" (not promised here: "+r.Level+")"
	case r.Kept:
		t.kept++
	default:
		mark = t.paint(red, "✗")
		t.broken++
	}
	t.results = append(t.results, r)
	fmt.Fprintf(t.out, "  %s "+rowFormat+"\n", mark, r.Scene, r.Expected, r.Happened)
	var by []string
	rule := r.Rule
	if r.Policy != "" {
		rule += " of " + r.Policy
	}
	layer := r.Layer
	if layer == "unknown" {
		layer = ""
	}
	if layer != "" {
		layer = "file: " + layer
	}
	for _, s := range []string{rule, r.Hook, layer, r.Level, r.Decision} {
		if s != "" {
			by = append(by, s)
		}
	}
	if r.Rule == "" {
		by = []string{"nothing forbids it"}
	}
	fmt.Fprintf(t.out, "    %s\n", t.paint(dim, fmt.Sprintf(rowFormat, "  "+r.Tried, "", strings.Join(by, " · "))))
	if r.Promised && !r.Kept {
		fmt.Fprintf(t.out, "      %s\n", t.paint(red, fmt.Sprintf("%.400s", r.Output)))
	}
}

func (t *table) total(took time.Duration) {
	sgr := green
	if t.broken > 0 {
		sgr = red
	}
	text := fmt.Sprintf("%d promises kept, %d broken", t.kept, t.broken)
	if t.open > 0 {
		acts := "acts"
		if t.open == 1 {
			acts = "act"
		}
		text += fmt.Sprintf(", %d %s that this host does not promise to deny", t.open, acts)
	}
	fmt.Fprintf(t.out, "\n%s in %.0f s\n", t.paint(sgr, text), took.Seconds())
}

func (t *table) writeJSON(path string, s *stage) error {
	b, err := json.MarshalIndent(struct {
		Kernel  string   `json:"kernel"`
		Backend string   `json:"backend"`
		Docker  string   `json:"docker"`
		Kept    int      `json:"kept"`
		Broken  int      `json:"broken"`
		Results []result `json:"results"`
	}{lab.Kernel(), s.status.Backend, s.engine.Version, t.kept, t.broken, t.results}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
