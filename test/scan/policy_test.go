package scan

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

const imagePolicy = `apiVersion: belay.dev/v1
kind: ImagePolicy
metadata: {name: %[1]s}
spec:
  mode: %[1]s
  findings: [{name: critical, severity: critical, fixable: true}]
  unscanned: scan
  deadline: 60s
---
apiVersion: belay.dev/v1
kind: ImagePolicy
metadata: {name: pull-%[1]s}
spec:
  mode: %[1]s
  selector: {images: ["evil.invalid/**"]}
  registries: [good.invalid/**]
`

// slowPolicy is one whose deadline no scanner that sleeps meets.
const slowPolicy = `apiVersion: belay.dev/v1
kind: ImagePolicy
metadata: {name: slow-%[1]s}
spec:
  mode: enforce
  scanned: {required: true}
  unscanned: scan
  deadline: 3s
  fallback: %[1]s
`

// policed is a host with an agent that judges images.
type policed struct {
	l     *lab.Lab
	e     *lab.Engine
	a     *lab.Agent
	osv   string // folder of records
	db    string
	gated *lab.Client

	scanner string
	socket  string // of the engine's containerd
	text    string // of the policy; its name and mode are put in
}

// record puts a critical record on a Debian package into the database.
func (p *policed) record(t *testing.T, id, pkg string) {
	t.Helper()
	text := fmt.Sprintf(`{"id":"DEBIAN-%[1]s","upstream":[%[1]q],"affected":[{"package":{"ecosystem":"Debian:12","name":%[2]q},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2.0"}]}]}],
"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]}`, id, pkg)
	if err := os.WriteFile(filepath.Join(p.osv, id+".json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := p.a.Belay(t.Context(), "db", "build", p.osv, "--db", p.db); r.Code != 0 {
		t.Fatal(r.Err())
	}
}

// imageEvent is a record of kind image or api, as far as it is looked at.
type imageEvent struct {
	Kind, Decision, Message string
	Container               struct{ Name string }
	Policy                  struct{ Name, Rule string }
	Image                   struct {
		Event, Vulnerability, Package, InUse, Use string
		Reachable                                 []string
	}
	API struct{ Action string }
}

func (p *policed) events(t *testing.T) []imageEvent {
	t.Helper()
	r := p.a.Belay(t.Context(), "events", "-o", "json")
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	var out []imageEvent
	for d := json.NewDecoder(strings.NewReader(r.Stdout)); d.More(); {
		var e imageEvent
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func (p *policed) await(t *testing.T, what string, ok func(e imageEvent) bool) {
	t.Helper()
	if !lab.Await(t.Context(), time.Minute, func() bool { return slices.ContainsFunc(p.events(t), ok) }) {
		t.Errorf("no record within a minute: %s\n%s", what, p.a.Log())
	}
}

// dpkg is a root file system of Debian 12 with one package, and busybox.
func dpkg(bb []byte, pkg string) []lab.File {
	status := fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n\n", pkg)
	return []lab.File{
		lab.Program("bin/busybox", bb), {Name: "bin/sh", Mode: 0o777, Link: "busybox"},
		{Name: "etc/os-release", Mode: 0o644, Body: []byte("ID=debian\nVERSION_ID=\"12\"\n")},
		{Name: "var/lib/dpkg/status", Mode: 0o644, Body: []byte(status)},
		{Name: "var/lib/dpkg/info/" + pkg + ".list", Mode: 0o644, Body: []byte("/bin\n/bin/busybox\n")},
	}
}

// policing says how a host is policed.
type policing struct {
	engine  []string // flags of the daemon
	scanner string   // the program that scans; "": a scanner
	policy  string   // imagePolicy
	value   string   // of it at the start; enforce
}

func police(t *testing.T, o policing) *policed {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "scenes on a Docker Engine take minutes: make test-e2e sets BELAY_E2E")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	testneed.Need(t, "root", os.Geteuid() == 0, "the engine and its store are root's")
	ctx := t.Context()
	p := &policed{osv: t.TempDir()}
	var err error
	if p.l, err = lab.New(lab.Options{Name: "imgpol", Log: os.Stderr, BinDir: os.Getenv("BELAY_BIN"), TempDir: os.Getenv("BELAY_TEST_TMP")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.l.Close(); err != nil {
			t.Error(err)
		}
	})
	if p.e, err = p.l.StartEngine(ctx, "main", o.engine...); err != nil {
		t.Fatal(err)
	}
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	for name, pkg := range map[string]string{"shop/good:1": "goodpkg", "shop/bad:1": "badpkg"} {
		if err := p.e.Import(ctx, name, dpkg(bb, pkg), `ENTRYPOINT ["/bin/busybox"]`); err != nil {
			t.Fatal(err)
		}
	}
	if p.db, p.scanner = p.l.Path("vuln.db"), o.scanner; p.scanner == "" {
		p.scanner = scanner(t)
	}
	p.socket = p.l.Path("main", "ctd.sock")
	if p.a, err = p.l.NewAgent(ctx, lab.AgentOptions{Name: "agent", Engine: p.e, Scopes: []string{"/" + p.namespace()}, Flags: []string{
		"--scanner", p.scanner, "--vuln-db", p.db, "--docker-root", p.l.Path("main", "data"), "--containerd", p.socket,
	}}); err != nil {
		t.Fatal(err)
	}
	p.record(t, "CVE-2026-0001", "badpkg")
	p.text = cmp.Or(o.policy, imagePolicy)
	p.policy(t, cmp.Or(o.value, "enforce"))
	if err := p.a.Start(ctx); err != nil {
		t.Fatal(err)
	}
	p.gated = p.e.Client(filepath.Join(p.l.Path("agent"), "run", "docker.sock"), 0)
	return p
}

// policy puts a mode, or what else it leaves open, into the policy; its name tells which is in force.
func (p *policed) policy(t *testing.T, value string) {
	t.Helper()
	if err := p.a.SetPolicy("image.yaml", fmt.Sprintf(p.text, value)); err != nil {
		t.Fatal(err)
	}
}

// scanInUse scans a running container by the command, which says that its package is in use.
func (p *policed) scanInUse(t *testing.T, name string) {
	t.Helper()
	r := p.a.Belay(t.Context(), "scan", name, "--scanner", p.scanner, "--db", p.db, "--docker-root", p.l.Path("main", "data"), "--containerd", p.socket, "--fail-on", "inUse && useKnown && severity >= critical")
	for _, want := range []string{"IN USE", "executed, mapped", "looks at its processes"} {
		if r.Code != 3 || !strings.Contains(r.Text(), want) {
			t.Errorf("belay scan of the container: want status 3 and %q, got %d:\n%s", want, r.Code, r.Text())
		}
	}
}

// TestImagePolicy: an image with a critical flaw is refused at the gate, and without it in
// the kernel; audit lets it pass and says so; an ordinary image runs; a new record comes up
// on what runs, and ends nothing.
func TestImagePolicy(t *testing.T) {
	t.Run("overlay2", func(t *testing.T) { imagePolicies(t, "--storage-driver=overlay2") })
	t.Run("containerd store", func(t *testing.T) {
		testneed.Need(t, "modern-engine", os.Getenv(lab.ModernEngineEnv) != "", "set "+lab.ModernEngineEnv+" to a folder with an engine of today: 20.10 keeps images itself")
		imagePolicies(t)
	})
}

func imagePolicies(t *testing.T, engine ...string) {
	p := police(t, policing{engine: engine})
	ctx := t.Context()
	kept := context.WithoutCancel(ctx)
	t.Cleanup(func() { p.e.Docker(kept, "rm", "-f", "good", "bad", "side") })

	r := p.gated.Docker(ctx, "run", "--name", "bad", "shop/bad:1", "true")
	for _, want := range []string{"policy enforce", "rule critical", "CVE-2026-0001", "badpkg", "fixed in 2.0"} {
		if r.Code == 0 || !strings.Contains(r.Text(), want) {
			t.Errorf("at the gate: want a refusal with %q, got %d: %s", want, r.Code, r.Text())
		}
	}
	// One of its ports is published for all, and one for the host alone.
	if r := p.gated.Docker(ctx, "run", "-d", "--name", "good", "-p", "0.0.0.0::8080", "-p", "127.0.0.1::8081", "shop/good:1", "sh", "-c", "busybox httpd -p 8081; exec busybox httpd -f -p 8080"); r.Code != 0 {
		t.Fatalf("an ordinary image: %v\n%s", r.Err(), p.a.Log())
	}
	if r := p.gated.Docker(ctx, "exec", "good", "/bin/busybox", "true"); r.Code != 0 {
		t.Errorf("exec in an ordinary image: %v", r.Err())
	}

	// A pull is judged by the name that it asks for: what passes fails for want of the host.
	if r := p.gated.Docker(ctx, "pull", "evil.invalid/app:1"); r.Code == 0 || !strings.Contains(r.Text(), "policy pull-enforce, rule registries") {
		t.Errorf("a pull of a forbidden registry: %d: %s", r.Code, r.Text())
	}
	if r := p.gated.Docker(ctx, "pull", "good.invalid/app:1"); strings.Contains(r.Text(), "rule registries") {
		t.Errorf("a pull of a registry that is allowed: %s", r.Text())
	}

	// Around the gate.
	r = p.e.Docker(ctx, "run", "--name", "side", "shop/bad:1", "echo", "it ran")
	if r.Code == 0 || strings.Contains(r.Stdout, "it ran") {
		t.Errorf("around the gate it ran: %d: %s", r.Code, r.Text())
	}
	p.await(t, "the verdict in the kernel", func(e imageEvent) bool {
		return e.Kind == "image" && e.Image.Event == "verdict" && e.Container.Name == "side" && e.Decision == "denied" && e.Policy.Rule == "critical"
	})
	if r := p.gated.Docker(ctx, "start", "-a", "side"); r.Code == 0 || !strings.Contains(r.Text(), "rule critical") {
		t.Errorf("its start through the gate: %d: %s", r.Code, r.Text())
	}

	// A record that comes to be known while the container runs.
	began := time.Now()
	p.record(t, "CVE-2026-0002", "goodpkg")
	p.await(t, "the finding", func(e imageEvent) bool {
		return e.Kind == "image" && e.Image.Event == "finding" && e.Image.Vulnerability == "CVE-2026-0002" && e.Image.Package == "goodpkg"
	})
	t.Logf("the finding was recorded %s after the database began to be built", time.Since(began).Round(time.Millisecond))
	if r := p.e.Docker(ctx, "exec", "good", "/bin/busybox", "true"); r.Code != 0 {
		t.Errorf("a finding ended what runs: %v", r.Err())
	}
	out := p.a.Belay(ctx, "images").Stdout
	for _, want := range []string{"shop/good:1", "1/0/0/0", "good (1 running)", "denied: enforce/critical"} {
		if !strings.Contains(out, want) {
			t.Errorf("belay images has no %q:\n%s", want, out)
		}
	}
	if out := p.a.Belay(ctx, "explain", "--image", "shop/good:1").Stdout; !strings.Contains(out, "CVE-2026-0002") {
		t.Errorf("belay explain --image:\n%s", out)
	}

	// Its package is in use, as the agent and the command see by themselves, listens, and is reached from outside.
	if !lab.Await(ctx, time.Minute, func() bool {
		out := p.a.Belay(ctx, "explain", "--image", "shop/good:1").Stdout
		return strings.Contains(out, "executed, mapped, listening on tcp ") && strings.Contains(out, "published as tcp 0.0.0.0:")
	}) {
		t.Errorf("belay explain --image does not say that the package is in use and published:\n%s", p.a.Belay(ctx, "explain", "--image", "shop/good:1").Text())
	}
	p.record(t, "CVE-2026-0003", "goodpkg")
	p.await(t, "the finding, with the use of its package", func(e imageEvent) bool {
		return e.Image.Event == "finding" && e.Image.Vulnerability == "CVE-2026-0003" && e.Image.InUse == inventory.InUse &&
			strings.Contains(e.Image.Use, "listening on tcp") && strings.Contains(e.Image.Use, "published as tcp") && len(e.Image.Reachable) == 1 && strings.HasSuffix(e.Image.Reachable[0], "->8080")
	})
	p.scanInUse(t, "good")

	// What runs goes on, with a record, and does not start again.
	p.await(t, "that what runs would not start", func(e imageEvent) bool {
		return e.Kind == "image" && e.Image.Event == "verdict" && e.Container.Name == "good" && e.Decision == "would_deny"
	})
	p.e.Docker(ctx, "stop", "-t", "0", "good")
	p.await(t, "that it is bound now", func(e imageEvent) bool {
		return e.Kind == "image" && e.Image.Event == "verdict" && e.Container.Name == "good" && e.Decision == "denied"
	})
	p.e.Docker(ctx, "start", "good")
	if !lab.Await(ctx, 10*time.Second, func() bool {
		return strings.TrimSpace(p.e.Docker(ctx, "inspect", "-f", "{{.State.Running}}", "good").Stdout) == "false"
	}) {
		t.Error("it started again around the gate")
	}

	// In audit it passes both ways, and is reported.
	p.policy(t, "audit")
	if err := p.a.AwaitPolicies(ctx, 20*time.Second, "audit,pull-audit"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		how string
		run func(ctx context.Context, args ...string) lab.Result
	}{{"gate", p.gated.Docker}, {"around", p.e.Docker}} {
		if r := c.run(ctx, "run", "--rm", "--name", "audit-"+c.how, "shop/bad:1", "echo", "it ran"); r.Code != 0 || !strings.Contains(r.Stdout, "it ran") {
			t.Errorf("in audit, %s: %d: %s", c.how, r.Code, r.Text())
		}
	}
	if r := p.gated.Docker(ctx, "pull", "evil.invalid/app:1"); strings.Contains(r.Text(), "rule registries") {
		t.Errorf("a pull in audit: %s", r.Text())
	}
	p.await(t, "the pull that the gate would deny", func(e imageEvent) bool {
		return e.Kind == "api" && e.API.Action == "image.pull" && e.Decision == "would_deny" && e.Policy.Name == "pull-audit"
	})
	p.await(t, "what the gate would deny", func(e imageEvent) bool {
		return e.Kind == "api" && e.API.Action == "container.create" && e.Decision == "would_deny" && e.Policy.Rule == "critical"
	})
	p.await(t, "what the kernel would deny", func(e imageEvent) bool {
		return e.Kind == "image" && e.Container.Name == "audit-around" && e.Decision == "would_deny"
	})
	var told []string
	for _, e := range p.events(t) {
		if e.Image.Event == "finding" {
			told = append(told, e.Image.Vulnerability)
		}
	}
	if slices.Sort(told); !slices.Equal(told, []string{"CVE-2026-0002", "CVE-2026-0003"}) {
		t.Errorf("findings were recorded of %q, want each once", told)
	}
}

// TestImageDeadline: a create waits for the scan of its image until the deadline and no longer, and
// then gets the fallback.
func TestImageDeadline(t *testing.T) {
	slow := filepath.Join(t.TempDir(), "belay-scanner")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := police(t, policing{engine: []string{"--storage-driver=overlay2"}, scanner: slow, policy: slowPolicy, value: "deny"})
	ctx := t.Context()
	for _, tt := range []struct {
		fallback, refusal string
	}{{"deny", "within 3s"}, {"allow", ""}} {
		p.policy(t, tt.fallback)
		if err := p.a.AwaitPolicies(ctx, 20*time.Second, "slow-"+tt.fallback); err != nil {
			t.Fatal(err)
		}
		r := p.gated.Docker(ctx, "run", "--rm", "shop/good:1", "echo", "it ran")
		if ran := r.Code == 0 && strings.Contains(r.Stdout, "it ran"); ran != (tt.refusal == "") || !strings.Contains(r.Text(), tt.refusal) {
			t.Errorf("fallback %s: %d: %s", tt.fallback, r.Code, r.Text())
		}
		if r.Took < 3*time.Second || r.Took > 30*time.Second {
			t.Errorf("fallback %s: it took %s, want the deadline of 3s and not much more", tt.fallback, r.Took)
		}
		t.Logf("fallback %s: answered after %s", tt.fallback, r.Took.Round(10*time.Millisecond))
	}
}
