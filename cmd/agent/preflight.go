package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/enforce"
)

func preflightCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Tell what this kernel lets Belay do, and change nothing",
		Long: `Preflight tries each backend's mechanism on this kernel and shows the level that
each rule would get. It exits 1 if no backend works.`,
		Example: "  belay-agent preflight\n  belay-agent preflight -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return fmt.Errorf("preflight loads BPF programs to try them and needs root")
			}
			r := enforce.Preflight()
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				if err := enc.Encode(r); err != nil {
					return err
				}
			} else {
				printPreflight(cmd.OutOrStdout(), r)
			}
			if r.Auto == "" {
				return fmt.Errorf("no backend works on this kernel")
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printPreflight(out io.Writer, r enforce.PreflightReport) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "BACKEND\tUSABLE\tWHY NOT")
	for _, b := range r.Backends {
		fmt.Fprintf(w, "%s\t%v\t%s\n", b.Backend, b.Usable, b.Why)
	}
	fmt.Fprintf(w, "\nRULE\tLEVEL (%s)\tNOTE\n", r.Auto)
	for _, l := range r.Levels {
		fmt.Fprintf(w, "%s\t%s\t%s\n", l.Name, l.Text, l.Note)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", n)
	}
}
