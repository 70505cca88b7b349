package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/hostinfo"
)

// figure is one line of the report.
type figure struct {
	what, value string
	target      string // empty: none was set
	met         bool
	open        bool // the measurement cannot decide
}

// atMost returns a figure with a target that must not be passed.
func atMost(what string, value, target float64, format string) figure {
	return figure{what: what, value: fmt.Sprintf(format, value), target: "≤ " + fmt.Sprintf(format, target), met: value <= target}
}

// atLeast returns a figure with a target that must be reached.
func atLeast(what string, value, target float64, format string) figure {
	return figure{what: what, value: fmt.Sprintf(format, value), target: "≥ " + fmt.Sprintf(format, target), met: value >= target}
}

func plain(what, format string, args ...any) figure {
	return figure{what: what, value: fmt.Sprintf(format, args...)}
}

// report is a page with a chapter for each section. What is not measured this time stays as it was.
type report struct {
	context  string            // of what is measured now: date, tree, toolchain, kernel, machine
	chapters map[string]string // by the section's title
}

func newReport(ctx context.Context, source string) *report {
	kernel, err := hostinfo.Host{}.KernelRelease()
	if err != nil {
		kernel = "unknown"
	}
	return &report{
		context:  fmt.Sprintf("%s, tree %s, %s, kernel %s, %s, %d cores", time.Now().UTC().Format("2006-01-02 15:04 MST"), tree(ctx, source), runtime.Version(), kernel, cpuModel(), runtime.NumCPU()),
		chapters: map[string]string{},
	}
}

// add writes a section's chapter; before is the load when it began.
func (r *report) add(s section, figures []figure, before string, err error) {
	var b strings.Builder
	if s.text != "" {
		fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace(s.text))
	}
	fmt.Fprintf(&b, "Measured %s; load %s to %s.\n\n", r.context, before, load())
	fmt.Fprintf(&b, "| | measured | target | |\n|---|---:|---:|---|\n")
	for _, f := range figures {
		verdict := ""
		switch {
		case f.target == "":
		case f.met:
			verdict = "met"
		case f.open:
			verdict = "open"
		default:
			verdict = missed
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.what, f.value, f.target, verdict)
	}
	if err != nil {
		fmt.Fprintf(&b, "\n%s: %s\n", notWhole, err)
	}
	r.chapters[s.title] = strings.TrimSpace(b.String())
}

const (
	missed   = "**missed**"
	notWhole = "Not measured whole"
)

// keep takes the chapters of an earlier report that were not measured now.
func (r *report) keep(old string) {
	for chapter := range strings.SplitSeq("\n"+old, "\n## ") {
		title, text, _ := strings.Cut(chapter, "\n")
		if _, now := r.chapters[title]; !now && slices.ContainsFunc(sections, func(s section) bool { return s.title == title }) {
			r.chapters[title] = strings.TrimSpace(text)
		}
	}
}

func (r *report) text() string {
	var head, body strings.Builder
	fmt.Fprintf(&head, "# Benchmarks\n\nWritten by `make bench`; do not edit. Figures of other machines differ, and chapters name theirs: what can be\n"+
		"compared are ratios and differences, whose two sides were measured in one run. `-only` measures some chapters and keeps the others.\n\n")
	var misses []string
	for _, s := range sections {
		chapter, ok := r.chapters[s.title]
		if !ok {
			continue
		}
		fmt.Fprintf(&body, "\n## %s\n\n%s\n", s.title, chapter)
		for line := range strings.SplitSeq(chapter, "\n") {
			if cell := strings.Split(line, " | "); len(cell) == 4 && strings.HasPrefix(cell[3], missed) {
				misses = append(misses, fmt.Sprintf("%s: %s: %s (target %s)", s.title, strings.TrimPrefix(cell[0], "| "), cell[1], cell[2]))
			} else if strings.HasPrefix(line, notWhole) {
				misses = append(misses, s.title+": "+line)
			}
		}
	}
	if len(misses) == 0 {
		head.WriteString("Every target that was measured is met.\n")
	} else {
		head.WriteString("Targets missed:\n\n- " + strings.Join(misses, "\n- ") + "\n")
	}
	return head.String() + body.String()
}

func (r *report) write(out string) error {
	if out == "-" {
		_, err := os.Stdout.WriteString(r.text())
		return err
	}
	old, err := os.ReadFile(out)
	if err == nil {
		r.keep(string(old))
		err = os.WriteFile(out, []byte(r.text()), 0o644)
	}
	if err != nil { // what took long to measure is not lost
		_, _ = os.Stdout.WriteString(r.text())
	}
	return err
}

// checkOut refuses a report that could not be written in the end.
func checkOut(out string) error {
	if out == "-" {
		return nil
	}
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("-out: %w", err)
	}
	return f.Close()
}

// Source: /proc/cpuinfo, proc_cpuinfo(5).
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if k, v, ok := strings.Cut(sc.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil || len(strings.Fields(string(b))) < 1 {
		return "unknown"
	}
	return strings.Fields(string(b))[0]
}

func tree(ctx context.Context, dir string) string {
	git := func(args ...string) string {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(out))
	}
	t := git("rev-parse", "--short=12", "HEAD")
	if git("status", "--porcelain", "--", ":/", ":(top,exclude)docs/benchmarks.md") != "" { // chapters before have written that
		t += " with changes that were not committed"
	}
	return t
}
