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

	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

const defaultDB = "/var/lib/belay/vuln.db"

func dbCommand(t *terminal) *cobra.Command {
	return group("db", "Get, build and look at the vulnerability database",
		`The database is one file that "belay scan" matches packages with. It is built from
records in the OSV format and works on hosts without any network.`,
		`  belay db update
  belay db import ./osv
  belay db status`,
		dbUpdateCommand(t), dbImportCommand(t), dbExportCommand(t), dbVerifyCommand(t), dbStatusCommand(t))
}

// dbFlags are the flags of what makes a database.
type dbFlags struct {
	path  string
	build vulndb.BuildOptions
}

func (f *dbFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.path, "db", defaultDB, "`file` of the database")
	fl.StringVar(&f.build.KEV, "kev", "", "CISA's catalogue of exploited vulnerabilities, a JSON `file`")
	fl.StringVar(&f.build.EPSS, "epss", "", "FIRST's EPSS scores, the `file` epss_scores-current.csv.gz")
	fl.StringVar(&f.build.Tracker, "debian-tracker", "", "Debian's security tracker, a JSON `file`: what will not be fixed, or later")
}

func dbImportCommand(t *terminal) *cobra.Command {
	f, reg := &dbFlags{}, &registryFlags{}
	cmd := &cobra.Command{
		Use:     "import DIR|FILE|oci://HOST/REPOSITORY:TAG",
		Aliases: []string{"build"},
		Short:   "Compile OSV records below a directory into the database, or take an exported one",
		Long: `import reads all OSV records below DIR, which has the layout of the public OSV bucket
(ECOSYSTEM/all.zip or ECOSYSTEM/ID.json), and puts the database in the place of the
former one in one step. When it fails the former one stays. A FILE is a database that
"belay db export" wrote, and oci:// one that it put into a registry, by tag or @digest;
it is checked whole before it is taken.

Records that were withdrawn are left out. A record in a file of its own goes before the
one of its name in an archive. Records that cannot be read are counted, with some of
them named.`,
		Example: `  belay db update
  belay db import ./osv
  belay db import ./osv --kev known_exploited_vulnerabilities.json --db ./vuln.db
  belay db import /media/usb/vuln.db
  belay db import oci://registry.example/belay/vulndb@sha256:...`,
		Args: oneArgument("a directory with OSV records, or a database"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
				return yours(err, "db", filepath.Dir(f.path))
			}
			if ref, ok := strings.CutPrefix(args[0], ociPrefix); ok {
				if err := notJoined(cmd, args[0], "kev", "epss", "debian-tracker"); err != nil {
					return err
				}
				return t.pullDB(cmd.Context(), reg, ref, f.path, false)
			}
			st, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if !st.IsDir() {
				if f.build.KEV != "" || f.build.EPSS != "" || f.build.Tracker != "" {
					return fmt.Errorf("%s is a file: what is joined to records is in a database already, and needs a directory of records", args[0])
				}
				return yours(t.copyDB(args[0], f.path), "db", filepath.Dir(f.path))
			}
			f.build.Dir = args[0]
			return t.buildDB(cmd, f)
		},
	}
	f.add(cmd)
	reg.add(cmd.Flags())
	return cmd
}

// buildDB compiles a database and tells what went into it.
func (t *terminal) buildDB(cmd *cobra.Command, f *dbFlags) error {
	start := time.Now()
	f.build.Now, f.build.Walk = t.now(), osvdir.Walk
	rep, err := vulndb.Build(cmd.Context(), f.path, f.build)
	if err != nil {
		return yours(err, "db", filepath.Dir(f.path))
	}
	if t.output == formatJSON {
		return t.writeJSON(rep)
	}
	fmt.Fprintf(t.out, "%s: %d records about %d packages, as of %s, in %s, %s withdrawn; built in %s\n",
		clean(f.path), rep.Records, rep.Packages, t.ago(rep.AsOf), mebibytes(rep.Bytes), count(rep.Withdrawn, "one", "others"), time.Since(start).Round(time.Millisecond))
	if rep.Oldest != "" {
		fmt.Fprintf(t.out, "! it is as old as its records of %s, the newest of which was changed %s\n", clean(rep.Oldest), t.ago(rep.AsOf))
	}
	if rep.BadRecords+rep.BadVersions > 0 {
		fmt.Fprintf(t.out, "! left out: %s, %s\n", count(rep.BadRecords, "record that cannot be read", "records that cannot be read"),
			count(rep.BadVersions, "version that cannot be ordered", "versions that cannot be ordered"))
		for _, e := range rep.Examples {
			fmt.Fprintln(t.out, "  "+clean(e))
		}
	}
	if rep.OddEntries > 0 {
		fmt.Fprintf(t.out, "! %s known\n", count(rep.OddEntries, "entry of Debian's tracker has another form; its state is not", "entries of Debian's tracker have another form; their states are not"))
	}
	return nil
}

// copyDB copies a database that is whole.
func (t *terminal) copyDB(from, to string) error {
	st, err := vulndb.Copy(from, to)
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(st)
	}
	t.writeDB(to, &st)
	return nil
}

// writeLeftOut tells of records that a database should have.
func (t *terminal) writeLeftOut(st *vulndb.Status) {
	if st.BadRecords > 0 {
		fmt.Fprintf(t.out, "! left out: %s; the build named some\n", count(st.BadRecords, "record that cannot be read", "records that cannot be read"))
	}
}

// writeDB tells what a database is.
func (t *terminal) writeDB(path string, st *vulndb.Status) {
	fmt.Fprintf(t.out, "%s: built %s, as of %s, %d records about %d packages, %s\n", clean(path), t.ago(st.Built), t.ago(st.AsOf), st.Records, st.Packages, mebibytes(st.Bytes))
	t.writeLeftOut(st)
}

func dbExportCommand(t *terminal) *cobra.Command {
	var path string
	reg := &registryFlags{}
	cmd := &cobra.Command{
		Use:   "export FILE|oci://HOST/REPOSITORY:TAG",
		Short: "Copy the database to a file or a registry for other hosts",
		Long: `export checks the database and copies it to FILE, which "belay db import" takes on a
host without network. FILE appears whole or not at all.

To oci:// it is pushed as an artifact, signed in as "docker login" says, for "belay db
import" and "belay db update --from". The same database has the same digest each time.`,
		Example: `  belay db export /media/usb/vuln.db
  belay db export oci://registry.example/belay/vulndb:1`,
		Args: oneArgument("a file to write, or an artifact"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ref, ok := strings.CutPrefix(args[0], ociPrefix); ok {
				return t.pushDB(cmd.Context(), reg, path, ref)
			}
			if err := haveDB(path); err != nil {
				return err
			}
			return t.copyDB(path, args[0])
		},
	}
	cmd.Flags().StringVar(&path, "db", defaultDB, "`file` of the database")
	reg.add(cmd.Flags())
	return cmd
}

func dbVerifyCommand(t *terminal) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check the database by its checksum, and each record in it",
		Long: `verify checks the checksum and decodes every record. The exit status is 1 if the
database is missing, was altered or makes no sense. Records that could not be read when
it was built are not in it: their number is told. The checksum tells of accidents: it
is no signature, and who can write the file can write another.`,
		Example: `  belay db verify --db ./vuln.db`,
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			db, err := openDB(path)
			if err != nil {
				return err
			}
			defer db.Close()
			if err := db.Verify(); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			st := db.Status()
			if t.output == formatJSON {
				return t.writeJSON(st)
			}
			fmt.Fprintf(t.out, "%s: all of %d records about %d packages are in order\n", clean(path), st.Records, st.Packages)
			t.writeLeftOut(&st)
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "db", defaultDB, "`file` of the database")
	return cmd
}

func dbStatusCommand(t *terminal) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell what the database holds and how old it is",
		Long: `status checks the database by its checksum and counts the packages that it has records
about, by ecosystem, with the age of each file it was built from. "As of" is when the
publisher was last asked by "belay db update", or for records of a folder when the newest
of them was changed: by that a database is old. The exit status is 1 if it is missing or
broken.`,
		Example: `  belay db status
  belay db status -o json | jq .asOf`,
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
			t.writeDB(path, &st)
			tb := t.table("  ", "ECOSYSTEM", "PACKAGES")
			for _, eco := range slices.Sorted(maps.Keys(st.Ecosystems)) {
				tb.row(plain(eco), plain(fmt.Sprint(st.Ecosystems[eco])))
			}
			tb.writeTo(t.out)
			if len(st.Sources) > 0 {
				tb := t.table("  ", "SOURCE", "CHANGED", "RECORDS")
				for _, src := range st.Sources {
					tb.row(plain(src.Name), plain(t.ago(src.Time)), plain(fmt.Sprint(src.Records)))
				}
				tb.writeTo(t.out)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "db", defaultDB, "`file` of the database")
	return cmd
}

// openDB opens the database, or says how to get one.
//
// Errors: [errNoDB]; those of [vulndb.Open].
func openDB(path string) (*vulndb.DB, error) {
	if err := haveDB(path); err != nil {
		return nil, err
	}
	return vulndb.Open(path)
}

var errNoDB = errors.New("there is no vulnerability database")

func haveDB(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w at %s; fix: belay db update --db %s (without a network: belay db import)", errNoDB, path, path)
	}
	return nil
}

// yours adds the fix to an error about what a flag names, or what is below or above it, and this user may
// not write.
func yours(err error, flag, what string) error {
	within := func(dir, path string) bool {
		rel, err := filepath.Rel(dir, path)
		return err == nil && filepath.IsLocal(rel)
	}
	failed, ok := errors.AsType[*fs.PathError](err)
	if !ok || !errors.Is(err, fs.ErrPermission) || !within(what, failed.Path) && !within(failed.Path, what) {
		return err
	}
	return fmt.Errorf("%w; fix: run it as root, or name one of yours with --%s", err, flag)
}

func mebibytes(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func oneArgument(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			got := fmt.Sprintf("%d arguments: %s", len(args), strings.Join(args, " "))
			if len(args) == 0 {
				got = "none"
			}
			return fmt.Errorf("want %s, got %s", what, got)
		}
		return nil
	}
}
