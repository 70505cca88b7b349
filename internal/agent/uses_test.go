package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/workload"
)

// testUses looks at a proc file system of one container whose program is /usr/bin/a.
func testUses(t *testing.T, spec string) (*uses, workload.Container) {
	t.Helper()
	im := testImages(t, spec, nil)
	a := im.a
	a.openUses()
	c := workload.Container{ID: ident.ContainerID(strings.Repeat("c", 64)), State: workload.StateRunning, ImageDigest: judgedID, Runtime: workload.RuntimeDocker}
	root := t.TempDir()
	a.uses.proc = inuse.Proc{Root: root}
	write := func(name, text string) {
		path := filepath.Join(root, "7", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup", "0::/docker/"+string(c.ID)+"\n")
	write("maps", "00-01 r-xp 0 08:01 1 /usr/bin/a\n")
	const line = "0: 00000000:0050 00000000:0000 0A 0:0 0:0 0 0 0 5 1\n"
	for _, n := range []string{"tcp", "tcp6", "udp", "udp6"} {
		write("net/"+n, "head\n"+map[string]string{"tcp": line}[n])
	}
	if err := os.MkdirAll(filepath.Join(root, "7", "fd"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"exe": "/usr/bin/a", "fd/3": "socket:[5]", "ns/net": "net:[1]"} {
		if err := os.MkdirAll(filepath.Join(root, "7", filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(root, "7", name)); err != nil {
			t.Fatal(err)
		}
	}
	key := func(f string) []byte { return inventory.AppendKey(nil, inventory.FileKey(f)) }
	a.uses.inventories = func(string) (*inventory.Result, time.Time, error) {
		return &inventory.Result{
			Packages: []inventory.Package{{Kind: "deb", Name: "a", Version: "1", Path: "s"}, {Kind: "deb", Name: "b", Version: "1", Path: "s"}, {Kind: "deb", Name: "data", Version: "1", Path: "s"}},
			Owned:    []inventory.OwnedFiles{{Package: 0, Keys: key("usr/bin/a")}, {Package: 1, Keys: key("usr/bin/b")}},
		}, time.Unix(1, 0), nil
	}
	a.uses.ports = func(context.Context, workload.Container) inuse.Ports {
		return inuse.Ports{Known: true, List: []inuse.Port{{Proto: "tcp", Host: netip.MustParseAddrPort("0.0.0.0:8080"), Private: 80}}}
	}
	return a.uses, c
}

func findingIn(name string) policy.ImageFinding {
	return policy.ImageFinding{IDs: []string{"CVE-1"}, Kind: "deb", Package: name, Version: "1", Path: "s", Severity: inventory.SeverityHigh}
}

// A container is looked at at once, after 10 s and a minute, and then every five; what it used
// stays known of its image when it has ended.
func TestUsesSchedule(t *testing.T) {
	u, c := testUses(t, "  mode: enforce\n  findings: [{name: used, inUse: true}]\n")
	list := []workload.Container{c, {ID: ident.ContainerID(strings.Repeat("e", 64)), State: workload.StateStopped, ImageDigest: judgedID}}
	begin := time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
	var looked []time.Duration
	for at := time.Duration(0); at <= 12*time.Minute; at += useTick {
		before := u.a.health.Counter("use_looks").Load()
		u.tick(t.Context(), list, begin.Add(at))
		if u.a.health.Counter("use_looks").Load() > before {
			looked = append(looked, at)
		}
	}
	if got := fmt.Sprint(looked); got != "[0s 10s 1m0s 6m0s 11m0s]" {
		t.Errorf("looked after %s", got)
	}
	check := func(when string) {
		t.Helper()
		got := u.attach(judgedID, []policy.ImageFinding{findingIn("a"), findingIn("b"), findingIn("data"), findingIn("unheard of")})
		if yes, known := got[0].Use.IsReachable(); !yes || !known || got[0].Use.Looks != 5 || !got[0].Use.Since.Equal(begin) {
			t.Errorf("%s: the program that listens: %+v", when, got[0].Use)
		}
		for i, want := range []string{inventory.InUse, inventory.NotSeen, inventory.UseUnknown, inventory.UseUnknown} {
			if got[i].Use.State != want {
				t.Errorf("%s: %s is %s, want %s", when, got[i].Package, got[i].Use.State, want)
			}
		}
	}
	check("while it runs")
	u.tick(t.Context(), nil, begin.Add(time.Hour))
	if len(u.of) != 0 {
		t.Error("a container that has ended is still kept")
	}
	check("after it has ended")
	again := u.a
	again.openUses()
	u = again.uses
	check("after a restart")
	if err := os.WriteFile(u.file(judgedID), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	again.openUses()
	if f := again.uses.facts(judgedID); f != nil || again.health.Counter("use_unreadable").Load() != 1 {
		t.Errorf("of a damaged file: %+v", f)
	}
	if f := u.facts("sha256:" + strings.Repeat("f", 64)); f != nil {
		t.Errorf("of another image: %+v", f)
	}
}

// A rule about use denies where it was seen and reports where it is not known.
func TestUseDecides(t *testing.T) {
	u, c := testUses(t, "  mode: enforce\n  findings: [{name: used, inUse: true}]\n")
	judge := func(name string) policy.ImageDecision {
		img := &policy.Image{ID: judgedID, Scan: policy.ImageScan{At: time.Now(), Database: time.Now(), Complete: true}}
		img.Scan.Findings = u.attach(judgedID, []policy.ImageFinding{findingIn(name)})
		return u.a.images.rules().Decide(img, time.Now())
	}
	if d := judge("a"); !d.Allowed || !d.Audit || d.Rule != "used" {
		t.Errorf("before anybody looked: %+v", d)
	}
	u.tick(t.Context(), []workload.Container{c}, time.Now())
	if d := judge("a"); d.Allowed || d.Rule != "used" || !strings.Contains(strings.Join(d.Details, " "), "executed, mapped, listening on tcp 0.0.0.0:80, published as tcp 0.0.0.0:8080->80") {
		t.Errorf("seen: %+v", d)
	}
	if d := judge("b"); !d.Allowed || d.Audit {
		t.Errorf("not seen: %+v", d)
	}
	if d := judge("data"); !d.Allowed || !d.Audit {
		t.Errorf("what does not show: %+v", d)
	}
}

// What all containers use together is bounded: the one that uses the most is unknown then, not
// unused, and nobody else is.
func TestUsesBound(t *testing.T) {
	u, c := testUses(t, "  mode: enforce\n  findings: [{name: used, inUse: true}]\n")
	big := &inuse.Seen{Files: map[string]*inuse.SeenFile{}}
	for i := range maxUseFiles {
		big.Files[fmt.Sprint(i)] = &inuse.SeenFile{}
	}
	other := workload.Container{ID: ident.ContainerID(strings.Repeat("e", 64)), State: workload.StateRunning}
	u.of[other.ID] = &usedBy{seen: big, next: time.Now().Add(time.Hour)}
	u.tick(t.Context(), []workload.Container{c, other}, time.Now())
	got := u.attach(judgedID, []policy.ImageFinding{findingIn("a"), findingIn("b")})
	if got[0].Use.State != inventory.InUse || got[1].Use.State != inventory.NotSeen || u.a.health.Counter("use_cut").Load() == 0 {
		t.Errorf("of a neighbour: %+v", got)
	}
	if n := len(u.of[other.ID].seen.Files); n > 0 || u.of[other.ID].seen.Whole() {
		t.Errorf("%d files are remembered of the one with the most", n)
	}
}

// While a container of the image runs of which nothing is known, nothing is known not to be used.
func TestUsesBlind(t *testing.T) {
	u, c := testUses(t, "  mode: enforce\n  findings: [{name: used, inUse: true}]\n")
	u.tick(t.Context(), []workload.Container{c}, time.Now())
	of := func() inventory.Use { return u.attach(judgedID, []policy.ImageFinding{findingIn("b")})[0].Use }
	if got := of(); got.State != inventory.NotSeen {
		t.Fatalf("%+v", got)
	}
	u.of[ident.ContainerID(strings.Repeat("e", 64))] = &usedBy{image: judgedID, seen: &inuse.Seen{Unread: 1}, facts: &inuse.Facts{}}
	if got := of(); got.State != inventory.UseUnknown {
		t.Errorf("with one that could not be looked at: %+v", got)
	}
}

// What ended containers used is bounded in size too; the last one stays.
func TestUsesPastBound(t *testing.T) {
	u, _ := testUses(t, "  mode: enforce\n  findings: [{name: used, inUse: true}]\n")
	keys := make([]inuse.Key, maxPastSize/8)
	image := ""
	for i := range 20 {
		image = fmt.Sprintf("sha256:%064x", i)
		u.keep(&usedBy{image: image, facts: &inuse.Facts{Looks: 1, Until: time.Unix(int64(i), 0), NotSeen: keys}})
	}
	if len(u.past) > 8 || u.past[image] == nil {
		t.Errorf("%d images are remembered", len(u.past))
	}
}

// An image that cannot be scanned does not have its containers looked at more often for ever.
func TestUsesUnscanned(t *testing.T) {
	u, c := testUses(t, "  mode: enforce\n  findings: [{name: used, inUse: true}]\n")
	u.inventories = func(string) (*inventory.Result, time.Time, error) { return nil, time.Time{}, os.ErrNotExist }
	now := time.Now()
	for at := time.Duration(0); at < time.Hour; at += useTick {
		u.tick(t.Context(), []workload.Container{c}, now.Add(at))
	}
	if n := u.a.health.Counter("use_looks").Load(); n > useAwaitScan+12 {
		t.Errorf("looked %d times in an hour", n)
	}
}

// A look that is not answered makes what was not seen unknown, and is counted; an image that
// is not scanned yet is asked about again soon.
func TestUsesFailures(t *testing.T) {
	u, c := testUses(t, "  mode: enforce\n  findings: [{name: used, inUse: true}]\n")
	now := time.Now()
	for range maxLooksOfOne {
		u.looks.begin(c.ID)
	}
	u.tick(t.Context(), []workload.Container{c}, now)
	if n := u.a.health.Counter("use_looks_failed").Load(); n != 1 {
		t.Errorf("got %d failed looks, want 1", n)
	}
	u.looks = looks{}
	u.tick(t.Context(), []workload.Container{c}, now.Add(time.Minute))
	got := u.attach(judgedID, []policy.ImageFinding{findingIn("a"), findingIn("b")})
	if got[0].Use.State != inventory.InUse || got[1].Use.State != inventory.UseUnknown {
		t.Errorf("after a look that failed: %+v", got)
	}
	full := u.inventories
	u, c = testUses(t, "  mode: enforce\n  findings: [{name: used, inUse: true}]\n")
	u.inventories = func(string) (*inventory.Result, time.Time, error) { return nil, time.Time{}, os.ErrNotExist }
	u.tick(t.Context(), []workload.Container{c}, now)
	u.tick(t.Context(), []workload.Container{c}, now.Add(10*time.Second))
	u.inventories = full
	u.tick(t.Context(), []workload.Container{c}, now.Add(20*time.Second))
	if f := u.facts(judgedID); f == nil || f.Looks != 3 {
		t.Errorf("after the scan: %+v", f)
	}
	u.proc = inuse.Proc{Root: filepath.Join(t.TempDir(), "none")}
	u.tick(t.Context(), []workload.Container{c}, now.Add(time.Hour))
	if n := u.a.health.Counter("use_looks_failed").Load(); n != 1 {
		t.Errorf("proc is not there: got %d failed looks, want 1", n)
	}
}
