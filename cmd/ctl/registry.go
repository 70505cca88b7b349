package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/scan/registry"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/telemetry"
)

func registryCommand(t *terminal) *cobra.Command {
	return group("registry", "Scan the images of registries",
		`Images are read as they come from the registry. What their layers hold is kept, as by
"belay scan", and, where a file is named for it, a list of what was done.`,
		`  belay registry scan registry.example --tag 'v*' --state seen.jsonl`,
		registryScanCommand(t))
}

// registryScanFlags are those of a registry's scan beside those of one image's.
type registryScanFlags struct {
	scanFlags
	tags, repos []string
	state       string
	rate        float64
}

func registryScanCommand(t *terminal) *cobra.Command {
	f := &registryScanFlags{scanFlags: scanFlags{output: "text"}}
	cmd := &cobra.Command{
		Use:   "scan REGISTRY[/REPOSITORY]...",
		Short: "Scan the tags of repositories, each image once",
		Long: `scan reads every tag of the given repositories, and of all that a registry's catalogue
lists where a registry alone is given. Each image is read as "belay scan" does it.
Tags of signatures and attestations are passed over.

With --state FILE images that the file has are passed over, by their digest: only what
is new is read, and a scan that was stopped goes on where it was. An image that could
not be read is tried again the next time, and with --fail-on so is one that did not pass
by the same rule: the same expression, flags and contents of files, and no entry of
--ignore that has expired since. The file says nothing of findings: new records about old
images take a scan without it. Images that were scanned with other --scanners, or with
--packages-only, are not done.

The output is one line an image; with -o json one object a line, as "belay scan -o json"
has it.

Exit status: 0 all were scanned; 1 some were not; 2 not understood; 3 and 4 as of
"belay scan", by --fail-on.`,
		Example: `  belay registry scan registry.example --tag 'v*' --state seen.jsonl
  belay registry scan registry.example/team/app --fail-on critical --fixable
  belay registry scan localhost:5000 --repo 'team/*' --rate 5 -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("want at least one REGISTRY[/REPOSITORY]")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			doing := telemetry.Begin("registry scan", map[string]string{"belay.scan.target": strings.Join(args, " ")})
			err := t.scanRegistries(cmd.Context(), f, args, doing)
			t.tell(cmd.Context(), doing, notDone(err))
			return err
		},
	}
	fl := cmd.Flags()
	fl.VarP(&f.output, "output", "o", "output format: text or json")
	f.add(fl)
	completeScanners(cmd)
	fl.StringSliceVar(&f.tags, "tag", nil, "only tags that match one of these `patterns` (*, ?, [a-z])")
	fl.StringSliceVar(&f.repos, "repo", nil, "only repositories whose name, without the registry, matches one of these `patterns`; * stops at a slash")
	fl.StringVar(&f.state, "state", "", "`file` of the images that were done; made if it is not there")
	fl.Float64Var(&f.rate, "rate", 10, "at most `N` requests a second; 0 is no limit")
	return cmd
}

// sweep is one scan of registries.
type sweep struct {
	t       *terminal
	f       *registryScanFlags
	rules   *scanRules
	db      *vulndb.DB
	client  *registry.Client
	state   *sweepState
	scanned int
	passed  int   // over, since they were done before
	failed  int   // that could not be scanned
	verdict error // the worst of --fail-on
	doing   *telemetry.Doing
}

func (t *terminal) scanRegistries(ctx context.Context, f *registryScanFlags, targets []string, doing *telemetry.Doing) error {
	rules, err := f.check()
	if err != nil {
		return err
	}
	if f.output != "text" && f.output != "json" {
		return badUsage("-o %s: want text or json for a registry", f.output)
	}
	for _, p := range append(f.tags, f.repos...) {
		if _, err := path.Match(p, ""); err != nil {
			return badUsage("the pattern %q: %w", p, err)
		}
	}
	if f.rate < 0 || f.rate > 10_000 {
		return badUsage("--rate %g: want 0 to 10000 requests a second", f.rate)
	}
	s := &sweep{t: t, f: f, rules: rules, doing: doing}
	if s.db, err = t.prepare(&f.scanFlags); err != nil {
		return err
	}
	if s.db != nil {
		defer s.db.Close()
	}
	if _, err := os.Stat(f.Scanner); err != nil {
		return fmt.Errorf("there is no scanner: install belay-scanner beside belay, or name it with --scanner: %w", err)
	}
	if s.state, err = openSweepState(f.state, sweepLine{Platform: f.Platform, Left: f.left(), Passed: f.ruleDigest(rules, t.now())}); err != nil {
		return err
	}
	defer s.state.close()
	if f.rate > 0 {
		f.registry.Every = time.Duration(float64(time.Second) / f.rate)
	}
	s.client = f.registry.client()
	defer s.client.Close()
	for _, target := range targets {
		if err := s.client.Repositories(ctx, target, func(repo string) error { return s.repository(ctx, repo) }); err != nil {
			return err
		}
	}
	return s.end()
}

func (s *sweep) end() error {
	fmt.Fprintf(s.t.err, "%s, %d done before, %d failed\n", count(s.scanned, "image scanned", "images scanned"), s.passed, s.failed)
	if s.failed > 0 {
		return fmt.Errorf("%s could not be scanned", count(s.failed, "image", "images"))
	}
	return s.verdict
}

func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return len(patterns) == 0
}

// repository scans the tags of one repository. What fails in one is told and the others are
// scanned; the end of ctx ends all.
func (s *sweep) repository(ctx context.Context, repo string) error {
	if _, name, _ := strings.Cut(repo, "/"); !matches(s.f.repos, name) {
		return nil
	}
	err := s.client.Tags(ctx, repo, func(tag string) error {
		if !matches(s.f.tags, tag) || attachment.MatchString(tag) {
			return nil
		}
		return s.tell(ctx, repo+":"+tag, s.image(ctx, repo+":"+tag))
	})
	return s.tell(ctx, repo, err)
}

// attachment is the tag of a signature, an attestation or a bill of materials of an image, as
// cosign and the OCI referrers tag schema name them: they are no images.
var attachment = regexp.MustCompile(`^sha256-[0-9a-f]{64}(\..*)?$`)

// tell prints what failed, but for the end of the whole.
func (s *sweep) tell(ctx context.Context, what string, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, errSweepState) {
		return err
	}
	s.failed++
	fmt.Fprintf(s.t.err, "! %s: %s\n", clean(what), clean(err.Error()))
	return nil
}

func (s *sweep) image(ctx context.Context, ref string) (err error) {
	since, over := time.Now(), s.passed
	defer func() {
		if s.passed == over {
			s.told(ref, since, err)
		}
	}()
	digest, err := s.client.Digest(ctx, ref)
	if err != nil {
		return err
	}
	if digest != "" && s.state.has(digest) {
		s.passed++
		return nil
	}
	img, err := s.client.Image(ctx, ref)
	if err != nil {
		return err
	}
	if img.Digest != digest && s.state.has(img.Digest) {
		s.passed++
		return nil
	}
	tgt, err := target.OpenBlobs(img, img.Digest)
	if err != nil {
		return err
	}
	defer tgt.Close()
	scan, err := s.t.scanOpened(ctx, &s.f.scanFlags, ref, tgt, s.db)
	if err != nil {
		return err
	}
	if err := s.rules.apply(ctx, s.t, scan); err != nil {
		return err
	}
	if err := s.write(scan); err != nil {
		return err
	}
	s.scanned++
	v := s.f.verdict(scan, s.rules)
	if v != nil {
		if old, ok := errors.AsType[statusError](s.verdict); !ok || old.code != exitFindings {
			s.verdict = v
		}
	}
	return s.state.add(img.Digest, ref, s.t.now(), v == nil)
}

// ruleDigest names what decides at a time whether an image passes; "" is nothing.
func (f *scanFlags) ruleDigest(r *scanRules, now time.Time) string {
	if r.fail == nil {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %t %t", f.failOn, f.fixable, f.allowIncomplete)
	if r.ignores != nil {
		fmt.Fprintf(h, " ignore %x", r.ignores.Digest(now))
	}
	if r.baseline != nil {
		fmt.Fprintf(h, " baseline %x", r.baseline.Digest)
	}
	if r.vex != nil {
		fmt.Fprintf(h, " vex %x", r.vex.Digest)
	}
	if r.bases != nil {
		fmt.Fprintf(h, " base %x", r.bases.Digest)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func (s *sweep) write(scan *report.Scan) error {
	if s.f.output == "json" {
		return writeJSON(s.t.out, scan, "")
	}
	sums := map[vulndb.Severity]int{}
	for _, f := range scan.Findings {
		sums[f.Severity]++
	}
	what := fmt.Sprintf("%d critical, %d high, %d medium, %d low", sums[vulndb.SeverityCritical], sums[vulndb.SeverityHigh], sums[vulndb.SeverityMedium],
		sums[vulndb.SeverityLow]+sums[vulndb.SeverityNegligible])
	if n := sums[vulndb.SeverityUnknown]; n > 0 {
		what += fmt.Sprintf(", %d unrated", n)
	}
	if s.db == nil {
		what = "not matched"
	}
	if !scan.Complete {
		what += ", incomplete"
	}
	_, err := fmt.Fprintf(s.t.out, "%s: %s, %s\n", clean(scan.Target), count(len(scan.Inventory.Packages), "package", "packages"), what)
	return err
}

// sweepState is the images that were done: a file of one JSON object a line, to which is
// only added. The zero value forgets.
type sweepState struct {
	done map[string]bool
	want sweepLine // what a line must say for its image to be done
	f    *os.File
}

// sweepLine is one line of the file.
type sweepLine struct {
	Digest   string    `json:"digest"`
	Platform string    `json:"platform,omitempty"`
	Left     string    `json:"leftOut,omitempty"` // of what may be looked for, by --scanners or --packages-only
	Passed   string    `json:"passed,omitempty"`  // the digest of the rule by which it did
	Ref      string    `json:"ref"`
	Time     time.Time `json:"time"`
}

// sweepStart is how a line begins.
const sweepStart = `{"digest":"sha256:`

var (
	errSweepState = errors.New("the state file")
	errNoLine     = errors.New("name another file")
)

const maxSweepLine = 16 << 10

func openSweepState(name string, want sweepLine) (*sweepState, error) {
	s := &sweepState{done: map[string]bool{}, want: want}
	if name == "" {
		return s, nil
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s.f = f
	if err := s.read(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w %s: %w", errSweepState, name, err)
	}
	return s, nil
}

// read reads the file and cuts off a last line that was being written when a scan was stopped.
func (s *sweepState) read(f *os.File) error {
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxSweepLine)
	whole, end := true, int64(0)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		n, token, err := bufio.ScanLines(data, atEOF)
		if whole = n == 0 || data[n-1] == '\n'; whole {
			end += int64(n)
		}
		return n, token, err
	})
	for n := 1; lines.Scan(); n++ {
		var l sweepLine
		err := json.Unmarshal(lines.Bytes(), &l)
		if !whole && strings.HasPrefix(lines.Text(), sweepStart[:min(len(lines.Bytes()), len(sweepStart))]) {
			break // nothing else is cut off: it may be the file of somebody else
		}
		if err != nil || l.Digest == "" || !whole {
			return fmt.Errorf("line %d is none of 'belay registry scan' (%w)", n, errors.Join(errNoLine, err))
		}
		if l.Platform == s.want.Platform && l.Left == s.want.Left && (s.want.Passed == "" || l.Passed == s.want.Passed) {
			s.done[l.Digest] = true
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return f.Truncate(end)
}

func (s *sweepState) has(digest string) bool { return s.done[digest] }

// add notes an image that was scanned: this scan is done with it, whether it passed or not.
func (s *sweepState) add(digest, ref string, at time.Time, passed bool) error {
	s.done[digest] = true
	if s.f == nil {
		return nil
	}
	line := s.want
	line.Digest, line.Ref, line.Time = digest, ref, at.UTC()
	if !passed {
		line.Passed = ""
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(line); err != nil {
		return err
	}
	if _, err := s.f.Write(b.Bytes()); err != nil {
		return fmt.Errorf("%w: %w", errSweepState, err)
	}
	return nil
}

func (s *sweepState) close() {
	if s.f != nil {
		s.f.Close()
	}
}
