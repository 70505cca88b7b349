// Package ship tries what a release hands out: the container image, loaded into a real engine, and the package,
// installed into a Debian by the quick start's own commands. What is played is read from the pages.
//
// It owns one lab a test (see tools/lab). It needs root and Docker; where they are missing its tests say so.
// Row: end-to-end tests.
package ship

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

func TestImageInDocker(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0 && os.Getenv("BELAY_E2E") != "", "needs root and BELAY_E2E=1: make test-e2e")
	has, why := lab.HasEngine()
	testneed.Need(t, "docker", has, why)
	bin := os.Getenv("BELAY_BIN")
	testneed.Need(t, "bin", bin != "", "BELAY_BIN names no directory of built programs: make build")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	out := t.TempDir()
	build := exec.CommandContext(ctx, "go", "run", "./tools/image", "-version", "e2e", "-out", out, runtime.GOARCH+"="+bin)
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make the image: %v\n%s", err, text)
	}
	l, err := lab.New(lab.Options{Name: "ship", Log: os.Stderr, BinDir: bin, TempDir: os.Getenv("BELAY_TEST_TMP")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error("tidying up:", err)
		}
	})
	engine, err := l.StartEngine(ctx, "main")
	if err != nil {
		t.Fatal(err)
	}
	// The page's files are in dist, and have a version.
	dir := t.TempDir()
	if err := os.Symlink(out, filepath.Join(dir, "dist")); err != nil {
		t.Fatal(err)
	}
	var said []string
	play(t, linesFor(t, "TestImageInDocker"), func(line string) result {
		r := engine.Shell(ctx, dir, strings.NewReplacer("VERSION", "e2e", "_amd64", "_"+runtime.GOARCH).Replace(line))
		return result{r.Code, r.Text()}
	}, func(_ int, r result) { said = append(said, r.text) })
	for n, want := range []string{"belay-agent:e2e", "belay", "signal"} {
		if n >= len(said) || !strings.Contains(said[n], want) {
			t.Errorf("command %d of the page does not say %q: %q", n, want, said)
		}
	}
	const image = "belay-agent:e2e"
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"the agent", []string{image, "--version"}, "belay-agent version"},
		{"the shipped policies", []string{"--entrypoint", "/usr/bin/belay", image, "policy", "check", "/usr/share/belay/policies"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := engine.Docker(ctx, append([]string{"run", "--rm", "--network", "none"}, tt.args...)...)
			if r.Code != 0 || !strings.Contains(r.Text(), tt.want) {
				t.Errorf("exit %d, want 0 and %q: %s (%v)", r.Code, tt.want, r.Text(), r.Err())
			}
		})
	}
	t.Run("a node", func(t *testing.T) { nodeScene(t, ctx, engine, image) })
}

// nodeScene puts the agent into a directory that looks like a node's root, with no more rights and no
// more memory than the init container of the chart has, and takes it away again. Its systemd is a script that
// writes down what it is asked for.
func nodeScene(t *testing.T, ctx context.Context, engine *lab.Engine, image string) {
	busybox, err := os.ReadFile("/bin/busybox")
	testneed.Need(t, "busybox", err == nil, "install busybox-static")
	host := t.TempDir()
	const script = "#!/bin/busybox sh\necho \"${0##*/} $*\" >>/asked\n"
	for name, text := range map[string]string{"bin/busybox": string(busybox), "usr/bin/systemctl": script, "usr/bin/systemd-run": script, "run/systemd/system/x": ""} {
		p := filepath.Join(host, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	policies, err := filepath.Abs("../../deploy/helm/belay/policies")
	if err != nil {
		t.Fatal(err)
	}
	node := func(args ...string) {
		t.Helper()
		r := engine.Docker(ctx, append([]string{
			"run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--cap-add", "SYS_CHROOT", "--cap-add", "DAC_OVERRIDE",
			"--security-opt", "no-new-privileges", "--memory", "64m", "-v", host + ":/host", "-v", policies + ":/policies:ro",
			"--entrypoint", "/usr/bin/belay", image, "node",
		}, args...)...)
		if r.Code != 0 {
			t.Fatalf("node %s: exit %d: %s", args[0], r.Code, r.Text())
		}
	}
	agent := filepath.Join(host, "opt/belay/bin/belay-agent")
	node("install", "--root=/host", "--policies=/policies", "--", "--docker-host=none")
	if st, err := os.Stat(agent); err != nil || st.Mode().Perm() != 0o755 {
		t.Fatalf("the agent is not on the node: %v, %v", st, err)
	}
	node("remove", "--root=/host")
	if _, err := os.Stat(agent); err == nil {
		t.Error("the agent stays on the node")
	}
	asked, err := os.ReadFile(filepath.Join(host, "asked"))
	want := `systemctl daemon-reload
systemctl enable belay-agent.service
systemctl restart belay-agent.service
systemctl stop belay-agent.service
systemd-run --quiet --collect --wait --unit=belay-unload /opt/belay/bin/belay-agent run --unload
systemctl disable belay-agent.service
systemctl daemon-reload
`
	if err != nil || string(asked) != want {
		t.Errorf("systemd was asked for (%v):\n%s", err, asked)
	}
}
