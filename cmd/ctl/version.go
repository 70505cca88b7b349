package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the release build: -ldflags "-X main.version=1.2.3".
var version string

type versionAnswer struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a tree that differs from Commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func versionCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this command",
		Long: `version prints the version of this command and of the Go release that built it.
The version of the running agent is in "belay status".`,
		Example: `  belay version
  belay version -o json`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			v := versionOf(info)
			if t.output == formatJSON {
				return t.writeJSON(v)
			}
			commit := ""
			if v.Commit != "" {
				commit = " commit " + v.Commit
				if v.Modified {
					commit += " (modified)"
				}
			}
			_, err := fmt.Fprintf(t.out, "belay %s%s, %s, %s\n", v.Version, commit, v.Go, v.Platform)
			return err
		},
	}
}

// versionOf says what is known without a release build too. info may be nil.
func versionOf(info *debug.BuildInfo) versionAnswer {
	v := versionAnswer{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info != nil {
		if v.Version == "" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	return v
}
