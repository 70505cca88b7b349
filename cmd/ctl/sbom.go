package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/target"
)

// sbomFormat is the value of -o of sbom.
type sbomFormat string

func (f *sbomFormat) String() string { return string(*f) }
func (f *sbomFormat) Type() string   { return "cyclonedx|spdx" }

func (f *sbomFormat) Set(s string) error {
	if s != "cyclonedx" && s != "spdx" {
		return errors.New("want cyclonedx or spdx")
	}
	*f = sbomFormat(s)
	return nil
}

func sbomCommand(t *terminal) *cobra.Command {
	f, format := &scanFlags{packagesOnly: true, Options: target.Options{Skip: inventory.Scanners()}}, sbomFormat("cyclonedx")
	cmd := &cobra.Command{
		Use:   "sbom TARGET",
		Short: "Write what is in an image as a bill of materials; needs neither agent nor database",
		Long: `sbom reads a target as scan does and writes its packages as a bill of materials:
CycloneDX 1.6 or SPDX 2.3, in JSON. "belay scan FILE" matches such a file later, and
that of other tools too. TARGET is what scan takes.

What could not be read is named on the standard error, and the bill says that it is not
complete.

Exit status: 0 done; 1 not done; 2 not understood.`,
		Example: `  belay sbom nginx:1.27 > nginx.cdx.json
  belay sbom image.tar -o spdx > image.spdx.json
  belay scan nginx.cdx.json --fail-on high`,
		Args: oneArgument("one target"),
		RunE: func(cmd *cobra.Command, args []string) error { return t.sbom(cmd.Context(), f, format, args[0]) },
	}
	fl := cmd.Flags()
	fl.VarP(&format, "output", "o", "output format")
	f.addReading(fl)
	f.addLocal(fl)
	return cmd
}

func (t *terminal) sbom(ctx context.Context, f *scanFlags, format sbomFormat, name string) error {
	if _, err := f.check(); err != nil {
		return err
	}
	s, err := t.scanTarget(ctx, f, name)
	if err != nil {
		return err
	}
	for _, n := range s.Inventory.Notes {
		fmt.Fprintln(t.err, noteLine(n))
	}
	write := s.WriteCycloneDX
	if format == "spdx" {
		write = s.WriteSPDX
	}
	return t.writeCleaned(func(w io.Writer) error { return write(w, version) })
}
