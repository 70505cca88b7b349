// Package move moves containers between two real engines, and ends the mover at every step. The
// source is the distribution's engine; the target is the one that BELAY_TEST_MODERN_ENGINE names,
// or else another of the distribution's.
//
// It owns one lab for each kind of engine for the length of the run. Row: end-to-end tests.
package move

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/load/recreate"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// envKill makes this test binary a mover that ends at a point: it holds a job in JSON.
const envKill = "BELAY_TEST_MOVE_JOB"

// job is what a mover in a process of its own does.
type job struct {
	Dir, Container, From, To, KillAt, Resume string
	With                                     []string // that move with the container as one
	SSHConfig                                string   // of ssh; empty: none is run
	Settings                                 move.Settings
}

// image is of a web server that can also append to a file in a volume.
const image = "move/web:1"

// newImage is one that only the target has at first.
const newImage = "move/new:1"

type world struct {
	labs     []*lab.Lab
	from, to *lab.Engine
	// The same by their API: a docker command takes a quarter of a second on a busy machine.
	fromAPI, toAPI *engine.Engine
	err            error
}

func (w *world) api(e *lab.Engine) *engine.Engine {
	if e == w.from {
		return w.fromAPI
	}
	return w.toAPI
}

var shared world

func TestMain(m *testing.M) {
	if text := os.Getenv(envKill); text != "" {
		os.Exit(runJob(text))
	}
	os.Exit(testMain(m))
}

func runJob(text string) int {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	m := move.New(move.Options{Dir: j.Dir, SSH: sshWith(j.SSHConfig), At: func(point string) {
		if point == j.KillAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	var err error
	if j.Resume != "" {
		_, err = m.Abort(context.Background(), j.Resume, move.Allow{})
	} else {
		_, err = m.Move(context.Background(), j.Container, engine.Address{URL: j.From}, engine.Address{URL: j.To}, j.Settings, j.With...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func testMain(m *testing.M) (code int) {
	if docker, _ := lab.HasEngine(); os.Geteuid() != 0 || !docker || os.Getenv("BELAY_E2E") == "" {
		return m.Run() // the tests say what they need
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	shared.err = shared.build(ctx)
	code = m.Run()
	for _, l := range slices.Backward(shared.labs) {
		if err := l.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "tidying up:", err)
			code = max(code, 1)
		}
	}
	return code
}

func (w *world) build(ctx context.Context) (err error) {
	old := lab.Options{Name: "move-a", Log: os.Stderr, BinDir: os.Getenv("BELAY_BIN"), TempDir: os.Getenv("BELAY_TEST_TMP")}
	if os.Getenv(lab.ModernEngineEnv) != "" { // the source is the distribution's all the same
		old.Docker, old.Dockerd = "/usr/bin/docker", "/usr/sbin/dockerd"
	}
	if w.from, err = w.start(ctx, old); err != nil {
		return err
	}
	if w.to, err = w.start(ctx, lab.Options{Name: "move-b", Log: os.Stderr, BinDir: os.Getenv("BELAY_BIN"), TempDir: os.Getenv("BELAY_TEST_TMP")}); err != nil {
		return err
	}
	if w.fromAPI, err = engine.Open(ctx, engine.Address{URL: w.from.Host()}); err != nil {
		return err
	}
	if w.toAPI, err = engine.Open(ctx, engine.Address{URL: w.to.Host()}); err != nil {
		return err
	}
	bb, err := lab.Busybox()
	if err != nil {
		return err
	}
	files := []lab.File{
		lab.Program("bin/busybox", bb), {Name: "tmp/", Mode: 0o1777}, {Name: "data/", Mode: 0o755}, {Name: "etc/", Mode: 0o755},
		{Name: "www/", Mode: 0o755}, {Name: "www/index.html", Mode: 0o644, Body: []byte("hello\n")}, {Name: "www/cgi-bin/", Mode: 0o755},
		lab.Program("www/cgi-bin/append", []byte(appendScript)), lab.Program("bin/id", bb), // a program of its own, and no link
	}
	for _, applet := range []string{"sh", "cat", "sleep", "echo", "httpd", "sync", "true", "false", "hostname", "ls", "wget", "test", "nslookup"} {
		files = append(files, lab.File{Name: "bin/" + applet, Mode: 0o777, Link: "busybox"})
	}
	const cmd = `CMD ["httpd", "-f", "-p", "80", "-h", "/www"]`
	if err := w.from.Import(ctx, image, files, "ENV PATH=/bin", cmd); err != nil {
		return err
	}
	return w.to.Import(ctx, newImage, files, "ENV PATH=/bin", "ENV NEW=1", cmd)
}

// appendScript acknowledges a line once the disk has it.
const appendScript = `#!/bin/sh
echo "$QUERY_STRING" >>/data/log || exit 1
sync
echo "Content-Type: text/plain"
echo
echo "ok $QUERY_STRING"
`

func (w *world) start(ctx context.Context, o lab.Options) (*lab.Engine, error) {
	l, err := lab.New(o)
	if err != nil {
		return nil, err
	}
	w.labs = append(w.labs, l)
	return l.StartEngine(ctx, "main")
}

func need(t *testing.T) *world {
	t.Helper()
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "scenes on Docker Engines take minutes: make test-e2e sets BELAY_E2E")
	testneed.Need(t, "root", os.Geteuid() == 0, "containers need it")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	if shared.err != nil {
		t.Fatalf("set up: %v", shared.err)
	}
	return &shared
}

// quick are settings for containers that are healthy at once.
var quick = move.Settings{Settle: 300 * time.Millisecond, Healthy: time.Minute, Keep: time.Hour, Image: "stream"}

func with(s move.Settings, f func(*move.Settings)) move.Settings {
	f(&s)
	return s
}

func volumes(s *move.Settings) { s.CopyVolumes = true }

func ok(t *testing.T, e *lab.Engine, args ...string) string {
	t.Helper()
	r := e.Docker(t.Context(), args...)
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	return strings.TrimSpace(r.Stdout)
}

// run starts a container that goes with the test, on both engines, with volumes of the names.
func (w *world) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	t.Cleanup(func() { w.forget(t, name) })
	ok(t, w.from, slices.Concat([]string{"run", "-d", "--name", name, "--stop-signal", "KILL", "--stop-timeout", "1"}, args)...)
	return name
}

// forget removes all containers of both engines, with their volumes, and the networks of tests.
func (w *world) forget(t *testing.T, name string) {
	ctx := context.Background()
	for _, e := range []*lab.Engine{w.from, w.to} {
		if t.Failed() {
			t.Logf("%s:\n%s%s", e.Version, e.Docker(ctx, "ps", "-a", "--no-trunc").Stdout, e.Docker(ctx, "logs", "--tail", "20", name).Text())
		}
		api := w.api(e)
		list, err := api.Containers(ctx, nil)
		if err != nil {
			t.Error(err)
		}
		names := []string{"records"}
		for i := range list {
			for _, m := range list[i].Mounts {
				names = append(names, m.Name)
			}
			if err := errors.Join(api.Stop(ctx, list[i].ID, 0), api.Remove(ctx, list[i].ID)); err != nil {
				t.Error(err)
			}
		}
		for _, v := range names {
			if err := api.RemoveVolume(ctx, v); v != "" && err != nil {
				t.Error(err)
			}
		}
		for _, n := range []string{"shop", "back"} {
			if err := api.RemoveNetwork(ctx, n); err != nil {
				t.Error(err)
			}
		}
	}
}

func addresses(w *world) (from, to engine.Address) {
	return engine.Address{URL: w.from.Host()}, engine.Address{URL: w.to.Host()}
}

// move moves a container from the source to the target, and fails the test if it does not.
func (w *world) move(t *testing.T, name string, s move.Settings, o ...move.Options) *move.Journal {
	t.Helper()
	opts := move.Options{Dir: t.TempDir()}
	if len(o) > 0 {
		opts = o[0]
	}
	from, to := addresses(w)
	j, err := move.New(opts).Move(t.Context(), name, from, to, s)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// running reports whether a container runs on an engine; any name of it will do.
func (w *world) running(e *lab.Engine, name string) bool {
	c, err := w.api(e).Container(context.Background(), name)
	return err == nil && c.State.Running
}

// there reports whether an engine has a container of the name.
func (w *world) there(e *lab.Engine, name string) bool {
	_, err := w.api(e).Container(context.Background(), name)
	return err == nil
}

// restart returns the restart policy of a container.
func (w *world) restart(t *testing.T, e *lab.Engine, name string) string {
	t.Helper()
	c, err := w.api(e).Container(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(c.HostConfig.RestartPolicy.Name)
}

// address is where a container listens.
func address(e *lab.Engine, name string) string {
	out := e.Docker(context.Background(), "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", name).Stdout
	f := strings.Fields(out)
	if len(f) == 0 {
		return ""
	}
	return f[0] + ":80"
}

// get asks a server in an engine's namespace; every request has a connection of its own.
func get(e *lab.Engine, addr, path string) (string, error) {
	c, err := e.Dial(addr, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(b), err
}

// orphans says what of moves is left on both engines, but for the one copy on the target.
func (w *world) orphans(t *testing.T, copyOf string) (left []string) {
	t.Helper()
	for _, e := range []*lab.Engine{w.from, w.to} {
		list, err := w.api(e).Containers(t.Context(), map[string][]string{"label": {recreate.LabelMove}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			if n := strings.Join(list[i].Names, " "); e == w.from || n != "/"+copyOf {
				left = append(left, "container "+n)
			}
		}
	}
	for _, api := range []*engine.Engine{w.fromAPI, w.toAPI} {
		volumes, err := api.Volumes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range volumes {
			if strings.HasPrefix(volumes[i].Name, "belay-move-lease-") {
				left = append(left, "volume "+volumes[i].Name)
			}
		}
	}
	return left
}

// mover runs a job in a process of its own, and returns what it said and whether it was killed.
func mover(t *testing.T, j job) (string, bool) {
	t.Helper()
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), envKill+"="+string(b))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return string(out), false
	}
	st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !st.Signaled() {
		t.Fatalf("the mover ended with %v: %s", err, out)
	}
	return string(out), true
}

// only returns the one journal of a directory.
func only(t *testing.T, dir string) *move.Journal {
	t.Helper()
	list, err := move.List(dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %d journals, %v; want one", len(list), err)
	}
	if st, err := os.Stat(filepath.Join(dir, list[0].ID+".json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the journal has mode %v, %v", st.Mode(), err)
	}
	return list[0]
}
