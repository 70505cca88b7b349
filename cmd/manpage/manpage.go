// Package manpage writes manual pages from a command tree, in the man macros of
// groff_man(7), one page a command.
//
// It owns no state and runs no command. The text is that of --help, so that the two cannot
// differ. Row: assembly, below the commands that use it.
package manpage

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/atomicfile"
)

// Section is the section of the manual that the pages are for: 1, or 8 for daemons.
type Section int

// Command returns the hidden command "man DIR", which writes the pages of the whole tree that
// it hangs in.
func Command(section Section) *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write manual pages into a directory",
		Long: `man writes a manual page for each command into DIR, which must exist. Pages have the
date that SOURCE_DATE_EPOCH gives, or today's.`,
		Example: `  belay man ./man`,
		Hidden:  true,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := date(os.Getenv("SOURCE_DATE_EPOCH"), time.Now())
			if err != nil {
				return err
			}
			return Write(cmd.Root(), args[0], section, at)
		},
	}
}

// date is the time that the environment fixes (seconds since 1970, see
// https://reproducible-builds.org/specs/source-date-epoch/), or else now.
func date(epoch string, now time.Time) (time.Time, error) {
	if epoch == "" {
		return now.UTC(), nil
	}
	n, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q: want seconds since 1970", epoch)
	}
	return time.Unix(n, 0).UTC(), nil
}

// Write writes a page for cmd and each command below it into dir; hidden ones are left out.
//
// A page of "belay policy check" is belay-policy-check.1. Errors: those of writing files.
func Write(cmd *cobra.Command, dir string, section Section, at time.Time) error {
	if cmd.Hidden || cmd.Deprecated != "" {
		return nil
	}
	name := filepath.Join(dir, fmt.Sprintf("%s.%d", pageName(cmd), section))
	err := atomicfile.Write(name, 0o644, func(w io.Writer) error {
		_, err := io.WriteString(w, page(cmd, section, at))
		return err
	})
	if err != nil {
		return err
	}
	for _, c := range cmd.Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue // cobra's own, the same everywhere
		}
		if err := Write(c, dir, section, at); err != nil {
			return err
		}
	}
	return nil
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func page(cmd *cobra.Command, section Section, at time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %q %q %q \"Belay\" \"Belay manual\"\n", strings.ToUpper(pageName(cmd)), strconv.Itoa(int(section)), at.Format(time.DateOnly))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", escape(pageName(cmd)), escape(cmd.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.nf\n%s\n.fi\n", escape(cmd.UseLine()))
	long := cmd.Long
	if long == "" {
		long = cmd.Short
	}
	fmt.Fprintf(&b, ".SH DESCRIPTION\n.nf\n%s\n.fi\n", escape(long))
	flags(&b, "OPTIONS", cmd.NonInheritedFlags())
	flags(&b, "OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", escape(cmd.Example))
	}
	var also []string
	if p := cmd.Parent(); p != nil {
		also = append(also, pageName(p))
	}
	for _, c := range cmd.Commands() {
		if !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			also = append(also, pageName(c))
		}
	}
	for i, name := range also {
		if i == 0 {
			b.WriteString(".SH SEE ALSO\n")
		}
		fmt.Fprintf(&b, ".BR %s (%d)\n", escape(name), section)
	}
	return b.String()
}

func flags(b *strings.Builder, title string, set *pflag.FlagSet) {
	first := true
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		if first {
			fmt.Fprintf(b, ".SH %s\n", title)
			first = false
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" {
			name += " " + value
		}
		if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0" && d != "0s" {
			usage += " (default " + d + ")"
		}
		fmt.Fprintf(b, ".TP\n%s\n%s\n", escape(name), escape(usage))
	})
}

// escape keeps roff from reading text as its own: backslashes, hyphens that are to be
// copied, and lines that begin like a request.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
