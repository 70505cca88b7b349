package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/programpages"
	"github.com/belay-project/belay/internal/sandbox/spawn"
	"github.com/belay-project/belay/internal/scan/attest"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/telemetry"
)

// Exit statuses of scan beside those of all commands.
const (
	exitFindings   = 3
	exitIncomplete = 4
)

// statusError fails a command with an exit status of its own.
type statusError struct {
	code int
	error
}

// Unwrap returns why.
func (e statusError) Unwrap() error { return e.error }

// scanFlags are the flags of one scan.
type scanFlags struct {
	target.Options
	db              string
	output          scanFormat
	failOn          string
	ignore          string
	vex             []string // files
	baseline        string
	bases           []string // files
	memoryMiB       int64
	fixable         bool
	packagesOnly    bool
	scanners        scannerSet
	allowIncomplete bool
	remote          bool
	store           string // of names on this host
	containerd      string // socket
	namespace       string // of containerd
	registry        registryFlags
	cache           cacheFlags
	attached        attachedMode
	attachedVEX     attachedVEXMode
	keyFiles        []string // that attestations must be signed with
	keys            []attest.Key
	attachments     *attachments     // of the image, once they were listed
	doing           *telemetry.Doing // nil: nobody is told of this scan alone
}

func scanCommand(t *terminal) *cobra.Command {
	f := &scanFlags{output: "text", attached: attachedIgnore}
	cmd := &cobra.Command{
		Use:   "scan TARGET",
		Short: "List the packages of an image and their known vulnerabilities; needs no agent",
		Long: `scan reads an image where it is, unpacking nothing, in a process that can reach no
network, no file but the image, and no other process.

TARGET is
  a file       from "docker save", or an OCI layout in a tar; plain, gzip or zstd; or a
               bill of materials in JSON, CycloneDX or SPDX 2
  a directory  with an OCI layout, or else a root file system
  a name       of an image or a container of this host's Docker or containerd; one that
               begins with a registry's host is fetched from there if it is not here
  registry:NAME  of an image in a registry, whatever is here (the same as --remote)

Images of registries are read as they come. What their layers hold is kept ("belay cache
status"), so that a layer is fetched and read once; --no-cache reads all anew. Credentials
are those of "docker login".

It knows packages of Debian, Ubuntu, Alpine, AlmaLinux, Rocky Linux, Red Hat, SUSE and
others (RPM of Amazon, Oracle and Fedora is listed and not matched), installed Node.js
modules, Python distributions, PHP packages, .NET libraries, Ruby gems, archives of Java,
programs of Go and Rust, and lock files of what is not installed. What it could not read
or match is listed; with --fail-on that fails too, unless --allow-incomplete is given.

--fail-on takes a severity, or an expression in CEL with the words severity (compared
with negligible, low, medium, high, critical), fixable, exploited, rated, score, epss,
percentile, state, ids, about (the flaws of an advisory), kind, name, version, path,
layer, fromBase and claimedBase of a finding, inUse, listening, reachable and useKnown of
its package in a running container, and symbols of a Go program ('present', 'absent' or
'unknown': has it the vulnerable functions?); with the word misconfiguration it is also
about those of the image's configuration: root-user, secret-in-env, secret-in-history,
add-url, ssh-port; and of its files: secret-in-file, secret-in-lower-layer, setuid-file,
setgid-file, file-capabilities, world-writable.

--scanners chooses what is looked for beside packages: vuln, secret, misconfig, by default
all of them; none lists packages alone. A --fail-on that may be about what was not looked
for is refused, unless --allow-incomplete is given.

--base names base images by their layers: what is in these is fromBase. What an image says
of its base itself is claimedBase, and proves nothing.

--attached-sbom takes the bill of materials that is attached to an image in a registry
(referrers, or an attestation of BuildKit): use, instead of reading the image; compare,
to tell what the two do not have in common. --attached-vex use takes statements of
suppliers that are attached. Whoever may push to the repository can attach either: with
--attestation-key only those in envelopes (DSSE, bundles of Sigstore) count that are
signed with that key and about this image; without it no signature is looked at.

--ignore accepts findings and misconfigurations for a time; --vex takes what suppliers say
of findings, in OpenVEX or CSAF. Both mark and hide nothing.

-o junit has a test case for each finding, which fails if --fail-on means it; without
--fail-on each does that is neither ignored nor known.

Exit status: 0 done; 1 not done; 2 not understood; 3 there are findings that --fail-on
means; 4 there are none, but something could not be read or matched.

Where the OTEL_* variables name a collector, it is sent a span of the scan with its
stages, below the span that TRACEPARENT names; it is waited for 5 s at most.`,
		Example: `  belay scan nginx:1.27
  belay scan registry.example/team/app:1.4
  belay scan registry:nginx:1.27 --platform linux/arm64
  belay scan image.tar --fail-on high --fixable
  belay scan image.tar --fail-on 'exploited || severity >= high && fixable' --ignore ignore.yaml
  belay scan ./rootfs -o cyclonedx > sbom.json
  belay scan app.tar --scanners secret --fail-on 'misconfiguration.startsWith("secret-")'
  belay scan sbom.json --fail-on high --vex vendor.vex.json -o junit > junit.xml
  belay scan registry.example/team/app:1.4 --attached-vex use --attestation-key vendor.pub`,
		Args: oneArgument("one target"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.doing = telemetry.Begin("scan", map[string]string{"belay.scan.target": args[0]})
			err := t.scan(cmd.Context(), f, args[0])
			t.tell(cmd.Context(), f.doing, notDone(err))
			return err
		},
	}
	fl := cmd.Flags()
	fl.VarP(&f.output, "output", "o", "output format")
	f.add(fl)
	f.addLocal(fl)
	f.addAttached(fl)
	completeScanners(cmd)
	return cmd
}

// addLocal adds the flags by which one target is found.
func (f *scanFlags) addLocal(fl *pflag.FlagSet) {
	fl.BoolVar(&f.remote, "remote", false, "fetch the image from its registry, whatever is on this host")
	fl.StringVar(&f.DockerRoot, "docker-root", "/var/lib/docker", "`directory` of the Docker daemon's data")
	fl.StringVar(&f.store, "store", storeAny, "`STORE` in which names of this host are looked up: any, docker (its own) or containerd")
	fl.StringVar(&f.containerd, "containerd", "", "`socket` of containerd (default: its own, and the one that dockerd starts)")
	fl.StringVar(&f.namespace, "namespace", "", "look in one `namespace` of containerd, as moby or k8s.io (default: in all)")
}

// add adds the flags that are the same for one target and for those of a registry.
func (f *scanFlags) add(fl *pflag.FlagSet) {
	f.addMatching(fl)
	f.addReading(fl)
	f.addScanners(fl)
	fl.StringVar(&f.baseline, "baseline", "", "`report` of an earlier scan (-o json): let --fail-on count only what is new")
	fl.BoolVar(&f.packagesOnly, "packages-only", false, "list packages, use no database")
}

// addMatching adds the flags about findings.
func (f *scanFlags) addMatching(fl *pflag.FlagSet) {
	fl.StringVar(&f.db, "db", defaultDB, "`file` of the vulnerability database")
	fl.StringVar(&f.failOn, "fail-on", "", "fail on findings of `SEVERITY|EXPRESSION`: of this severity or above, or for which the expression holds")
	fl.StringVar(&f.ignore, "ignore", "", "`file` of vulnerabilities and misconfigurations that are accepted for a time")
	fl.StringArrayVar(&f.vex, "vex", nil, "`file` of statements of suppliers, OpenVEX 0.2 or CSAF 2.0: what they say does not matter is ignored; may be repeated")
	fl.StringArrayVar(&f.bases, "base", nil, "`file` of base images, by their layers: a report of a scan of one (-o json), or a list; may be repeated")
	fl.BoolVar(&f.fixable, "fixable", false, "let --fail-on count only what has a fixed version")
	fl.BoolVar(&f.allowIncomplete, "allow-incomplete", false, "let --fail-on pass though something could not be read or matched")
}

// addReading adds the flags about how a target is read.
func (f *scanFlags) addReading(fl *pflag.FlagSet) {
	fl.StringVar(&f.Platform, "platform", "", "which image of several: `os/arch[/variant]`")
	f.registry.add(fl)
	f.cache.add(fl)
	fl.BoolVar(&f.cache.off, "no-cache", false, "read all layers anew and keep nothing of them")
	fl.StringVar(&f.Scanner, "scanner", "", "the scanner's `program` (default: belay-scanner beside belay)")
	fl.DurationVar(&f.Timeout, "timeout", spawn.DefaultTimeout, "cap of the scanner's `time`, and of that of matching")
	fl.Int64Var(&f.memoryMiB, "memory", inventory.DefaultMemoryMax>>20, "cap of the scanner's memory in `MiB`")
	fl.BoolVar(&f.Idle, "idle", false, "give way to all else that wants the processor or the disk")
	fl.StringSliceVar(&f.Without, "sandbox-without", nil, "`pieces` of the sandbox that may be missing: landlock, cgroup, ...; the report names them")
}

// check checks flags that go together and returns what they say of findings.
func (f *scanFlags) check() (*scanRules, error) {
	if f.memoryMiB < 32 || f.memoryMiB > 1<<20 {
		return nil, badUsage("--memory %d: want at least 32 MiB", f.memoryMiB)
	}
	f.MemoryMax = f.memoryMiB << 20
	if err := f.scanners.apply(f); err != nil {
		return nil, err
	}
	if err := f.checkAttached(); err != nil {
		return nil, err
	}
	return f.rules()
}

func (t *terminal) scan(ctx context.Context, f *scanFlags, name string) error {
	rules, err := f.check()
	if err != nil {
		return err
	}
	s, err := t.scanTarget(ctx, f, name)
	if err != nil {
		return err
	}
	if s.Inventory.Digest != "" {
		f.doing.Attributes["belay.image.digest"] = s.Inventory.Digest
	}
	if err := t.takeAttachedVEX(ctx, f, name, rules); err != nil {
		return err
	}
	if err := rules.apply(ctx, t, s); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := t.writeScan(s, f, rules); err != nil {
		return err
	}
	return f.verdict(s, rules)
}

// scanTarget has the target read and matches what is in it.
func (t *terminal) scanTarget(ctx context.Context, f *scanFlags, name string) (*report.Scan, error) {
	db, err := t.prepare(f)
	if err != nil {
		return nil, err
	}
	if db != nil {
		defer db.Close()
	}
	tgt, err := openTarget(ctx, f, name)
	if err != nil {
		return nil, err
	}
	defer tgt.Close()
	f.doing.Ended("resolve")
	return t.scanAttached(ctx, f, name, tgt, db)
}

// prepare finds the scanner and opens the database, which is nil where none is wanted.
func (t *terminal) prepare(f *scanFlags) (db *vulndb.DB, err error) {
	if err := f.cache.open(t, &f.Options); err != nil {
		return nil, err
	}
	if f.Scanner == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		f.Scanner = filepath.Join(filepath.Dir(self), "belay-scanner")
	}
	// What the start needed of the program would stay in memory beside the database, until the scanner is done;
	// what fails leaves it as it was.
	_ = programpages.Drop()
	if f.Scanner, err = filepath.Abs(f.Scanner); err != nil || f.packagesOnly {
		return nil, err
	}
	db, err = openDB(f.db)
	if errors.Is(err, errNoDB) {
		err = fmt.Errorf("%w, or list packages alone with --packages-only", err)
	}
	return db, err
}

// scanOpened has an opened target read and matches what is in it.
func (t *terminal) scanOpened(ctx context.Context, f *scanFlags, name string, tgt *target.Target, db *vulndb.DB) (*report.Scan, error) {
	m := t.meter()
	res, err := target.Scan(ctx, tgt, m.watching(f.Options, name))
	m.end()
	f.doing.Ended("read")
	f.cache.tell(t)
	switch limit, ok := errors.AsType[*spawn.LimitError](err); {
	case ok && limit.What == "memory":
		return nil, fmt.Errorf("%s: the scanner was %w: give it more with --memory", name, limit)
	case ok && limit.What == "time":
		return nil, fmt.Errorf("%s: the scanner was %w: give it more with --timeout", name, limit)
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("there is no scanner at %s: install belay-scanner beside belay, or name the program with --scanner (--scanners chooses what is looked for)", f.Scanner)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if db == nil {
		return report.New(name, t.now(), res, nil, nil), nil
	}
	_ = programpages.Drop() // and what reading the answer needed, beside matching
	found, err := match(ctx, db, res, f.Timeout)
	f.doing.Ended("match")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var uses []inventory.Use
	if tgt.Container != "" {
		uses = t.usesOf(ctx, tgt.Container, res)
	}
	st := db.Status()
	s := report.New(name, t.now(), res, &report.Database{Built: st.Built, AsOf: st.AsOf, Records: st.Records}, &found)
	attachUses(s, uses)
	return s, nil
}

// match matches a hostile image's packages, for as long as its reading might take.
func match(ctx context.Context, db *vulndb.DB, res *inventory.Result, timeout time.Duration) (vulndb.Matches, error) {
	if timeout <= 0 {
		timeout = spawn.DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m, err := db.Match(ctx, res)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("matching its packages took more than %s: give it more with --timeout", timeout)
	}
	return m, err
}

var severityColours = map[vulndb.Severity]colour{
	vulndb.SeverityCritical: red, vulndb.SeverityHigh: red, vulndb.SeverityMedium: yellow, vulndb.SeverityNegligible: grey,
}

func (t *terminal) writeScanText(s *report.Scan) {
	inv := s.Inventory
	fmt.Fprintf(t.out, "%s: %s, %s in %s\n", clean(s.Target), clean(orDash(inv.OS.Pretty)), count(len(inv.Packages), "package", "packages"), count(len(inv.Layers), "layer", "layers"))
	switch {
	case s.Database == nil && len(inv.Skipped) == 1: // of secrets alone, or of misconfigurations, the number is enough
	case s.Database == nil:
		tb := t.table("", "KIND", "PACKAGE", "VERSION", "WHERE")
		for i := range inv.Packages {
			p := &inv.Packages[i]
			tb.row(plain(p.Kind), plain(p.Name), plain(p.Version), plain(s.Where(p)))
		}
		tb.writeTo(t.out)
	default:
		t.writeFindings(s)
	}
	t.writeAttached(s)
	t.writeMisconfigurations(s)
	for _, n := range append(inv.Notes, s.Notes...) {
		fmt.Fprintln(t.out, t.colours.paint(yellow, noteLine(n)))
	}
	if left := leftOut(s); left != "" {
		fmt.Fprintln(t.out, left)
	}
	if len(inv.Sandbox.Lost) > 0 {
		fmt.Fprintln(t.out, "sandbox without "+clean(strings.Join(inv.Sandbox.Lost, ", ")))
	}
}

// writeMisconfigurations lists what is wrong with the configuration and with files. Programs
// of the distribution that have rights by design are counted alone.
func (t *terminal) writeMisconfigurations(s *report.Scan) {
	tb, ordinary := t.table("", "SEVERITY", "CONFIGURATION", "WHERE", ""), 0
	for i := range s.Misconfigurations {
		m := &s.Misconfigurations[i]
		if m.Ordinary() {
			ordinary++
			continue
		}
		where := orDash(m.Where)
		if m.Path != "" {
			where += s.WhichLayer(m.Layer)
		}
		tb.row(cell{m.Severity.String(), cmp.Or(severityColours[m.Severity], noColour)}, plain(m.ID+acceptedText(m.Ignored, m.Known)), plain(where), plain(m.Text))
	}
	if ordinary < len(s.Misconfigurations) {
		tb.writeTo(t.out)
	}
	if ordinary > 0 {
		fmt.Fprintf(t.out, "%s of the distribution's packages with rights of their own (setuid, setgid, capabilities): -o json lists them\n", count(ordinary, "program", "programs"))
	}
	if u := s.Inventory.Unsearched; u != nil {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! not searched for secrets: "+strings.TrimPrefix(noteLine(*u), "! ")))
	}
}

// acceptedText says, behind a name, that it fails nothing.
func acceptedText(ignored string, known bool) string {
	switch {
	case ignored != "":
		return " ignored: " + ignored
	case known:
		return " known"
	}
	return ""
}

// noteLine is what could not be read, for a person.
func noteLine(n inventory.Note) string {
	times := ""
	if n.Count > 1 {
		times = fmt.Sprintf(", and %d more", n.Count-1)
	}
	return "! " + clean(n.Text) + ": " + clean(orDash(n.Path)) + times
}

func (t *terminal) writeFindings(s *report.Scan) {
	if len(s.Findings) == 0 {
		fmt.Fprintf(t.out, "no known vulnerabilities, by %d records as of %s\n", s.Database.Records, t.ago(s.Database.AsOf))
		return
	}
	columns := []string{"SEVERITY", "VULNERABILITY", "PACKAGE", "INSTALLED", "FIXED IN", "WHERE"}
	seen := s.Findings[0].Use != nil
	if seen {
		columns = append(columns, "IN USE")
	}
	tb := t.table("", columns...)
	sums := map[vulndb.Severity]int{}
	exploited := 0
	for _, f := range s.Findings {
		p := &s.Inventory.Packages[f.Package]
		sums[f.Severity]++
		name, id := p.Name, f.IDs[0]
		if p.Source != "" && p.Source != p.Name {
			name += " (" + p.Source + ")"
		}
		if f.Exploited {
			exploited++
			id += " exploited"
		}
		fixed := f.Fixed
		switch {
		case f.State == vulndb.StateSubscription:
			fixed += " (" + f.State + ")"
		case fixed == "" && f.State != vulndb.StateAffected:
			fixed = f.State
		}
		id += acceptedText(f.Ignored, f.Known)
		c := severityColours[f.Severity]
		if c == "" {
			c = noColour
		}
		where := s.Where(p)
		if text := report.SymbolsText(&f); text != "" {
			where += ", " + text
		}
		row := []cell{{f.Severity.String(), c}, plain(id), plain(name), plain(p.Version), plain(orDash(fixed)), plain(where)}
		if seen {
			row = append(row, plain(useText(f.Use)))
		}
		tb.row(row...)
	}
	tb.writeTo(t.out)
	if line := useLine(s); line != "" {
		fmt.Fprintln(t.out, line)
	}
	var parts []string
	for sev := vulndb.SeverityCritical; ; sev-- {
		if sums[sev] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", sums[sev], sev))
		}
		if sev == vulndb.SeverityUnknown {
			break
		}
	}
	fmt.Fprintf(t.out, "%s: %s; %d known to be exploited\n", count(len(s.Findings), "finding", "findings"), strings.Join(parts, ", "), exploited)
	t.writeOrigin(s)
}

// writeOrigin tells which layers brought findings, and whose they are.
func (t *terminal) writeOrigin(s *report.Scan) {
	if b := s.Base; b != nil && b.Layers > 0 {
		fmt.Fprintf(t.out, "%d from the base image %s (layers 1 to %d), %d from the layers above it\n", b.Findings, clean(b.Title()), b.Layers, b.Own)
	} else if b != nil {
		fmt.Fprintf(t.out, "base image: %s; which layers are its is not known (--base)\n", clean(b.Title()))
	}
	layers := s.Inventory.Layers
	sums, known := make([]int, len(layers)), false
	for i := range s.Findings {
		sums[s.Inventory.Packages[s.Findings[i].Package].Layer]++
	}
	tb := t.table("", "LAYER", "FINDINGS", "MADE BY")
	for i, l := range layers {
		if sums[i] == 0 {
			continue
		}
		known = known || l.CreatedBy != ""
		of := ""
		switch {
		case s.Base.Has(i) && s.Base.Proven():
			of = " base"
		case s.Base.Has(i):
			of = " base?"
		}
		tb.row(plain(fmt.Sprintf("%d%s", i+1, of)), plain(fmt.Sprint(sums[i])), plain(orDash(l.CreatedBy)))
	}
	if known && len(layers) > 1 {
		tb.writeTo(t.out)
	}
}
