package workload

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/testneed"
)

// Environment of the tests against real runtimes: the address of a private
// engine's socket (unix:///path), and the path of a containerd's socket.
const (
	envDockerHost = "BELAY_TEST_DOCKER_HOST"
	envContainerd = "BELAY_TEST_CONTAINERD_ADDRESS"
)

// realDocker returns a client for the engine under test and a label that marks
// this test's containers, all of which are removed at its end.
func realDocker(t *testing.T) (*client.Client, map[string]string) {
	t.Helper()
	host := os.Getenv(envDockerHost)
	testneed.Need(t, "docker", host != "", "set "+envDockerHost+" to the socket of a private dockerd, such as unix:///tmp/d/docker.sock")
	cli, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	mark := map[string]string{"belay.test": fmt.Sprintf("%s-%d", t.Name(), os.Getpid())}
	t.Cleanup(func() {
		ctx := context.Background() // the test's own has ended
		res, err := cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", "belay.test="+mark["belay.test"])})
		if err != nil {
			t.Errorf("clean up: %v", err)
			return
		}
		for _, c := range res.Items {
			if _, err := cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
	})
	return cli, mark
}

// importBusybox makes an image of one static program.
func importBusybox(t *testing.T, cli *client.Client, ref string) {
	t.Helper()
	bb, err := os.ReadFile("/bin/busybox")
	testneed.Need(t, "busybox", err == nil && !bytes.Contains(bb, []byte("/lib64/ld-linux")), "/bin/busybox must be there and static (Debian: busybox-static)")
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []*tar.Header{{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(bb))}} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(bb); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	res, err := cli.ImageImport(t.Context(), client.ImageImportSource{Source: &buf, SourceName: "-"}, ref, client.ImageImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	if _, err := new(bytes.Buffer).ReadFrom(res); err != nil {
		t.Fatal(err)
	}
}

func createReal(t *testing.T, cli *client.Client, name, image string, labels map[string]string) string {
	t.Helper()
	res, err := cli.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name:       name,
		Config:     &container.Config{Image: image, Cmd: []string{"/bin/busybox", "sleep", "600"}, Labels: labels},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return res.ID
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestRealDockerLife(t *testing.T) {
	cli, mark := realDocker(t)
	ctx := t.Context()
	image := fmt.Sprintf("belay-test-%d:1", os.Getpid())
	importBusybox(t, cli, image)
	before := createReal(t, cli, "belay-before", image, mark)
	must[client.ContainerStartResult](t)(cli.ContainerStart(ctx, before, client.ContainerStartOptions{}))
	// The tag moves: from now on the engine lists the first container by image ID.
	importBusybox(t, cli, image)

	d, err := NewDocker(DockerOptions{Host: os.Getenv(envDockerHost), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		t.Fatal(err)
	}
	fd := follow(t, d)
	list := fd.resync()
	i := slices.IndexFunc(list.Containers, func(c Container) bool { return string(c.ID) == before })
	if i < 0 {
		t.Fatal("the container that ran before is not in the listing")
	}
	if c := list.Containers[i]; c.Name != "belay-before" || c.Image != image || c.State != StateRunning || validDigest(c.ImageDigest) == "" || c.Partial {
		t.Errorf("got %+v, want belay-before of %s, running, with a digest", c, image)
	}
	t.Logf("API %s: %d containers listed, image digest %s", d.Status().Version, len(list.Containers), list.Containers[i].ImageDigest)
	ours := func(id, cause string) Change {
		return fd.await(cause, func(c Change) bool { return string(c.Container.ID) == id && c.Cause == cause })
	}

	labels := map[string]string{"belay.test": mark["belay.test"], "name": "not-the-name", "tier": "front"}
	id := createReal(t, cli, "belay-life", image, labels)
	c := ours(id, "create").Container
	if c.Name != "belay-life" || c.Image != image || c.State != StateCreated || c.Labels["tier"] != "front" || validDigest(c.ImageDigest) == "" {
		t.Errorf("create: got %+v", c)
	}
	if c.Partial {
		c = ours(id, "detail").Container
	}
	if c.Partial || !slices.Contains(c.ImageDigests, c.ImageDigest) {
		t.Errorf("detail: got %+v, want it whole, with its image's digests", c)
	}
	must[client.ContainerStartResult](t)(cli.ContainerStart(ctx, id, client.ContainerStartOptions{}))
	if c := ours(id, "start").Container; c.State != StateRunning {
		t.Errorf("start: got %s", c.State)
	}
	must[client.ContainerRenameResult](t)(cli.ContainerRename(ctx, id, client.ContainerRenameOptions{NewName: "belay-renamed"}))
	if c := ours(id, "rename").Container; c.Name != "belay-renamed" {
		t.Errorf("rename: got %s", c.Name)
	}
	must[client.ContainerKillResult](t)(cli.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "KILL"}))
	if c := ours(id, "stop").Container; c.State != StateStopped {
		t.Errorf("die: got %s", c.State)
	}
	must[client.ContainerRemoveResult](t)(cli.ContainerRemove(ctx, id, client.ContainerRemoveOptions{}))
	if ch := ours(id, "destroy"); ch.Kind != Removed {
		t.Errorf("destroy: got %s", ch.Kind)
	}
	t.Logf("status at the end: %+v", d.Status())
}

// The agent binds a policy between create and start; this measures how much time
// it has. StartedAt is set by the engine once the container's process exists.
func TestRealDockerCreateComesBeforeStart(t *testing.T) {
	cli, mark := realDocker(t)
	ctx := t.Context()
	image := fmt.Sprintf("belay-test-%d:2", os.Getpid())
	importBusybox(t, cli, image)
	d, err := NewDocker(DockerOptions{Host: os.Getenv(envDockerHost)})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	told := map[ident.ContainerID]time.Time{}
	ready := make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	rctx, cancel := context.WithCancel(ctx)
	go func() {
		done <- d.Run(rctx, func(c Change) {
			mu.Lock()
			defer mu.Unlock()
			if c.Kind == Resync {
				once.Do(func() { close(ready) })
			}
			if c.Cause == "create" && c.Container.ImageDigest != "" && c.Container.Labels["belay.test"] != "" {
				told[c.Container.ID] = time.Now()
			}
		})
	}()
	<-ready

	const rounds = 20
	var margins, delays []time.Duration
	for i := range rounds {
		id := createReal(t, cli, fmt.Sprintf("belay-race-%d", i), image, mark)
		created := time.Now()
		must[client.ContainerStartResult](t)(cli.ContainerStart(ctx, id, client.ContainerStartOptions{}))
		res := must[client.ContainerInspectResult](t)(cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{}))
		started, err := time.Parse(time.RFC3339Nano, res.Container.State.StartedAt)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		at, ok := told[ident.ContainerID(id)]
		mu.Unlock()
		if !ok || at.After(started) {
			t.Errorf("round %d: create was told at %v, started at %v", i, at, started)
		}
		margins = append(margins, started.Sub(at))
		delays = append(delays, at.Sub(created))
		must[client.ContainerRemoveResult](t)(cli.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true}))
	}
	slices.Sort(margins)
	slices.Sort(delays)
	t.Logf("told before the process exists: min %v, median %v; after the create call returned: median %v, max %v",
		margins[0], margins[rounds/2], delays[rounds/2], delays[rounds-1])
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Docker keeps its containers in containerd, so one engine serves to test both.
func TestRealContainerd(t *testing.T) {
	addr := os.Getenv(envContainerd)
	_, statErr := os.Stat(addr)
	testneed.Need(t, "containerd", addr != "" && statErr == nil, "set "+envContainerd+" to the containerd socket of the engine in "+envDockerHost)
	cli, mark := realDocker(t)
	ctx := t.Context()
	image := fmt.Sprintf("belay-test-%d:3", os.Getpid())
	importBusybox(t, cli, image)

	fd := follow(t, NewContainerd(ContainerdOptions{Address: addr}))
	fd.resync()
	skipping := follow(t, NewContainerd(ContainerdOptions{Address: addr, SkipMoby: true}))
	skipping.resync()

	id := createReal(t, cli, "belay-ctd", image, mark)
	must[client.ContainerStartResult](t)(cli.ContainerStart(ctx, id, client.ContainerStartOptions{}))
	c := fd.await("running", func(c Change) bool {
		return string(c.Container.ID) == id && c.Container.State == StateRunning
	}).Container
	if c.Runtime != RuntimeContainerd || !strings.HasPrefix(id, c.Name) {
		t.Errorf("got %+v", c)
	}
	must[client.ContainerRemoveResult](t)(cli.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true}))
	fd.await("removed", func(c Change) bool { return string(c.Container.ID) == id && c.Kind == Removed })
	skipping.quiet(100 * time.Millisecond)
}
