package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/ident"
)

func containersCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:     "containers",
		Aliases: []string{"ps"},
		Short:   "List the containers and which policies bind them",
		Long: `containers lists the containers that the agent has recognised in the kernel.

POLICY says what binds the container:
  own    the policies that select it
  floor  the policies without a selector: nothing is known of the container yet
  build  a step of an image build: only the guards apply
  +gate  and what the gate bound at its create, by an AccessPolicy's checks
Below the table: rules that do not hold for a container, and why.`,
		Example: `  belay containers
  belay containers -o json | jq -r '.[] | select(.mode != "enforce") | .name'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cs, err := t.client().Containers(cmd.Context())
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(cs)
			}
			t.writeContainers(cs)
			return nil
		},
	}
}

func (t *terminal) writeContainers(cs []control.Container) {
	if len(cs) == 0 {
		fmt.Fprintln(t.out, "no containers")
		return
	}
	tb := t.table("", "CONTAINER", "NAME", "IMAGE", "STARTED", "MODE", "POLICY", "POLICIES")
	var notes []string
	for _, c := range cs {
		started := "not yet"
		if !c.Armed.IsZero() {
			started = t.ago(c.Armed)
		}
		how := c.Policy
		if c.Binding != nil && len(c.Binding.Rules) > 0 {
			how += "+gate"
		}
		tb.row(plain(orDash(shortID(c.ID))), plain(orDash(c.Name)), plain(orDash(shortImage(c.Image))), plain(started),
			cell{c.Mode, modeColour(c.Mode)}, plain(how), plain(orDash(strings.Join(c.Policies, ", "))))
		for _, p := range containerNotes(c) {
			notes = append(notes, fmt.Sprintf("%s: %s", clean(nameOf(c)), clean(p)))
		}
	}
	tb.writeTo(t.out)
	if len(notes) > 0 {
		fmt.Fprintln(t.out)
	}
	for _, n := range notes {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+n))
	}
}

// containerNotes is what an operator should know and no column shows.
func containerNotes(c control.Container) []string {
	notes := slices.Clone(c.Problems)
	if b := c.Binding; b != nil && b.Lost {
		notes = append(notes, "the record of what the gate bound at its create is lost; the label belay.dev/runtime keeps "+
			strings.Join(b.Rules, ", ")+" on it; create it again to start it through the gate")
	}
	if c.Phase == "start" {
		notes = append(notes, "is in its start: some of its rules hold only later (belay explain "+clean(nameOf(c))+")")
	}
	if c.BoundLate {
		notes = append(notes, "ran before its policies were bound, so none of them loosens anything for it; restart it to change that")
	}
	if c.Lost > 0 {
		notes = append(notes, count(int(c.Lost), "record of it was", "records of it were")+" lost (the decisions were made all the same)")
	}
	return notes
}

func nameOf(c control.Container) string {
	switch {
	case c.Name != "":
		return c.Name
	case c.ID != "":
		return shortID(c.ID)
	}
	return fmt.Sprintf("cgroup %d", c.Cgroup) // a build step has neither
}

func shortID(id string) string { return ident.ContainerID(id).Short() }

// shortImage cuts the digits that no person reads.
func shortImage(image string) string {
	const digits = 12
	if i := strings.Index(image, "sha256:"); i >= 0 && len(image) > i+len("sha256:")+digits {
		return image[:i+len("sha256:")+digits]
	}
	return image
}

func modeColour(mode string) colour {
	switch mode {
	case "enforce":
		return green
	case "none":
		return red
	}
	return yellow
}
