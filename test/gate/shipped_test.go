package gate

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// member is a person of the host who may enter containers, with the docker command.
type member struct {
	*lab.Client
	home string
}

func newMember(t *testing.T, g *gate) *member {
	t.Helper()
	home, err := os.MkdirTemp("", "belay-home-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if err := os.Chown(home, attacker, attacker); err != nil {
		t.Fatal(err)
	}
	return &member{g.as(attacker), home}
}

// run runs a program as the member; name "" is docker.
func (m *member) run(t *testing.T, name, in string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := m.Command(ctx, args...)
	if name != "" {
		cmd.Path, cmd.Args[0], cmd.Err = name, name, nil
	}
	cmd.Env = append(cmd.Env, "HOME="+m.home, "BUILDX_CONFIG="+m.home, "TERM=dumb")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: attacker, Gid: attacker, Groups: []uint32{enterGID}}}
	cmd.Dir = m.home
	cmd.WaitDelay = 2 * time.Second
	if in != "" {
		cmd.Stdin = strings.NewReader(in)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// file writes a file into the member's home.
func (m *member) file(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(m.home, name)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// The stock commands work for a person under the policies as they are shipped.
func TestShipped(t *testing.T) {
	g := need(t).start(t, shipped(t))
	m := newMember(t, g)
	t.Run("run -it", func(t *testing.T) {
		script, err := exec.LookPath("script")
		testneed.Need(t, "script", err == nil, "it makes the terminal: apt-get install bsdutils")
		docker := m.Command(t.Context()).Path
		line := "stty rows 31 cols 71; " + docker + " run -it --rm " + image + ` sh -c "sleep 0.7; stty size; tty; id -u"`
		out, err := m.run(t, script, "", "-qec", line, "/dev/null")
		if err != nil || !strings.Contains(out, "31 71") || !strings.Contains(out, "/dev/") || !strings.Contains(out, "1000") {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("run -d, exec, logs, rm", func(t *testing.T) {
		for _, args := range [][]string{
			{"run", "-d", "--name", "shipped", image, "sh", "-c", "echo up; exec sleep 1000"}, {"exec", "shipped", "id"}, {"logs", "shipped"}, {"rm", "-f", "shipped"},
		} {
			if out, err := m.run(t, "", "", args...); err != nil {
				t.Errorf("docker %q: %v: %s", args, err, out)
			}
		}
	})
	t.Run("pull without a registry", func(t *testing.T) {
		out, err := m.run(t, "", "", "pull", "127.0.0.1:1/none:1")
		if err == nil || strings.Contains(out, "belay") || !strings.Contains(out, "127.0.0.1:1") {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("build with BuildKit", func(t *testing.T) { buildKit(t, m) })
	t.Run("buildx", func(t *testing.T) { buildxBuild(t, m, buildx(t)) })
	t.Run("buildx with a builder of its own wants a privileged container", func(t *testing.T) {
		bin := buildx(t)
		if out, err := m.run(t, bin, "", "create", "--name", "own", "--driver", "docker-container"); err != nil {
			t.Fatalf("create: %v: %s", err, out)
		}
		if r := g.engine.Docker(t.Context(), "tag", image, "moby/buildkit:buildx-stable-1"); r.Code != 0 {
			t.Fatal(r.Err()) // as if it had been pulled
		}
		out, err := m.run(t, bin, "", "build", "--builder", "own", "--progress=plain", m.home)
		if err == nil || !strings.Contains(out, "access-floor") {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("compose", func(t *testing.T) { compose(t, m) })
}

// buildKit builds by BuildKit with the distribution's docker, which has it built in: the
// build's connection is one to the caller's own files.
func buildKit(t *testing.T, m *member) {
	const docker = "/usr/bin/docker"
	_, err := os.Stat(docker)
	testneed.Need(t, "docker", err == nil, "the distribution's docker has BuildKit built in: apt-get install docker.io")
	m.file(t, "Dockerfile", "FROM "+image+"\nCOPY hello /hello\nRUN cat /hello && id -u\n")
	m.file(t, "hello", "by BuildKit\n")
	c := *m.Client
	c.Env = []string{"DOCKER_BUILDKIT=1"}
	b := &member{&c, m.home}
	out, err := b.run(t, docker, "", "build", "--progress=plain", "-t", "shipped/built", m.home)
	if err != nil || !strings.Contains(out, "by BuildKit") {
		t.Fatalf("got %q, %v", out, err)
	}
	if out, err := m.run(t, "", "", "run", "--rm", "shipped/built", "cat", "/hello"); err != nil || !strings.Contains(out, "by BuildKit") {
		t.Errorf("got %q, %v", out, err)
	}
}

// buildx returns the path of Docker's builder command, which is no package here:
// go build github.com/docker/buildx/cmd/buildx.
func buildx(t *testing.T) string {
	t.Helper()
	p := os.Getenv("BELAY_TEST_BUILDX")
	testneed.Need(t, "buildx", p != "", "BELAY_TEST_BUILDX names the program, built from github.com/docker/buildx/cmd/buildx")
	return p
}

// Who may have the builder's API unseen can build by buildx too.
func TestBuildx(t *testing.T) {
	w := need(t)
	bin := buildx(t)
	g := w.start(t, developers+"    - name: builder\n      effect: allow\n      actions: [build.grpc, build.session, build.tunnel]\n")
	buildxBuild(t, newMember(t, g), bin)
}

func buildxBuild(t *testing.T, m *member, bin string) {
	t.Helper()
	m.file(t, "Dockerfile", "FROM "+image+"\nCOPY hello /hello\nRUN cat /hello\n")
	m.file(t, "hello", "by buildx\n")
	out, err := m.run(t, bin, "", "build", "--no-cache", "--progress=plain", "--load", "-t", "dev1/buildx", m.home)
	if err != nil || !strings.Contains(out, "by buildx") {
		t.Fatalf("got %q, %v", out, err)
	}
	if out, err := m.run(t, "", "", "run", "--rm", "dev1/buildx", "cat", "/hello"); err != nil || !strings.Contains(out, "by buildx") {
		t.Errorf("got %q, %v", out, err)
	}
}

// compose brings two services up and takes them down.
func compose(t *testing.T, m *member) {
	bin := os.Getenv("BELAY_TEST_COMPOSE")
	testneed.Need(t, "compose", bin != "", "BELAY_TEST_COMPOSE names the program, built from github.com/docker/compose/v2/cmd")
	m.file(t, "compose.yaml", `name: shipped
services:
  one:
    image: `+image+`
    command: [sh, -c, "echo one is up; exec sleep 1000"]
    volumes: ["data:/data"]
  two:
    image: `+image+`
    command: [sleep, "1000"]
    depends_on: [one]
volumes: {data: {}}
`)
	run := func(want string, args ...string) {
		t.Helper()
		out, err := m.run(t, bin, "", append([]string{"-f", filepath.Join(m.home, "compose.yaml")}, args...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("compose %q: %v: %s", args, err, out)
		}
	}
	run("", "up", "-d")
	run("shipped-one-1", "ps")
	run("one is up", "logs")
	run("1000", "exec", "-T", "two", "id", "-u")
	run("", "restart", "-t", "0", "two")
	run("", "down", "-v", "-t", "0")
}
