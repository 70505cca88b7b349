package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/scan/feed"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// defaultEcosystems are those that packages of images are matched with. The records of Red Hat, SUSE, openSUSE,
// openEuler and Mageia are large, or of use to few, and have to be asked for.
var defaultEcosystems = []string{
	"AlmaLinux", "Alpine", "Chainguard", "Debian", "Go", "Maven", "NuGet", "Packagist", "PyPI", "Rocky Linux", "RubyGems", "Ubuntu", "Wolfi", "crates.io", "npm",
}

// updateFlags are the flags of db update.
type updateFlags struct {
	dbFlags
	from, cache        string
	ecosystems         []string
	kev, epss, tracker string
	timeout            time.Duration
	registry           registryFlags
}

func dbUpdateCommand(t *terminal) *cobra.Command {
	f := &updateFlags{}
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Download what changed and bring the database up to date",
		Long: `update keeps a copy of the public bucket of OSV records and compiles it. The first time
it downloads the archive of each ecosystem, then the records that changed, or the
archive again if they are many. Downloads that break go on from where they stopped. What
an update compiled is kept in the same folder, and only what changed is compiled again.
An update that finds nothing new notes in the database that it was asked for.

Checksums are those of the bucket, and it is believed over TLS: there is no signature.
Plain http is for a server at 127.0.0.1 alone. When anything fails the former database
stays. With --from, CISA, FIRST and Debian are asked only where their address is given.

From oci:// it takes a database that "belay db export" has put into a registry, whole, if
it is another than the one in place and its data are not older.`,
		Example: `  belay db update
  belay db update --ecosystems Debian,Go
  belay db update --from https://mirror.example.org/osv --kev-url https://mirror.example.org/kev.json
  belay db update --from /srv/osv
  belay db update --from oci://registry.example/belay/vulndb:1`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.updateDB(cmd, f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.path, "db", defaultDB, "`file` of the database")
	fl.StringVar(&f.from, "from", feed.Bucket, "`URL` of a bucket; a directory in its layout, which is compiled as it is; or a database as oci://HOST/REPOSITORY:TAG")
	fl.StringVar(&f.cache, "cache", "/var/lib/belay/feeds", "`directory` of the copy, and of what was compiled of it")
	fl.StringSliceVar(&f.ecosystems, "ecosystems", defaultEcosystems, "`folders` of the bucket to copy")
	fl.StringVar(&f.kev, "kev-url", "https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities.json", "`URL` of CISA's catalogue; empty: none")
	fl.StringVar(&f.epss, "epss-url", "https://epss.empiricalsecurity.com/epss_scores-current.csv.gz", "`URL` of FIRST's scores; empty: none")
	fl.StringVar(&f.tracker, "debian-tracker-url", "https://security-tracker.debian.org/tracker/data/json", "`URL` of Debian's tracker; empty: none")
	fl.DurationVar(&f.timeout, "timeout", time.Hour, "cap of the downloads' `time`")
	f.registry.add(fl)
	return cmd
}

// ownFolder makes a folder, or sees to it that nobody else writes into it: what is compiled there is
// believed.
func ownFolder(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || !ok || sys.Uid != uint32(os.Geteuid()) || st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is somebody else's, or others may write to it; fix: remove it, or name another folder with --cache", path)
	}
	return nil
}

func (t *terminal) updateDB(cmd *cobra.Command, f *updateFlags) error {
	u, err := url.Parse(f.from)
	folder := err != nil || u.Scheme == ""
	if folder {
		if st, err := os.Stat(f.from); err != nil || !st.IsDir() {
			return fmt.Errorf("--from %s: there is no such directory; fix: name one with OSV records, https://HOST/PATH or oci://HOST/REPOSITORY:TAG", f.from)
		}
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return yours(err, "db", filepath.Dir(f.path))
	}
	if ref, ok := strings.CutPrefix(f.from, ociPrefix); ok {
		if err := notJoined(cmd, f.from, "ecosystems", "kev-url", "epss-url", "debian-tracker-url"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
		defer cancel()
		return t.pullDB(ctx, &f.registry, ref, f.path, true)
	}
	// What another version of this program compiled is compiled anew.
	program, err := fileDigest("/proc/self/exe")
	if err != nil {
		return err
	}
	parts := filepath.Join(f.cache, "parts")
	if err := ownFolder(parts); err != nil {
		return yours(err, "cache", f.cache)
	}
	f.build.Parts = vulndb.Parts{Dir: parts, Program: program}
	if folder {
		for _, name := range []string{"kev-url", "epss-url", "debian-tracker-url"} {
			if cmd.Flags().Changed(name) {
				return badUsage("--%s is for a bucket; fix: belay db import %s with --kev, --epss and --debian-tracker, which name files", name, clean(f.from))
			}
		}
		f.build.Dir = f.from
		return t.buildDB(cmd, &f.dbFlags)
	}
	extras := f.extras(cmd)
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	m := t.meter()
	was, _ := feed.Checked(f.cache)
	rep, err := feed.Update(ctx, feed.Options{
		Dir: f.cache, URL: f.from, Ecosystems: f.ecosystems, Extras: extras, Now: t.now(),
		Progress: func(line string) { m.end(); fmt.Fprintln(t.err, clean(line)) },
		Far:      m.downloads,
	})
	m.end()
	if err != nil {
		return fmt.Errorf("%w; the former database stays", err)
	}
	unlock, err := feed.Lock(f.cache)
	if err != nil {
		return fmt.Errorf("compile the database: %w; the former one stays", err)
	}
	defer unlock()
	asOf, oldest := feed.Checked(f.cache)
	if !slices.Contains(f.ecosystems, oldest) {
		fmt.Fprintf(t.err, "! the database is as old as its records of %s, which were last up to date %s: name it in --ecosystems, or delete %s\n",
			clean(oldest), t.ago(asOf), clean(filepath.Join(feed.Records(f.cache), oldest)))
	}
	if len(rep.Same) == len(f.ecosystems)+len(extras) && current(f.path, f.cache, was) {
		if err := vulndb.Confirm(f.path, asOf); err != nil {
			return err
		}
		if t.output == formatJSON {
			return t.writeJSON(rep)
		}
		fmt.Fprintf(t.out, "%s: nothing changed\n", clean(f.path))
		return nil
	}
	f.build.Dir, f.build.AsOf = feed.Records(f.cache), asOf
	fmt.Fprintf(t.err, "compiling after %s of downloads\n", mebibytes(int(rep.Bytes)))
	return t.buildDB(cmd, &f.dbFlags)
}

// current reports whether the database was compiled of the copy, after its last change: one from elsewhere
// is not of the time at which the copy was checked before.
func current(path, cache string, checked time.Time) bool {
	db, err := vulndb.Open(path)
	if err != nil {
		return false
	}
	defer db.Close()
	return db.AsOf().Equal(checked) && !db.Built().Before(feed.Changed(cache).Truncate(time.Second))
}

// extras are the files to join to records. Where to look for them is set in f.build.
func (f *updateFlags) extras(cmd *cobra.Command) (out []feed.Extra) {
	add := func(flag, address, name string, build *string, only func(path string) vulndb.BuildOptions) {
		if address == "" || f.from != feed.Bucket && !cmd.Flags().Changed(flag) {
			return
		}
		*build = feed.ExtraFile(f.cache, name)
		out = append(out, feed.Extra{Name: name, URL: address, Check: func(path string) error { return vulndb.CheckColumns(only(path)) }})
	}
	add("kev-url", f.kev, "known_exploited_vulnerabilities.json", &f.build.KEV, func(p string) vulndb.BuildOptions { return vulndb.BuildOptions{KEV: p} })
	add("epss-url", f.epss, "epss_scores-current.csv.gz", &f.build.EPSS, func(p string) vulndb.BuildOptions { return vulndb.BuildOptions{EPSS: p} })
	add("debian-tracker-url", f.tracker, "debian-tracker.json", &f.build.Tracker, func(p string) vulndb.BuildOptions {
		return vulndb.BuildOptions{Tracker: p, Parts: f.build.Parts}
	})
	return out
}
