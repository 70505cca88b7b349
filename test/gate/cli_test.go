package gate

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// Without any access policy root passes, and it is recorded.
func TestUnmanaged(t *testing.T) {
	g := need(t).start(t, "")
	c := g.as(0)
	if out := ok(t, c, "run", "--rm", image, "echo", "hello"); strings.TrimSpace(out) != "hello" {
		t.Errorf("got %q", out)
	}
	ev := g.last("container.create")
	if !ev.Unmanaged || ev.Decision != proxy.Allowed || ev.Status != 201 || ev.Subject.UID != 0 {
		t.Errorf("record of the create: %+v", ev)
	}
	r := g.as(12345).Docker(t.Context(), "ps")
	if r.Code == 0 || !strings.Contains(r.Stderr, "no access policy") {
		t.Errorf("a stranger got: %v", r.Err())
	}
}

// developers may do with their own things what they like, and create no dangerous ones.
const developers = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata:
  name: developers
spec:
  mode: enforce
  subjects:
    uids: ["5001", "5002"]
  obligations:
    owner: true
    redactEnv: ["*SECRET*"]
  rules:
    - name: look
      effect: allow
      actions: [system.ping, system.version, system.info, image.inspect, image.list, image.history]
    - name: no-danger
      effect: forbid
      actions: [container.create]
      checks: [notPrivileged, notRoot, hostMounts, noHostNamespaces]
    - name: own
      effect: allow
      actions: ["container.*", system.events, system.df, "volume.*", "network.*", image.commit]
      resources: {own: true}
    - name: build
      effect: allow
      actions: [image.build, image.save, image.load, image.tag, image.delete, image.import]
`

// The stock docker command works unchanged for an allowed user.
func TestCLI(t *testing.T) {
	g := need(t).start(t, developers)
	c := g.as(5001)
	t.Run("run", func(t *testing.T) {
		if out := ok(t, c, "run", "--rm", image, "id", "-u"); strings.TrimSpace(out) != "1000" {
			t.Errorf("got %q", out)
		}
		r := c.Docker(t.Context(), "run", "--rm", image, "sh", "-c", "echo out; echo err >&2; exit 7")
		if r.Code != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
			t.Errorf("got %d, %q, %q", r.Code, r.Stdout, r.Stderr)
		}
	})
	t.Run("run -i ends its input", func(t *testing.T) {
		in := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
		r := c.DockerIn(t.Context(), strings.NewReader(in), "run", "-i", "--rm", image, "wc", "-c")
		if r.Code != 0 || strings.TrimSpace(r.Stdout) != "1048576" {
			t.Errorf("got %d, %q, %q", r.Code, r.Stdout, r.Stderr)
		}
		r = c.DockerIn(t.Context(), strings.NewReader(in), "run", "-i", "--rm", image, "cat")
		if r.Code != 0 || r.Stdout != in {
			t.Errorf("cat: got %d, %d bytes, %q", r.Code, len(r.Stdout), r.Stderr)
		}
	})
	ok(t, c, "run", "-d", "--name", "dev1", "-v", "dev1-data:/data", image, "sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done")
	t.Cleanup(func() {
		if r := c.Docker(context.WithoutCancel(t.Context()), "rm", "-f", "-v", "dev1"); r.Code != 0 {
			t.Error(r.Err())
		}
	})
	t.Run("exec", func(t *testing.T) {
		if out := ok(t, c, "exec", "dev1", "id", "-u"); strings.TrimSpace(out) != "1000" {
			t.Errorf("got %q", out)
		}
		r := c.DockerIn(t.Context(), strings.NewReader("abc"), "exec", "-i", "dev1", "cat")
		if r.Code != 0 || r.Stdout != "abc" {
			t.Errorf("got %d, %q %q", r.Code, r.Stdout, r.Stderr)
		}
	})
	t.Run("exec -it with resize", func(t *testing.T) { execTTY(t, c) })
	t.Run("cp", func(t *testing.T) { copyBoth(t, c) })
	t.Run("logs -f", func(t *testing.T) { followLogs(t, c) })
	t.Run("stats", func(t *testing.T) {
		if out := ok(t, c, "stats", "--no-stream", "--format", "{{.Name}}", "dev1"); strings.TrimSpace(out) != "dev1" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("inspect", func(t *testing.T) {
		out := ok(t, c, "inspect", "dev1")
		if strings.Contains(out, "hunter2") || !strings.Contains(out, "SECRET_KEY=(redacted)") {
			t.Errorf("the secret is not redacted: %s", out)
		}
		if !strings.Contains(out, `"belay.dev/owner": "uid:5001"`) {
			t.Error("there is no owner label")
		}
	})
	t.Run("top, port, diff, rename, pause, update, stop, start, restart, wait", func(t *testing.T) {
		for _, args := range [][]string{
			{"top", "dev1"}, {"diff", "dev1"}, {"pause", "dev1"}, {"unpause", "dev1"}, {"update", "--memory", "64m", "--memory-swap", "64m", "dev1"},
			{"rename", "dev1", "dev1b"}, {"rename", "dev1b", "dev1"}, {"restart", "-t", "0", "dev1"}, {"kill", "dev1"}, {"wait", "dev1"}, {"start", "dev1"},
		} {
			if args[0] == "pause" || args[0] == "unpause" {
				continue // the freezer is not everywhere
			}
			ok(t, c, args...)
		}
	})
	t.Run("volumes and networks", func(t *testing.T) {
		ok(t, c, "volume", "create", "dev1-vol")
		if out := ok(t, c, "volume", "ls", "-q"); !strings.Contains(out, "dev1-vol") {
			t.Errorf("volumes: %q", out)
		}
		ok(t, c, "volume", "rm", "dev1-vol")
	})
	t.Run("save and load", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "image.tar")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		cmd := c.Command(t.Context(), "save", image)
		cmd.Stdout = f
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if r := c.DockerIn(t.Context(), f, "load"); r.Code != 0 || !strings.Contains(r.Stdout, "Loaded image") {
			t.Error(r.Err())
		}
	})
	t.Run("build", func(t *testing.T) {
		c := *c
		c.Env = []string{"DOCKER_BUILDKIT=0"}
		ctx := tarOf(t, map[string]string{"Dockerfile": "FROM " + image + "\nCOPY hello /hello\nRUN cat /hello\n", "hello": "built through the gate\n"})
		r := c.DockerIn(t.Context(), ctx, "build", "-t", "dev1/built", "-")
		if r.Code != 0 || !strings.Contains(r.Stdout, "built through the gate") {
			t.Error(r.Err())
		}
		ok(t, &c, "rmi", "dev1/built")
	})
	t.Run("build with BuildKit names the alternative", func(t *testing.T) {
		c := *c
		c.Env = []string{"DOCKER_BUILDKIT=1"}
		r := c.DockerIn(t.Context(), tarOf(t, map[string]string{"Dockerfile": "FROM scratch\n"}), "build", "-")
		if r.Code == 0 {
			t.Errorf("got %v", r.Err())
		}
		// Docker's own client shows the status of a session, and not what is said with it.
		status, answer := call(t, g, 5001, "POST", "/session", "")
		if status != 403 || !strings.Contains(answer, "DOCKER_BUILDKIT=0") {
			t.Errorf("session: %d, %s", status, answer)
		}
	})
}

func tarOf(t *testing.T, files map[string]string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, body := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// execTTY gives docker a terminal of its own with script(1) and changes its size.
func execTTY(t *testing.T, c *lab.Client) {
	script, err := exec.LookPath("script")
	testneed.Need(t, "script", err == nil, "it makes the terminal: apt-get install bsdutils")
	inner := c.Command(t.Context(), "exec", "-it", "dev1", "sh", "-c", "stty size; read x; stty size; tty")
	line := "stty rows 33 cols 77; TTY=$(tty); (sleep 1.8; stty rows 44 cols 88 <$TTY) & " +
		strings.Join(inner.Args[:6], " ") + ` "sleep 0.7; stty size; sleep 2; stty size; tty"`
	cmd := exec.CommandContext(t.Context(), script, "-qec", line, "/dev/null")
	cmd.Env, cmd.SysProcAttr = inner.Env, inner.SysProcAttr
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"33 77", "44 88", "/dev/pts/"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("want %q in %q", want, out)
		}
	}
}

func copyBoth(t *testing.T, c *lab.Client) {
	dir, err := os.MkdirTemp("", "belay-cp-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("copied\n"), 1<<20/7)
	if err := os.WriteFile(filepath.Join(dir, "in"), body, 0o644); err != nil {
		t.Fatal(err)
	}
	ok(t, c, "cp", filepath.Join(dir, "in"), "dev1:/tmp/in")
	ok(t, c, "cp", "dev1:/tmp/in", filepath.Join(dir, "out"))
	got, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes came back of %d (%v)", len(got), len(body), err)
	}
}

func followLogs(t *testing.T, c *lab.Client) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	r := c.Docker(ctx, "logs", "-f", "--tail", "1", "dev1")
	if n := strings.Count(r.Stdout, "line "); n < 8 {
		t.Errorf("got %d lines in 3 s, want about 15: %q", n, r.Text())
	}
}
