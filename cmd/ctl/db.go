package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/scan/feed"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

const defaultDB = "/var/lib/belay/vuln.db"

func dbCommand(t *terminal) *cobra.Command {
	return group("db", "Build and look at the vulnerability database",
		`The database is one file that "belay scan" matches packages with. It is built from
records in the OSV format, without any network, and works on hosts that have none.`,
		`  belay db build ./osv
  belay db status`,
		dbBuildCommand(t), dbStatusCommand(t))
}

func dbBuildCommand(t *terminal) *cobra.Command {
	var path, kev string
	cmd := &cobra.Command{
		Use:   "build DIR",
		Short: "Compile OSV records below a directory into the database",
		Long: `build reads all OSV records below DIR, which has the layout of the public OSV bucket
(ECOSYSTEM/all.zip or ECOSYSTEM/ID.json), and puts the database in the place of the
former one in one step. When it fails the former one stays.

Records that were withdrawn are left out. Records that cannot be read are counted,
with some of them named.`,
		Example: `  belay db build ./osv
  belay db build ./osv --kev known_exploited_vulnerabilities.json --db ./vuln.db`,
		Args: oneArgument("a directory with OSV records"),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			rep, err := vulndb.Build(cmd.Context(), path, vulndb.BuildOptions{Walk: feed.Walk, Dir: args[0], KEV: kev, Now: t.now()})
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(rep)
			}
			fmt.Fprintf(t.out, "%s: %d records about %d packages in %s, %s withdrawn; built in %s\n",
				clean(path), rep.Records, rep.Packages, mebibytes(rep.Bytes), count(rep.Withdrawn, "one", "others"), time.Since(start).Round(time.Millisecond))
			if rep.BadRecords+rep.BadVersions > 0 {
				fmt.Fprintf(t.out, "! left out: %s, %s\n", count(rep.BadRecords, "record that cannot be read", "records that cannot be read"),
					count(rep.BadVersions, "version that cannot be ordered", "versions that cannot be ordered"))
				for _, e := range rep.Examples {
					fmt.Fprintln(t.out, "  "+clean(e))
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "db", defaultDB, "`file` of the database")
	cmd.Flags().StringVar(&kev, "kev", "", "CISA's catalogue of exploited vulnerabilities, a JSON `file`")
	return cmd
}

func dbStatusCommand(t *terminal) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell what the database holds and how old it is",
		Long: `status checks the database by its checksum and counts the packages that it has records
about, by ecosystem. The exit status is 1 if it is missing or broken.`,
		Example: `  belay db status
  belay db status -o json | jq .built`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			db, err := openDB(path)
			if err != nil {
				return err
			}
			defer db.Close()
			st := db.Status()
			if t.output == formatJSON {
				return t.writeJSON(st)
			}
			fmt.Fprintf(t.out, "%s: built %s, %d records about %d packages, %s\n", clean(path), t.ago(st.Built), st.Records, st.Packages, mebibytes(st.Bytes))
			tb := t.table("  ", "ECOSYSTEM", "PACKAGES")
			for _, eco := range slices.Sorted(maps.Keys(st.Ecosystems)) {
				tb.row(plain(eco), plain(fmt.Sprint(st.Ecosystems[eco])))
			}
			tb.writeTo(t.out)
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "db", defaultDB, "`file` of the database")
	return cmd
}

// openDB opens the database, or says how to get one.
func openDB(path string) (*vulndb.DB, error) {
	db, err := vulndb.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no vulnerability database at %s: build one with 'belay db build DIR --db %s', or list packages alone with --packages-only", path, path)
	}
	return db, err
}

func mebibytes(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func oneArgument(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("want %s, got %d arguments: %s", what, len(args), strings.Join(args, " "))
		}
		return nil
	}
}
