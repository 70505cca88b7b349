// Package ship tries what a release hands out: the container image, loaded into a real engine.
//
// It owns one lab (see tools/lab). It needs root and Docker; where they are missing its test says so.
// Row: end-to-end tests.
package ship

import (
	"context"
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
	file, err := os.Open(filepath.Join(out, "belay-image_e2e_"+runtime.GOARCH+".docker.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if r := engine.DockerIn(ctx, file, "load"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	const image = "belay-agent:e2e"
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"the agent", []string{image, "--version"}, "belay-agent version"},
		{"the command", []string{"--entrypoint", "/usr/bin/belay", image, "version"}, "belay"},
		{"the shipped policies", []string{"--entrypoint", "/usr/bin/belay", image, "policy", "check", "/usr/share/belay/policies"}, ""},
		{"preflight", []string{"--pid", "host", "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE",
			"--security-opt", "seccomp=unconfined", image, "preflight", "--only", "kernel"}, "signal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := engine.Docker(ctx, append([]string{"run", "--rm", "--network", "none"}, tt.args...)...)
			if r.Code != 0 || !strings.Contains(r.Text(), tt.want) {
				t.Errorf("exit %d, want 0 and %q: %s (%v)", r.Code, tt.want, r.Text(), r.Err())
			}
		})
	}
}
