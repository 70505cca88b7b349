package manpage

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Understands tells whether a command line, as documentation shows it, names commands and flags that the
// tree has; nil if so. Nothing is run, and values are not looked at.
func Understands(root *cobra.Command, args []string) error {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	for i, arg := range rest {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case arg == "--":
			return nil
		case !strings.HasPrefix(arg, "-") || name == "":
			if i == 0 && cmd.HasSubCommands() && !cmd.Runnable() {
				return fmt.Errorf("%s has no command %q", cmd.CommandPath(), arg)
			}
		case strings.HasPrefix(arg, "--"):
			if cmd.Flag(name) == nil {
				return fmt.Errorf("%s has no flag --%s", cmd.CommandPath(), name)
			}
		case cmd.Flags().ShorthandLookup(name[:1]) == nil && cmd.InheritedFlags().ShorthandLookup(name[:1]) == nil:
			return fmt.Errorf("%s has no flag -%s", cmd.CommandPath(), name[:1])
		}
	}
	return nil
}
