package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/doctor"
)

// bundleAnswer is the JSON of support-bundle.
type bundleAnswer struct {
	File   string `json:"file"`
	Failed int    `json:"failures"` // findings of doctor in it
	Warned int    `json:"warnings"`
}

func supportBundleCommand(t *terminal) *cobra.Command {
	f := &doctorFlags{}
	var records int
	cmd := &cobra.Command{
		Use:   "support-bundle FILE.tar.gz",
		Short: "Pack what somebody who helps needs into a file, without secrets",
		Long: `support-bundle examines the host as doctor does and writes a new archive, for its owner
alone, with the findings, the agent's state, names and revisions of policies, facts of
the kernel and the last records of the journal.

Everything in it is copied by a list of fields that may be shared. Left out are host,
user, container and image names, addresses, arguments, environments, labels, messages,
errors, and the contents of policies; in paths, names that look like values. All files
in it are text: read them before you give them away.`,
		Example: `  belay support-bundle /root/belay-support.tar.gz
  belay support-bundle ./b.tar.gz --records 0 && tar -xzOf b.tar.gz belay-support/doctor.json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := oneArgument("a new file to write")(cmd, args); err != nil {
				return err
			}
			if records < 0 || records > doctor.MaxRecords {
				return fmt.Errorf("--records %d: want 0 to %d", records, doctor.MaxRecords)
			}
			return f.fill(t)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := t.examine(cmd.Context(), f)
			if err != nil {
				return fmt.Errorf("the examination was not done: %w", err)
			}
			o := doctor.BundleOptions{Journal: f.journal, Records: records}
			if records == 0 {
				o.Records = -1
			}
			if err := doctor.CreateBundle(cmd.Context(), args[0], &r, o); err != nil {
				return err
			}
			a := bundleAnswer{File: args[0], Failed: r.Count(doctor.Fail), Warned: r.Count(doctor.Warn)}
			if t.output == formatJSON {
				return t.writeJSON(a)
			}
			fmt.Fprintf(t.out, "%s: written for its owner alone; read it before you give it away\n", clean(a.File))
			return nil
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().IntVar(&records, "records", 1000, "how many of the last records of the journal go into it")
	return cmd
}
