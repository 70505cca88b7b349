package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/stock"
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
	a := &Agent{cfg: Config{StateDir: t.TempDir()}, health: health.New(nil), log: slog.New(slog.DiscardHandler), policies: &policies{set: set}}
	a.binder = newBinder(a)
	im := &images{
		a: a, wake: make(chan struct{}, 1), known: map[string]knownImage{}, held: map[ident.ContainerID]*policy.RuntimePolicy{},
		told: map[ident.ContainerID]string{},
		look: func(_ context.Context, ref string) (workload.Image, error) {
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
	go func() { done <- im.keeper.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return im
}

// A scan is waited for within the deadline; each failure has the verdict that is stated.
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
	im.learn(t.Context(), judgedID)
	if d := im.decide(c, nil); d.Allowed || d.Rule != "registries" || d.Runtime() == nil {
		t.Errorf("known: %+v", d)
	}
	c.Runtime = workload.RuntimeContainerd
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
		im.look = func(context.Context, string) (workload.Image, error) {
			return workload.Image{ID: judgedID, User: "1", Unread: errors.New("here for 2 platforms")}, nil
		}
		im.learn(t.Context(), judgedID)
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
		im.look = func(context.Context, string) (workload.Image, error) {
			return workload.Image{ID: judgedID, Unread: errors.New("here for 2 platforms")}, nil
		}
		if d := im.JudgeImage(t.Context(), q); d.Allowed != (mode == "audit") || d.Rule != "unscanned" || !strings.Contains(d.Reason, "2 platforms") {
			t.Errorf("%s, at the gate: got %+v", mode, d)
		}
		if d := im.decide(workload.Container{Runtime: workload.RuntimeContainerd, ImageDigest: judgedID}, nil); d.Allowed != (mode == "audit") || d.Rule != "unscanned" {
			t.Errorf("%s, elsewhere: got %+v", mode, d)
		}
	}
}
