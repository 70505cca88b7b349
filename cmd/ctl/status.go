package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/health"
)

func statusCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell whether the agent enforces, with what, and how well",
		Long: `status shows what the agent of this host enforces: the kernel backend in use, what
this host can do about each rule, the policies, the connections to container runtimes,
and everything that failed.

What a LEVEL means for an act that a rule denies:
  prevent      it fails with an error
  kill         its program is killed before it can do anything
  detect       it is reported after the fact
  unsupported  it is not seen

The exit status is 0 only if the agent enforces: its programs are in the kernel, a
test denial was denied, and the policies are loaded. It is 1 if not, with the reason
on standard error.`,
		Example: `  belay status
  belay status -o json | jq .levels
  belay --run-dir /run/belay-test status >/dev/null && echo enforcing`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := t.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				if err := t.writeJSON(st); err != nil {
					return err
				}
			} else {
				t.writeStatus(st)
			}
			if st.Enforcing {
				return nil
			}
			why := st.Why
			if why == "" {
				why = "it does not say why"
			}
			return errors.New("the agent does not enforce: " + why)
		},
	}
}

func (t *terminal) writeStatus(st *control.Status) {
	head := t.colours.paint(green, "ENFORCING")
	if !st.Enforcing {
		head = t.colours.paint(red, "NOT ENFORCING")
	}
	fmt.Fprintf(t.out, "%s on %s, backend %s, %s\n", head, clean(st.Host), clean(orDash(st.Backend)),
		count(st.Containers, "container", "containers"))
	t.writeAgent(st)
	t.writeBackends(st)
	t.writeLevels(st.Levels)
	t.writePolicySet(&st.Policies)
	t.writeSources(st.Sources)
	t.writeOutputs(st.Outputs)
	t.writeFailures(st)
}

// section writes the title of a part.
func (t *terminal) section(format string, args ...any) {
	fmt.Fprintf(t.out, "\n%s\n", clean(fmt.Sprintf(format, args...)))
}

func (t *terminal) writeAgent(st *control.Status) {
	tb := t.table("  ")
	agent := fmt.Sprintf("%s, pid %d, started %s", st.Version, st.PID, t.ago(st.Started))
	if st.Adopted {
		agent += ", took over from an earlier agent without a gap"
	}
	tb.row(plain("agent"), plain(agent))
	tb.row(plain("kernel"), plain(st.Kernel))
	scope := "the whole host"
	if len(st.Scopes) > 0 {
		scope = strings.Join(st.Scopes, ", ")
	}
	tb.row(plain("scope"), plain(scope))
	text, c := t.canary(st.Canary)
	tb.row(plain("canary"), cell{text, c})
	j := st.Journal
	journal, c := fmt.Sprintf("%d records, %s on disk", j.Written, bytesText(j.Bytes)), noColour
	if j.LastError != "" {
		journal, c = journal+", last error: "+j.LastError, red
	}
	tb.row(plain("journal"), cell{journal, c})
	if st.Factor != nil {
		text, c := factorText(st.Factor)
		tb.row(plain("second factor"), cell{text, c})
	}
	if st.Guard != nil {
		text, c := guardText(st.Guard)
		tb.row(plain("socket guard"), cell{text, c})
	}
	tb.writeTo(t.out)
}

// guardText tells whether processes of the host may go around the gate.
func guardText(g *control.GuardStatus) (string, colour) {
	switch {
	case g.Mode == "off":
		return "off: the engine's own sockets are guarded by their modes alone (belay-agent run --guard-sockets)", noColour
	case g.Level == "unsupported":
		return g.Mode + ", but unsupported here: " + g.Note, red
	}
	return fmt.Sprintf("%s (%s), %d refused, %d reported", g.Mode, g.Level, g.Refused, g.Reported), noColour
}

// factorText tells how many have a second factor, and where the key is from that seals it.
func factorText(f *control.FactorStatus) (string, colour) {
	if f.Key == "" {
		return "none can be shown: " + f.Error, yellow
	}
	s := fmt.Sprintf("%s enrolled, %s live, key from %s", count(f.Enrolled, "user", "users"), count(f.Elevations, "elevation", "elevations"), f.Key)
	if f.Unreadable > 0 {
		return fmt.Sprintf("%s; %d cannot be read", s, f.Unreadable), yellow
	}
	return s, noColour
}

// canary tells how the last test denial went.
func (t *terminal) canary(c *control.Canary) (string, colour) {
	if c == nil {
		return "not run", yellow
	}
	tally := fmt.Sprintf("%d of %d failed", c.Failed, c.Count)
	switch {
	case c.Error != "":
		return fmt.Sprintf("could not run %s: %s (%s)", t.ago(c.Time), c.Error, tally), red
	case !c.Denied:
		return fmt.Sprintf("NOT DENIED %s (%s)", t.ago(c.Time), tally), red
	}
	return fmt.Sprintf("denied %s (%s)", t.ago(c.Time), tally), green
}

func (t *terminal) writeBackends(st *control.Status) {
	t.section("Backends")
	tb := t.table("  ")
	for _, b := range st.Backends {
		state, c := "not usable", grey
		switch {
		case b.Name == st.Backend:
			state, c = "in use", green
		case b.Usable:
			state, c = "usable", noColour
		}
		tb.row(plain(b.Name), cell{state, c}, plain(b.Why))
	}
	tb.writeTo(t.out)
}

func (t *terminal) writeLevels(levels []control.Level) {
	t.section("What this host can do about a violation")
	if len(levels) == 0 {
		fmt.Fprintln(t.out, "  nothing: no backend is attached")
		return
	}
	tb := t.table("  ", "RULE", "LEVEL", "NOTE")
	for _, l := range levels {
		tb.row(plain(l.Rule), cell{l.Level, levelColour(l.Level)}, plain(l.Note))
	}
	tb.writeTo(t.out)
}

func (t *terminal) writePolicySet(s *control.PolicySet) {
	if s.Loaded.IsZero() {
		t.section("Policies in %s: not loaded", s.Dir)
	} else {
		t.section("Policies in %s, revision %s, loaded %s", s.Dir, orDash(s.Revision), t.ago(s.Loaded))
	}
	if len(s.Policies) == 0 {
		fmt.Fprintln(t.out, "  none: everything but the guards is allowed")
	} else {
		tb := t.table("  ", "NAME", "MODE", "REVISION", "WRITTEN IN", "REFUSED")
		for _, p := range s.Policies {
			tb.row(plain(p.Name), cell{p.Mode, modeColour(p.Mode)}, plain(p.Revision), plain(orDash(place(p.File, p.Line))),
				cell{p.Refused, red})
		}
		tb.writeTo(t.out)
	}
	if s.Error != "" {
		fmt.Fprintln(t.out, t.colours.paint(red, "  The directory has errors, so what is above stays in force:"))
		for line := range strings.Lines(s.Error) {
			fmt.Fprintln(t.out, "    "+clean(strings.TrimSuffix(line, "\n")))
		}
	}
}

func (t *terminal) writeSources(sources []control.SourceStatus) {
	t.section("Container runtimes")
	if len(sources) == 0 {
		fmt.Fprintln(t.out, "  none: containers have no names, and policies that select by name or image do not apply")
		return
	}
	tb := t.table("  ")
	for _, s := range sources {
		state, c := "connected", green
		if !s.Connected {
			state, c = "not connected", red
		}
		since := ""
		if !s.Since.IsZero() {
			since = t.ago(s.Since)
		}
		tb.row(plain(s.Name), cell{state, c}, plain(since), plain(s.Address), cell{s.Error, red})
	}
	tb.writeTo(t.out)
}

// writeFailures shows what did not work. Nothing is printed only if nothing failed.
func (t *terminal) writeFailures(st *control.Status) {
	tb := t.table("  ")
	rows := 0
	row := func(what, how string, c colour) {
		rows++
		tb.row(plain(what), cell{how, c})
	}
	for _, c := range st.Health.Components {
		if c.State != health.OK {
			shade := yellow
			if c.State == health.Failed {
				shade = red
			}
			row(c.Name, fmt.Sprintf("%s since %s: %s", c.State, t.ago(c.Since), c.Reason), shade)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(st.Failures)) {
		if n := st.Failures[name]; n > 0 {
			row(name, strconv.FormatUint(n, 10), yellow)
		}
	}
	for _, cause := range slices.Sorted(maps.Keys(st.Journal.Dropped)) {
		if n := st.Journal.Dropped[cause]; n > 0 {
			row(cause, strconv.FormatUint(n, 10), yellow)
		}
	}
	if rows == 0 {
		t.section("No failures")
		return
	}
	t.section("Failures (docs/failure-codes.md)")
	tb.writeTo(t.out)
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for ; f >= unit && i < 3; i++ {
		f /= unit
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[i])
}
