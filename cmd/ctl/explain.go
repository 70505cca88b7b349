package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/policy"
)

func explainCommand(t *terminal) *cobra.Command {
	var (
		request string
		image   string
		with    []string
	)
	cmd := &cobra.Command{
		Use:   "explain CONTAINER | explain --image IMAGE | explain --request FILE",
		Short: "Say which rules apply to a container or a request, and why",
		Long: `explain shows every rule that applies to a container: its value and mode, what this
host can do about a violation (LEVEL), which policy decided, where that is written,
and which other policies lost.

CONTAINER is a name, an ID, or the beginning of an ID.

With --image it shows what scanning has found in an image of this host, and what the
image policies say of it.

With --request it needs no agent: it shows, for each request in FILE (a document of
kind AccessTest), which rule of the access policies decides, and every check that the
request fails. The policies are those that the document names, and those of --policy.`,
		Example: `  belay explain web-1
  belay explain --image nginx:1.29
  belay explain --request create.yaml --policy /etc/belay/policies
  belay explain 3f2a -o json | jq '.lines[] | select(.rule == "exec.drift")'`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case request != "" && len(args) > 0:
				return fmt.Errorf("want a container or --request, got both")
			case image != "" && (request != "" || len(args) > 0):
				return fmt.Errorf("want a container, --image or --request: one of them")
			case request == "" && len(with) > 0:
				return fmt.Errorf("--policy goes with --request")
			case request == "" && image == "" && len(args) != 1:
				return fmt.Errorf("want one container, got %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if request != "" {
				return t.explainRequests(request, with)
			}
			if image != "" {
				e, err := t.client().ExplainImage(cmd.Context(), image)
				if err != nil {
					return err
				}
				if t.output == formatJSON {
					return t.writeJSON(e)
				}
				t.writeImageExplanation(e)
				return nil
			}
			e, err := t.client().Explain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(e)
			}
			t.writeExplanation(e)
			return nil
		},
	}
	cmd.Flags().StringVar(&image, "image", "", "`image` of this host to explain, by name or ID")
	cmd.Flags().StringVar(&request, "request", "", "file with requests to explain")
	cmd.Flags().StringArrayVar(&with, "policy", nil, "with --request: file or directory of policies to ask too (repeatable)")
	return cmd
}

func (t *terminal) writeExplanation(e *control.Explanation) {
	c := e.Container
	tb := t.table("")
	tb.row(plain("container"), plain(strings.TrimSpace(c.Name+" "+shortID(c.ID))))
	tb.row(plain("image"), plain(orDash(c.Image)))
	if c.ImageDigest != "" {
		tb.row(plain("digest"), plain(c.ImageDigest))
	}
	tb.row(plain("policies"), plain(boundBy(c)))
	if b := c.Binding; b != nil && !b.Lost {
		tb.row(plain("created by"), plain(b.Owner+", "+t.ago(b.Time)))
		if len(b.Rules) > 0 {
			tb.row(plain("bound by the gate"), plain(strings.Join(b.Rules, "; ")))
		}
	}
	tb.row(plain("mode"), cell{c.Mode, modeColour(c.Mode)})
	if c.Phase != "" {
		tb.row(plain("phase"), plain(t.phase(c)))
	}
	tb.row(plain("revision"), plain(e.Revision))
	tb.writeTo(t.out)

	levels := map[string]string{}
	for _, l := range e.Levels {
		levels[l.Rule] = l.Level
	}
	rules := t.table("", "RULE", "MODE", "VALUE", "LEVEL", "POLICY", "WRITTEN IN")
	var why []string
	for _, l := range e.Lines {
		if l.Policy == "" {
			continue
		}
		level := levels[l.Rule.String()]
		rules.row(plain(l.Rule.String()), cell{l.Mode.String(), modeColour(l.Mode.String())}, plain(l.Value),
			cell{orDash(level), levelColour(level)}, plain(l.Policy), plain(orDash(place(l.File, l.Line))))
		why = append(why, clean(l.Why))
	}
	fmt.Fprintln(t.out)
	for i, l := range rules.lines() {
		fmt.Fprintln(t.out, l)
		if i > 0 { // the first line is the titles
			fmt.Fprintln(t.out, t.colours.paint(grey, "    "+why[i-1]))
		}
	}
	t.writeUnset(e.Lines)
	t.writeNotes(e)
}

// boundBy says which policies bind c, and why these.
func boundBy(c control.Container) string {
	names := orDash(strings.Join(c.Policies, ", "))
	switch c.Policy {
	case "floor":
		return names + " (the floor: no policy selects it by more than that it is a container)"
	case "build":
		return names + " (a build step: only the guards apply)"
	}
	return names
}

// writeUnset lists the rules that nothing restricts, by the reason.
func (t *terminal) writeUnset(lines []policy.Line) {
	var reasons []string
	rules := map[string][]string{}
	for _, l := range lines {
		if l.Policy != "" {
			continue
		}
		if rules[l.Why] == nil {
			reasons = append(reasons, l.Why)
		}
		rules[l.Why] = append(rules[l.Why], l.Rule.String())
	}
	for _, why := range reasons {
		fmt.Fprintf(t.out, "\nallowed, %s: %s\n", clean(why), strings.Join(rules[why], ", "))
	}
}

// phase says whether all rules of a container hold, and if not, when they do.
func (t *terminal) phase(c control.Container) string {
	if c.Phase == "start" {
		return "start: not all of its rules hold yet; they do at the latest at " + c.PhaseEnds.UTC().Format(time.RFC3339)
	}
	return c.Phase + ": all of its rules hold"
}

func (t *terminal) writeNotes(e *control.Explanation) {
	notes := containerNotes(e.Container)
	for _, l := range e.Levels {
		if l.Note != "" {
			notes = append(notes, l.Rule+": "+l.Note)
		}
	}
	if len(notes) > 0 {
		fmt.Fprintln(t.out)
	}
	for _, n := range notes {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+clean(n)))
	}
}

func place(file string, line int) string {
	if file == "" || line == 0 {
		return file
	}
	return file + ":" + strconv.Itoa(line)
}

func levelColour(level string) colour {
	switch level {
	case "prevent", "kill":
		return green
	case "detect":
		return yellow
	case "":
		return noColour
	}
	return red
}
