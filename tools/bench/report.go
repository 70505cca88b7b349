package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
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

type report struct {
	head, body bytes.Buffer
	missed     []string
	source     string
}

func newReport(ctx context.Context, source string) *report {
	r := &report{source: source}
	kernel, err := hostinfo.Host{}.KernelRelease()
	if err != nil {
		kernel = "unknown"
	}
	fmt.Fprintf(&r.head, `# Benchmarks

Written by `+"`make bench`"+`; do not edit. Figures of other machines differ: what can be compared
are ratios and differences, whose two sides were measured in one run.

| | |
|---|---|
| CPU | %s, %d cores |
| Kernel | %s |
| Go | %s |
| Date | %s |
| Tree | %s |
| Load when the run began | %s |
`, cpuModel(), runtime.NumCPU(), kernel, runtime.Version(), time.Now().UTC().Format("2006-01-02 15:04 MST"), tree(ctx, source), load())
	return r
}

func (r *report) add(s section, figures []figure, err error) {
	fmt.Fprintf(&r.body, "\n## %s\n\n", s.title)
	if s.text != "" {
		fmt.Fprintf(&r.body, "%s\n\n", strings.TrimSpace(s.text))
	}
	fmt.Fprintf(&r.body, "| | measured | target | |\n|---|---:|---:|---|\n")
	for _, f := range figures {
		verdict := ""
		switch {
		case f.target == "":
		case f.met:
			verdict = "met"
		case f.open:
			verdict = "open"
		default:
			verdict = "**missed**"
			r.missed = append(r.missed, fmt.Sprintf("%s: %s: %s (target %s)", s.title, f.what, f.value, f.target))
		}
		fmt.Fprintf(&r.body, "| %s | %s | %s | %s |\n", f.what, f.value, f.target, verdict)
	}
	if err != nil {
		fmt.Fprintf(&r.body, "\nNot measured whole: %s\n", err)
		r.missed = append(r.missed, s.title+": not measured whole")
	}
}

func (r *report) write(out string) error {
	fmt.Fprintf(&r.head, "| Load when it ended | %s |\n\n", load())
	if len(r.missed) == 0 {
		r.head.WriteString("Every target that was measured is met.\n")
	} else {
		r.head.WriteString("Targets missed:\n\n")
		for _, m := range r.missed {
			fmt.Fprintf(&r.head, "- %s\n", m)
		}
	}
	text := append(r.head.Bytes(), r.body.Bytes()...)
	if out == "-" {
		_, err := os.Stdout.Write(text)
		return err
	}
	err := os.WriteFile(out, text, 0o644)
	if err != nil { // what took long to measure is not lost
		_, _ = os.Stdout.Write(text)
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
	if git("status", "--porcelain") != "" {
		t += " with changes that were not committed"
	}
	return t
}
