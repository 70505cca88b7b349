package manpage

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Understands tells whether a command line, as documentation shows it, names commands and flags that the
// tree has; nil if so. Nothing is run. Of values only those are looked at that are one of a few words (-o json).
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
		name, value, has := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		var flag *pflag.Flag
		switch {
		case arg == "--":
			return nil
		case !strings.HasPrefix(arg, "-") || name == "":
			// One that takes arguments too is not given a mere word: that would be meant as a command.
			if i == 0 && cmd.HasSubCommands() && (!cmd.Runnable() || len(rest) == 1 && isWord(arg)) {
				return fmt.Errorf("%s has no command %q", cmd.CommandPath(), arg)
			}
			continue
		case !strings.HasPrefix(arg, "--"):
			flag = cmd.Flags().ShorthandLookup(name[:1])
			if flag == nil {
				flag = cmd.InheritedFlags().ShorthandLookup(name[:1])
			}
		default:
			flag = cmd.Flag(name)
		}
		if flag == nil {
			return fmt.Errorf("%s has no flag %s", cmd.CommandPath(), arg)
		}
		if !has && i+1 < len(rest) {
			value = rest[i+1]
		}
		if !strings.Contains(flag.Value.Type(), "|") {
			continue
		}
		if err := flag.Value.Set(value); err != nil {
			return fmt.Errorf("%s %s %q: %w", cmd.CommandPath(), arg, value, err)
		}
	}
	return nil
}

// isWord tells whether an argument looks like a command's name.
func isWord(arg string) bool { return strings.Trim(arg, "abcdefghijklmnopqrstuvwxyz-") == "" }
