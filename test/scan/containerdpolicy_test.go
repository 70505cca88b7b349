package scan

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// namespace is that of the containers that do not come of Docker; their cgroups are named by it.
func (p *policed) namespace() string { return p.l.Name + "-cri" }

// ctr runs containerd's client, beside Docker.
func (p *policed) ctr(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ctr", slices.Concat([]string{"--address", p.socket, "--namespace", p.namespace()}, args)...)
	cmd.WaitDelay = 5 * time.Second
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("ctr %q: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// box makes a container of an image; the ID is one as Kubernetes gives.
func (p *policed) box(t *testing.T, image string, args ...string) string {
	t.Helper()
	raw := make([]byte, 32)
	rand.Read(raw)
	id := hex.EncodeToString(raw)
	flags := []string{"containers", "create"}
	if filepath.IsAbs(image) {
		flags = append(flags, "--rootfs")
	}
	if code, out := p.ctr(t, slices.Concat(flags, []string{image, id}, args)...); code != 0 {
		t.Fatalf("make a container of %s: %s", image, out)
	}
	t.Cleanup(func() {
		for _, cmd := range [][]string{{"tasks", "delete", "--force", id}, {"containers", "delete", id}} {
			exec.Command("ctr", slices.Concat([]string{"--address", p.socket, "--namespace", p.namespace()}, cmd)...).Run()
		}
	})
	return id
}

// TestContainerdPolicy: image policies hold for containers that containerd itself starts: what must
// not run does not, a new record comes up on what runs, its packages are seen in use, and audit lets
// it pass and says so.
func TestContainerdPolicy(t *testing.T) {
	_, err := exec.LookPath("ctr")
	testneed.Need(t, "docker", err == nil, "containerd's client ctr is missing: apt-get install containerd")
	p := police(t, policing{engine: []string{"--storage-driver=overlay2"}})
	ctx := t.Context()
	for _, name := range []string{"shop/good:1", "shop/bad:1"} {
		file := filepath.Join(t.TempDir(), "image.tar")
		if r := p.e.Docker(ctx, "save", "-o", file, name); r.Code != 0 {
			t.Fatal(r.Err())
		}
		if code, out := p.ctr(t, "images", "import", file); code != 0 {
			t.Fatal(out)
		}
		if r := p.e.Docker(ctx, "rmi", name); r.Code != 0 { // what is known of it now is containerd's word
			t.Fatal(r.Err())
		}
	}
	const good, bad = "docker.io/shop/good:1", "docker.io/shop/bad:1"
	verdict := func(id, decision, rule string) {
		t.Helper()
		p.await(t, "the verdict "+decision+" on "+id[:12], func(e imageEvent) bool {
			return e.Kind == "image" && e.Image.Event == "verdict" && strings.HasPrefix(id, e.Container.Name) && e.Decision == decision && e.Policy.Rule == rule
		})
	}
	judged := func(image, want string) {
		t.Helper()
		if !lab.Await(ctx, time.Minute, func() bool {
			return slices.ContainsFunc(strings.Split(p.a.Belay(ctx, "images").Stdout, "\n"), func(line string) bool {
				return strings.Contains(line, image) && strings.Contains(line, want)
			})
		}) {
			t.Fatalf("belay images: no %s that is %s:\n%s\n%s", image, want, p.a.Belay(ctx, "images").Text(), p.a.Log())
		}
	}

	// They are scanned once a container was made of them, and what starts before that gets the fallback.
	id := p.box(t, bad, "/bin/busybox", "echo", "it ran")
	fine := p.box(t, good, "/bin/busybox", "sleep", "3600")
	judged(bad, "denied: enforce/critical")
	judged(good, "allowed")
	if code, out := p.ctr(t, "tasks", "start", id); code == 0 || strings.Contains(out, "it ran") {
		t.Errorf("an image with a critical flaw ran: %d: %s", code, out)
	}
	verdict(id, "denied", "critical")
	if code, out := p.ctr(t, "tasks", "start", "--detach", fine); code != 0 {
		t.Fatalf("an ordinary image: %s\n%s", out, p.a.Log())
	}
	if code, out := p.ctr(t, "tasks", "exec", "--exec-id", "e1", fine, "/bin/busybox", "echo", "it ran"); code != 0 || !strings.Contains(out, "it ran") {
		t.Errorf("exec in an ordinary image: %d: %s", code, out)
	}

	// One of a directory: nobody knows what is in it.
	root := t.TempDir()
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "proc", "sys", "dev"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), bb, 0o755); err != nil {
		t.Fatal(err)
	}
	nameless := p.box(t, root, "/bin/busybox", "echo", "it ran")
	if code, out := p.ctr(t, "tasks", "start", nameless); code == 0 || strings.Contains(out, "it ran") {
		t.Errorf("a container of no image ran: %d: %s", code, out)
	}

	// A record that comes to be known while the container runs, and its package in use.
	p.record(t, "CVE-2026-0002", "goodpkg")
	p.await(t, "the finding", func(e imageEvent) bool {
		return e.Kind == "image" && e.Image.Event == "finding" && e.Image.Vulnerability == "CVE-2026-0002" && e.Image.Package == "goodpkg"
	})
	verdict(fine, "would_deny", "critical") // it goes on
	if code, out := p.ctr(t, "tasks", "exec", "--exec-id", "e2", fine, "/bin/busybox", "echo", "it ran"); code != 0 || !strings.Contains(out, "it ran") {
		t.Errorf("a finding ended what runs: %d: %s", code, out)
	}
	if !lab.Await(ctx, time.Minute, func() bool {
		return strings.Contains(p.a.Belay(ctx, "explain", "--image", good).Stdout, "executed, mapped")
	}) {
		t.Errorf("its package is not seen in use:\n%s", p.a.Belay(ctx, "explain", "--image", good).Text())
	}
	p.scanInUse(t, fine)

	// In audit both pass, and are reported.
	p.policy(t, "audit")
	if err := p.a.AwaitPolicies(ctx, 20*time.Second, "audit,pull-audit"); err != nil {
		t.Fatal(err)
	}
	id = p.box(t, bad, "/bin/busybox", "echo", "it ran")
	if code, out := p.ctr(t, "tasks", "start", id); code != 0 || !strings.Contains(out, "it ran") {
		t.Errorf("in audit: %d: %s", code, out)
	}
	verdict(id, "would_deny", "critical")
	nameless = p.box(t, root, "/bin/busybox", "echo", "it ran")
	if code, out := p.ctr(t, "tasks", "start", nameless); code != 0 || !strings.Contains(out, "it ran") {
		t.Errorf("in audit, of no image: %d: %s", code, out)
	}
}
