package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/load/plan"
)

func loadExplainCommand(t *terminal) *cobra.Command {
	var policy, file, node string
	cmd := &cobra.Command{
		Use:   "explain CONTAINER",
		Short: "Say why a container can be moved or not, and why each target takes it or not",
		Long: `explain says of one container of this node, by name or ID, whether it can be moved at
all, with every reason against it; what would move with it; and of each target of the
LoadPolicy why it takes it or not, whether the node is full or not. It moves nothing.
The exit status is 1 if it cannot be moved now, or no target takes it.`,
		Example: `  belay load explain web
  belay load explain web --policy node -o json
  belay load explain web --file state.json --node web1`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("want one CONTAINER")
			}
			if (file == "") != (node == "") {
				return errors.New("--file describes several nodes: want both --file and --node")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := t.explainedState(cmd, policy, file)
			if err != nil {
				return err
			}
			at := node
			if at == "" {
				at = s.Sources[0]
			}
			e, err := plan.Explain(s, at, args[0])
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				if err := t.writeJSON(e); err != nil {
					return err
				}
			} else {
				t.writeMoveExplanation(e)
			}
			if len(e.Reasons) > 0 || !slices.ContainsFunc(e.Targets, func(v plan.ExplainedTarget) bool { return v.Fits }) {
				return quietError{errors.New("it cannot be moved now")}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&policy, "policy", "", "`name` of the LoadPolicy, if several plan moves")
	cmd.Flags().StringVar(&file, "file", "", "`file` with a state, in JSON, instead of this node's")
	cmd.Flags().StringVar(&node, "node", "", "`name` of the node in it that has the container")
	return cmd
}

func (t *terminal) explainedState(cmd *cobra.Command, policy, file string) (*plan.State, error) {
	if file == "" {
		s, err := t.client().LoadState(cmd.Context(), policy)
		if err == nil && len(s.Sources) == 0 {
			err = errors.New("the agent does not say which node is its own")
		}
		return s, err
	}
	data, err := t.readState(file)
	if err != nil {
		return nil, err
	}
	s, err := plan.ReadState(data, t.now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

func (t *terminal) writeMoveExplanation(e *plan.Explanation) {
	switch {
	case !e.Movable:
		fmt.Fprintf(t.out, "%s %s\n", clean(e.Name), t.colours.paint(yellow, "cannot be moved"))
	case len(e.Reasons) > 0:
		fmt.Fprintf(t.out, "%s %s\n", clean(e.Name), t.colours.paint(yellow, "can be moved, but not now"))
	case e.Stateful:
		fmt.Fprintf(t.out, "%s %s, with its data: it stops while that is copied\n", clean(e.Name), t.colours.paint(green, "can be moved"))
	default:
		fmt.Fprintf(t.out, "%s %s\n", clean(e.Name), t.colours.paint(green, "can be moved"))
	}
	for _, r := range e.Reasons {
		fmt.Fprintf(t.out, "  %s\n", clean(r))
	}
	if len(e.Together) > 0 {
		fmt.Fprintf(t.out, "  it moves together with others: %s\n", clean(strings.Join(e.Together, ", ")))
	}
	if len(e.Targets) == 0 {
		return
	}
	fmt.Fprintln(t.out, "\nTargets")
	tb := t.table("  ")
	for i := range e.Targets {
		v := &e.Targets[i]
		mark, why := cell{"no", yellow}, v.Reason
		if v.Fits {
			mark = cell{"fits", green}
			if v.Held != "" {
				why += "; not now: " + v.Held
			}
		}
		tb.row(plain(v.Target), mark, plain(why))
	}
	tb.writeTo(t.out)
}

func loadDecideCommand(t *terminal, approve bool) *cobra.Command {
	q := control.LoadRequest{Approve: approve}
	cmd := &cobra.Command{
		Use:   "approve PLAN",
		Short: "Have the moves of a plan carried out",
		Long: `approve lets the agent carry out a plan that a LoadPolicy with the action propose has had
made: its moves start within the limits and windows of the policy. Each is looked at again
before it starts, with new readings, and left out if it is no longer right. Root only.`,
		Example: `  belay load approve 4f1c22ab`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("want the ID of one plan: see belay load status")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Plan = args[0]
			if err := t.client().LoadDecide(cmd.Context(), &q); err != nil {
				return err
			}
			word := "refused"
			if approve {
				word = "approved; belay load status shows what comes of it"
			}
			fmt.Fprintf(t.out, "plan %s is %s\n", clean(q.Plan), word)
			return nil
		},
	}
	if !approve {
		cmd.Use, cmd.Short = "refuse PLAN", "Have the moves of a plan left alone"
		cmd.Long = `refuse ends a plan that waits for approval. None is made again for the same policy before
its coolDown is over. Root only.`
		cmd.Example = `  belay load refuse 4f1c22ab --reason "release day"`
		cmd.Flags().StringVar(&q.Reason, "reason", "", "`text` for the record")
	}
	return cmd
}

func loadCordonCommand(t *terminal, on bool) *cobra.Command {
	q := control.LoadRequest{Cordon: on}
	cmd := &cobra.Command{
		Use:   "cordon",
		Short: "Let no new containers start on this node",
		Long: `cordon has the gate refuse creates and first starts of containers on this node, and tells
other nodes that it takes none. What has run here before starts again, and so does the
source of a move that goes back. It lasts until belay load uncordon, also over restarts.
Whoever reaches the engine around the gate is not held back. Root only.`,
		Example: `  belay load cordon --reason "memory is being replaced"`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.client().LoadCordon(cmd.Context(), &q); err != nil {
				return err
			}
			if on {
				fmt.Fprintln(t.out, "this node takes no new containers; belay load uncordon lifts that")
				return nil
			}
			fmt.Fprintln(t.out, "the cordon by hand is lifted")
			moves, err := t.client().LoadMoves(cmd.Context())
			if err == nil && moves.Cordon != "" {
				fmt.Fprintln(t.out, t.colours.paint(yellow, "it still takes none: "+clean(moves.Cordon)))
			}
			return err
		},
	}
	if on {
		cmd.Flags().StringVar(&q.Reason, "reason", "", "`text` that who is refused is told")
		return cmd
	}
	cmd.Use, cmd.Short = "uncordon", "Let new containers start on this node again"
	cmd.Long = `uncordon lifts belay load cordon. A cordon by a LoadPolicy whose cap is over lasts until
the node is below it. Root only.`
	cmd.Example = `  belay load uncordon`
	return cmd
}

// writeLoadMoves shows the cordon, plans and moves.
func (t *terminal) writeLoadMoves(m *control.LoadMoves) {
	if m.Cordon != "" {
		fmt.Fprintf(t.out, "\n%s %s\n", t.colours.paint(yellow, "Cordoned:"), clean(m.Cordon))
	}
	for _, name := range slices.Sorted(maps.Keys(m.NoPlan)) {
		fmt.Fprintf(t.out, "\n%s %s\n", t.colours.paint(red, "Nothing moves for policy "+clean(name)+":"), clean(m.NoPlan[name]))
	}
	for i := range m.Plans {
		t.writeLoadPlanned(&m.Plans[i])
	}
	if len(m.Moves) == 0 {
		return
	}
	fmt.Fprintln(t.out, "\nMoves by the agent")
	tb := t.table("  ", "MOVE", "CONTAINER", "TO", "OUTCOME", "STEP", "BEGAN", "ERROR")
	for i := range m.Moves {
		mv := &m.Moves[i]
		colour := noColour
		switch mv.Outcome {
		case "failed":
			colour = red
		case "under way":
			colour = yellow
		}
		names := strings.Join(append([]string{mv.Name}, mv.With...), " + ")
		tb.row(plain(mv.ID), plain(names), plain(mv.To), cell{mv.Outcome, colour}, plain(orDash(mv.Step)), plain(t.ago(mv.Began)), plain(orDash(mv.Error)))
	}
	tb.writeTo(t.out)
}

func (t *terminal) writeLoadPlanned(p *control.LoadPlan) {
	state := p.State
	if p.By != "" {
		state += " by " + p.By
	}
	if p.Reason != "" {
		state += ": " + p.Reason
	}
	colour := noColour
	if p.State == "waiting" {
		colour = yellow
		state = "waits for: belay load approve " + p.ID
	}
	fmt.Fprintf(t.out, "\nPlan %s of policy %s, made %s: %s\n  %s\n", clean(p.ID), clean(p.Policy), t.ago(p.Made), t.colours.paint(colour, clean(state)), clean(p.Because))
	tb := t.table("  ")
	for i := range p.Moves {
		m := &p.Moves[i]
		what := m.Why
		switch {
		case m.Move != "":
			what = "move " + m.Move
		case m.Skipped != "":
			what = "left out: " + m.Skipped
		case m.Held != "":
			what = "held: " + m.Held
		}
		tb.row(plain(strings.Join(m.Names, " + ")), plain("to "+m.To), plain(what))
	}
	tb.writeTo(t.out)
}
