package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/load/plan"
)

func loadPlanCommand(t *terminal) *cobra.Command {
	var file, policy string
	var targets, state bool
	cmd := &cobra.Command{
		Use:   "plan [--file STATE.json]",
		Short: "Plan which containers should leave this node, or full nodes that a file describes",
		Long: `plan has the agent describe this node and ask the targets of the LoadPolicy, and says
which containers should leave it, where each should go, and why; and for every other
container why it stays. With --file it reads nodes, their readings and their containers
from a file, and needs no agent; "-" reads standard input. It moves nothing.

The plan is the smallest set of movable containers that brings the node below its caps.
Limits and maintenance windows do not change it: they say which moves may start now. What
the file may say, and what is movable, is in docs/load-planning.md.

The exit status is 1 if a node is over a cap and no moves would bring it below.`,
		Example: `  belay load plan --targets
  belay load plan --state > state.json
  belay load plan --file state.json
  belay load plan --file - -o json < state.json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if file != "" && (policy != "" || state) {
				return errors.New("--policy and --state are about this node: leave out --file")
			}
			return noArguments(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				return t.loadPlan(file, targets)
			}
			s, err := t.client().LoadState(cmd.Context(), policy)
			if err != nil {
				return err
			}
			if state {
				return t.writeJSON(s)
			}
			return t.makePlan(s, targets, "this node")
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "`file` with the state, in JSON")
	cmd.Flags().StringVar(&policy, "policy", "", "`name` of the LoadPolicy, if several plan moves")
	cmd.Flags().BoolVar(&state, "state", false, "write the state that the plan is made from, for --file")
	cmd.Flags().BoolVar(&targets, "targets", false, "also say of each target why it takes a container or not")
	return cmd
}

func (t *terminal) loadPlan(file string, targets bool) error {
	data, err := t.readState(file)
	if err != nil {
		return err
	}
	s, err := plan.ReadState(data, t.now())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return t.makePlan(s, targets, file)
}

// makePlan makes a plan and shows it; what names where its state is from.
func (t *terminal) makePlan(s *plan.State, targets bool, what string) error {
	s.Reasons = s.Reasons || targets
	p, err := plan.Make(s)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if t.output == formatJSON {
		if err := t.writeJSON(p); err != nil {
			return err
		}
	} else {
		t.writeLoadPlan(p)
	}
	for i := range p.Nodes {
		if p.Nodes[i].Outcome == plan.Refused {
			return quietError{errors.New("a node stays over a cap")}
		}
	}
	return nil
}

// readState reads a file of bounded size, or standard input.
func (t *terminal) readState(file string) ([]byte, error) {
	in := t.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read the state: %w", err)
		}
		defer f.Close()
		in = f
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(io.LimitReader(in, plan.MaxStateBytes+1)); err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	return b.Bytes(), nil
}

func (t *terminal) writeLoadPlan(p *plan.Plan) {
	if len(p.Nodes) == 0 {
		fmt.Fprintln(t.out, t.colours.paint(green, "no node is over a cap"))
		return
	}
	for i := range p.Nodes {
		if i > 0 {
			fmt.Fprintln(t.out)
		}
		t.writeNodePlan(&p.Nodes[i])
	}
	if p.LeftOut > 0 {
		fmt.Fprintf(t.out, "\n%s on targets are left out: plan for fewer nodes at once (sources)\n", count(p.LeftOut, "verdict", "verdicts"))
	}
}

func (t *terminal) writeNodePlan(n *plan.NodePlan) {
	colour := map[plan.Outcome]colour{plan.Refused: red, plan.NotNeeded: green, plan.Relieved: green, plan.Partly: yellow}[n.Outcome]
	fmt.Fprintf(t.out, "%s  %s  %s\n", clean(n.Node), t.colours.paint(colour, n.Outcome.String()), clean(n.Reason))
	for _, o := range n.Over {
		after := ""
		if o.After != "" {
			after = ", with all moves " + o.After
		}
		fmt.Fprintf(t.out, "  %s is %s, the cap is %s%s\n", o.Name, o.Now, o.Cap, after)
	}
	if n.Outcome != plan.NotNeeded && !n.Proven {
		fmt.Fprintln(t.out, "  a smaller set of containers may exist: the search came to its bounds")
	}
	if len(n.Moves) > 0 {
		fmt.Fprintln(t.out, "\nMoves")
		tb := t.table("  ")
		for _, m := range n.Moves {
			now := cell{"now", green}
			if m.Held != "" {
				now = cell{"held: " + m.Held, yellow}
			}
			tb.row(plain(strings.Join(m.Names, " + ")), plain("to "+m.To), now)
		}
		tb.writeTo(t.out)
	}
	if len(n.Containers) == 0 {
		return
	}
	fmt.Fprintln(t.out, "\nContainers")
	tb := t.table("  ")
	for i := range n.Containers {
		v := &n.Containers[i]
		tb.row(plain(v.Name), cell{v.Decision.String(), loadColour(v.Decision)}, plain(v.Reason))
		for _, tv := range v.Targets {
			mark := cell{"-", grey}
			if tv.Chosen {
				mark = cell{"chosen", green}
			} else if tv.Fits {
				mark = cell{"fits", noColour}
			}
			tb.row(plain("  "+tv.Target), mark, plain(tv.Reason))
		}
	}
	tb.writeTo(t.out)
}

func loadColour(d plan.Decision) colour {
	switch d {
	case plan.Moves:
		return green
	case plan.Unmovable, plan.Held, plan.NoTarget:
		return yellow
	case plan.Spared:
	}
	return noColour
}
