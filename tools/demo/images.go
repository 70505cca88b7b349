package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/tools/lab"
)

// The images of the scenes about scanning: one package of Debian in each.
const (
	imageShop  = "demo/shop:1"  // of which a record is known
	imageClean = "demo/clean:1" // of which one comes to be known
)

// imagePolicy refuses what has a critical flaw that can be fixed, and scans what it does not
// know.
const imagePolicy = `apiVersion: belay.dev/v1
kind: ImagePolicy
metadata: {name: demo-images}
spec:
  mode: enforce
  findings: [{name: critical, severity: critical, fixable: true}]
  unscanned: scan
  deadline: 60s
`

const flaw = `{"id":"DEBIAN-%[1]s","upstream":[%[1]q],"affected":[{"package":{"ecosystem":"Debian:12","name":%[2]q},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2.0"}]}]}],
"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]}`

// imagesPhase starts the agent anew with a scanner and a database, and without what went before.
var imagesPhase = phase{
	title: "Images are scanned, and scanned images judged", mode: "enforce", short: true, prepare: openScans, finish: closeScans,
	only: func(s *stage) string {
		// landlock_create_ruleset(2) with this flag gives the version.
		if v, _, _ := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); int(v) < 1 {
			return "the scanner's sandbox needs Landlock, which is not in this kernel's lsm= list"
		}
		return ""
	},
	scenes: []scene{
		{
			name: "a scan of an image, where it lies", tried: "belay scan shop", want: runs, ran: "CVE-2026-0001", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return show(s.agent.Belay(ctx, "scan", imageShop, "--store", s.scan.store, "--containerd", s.scan.socket, "--db", s.scan.db, "--scanner", s.scan.scanner, "--docker-root", s.scan.root), "CVE-2026-0001")
			},
		},
		{
			name: "the agent's verdict, for a pipeline", tried: "belay ci scan shop --fail-on critical", want: runs, ran: "exit status 3",
			act: func(ctx context.Context, s *stage) lab.Result {
				r := s.agent.Belay(ctx, "ci", "scan", imageShop, "--fail-on", "critical", "--wait", "2m")
				if r.Code == 3 {
					return lab.Result{Stdout: "exit status 3: " + r.Stderr}
				}
				return r
			},
		},
		{
			name: "a container of that image", tried: "docker run shop", want: denied, rule: "container.create", ran: "ran hello", gate: true, short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.through(ctx, 0, "run", "--rm", "-u", "1000", imageShop, "say", "hello")
			},
		},
		{
			name: "one of an image without a flaw", tried: "docker run -d --name clean clean", want: runs, ran: "started", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return said(s.through(ctx, 0, "run", "-d", "--name", "clean", "-u", "1000", imageClean, "wait"), "started")
			},
		},
		{
			name: "a new record turns what runs up", tried: "belay db import osv; belay events", want: runs, ran: "CVE-2026-0002", short: true,
			act: newRecord,
		},
	},
}

// scans is what the scenes about images need.
type scans struct{ scanner, db, root, osv, socket, store string }

func openScans(ctx context.Context, s *stage) error {
	scanner, err := s.lab.Scanner(ctx)
	if err != nil {
		return err
	}
	s.scan = scans{scanner: scanner, db: s.lab.Path("vuln.db"), root: s.lab.Path("main", "data"), osv: s.lab.Path("osv"), socket: s.lab.Path("main", "ctd.sock"), store: "docker"}
	if s.engine.Driver != "overlay2" { // the engine keeps its images in containerd's store
		s.scan.store = "containerd"
	}
	if err := os.MkdirAll(s.scan.osv, 0o700); err != nil {
		return err
	}
	actor, err := s.lab.Actor(ctx)
	if err != nil {
		return err
	}
	for image, pkg := range map[string]string{imageShop: "shop", imageClean: "clean"} {
		files := []lab.File{
			lab.Program("bin/actor", actor), {Name: "etc/os-release", Mode: 0o644, Body: []byte("ID=debian\nVERSION_ID=\"12\"\n")},
			{Name: "var/lib/dpkg/status", Mode: 0o644, Body: fmt.Appendf(nil, "Package: %s\nStatus: install ok installed\nVersion: 1.0\n\n", pkg)},
		}
		if err := s.engine.Import(ctx, image, files, `ENTRYPOINT ["/bin/actor"]`); err != nil {
			return err
		}
	}
	// The actor is a program in Go: a database that knows nothing of these matches no image whole.
	other := []byte(`{"id":"GO-0000-0000","affected":[{"package":{"ecosystem":"Go","name":"belay.invalid/other"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]}`)
	if err := os.WriteFile(filepath.Join(s.scan.osv, "other.json"), other, 0o600); err != nil {
		return err
	}
	if err := s.learn(ctx, "CVE-2026-0001", "shop"); err != nil {
		return err
	}
	if err := s.agent.Stop(); err != nil {
		return err
	}
	flags, err := s.collect()
	if err != nil {
		return err
	}
	if s.agent, err = s.lab.NewAgent(ctx, lab.AgentOptions{
		Name: "agent", Engine: s.engine, Flags: append(flags, "--scanner", scanner, "--vuln-db", s.scan.db, "--docker-root", s.scan.root, "--containerd", s.scan.socket),
	}); err != nil {
		return err
	}
	if err := s.agent.SetPolicy("images.yaml", imagePolicy); err != nil {
		return err
	}
	if err := s.agent.Start(ctx); err != nil {
		return err
	}
	if !lab.Await(ctx, 20*time.Second, func() bool { return s.through(ctx, 0, "ps").Code == 0 && s.agent.Belay(ctx, "ci", "list").Code == 0 }) {
		return errors.Join(errors.New("the gate and the scan API do not answer"), s.through(ctx, 0, "ps").Err(), s.agent.Belay(ctx, "ci", "list").Err())
	}
	return nil
}

func closeScans(ctx context.Context, s *stage) error {
	s.engine.Docker(ctx, "rm", "-f", "clean")
	return s.agent.SetPolicy("images.yaml", "")
}

// learn puts a record on a package into the database.
func (s *stage) learn(ctx context.Context, id, pkg string) error {
	if err := os.WriteFile(filepath.Join(s.scan.osv, id+".json"), fmt.Appendf(nil, flaw, id, pkg), 0o600); err != nil {
		return err
	}
	if r := s.agent.Belay(ctx, "db", "import", s.scan.osv, "--db", s.scan.db); r.Code != 0 {
		return r.Err()
	}
	return nil
}

// newRecord imports a record on what runs, and waits for the event.
func newRecord(ctx context.Context, s *stage) lab.Result {
	const id = "CVE-2026-0002"
	began := time.Now()
	if err := s.learn(ctx, id, "clean"); err != nil {
		return lab.Result{Code: 1, Stderr: err.Error()}
	}
	found := lab.Await(ctx, time.Minute, func() bool {
		out := s.agent.Belay(ctx, "events", "-o", "json").Stdout
		return slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
			return strings.Contains(line, `"finding"`) && strings.Contains(line, id)
		})
	})
	if !found {
		return lab.Result{Code: 1, Stderr: "no event within a minute"}
	}
	return lab.Result{Stdout: fmt.Sprintf("%s in the journal %s after the import began", id, time.Since(began).Round(100*time.Millisecond))}
}

// show returns the line of a result that has a word.
func show(r lab.Result, word string) lab.Result {
	for line := range strings.Lines(r.Stdout) {
		if strings.Contains(line, word) {
			r.Stdout, r.Stderr = strings.Join(strings.Fields(line), " "), ""
			return r
		}
	}
	return r
}
