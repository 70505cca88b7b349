package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/node"
)

func nodeCommand(t *terminal) *cobra.Command {
	return group("node", "Put the agent on the node that this container runs on, or take it away",
		`node is what the pods of the Helm chart run. The agent is a service of the node's
systemd and no container: under the backends lsm and modret no container may call
bpf(), its own included, and a service starts before the first container does.`,
		`  belay node install --root /host --policies /policies -- --docker-host=none
  belay node remove --root /host`,
		nodeInstallCommand(t), nodeRemoveCommand(t), nodeHoldCommand())
}

func nodeInstallCommand(t *terminal) *cobra.Command {
	var o node.Options
	cmd := &cobra.Command{
		Use:   "install [-- AGENT-FLAG...]",
		Short: "Write programs, units, flags and policies to the node, and have systemd run the agent",
		Long: `install brings the node to what the image and the policies are, and restarts the agent if
anything but policies has changed; those it reads again itself. What is pinned in the
kernel enforces meanwhile. Nothing is changed if a policy has an error, if the package is
installed, or if a file of somebody else is in the way.

It needs the node's root, with its /run, mounted below --root, root, and CAP_SYS_CHROOT.`,
		Example: `  belay node install --root /host --policies /policies -- --docker-host=none --containerd=/run/containerd/containerd.sock`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := t.textOnly(cmd); err != nil {
				return err
			}
			o.Flags = args
			r, err := node.Install(cmd.Context(), o)
			if r != nil {
				t.writeInstalled(r)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Root, "root", "/host", "the node's root as it is mounted here")
	f.StringVar(&o.From, "from", "/", "root of the image")
	f.StringVar(&o.Policies, "policies", "", "directory of the policies (*.yaml) that the node is to have; those that an earlier call wrote and that are not there any more go (default: none)")
	return cmd
}

func (t *terminal) writeInstalled(r *node.Report) {
	for _, f := range r.Written {
		fmt.Fprintln(t.out, clean("wrote /"+f))
	}
	for _, f := range r.Removed {
		fmt.Fprintln(t.out, clean("removed /"+f))
	}
	switch {
	case r.Restarted:
		fmt.Fprintln(t.out, "the agent was restarted; what was pinned enforced meanwhile")
	case len(r.Written)+len(r.Removed) == 0:
		fmt.Fprintln(t.out, "nothing to change")
	}
}

func nodeRemoveCommand(t *terminal) *cobra.Command {
	var o node.Options
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "End enforcement on the node and remove what install has written; the journal and the state stay",
		Long: `remove stops the agent, takes the kernel side down and removes the files that install has
written. If enforcement could not be ended, nothing is removed and the agent is started
again.`,
		Example: "  belay node remove --root /host",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.textOnly(cmd); err != nil {
				return err
			}
			if err := node.Remove(cmd.Context(), o); err != nil {
				return err
			}
			fmt.Fprintln(t.out, "Belay is not on this node any more: nothing is enforced by it")
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Root, "root", "/host", "the node's root as it is mounted here")
	return cmd
}

// nodeHoldCommand is what a pod does once the agent is on its node: a pod that ends is started again.
func nodeHoldCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hold",
		Short: "Wait until it is told to stop",
		Long: `hold keeps a pod there whose init container has put the agent on the node. It needs
no right of any kind. Whether the node enforces is asked of the agent: /healthz at
its --prometheus.`,
		Example: "  belay node hold",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			<-cmd.Context().Done()
			return nil
		},
	}
}
