package main

import "github.com/spf13/cobra"

func loadCommand(t *terminal) *cobra.Command {
	return group("load", "Plan which containers leave a full node",
		`load holds what has to do with nodes that are full. What may be moved, and how it is
decided, is in docs/load-planning.md. Nothing is moved by these commands.`,
		`  belay load plan --file state.json`,
		loadPlanCommand(t))
}
