package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
)

func loadCommand(t *terminal) *cobra.Command {
	return group("load", "See how full this node is, and have containers leave a full one",
		`load has what is about nodes that are full. status shows this one, by the LoadPolicies
in force, with the plans and moves that they led to; plan and explain say what could
leave it and why; leave asks an orchestrator to take something
away; approve and refuse decide on a plan; cordon keeps new containers away.
What may be moved, and how it is decided, is in docs/load-planning.md.`,
		`  belay load status
  belay load explain web
  belay load approve 4f1c22ab`,
		loadStatusCommand(t), loadPlanCommand(t), loadExplainCommand(t), loadLeaveCommand(t), loadDecideCommand(t, true), loadDecideCommand(t, false), loadCordonCommand(t, true), loadCordonCommand(t, false))
}

func loadStatusCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the node against its caps, and what each container has",
		Long: `status shows what the agent's watcher knows: the caps of the LoadPolicies with the last
reading of each, and what each container has.

STATE of a cap:
  calm     at or below the cap
  pending  over it, not yet for as long as the policy says
  over     for that long; "held back" if the cool-down keeps it from being told
Of a container, a value after a slash is its own limit. PRESSURE is the percentage of time
in which some of its tasks waited for cpu, memory and io.

Without a LoadPolicy nothing is sampled, and there is nothing to show.

Below it are, if there are any: why no new containers start here (cordon), plans with what
became of each move, and moves that the agent has started. belay move list has all moves.`,
		Example: `  belay load status
  belay load status -o json | jq -r '.caps[] | select(.state == "over") | .cap'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := t.client().Load(cmd.Context())
			if err != nil {
				return err
			}
			moves, err := t.client().LoadMoves(cmd.Context())
			if e, ok := errors.AsType[*control.Error](err); ok && (e.Status == http.StatusNotImplemented || e.Status == http.StatusNotFound) {
				moves, err = nil, nil // an agent that moves nothing
			}
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(struct {
					*control.LoadStatus
					Moves *control.LoadMoves `json:"moves,omitempty"`
				}{st, moves})
			}
			t.writeLoad(st)
			if moves != nil {
				t.writeLoadMoves(moves)
			}
			return nil
		},
	}
}

func (t *terminal) writeLoad(st *control.LoadStatus) {
	if !st.Watching {
		fmt.Fprintln(t.out, "not watched: no LoadPolicy is in force; see docs/load-policy.md")
		return
	}
	how := "sampled"
	if st.PressureTriggers {
		how = "told by the kernel, and sampled"
	}
	fmt.Fprintf(t.out, "Node, sampled %s; memory %s, network %s/s; pressure is %s\n",
		t.ago(st.Sampled), bytesText(int64(st.MemoryBytes)), bytesText(int64(st.NetworkBytes)), how)
	tb := t.table("  ", "CAP", "NOW", "LIMIT", "FOR", "STATE", "SINCE", "OF", "POLICY")
	var notes []string
	for i := range st.Caps {
		c := &st.Caps[i]
		now, since := cell{"unknown", yellow}, "-"
		if c.Percent != nil {
			now = plain(fmt.Sprintf("%.1f%%", *c.Percent))
		}
		if !c.Since.IsZero() {
			since = t.ago(c.Since)
		}
		tb.row(plain(c.Cap), now, plain(fmt.Sprintf("%d%%", c.Limit)), plain((time.Duration(c.ForSeconds * float64(time.Second))).String()), loadState(c),
			plain(since), plain(orWhole(c.Where)), plain(c.Policy))
		if c.Error != "" {
			notes = append(notes, c.Cap+" cannot be read: "+c.Error)
		}
	}
	tb.writeTo(t.out)
	if len(st.Containers) > 0 {
		fmt.Fprintln(t.out)
		t.writeLoadOf(st.Containers)
	}
	for i := range st.Containers {
		if c := &st.Containers[i]; c.Error != "" {
			notes = append(notes, loadName(c)+" cannot be read: "+c.Error)
		}
	}
	if st.Error != "" {
		notes = append(notes, "what containers have cannot be read: "+st.Error)
	}
	for _, n := range notes {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+clean(n)))
	}
}

func orWhole(where string) string {
	if where == "" {
		return "the node"
	}
	return where
}

func loadState(c *control.LoadCap) cell {
	switch {
	case c.State == "over" && !c.Told:
		return cell{"over, held back", red}
	case c.State == "over":
		return cell{c.State, red}
	case c.State == "pending":
		return cell{c.State, yellow}
	}
	return plain(c.State)
}

func (t *terminal) writeLoadOf(list []control.LoadOf) {
	tb := t.table("  ", "CONTAINER", "CPUS", "MEMORY", "TASKS", "NETWORK", "WRITES", "PRESSURE", "OVER")
	for i := range list {
		c := &list[i]
		cpus, memory, tasks, network := fmt.Sprintf("%.2f", c.CPUs), bytesText(int64(c.MemoryBytes)), fmt.Sprint(c.PIDs), "-"
		if c.CPUQuota > 0 {
			cpus += fmt.Sprintf("/%.2f", c.CPUQuota)
		}
		if c.MemoryMax > 0 {
			memory += "/" + bytesText(int64(c.MemoryMax))
		}
		if c.PIDsMax > 0 {
			tasks += fmt.Sprintf("/%d", c.PIDsMax)
		}
		if c.NetworkBytes != nil {
			network = bytesText(int64(*c.NetworkBytes)) + "/s"
		}
		tb.row(plain(loadName(c)), plain(cpus), plain(memory), plain(tasks), plain(network), plain(bytesText(int64(c.WrittenBytes))+"/s"),
			plain(pressureText(c)), cell{orDash(strings.Join(c.Over, ", ")), overColour(c)})
	}
	tb.writeTo(t.out)
}

func overColour(c *control.LoadOf) colour {
	if len(c.Over) > 0 {
		return red
	}
	return noColour
}

func loadName(c *control.LoadOf) string {
	if c.Name != "" {
		return c.Name
	}
	return shortID(c.ID)
}

func pressureText(c *control.LoadOf) string {
	var parts []string
	for _, kind := range []string{"cpu", "memory", "io"} {
		p, ok := c.Pressure[kind]
		if !ok {
			parts = append(parts, "-")
			continue
		}
		parts = append(parts, fmt.Sprintf("%.0f", p))
	}
	return strings.Join(parts, "/")
}
