package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/containerd"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/stock"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/workload"
)

var judgedID = "sha256:" + strings.Repeat("a", 64)

// testImages is a judge under a policy whose engine knows one image, which scan reads.
func testImages(t *testing.T, spec string, scan func(context.Context, string, bool) (*inventory.Result, error)) *images {
	t.Helper()
	docs, err := policy.ParseAll("image.yaml", []byte("apiVersion: belay.dev/v1\nkind: ImagePolicy\nmetadata: {name: p}\nspec:\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	set, err := docs.Set()
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: Config{StateDir: t.TempDir()}, health: health.New(nil), log: slog.New(slog.DiscardHandler), policies: &policies{}}
	a.policies.set.Store(set)
	a.binder = newBinder(a)
	im := &images{
		a: a, wake: make(chan struct{}, 1), known: map[imageKey]knownImage{}, held: map[ident.ContainerID]*policy.RuntimePolicy{},
		told: map[ident.ContainerID]string{}, started: func(ident.ContainerID) (bool, error) { return false, nil },
		look: func(_ context.Context, _, ref string) (workload.Image, error) {
			if ref != judgedID {
				return workload.Image{}, workload.ErrNoImage
			}
			return workload.Image{ID: judgedID, Names: []string{"shop:1"}}, nil
		},
	}
	a.images = im
	im.keeper, err = stock.Open(stock.Options{Dir: filepath.Join(t.TempDir(), "i"), DB: filepath.Join(t.TempDir(), "none"), Scan: scan, Health: a.health})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	keeper := im.keeper // a test may take another
	go func() { done <- keeper.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return im
}

// A scan is waited for within the deadline; each failure has the verdict that is stated.
// What is refused because it was not scanned is scanned for the next time.
func TestJudgeImageLater(t *testing.T) {
	im := testImages(t, "  mode: enforce\n  scanned: {required: true}\n", func(context.Context, string, bool) (*inventory.Result, error) {
		return &inventory.Result{Schema: inventory.Schema}, nil
	})
	q := &proxy.ImageQuery{ID: judgedID, Asked: "shop:1"}
	if d := im.JudgeImage(t.Context(), q); d.Allowed || d.Rule != "unscanned" {
		t.Fatalf("got %+v", d)
	}
	for im.JudgeImage(t.Context(), q).Rule != "" {
		if t.Context().Err() != nil {
			t.Fatal("it is refused still")
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the keeper tells nobody
	}
}

func TestJudgeImage(t *testing.T) {
	good := func(context.Context, string, bool) (*inventory.Result, error) {
		return &inventory.Result{Schema: inventory.Schema}, nil
	}
	fails := func(context.Context, string, bool) (*inventory.Result, error) {
		return nil, errors.New("killed at its memory cap of 128 MiB")
	}
	hangs := func(ctx context.Context, _ string, _ bool) (*inventory.Result, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	const scan = "  mode: enforce\n  scanned: {required: true}\n  unscanned: scan\n  deadline: 1s\n"
	for _, tt := range []struct {
		name, spec, id string
		scan           func(context.Context, string, bool) (*inventory.Result, error)
		rule, reason   string // no rule: allowed
	}{
		{"scanned first", scan, judgedID, good, "", ""},
		{"the scanner fails", scan, judgedID, fails, "unscanned", "memory cap"},
		{"it takes too long", scan, judgedID, hangs, "unscanned", "within 1s"},
		{"fallback", scan + "  fallback: allow\n", judgedID, fails, "", ""},
		{"no scanner", scan, judgedID, nil, "unscanned", "no belay-scanner"},
		{"no database", "  mode: enforce\n  findings: [{severity: high}]\n  unscanned: scan\n", judgedID, good, "database", "belay db update"},
		{"the engine does not know it", scan, "sha256:" + strings.Repeat("b", 64), good, "lookup", "no such image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			im := testImages(t, tt.spec, tt.scan)
			began := time.Now()
			d := im.JudgeImage(t.Context(), &proxy.ImageQuery{ID: tt.id, Asked: "shop:1"})
			if d.Allowed != (tt.rule == "") || d.Rule != tt.rule || !strings.Contains(d.Reason, tt.reason) {
				t.Errorf("got %+v", d)
			}
			if time.Since(began) > 20*time.Second {
				t.Error("the deadline did not hold")
			}
			audit := testImages(t, strings.Replace(tt.spec, "enforce", "audit", 1), tt.scan)
			if d := audit.JudgeImage(t.Context(), &proxy.ImageQuery{ID: tt.id, Asked: "shop:1"}); !d.Allowed || d.Audit != (tt.rule != "") {
				t.Errorf("in audit: %+v", d)
			}
		})
	}
}

// What the kernel half decides asks nobody: an image that is not known is denied, whatever the
// runtime, and a pull is judged by its name.
func TestDecideWithoutAsking(t *testing.T) {
	im := testImages(t, "  mode: enforce\n  registries: [registry.example.com/**]\n", nil)
	c := workload.Container{ID: ident.ContainerID(strings.Repeat("c", 64)), Runtime: workload.RuntimeDocker, ImageDigest: judgedID, Image: "shop:1"}
	if d := im.decide(c, nil); d.Allowed || d.Rule != "lookup" {
		t.Errorf("unknown: %+v", d)
	}
	im.learn(t.Context(), c.Runtime, judgedID)
	if d := im.decide(c, nil); d.Allowed || d.Rule != "registries" || d.Runtime() == nil {
		t.Errorf("known: %+v", d)
	}
	c.Runtime = workload.RuntimeContainerd
	if d := im.decide(c, nil); d.Allowed || d.Rule != "lookup" {
		t.Errorf("known to another runtime: %+v", d)
	}
	im.learn(t.Context(), c.Runtime, judgedID)
	if d := im.decide(c, nil); d.Allowed || d.Rule != "registries" {
		t.Errorf("of containerd: %+v", d)
	}
	nameless := c
	nameless.ImageDigest = ""
	if d := im.decide(nameless, nil); d.Allowed || d.Rule != "lookup" || !strings.Contains(d.Reason, "containerd does not tell") {
		t.Errorf("of no image: %+v", d)
	}
	for name, want := range map[string]bool{"registry.example.com/a:1": true, "evil.example.com/a:1": false} {
		if d := im.JudgeImage(t.Context(), &proxy.ImageQuery{Pull: true, Asked: name}); d.Allowed != want {
			t.Errorf("pull of %s: %+v", name, d)
		}
	}
	// In the kernel a denial lets no program run, whatever else would loosen.
	d := im.decide(workload.Container{ID: c.ID, Runtime: workload.RuntimeDocker, ImageDigest: judgedID}, nil)
	set := im.a.policies.current()
	eff := set.EffectiveWith(policy.Subject{ID: c.ID, Known: true}, []*policy.RuntimePolicy{d.Runtime()})
	bits, v, pol := eff.MatchPath("/bin/sh")
	if got := eff.Exec(policy.Facts{AllowBits: bits, PathVerdict: v, PathPolicy: pol}); got.Verdict.String() != "deny" {
		t.Errorf("exec: %+v", got)
	}
}

// Of an image whose configuration could not be read only rules about that deny, with a counter.
func TestUnreadConfig(t *testing.T) {
	for spec, rule := range map[string]string{
		"  mode: enforce\n  nonRoot: true\n":                   "configuration",
		"  mode: enforce\n  digests: [\"" + judgedID + "\"]\n": "",
	} {
		im := testImages(t, spec, nil)
		im.look = func(context.Context, string, string) (workload.Image, error) {
			return workload.Image{ID: judgedID, User: "1", Unread: errors.New("here for 2 platforms")}, nil
		}
		im.learn(t.Context(), workload.RuntimeContainerd, judgedID)
		d := im.decide(workload.Container{Runtime: workload.RuntimeContainerd, ImageDigest: judgedID}, nil)
		if d.Allowed != (rule == "") || d.Rule != rule {
			t.Errorf("%s: got %+v", spec, d)
		}
		if n := im.a.health.Counter("image_configs_unread").Load(); n != 1 {
			t.Errorf("image_configs_unread is %d", n)
		}
	}
}

// A scan that was made while an image was here for one platform says nothing once it is here for
// two.
func TestUnreadIsUnscanned(t *testing.T) {
	for _, mode := range []string{"enforce", "audit"} {
		im := testImages(t, "  mode: "+mode+"\n  scanned: {required: true}\n  unscanned: scan\n", func(context.Context, string, bool) (*inventory.Result, error) {
			return &inventory.Result{Schema: inventory.Schema}, nil
		})
		q := &proxy.ImageQuery{ID: judgedID, Asked: "shop:1"}
		if d := im.JudgeImage(t.Context(), q); !d.Allowed || d.Audit {
			t.Errorf("%s, one platform: got %+v", mode, d)
		}
		im.look = func(context.Context, string, string) (workload.Image, error) {
			return workload.Image{ID: judgedID, Unread: errors.New("here for 2 platforms")}, nil
		}
		if d := im.JudgeImage(t.Context(), q); d.Allowed != (mode == "audit") || d.Rule != "unscanned" || !strings.Contains(d.Reason, "2 platforms") {
			t.Errorf("%s, at the gate: got %+v", mode, d)
		}
		if d := im.decide(workload.Container{Runtime: workload.RuntimeDocker, ImageDigest: judgedID}, nil); d.Allowed != (mode == "audit") || d.Rule != "unscanned" {
			t.Errorf("%s, elsewhere: got %+v", mode, d)
		}
	}
}

// A scan says nothing of the platform that came in the place of the one that was scanned, and the image is
// scanned again.
func TestReplacedPlatform(t *testing.T) {
	here, found := "sha256:"+strings.Repeat("1", 64), make(chan string, 10)
	im := testImages(t, "  mode: enforce\n  scanned: {required: true}\n", func(context.Context, string, bool) (*inventory.Result, error) {
		return &inventory.Result{Schema: inventory.Schema, Digest: <-found}, nil
	})
	im.look = func(context.Context, string, string) (workload.Image, error) {
		return workload.Image{ID: judgedID, Manifest: here}, nil
	}
	q := &proxy.ImageQuery{ID: judgedID, Asked: "shop:1"}
	found <- here
	if err := im.keeper.Ensure(t.Context(), judgedID); err != nil {
		t.Fatal(err)
	}
	if d := im.JudgeImage(t.Context(), q); !d.Allowed {
		t.Errorf("the one that was scanned: got %+v", d)
	}
	here = "sha256:" + strings.Repeat("2", 64)
	if d := im.JudgeImage(t.Context(), q); d.Allowed || d.Rule != "unscanned" || !strings.Contains(d.Reason, "another platform") {
		t.Errorf("at the gate: got %+v", d)
	}
	if d := im.decide(workload.Container{Runtime: workload.RuntimeDocker, ImageDigest: judgedID}, nil); d.Allowed || d.Rule != "unscanned" {
		t.Errorf("elsewhere: got %+v", d)
	}
	found <- here // the scan that was begun for it
	for range 1000 {
		if s, _ := im.keeper.State(judgedID); s.Manifest == here {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if d := im.JudgeImage(t.Context(), q); !d.Allowed {
		t.Errorf("scanned again: got %+v", d)
	}
}

// A container that is yet to start is judged by what its own runtime says now: not by what was said
// a moment ago, and not by what names another runtime has for the same digest.
func TestSeenAsksAnew(t *testing.T) {
	im := testImages(t, "  mode: enforce\n  registries: [registry.example.com/**]\n", nil)
	good := workload.Image{ID: judgedID, Digests: []string{"registry.example.com/shop@" + judgedID}}
	said := map[string]workload.Image{workload.RuntimeDocker: good, workload.RuntimeContainerd: good}
	var err error
	im.look = func(_ context.Context, runtime, _ string) (workload.Image, error) { return said[runtime], err }
	of := func(id, runtime string, state workload.State) workload.Container {
		return workload.Container{ID: ident.ContainerID(strings.Repeat(id, 64)), Runtime: runtime, ImageDigest: judgedID, State: state}
	}
	see := func(c workload.Container) policy.ImageDecision {
		ch := workload.Change{Kind: workload.Upsert, Runtime: c.Runtime, Container: c}
		im.seen(ch)
		im.a.binder.registry.Apply(ch)
		return im.decide(c, nil)
	}
	first := of("1", workload.RuntimeContainerd, workload.StateCreated)
	if d := see(first); !d.Allowed {
		t.Errorf("of the registry: %+v", d)
	}
	err = workload.ErrNoImage
	first.State = workload.StateStopped
	if d := see(first); !d.Allowed {
		t.Errorf("one that was seen, whose image's name is gone: %+v", d)
	}
	if d := see(of("2", workload.RuntimeContainerd, workload.StateCreated)); d.Allowed || d.Rule != "lookup" {
		t.Errorf("a new one, of which nobody tells: %+v", d)
	}
	err = nil
	if d := see(of("3", workload.RuntimeContainerd, workload.StateCreated)); !d.Allowed {
		t.Errorf("told again: %+v", d)
	}
	said[workload.RuntimeContainerd] = workload.Image{ID: judgedID, Digests: []string{"evil.example.com/shop@" + judgedID}}
	if d := see(of("4", workload.RuntimeContainerd, workload.StateCreated)); d.Allowed || d.Rule != "registries" {
		t.Errorf("of another registry by now: %+v", d)
	}
	if d := see(of("5", workload.RuntimeDocker, workload.StateCreated)); !d.Allowed {
		t.Errorf("of Docker: %+v", d)
	}
	if line, d := im.line(judgedID, judgedID); d.Allowed || line.Rule != "registries" {
		t.Errorf("shown: %+v", line)
	}
}

// A Docker that hangs or has another name for a digest is not asked about containerd's containers.
func TestLookImageOfContainerd(t *testing.T) {
	hangs, err := net.Listen("unix", filepath.Join(t.TempDir(), "d"))
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	docker, err := workload.NewDocker(workload.DockerOptions{Host: "unix://" + hangs.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: Config{Containerd: filepath.Join(t.TempDir(), "none")}, docker: docker}
	began := time.Now()
	if _, err := a.lookImage(t.Context(), workload.RuntimeContainerd, judgedID); !errors.Is(err, containerd.ErrUnreachable) || time.Since(began) > lookTime/4 {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// A container that an earlier agent knew is judged by what its engine said then, until the engine answers:
// after a reboot it starts before that. One that was never seen is not known.
func TestRecalled(t *testing.T) {
	digests := []string{"registry.example.com/shop@" + judgedID}
	for _, tt := range []struct {
		name, spec string
		says       workload.Image
		rule       string // empty: allowed
	}{
		{"allowed", "registries: [registry.example.com/**]", workload.Image{Digests: digests}, ""},
		{"denied", "registries: [other.example.com/**]", workload.Image{Digests: digests}, "registries"},
		{"by its configuration", "nonRoot: true", workload.Image{User: "1000"}, ""},
		{"its configuration was not read", "nonRoot: true", workload.Image{Unread: errors.New("here for 2 platforms")}, "configuration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := "  mode: enforce\n  " + tt.spec + "\n"
			before := testImages(t, spec, nil)
			tt.says.ID = judgedID
			before.look = func(context.Context, string, string) (workload.Image, error) { return tt.says, nil }
			c := workload.Container{ID: ident.ContainerID(strings.Repeat("c", 64)), Runtime: workload.RuntimeDocker, ImageDigest: judgedID, State: workload.StateRunning}
			ch := workload.Change{Kind: workload.Upsert, Runtime: c.Runtime, Container: c}
			before.a.binder.registry.Apply(ch)
			before.seen(ch)
			if err := before.a.binder.remember(); err != nil {
				t.Fatal(err)
			}

			after := testImages(t, spec, nil)
			after.look = func(context.Context, string, string) (workload.Image, error) {
				return workload.Image{}, errors.New("the engine has not started yet")
			}
			after.a.cfg.StateDir = before.a.cfg.StateDir
			after.a.binder = newBinder(after.a)
			if err := after.a.binder.recallKnown(); err != nil {
				t.Fatal(err)
			}
			after.learn(t.Context(), c.Runtime, c.ImageDigest) // which fails
			if d := after.decide(c, nil); d.Allowed != (tt.rule == "") || d.Rule != tt.rule {
				t.Errorf("recalled: %+v", d)
			}
			c.ImageDigest = "sha256:" + strings.Repeat("b", 64)
			if d := after.decide(c, nil); d.Allowed || d.Rule != "lookup" {
				t.Errorf("never seen: %+v", d)
			}
		})
	}
}

// So it is by what is inside: an inventory that was made before is matched before anything is bound.
func TestRecalledFindings(t *testing.T) {
	for _, tt := range []struct {
		name, pkg string
		held      bool
	}{{"no finding", "zlib", false}, {"a finding", "openssl", true}} {
		t.Run(tt.name, func(t *testing.T) {
			dir, records := t.TempDir(), t.TempDir()
			o := stock.Options{Dir: filepath.Join(dir, "i"), DB: filepath.Join(dir, "vuln.db"), Health: health.New(nil), Scan: func(context.Context, string, bool) (*inventory.Result, error) {
				return &inventory.Result{Schema: inventory.Schema, OS: inventory.OS{ID: "debian", VersionID: "12"}, Layers: []inventory.Layer{{}},
					Packages: []inventory.Package{{Kind: inventory.KindDeb, Name: tt.pkg, Version: "1", Source: tt.pkg, SourceVersion: "1", Path: "x"}}}, nil
			}}
			record := `{"id":"DSA-1","modified":"2026-01-02T00:00:00Z","affected":[{"package":{"ecosystem":"Debian:12","name":"openssl"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2"}]}]}],"database_specific":{"severity":"CRITICAL"}}`
			if err := os.WriteFile(filepath.Join(records, "DSA-1.json"), []byte(record), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := vulndb.Build(t.Context(), o.DB, vulndb.BuildOptions{Walk: osvdir.Walk, Dir: records, Now: time.Now()}); err != nil {
				t.Fatal(err)
			}
			earlier, err := stock.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- earlier.Run(ctx) }()
			err = earlier.Ensure(ctx, judgedID)
			stop()
			<-done
			if err != nil {
				t.Fatal(err)
			}

			im := testImages(t, "  mode: enforce\n  findings: [{severity: high}]\n", nil)
			if im.keeper, err = stock.Open(o); err != nil {
				t.Fatal(err)
			}
			c := workload.Container{ID: ident.ContainerID(strings.Repeat("c", 64)), Runtime: workload.RuntimeDocker, ImageDigest: judgedID}
			known, err := json.Marshal([]remembered{{Container: c, Image: &rememberedImage{Image: workload.Image{ID: judgedID}}}})
			if err == nil {
				err = os.WriteFile(im.a.binder.file, known, 0o600)
			}
			if err = errors.Join(err, im.a.binder.recallAll()); err != nil {
				t.Fatal(err)
			}
			if rp := im.binding(c, nil); (rp != nil) != tt.held {
				d := im.decide(c, nil)
				t.Errorf("held: %v, by %s: %s", rp != nil, d.Rule, d.Reason)
			}
		})
	}
}

// A record of an advisory names the flaws that it is about: of one with many, not so many that all lists are cut.
func TestRecordedAdvisory(t *testing.T) {
	f := policy.ImageFinding{IDs: []string{"ALSA-1"}, About: []string{"CVE-1", "CVE-2"}, Package: "kernel", Version: "1"}
	var got journal.Image
	if putFinding(&got, &f); got.Vulnerability != "ALSA-1" || strings.Join(got.About, " ") != "CVE-1 CVE-2" {
		t.Errorf("got %+v", got)
	}
	f.About = slices.Repeat([]string{"CVE-2026-100000"}, 5000)
	putFinding(&got, &f)
	if b, err := journal.Encode(&journal.Record{Image: &got}); err != nil || len(got.About) != maxAbout || strings.Contains(string(b), journal.FlagTrimmed) {
		t.Errorf("%d of %d flaws, %v: %.200s", len(got.About), len(f.About), err, b)
	}
}

// A denied image is held unless its container is known to run: not where the kernel does not tell.
func TestHeldUnlessStarted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		started bool
		err     error
		held    bool
	}{
		{"not started", false, nil, true},
		{"runs", true, nil, false},
		{"the kernel does not tell", false, errors.New("list containers: no memory"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			im := testImages(t, "  mode: enforce\n  nonRoot: true\n", nil)
			im.started = func(ident.ContainerID) (bool, error) { return tt.started, tt.err }
			c := workload.Container{ID: ident.ContainerID(strings.Repeat("c", 64)), Runtime: workload.RuntimeDocker, ImageDigest: judgedID}
			if rp := im.binding(c, nil); (rp != nil) != tt.held || im.isHeld(c.ID) != tt.held {
				t.Errorf("bound to %+v", rp)
			}
			if n := im.a.health.Counter("starts_unknown").Load(); (n == 1) != (tt.err != nil) {
				t.Errorf("starts_unknown is %d", n)
			}
		})
	}
}

// TestSandboxPieces: a mistyped piece of the sandbox keeps the agent from starting, and not each scan from being made.
func TestSandboxPieces(t *testing.T) {
	s := startScanAgent(t, "reg.example")
	s.cfg.SandboxWithout = []string{"cgroups"}
	if err := s.openImages(); err == nil || !strings.Contains(err.Error(), `no sandbox piece "cgroups"`) {
		t.Errorf("got %v", err)
	}
}
