package containerd

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// fake is a containerd that holds images, containers and snapshots by namespace.
type fake struct {
	namespacesapi.UnimplementedNamespacesServer
	introspectionapi.UnimplementedIntrospectionServer
	content string
	sources map[string]map[string]string // labels by namespace/digest
	images  map[string]map[string]string // namespace, name, digest
	boxes   map[string][]*containersapi.Container
	mounts  map[string]*types.Mount // namespace/snapshotter/key
}

func namespace(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("containerd-namespace"), ",")
}

func (f *fake) List(context.Context, *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	return &namespacesapi.ListNamespacesResponse{Namespaces: []*namespacesapi.Namespace{{Name: "moby"}, {Name: "k8s.io"}}}, nil
}

func (f *fake) Plugins(context.Context, *introspectionapi.PluginsRequest) (*introspectionapi.PluginsResponse, error) {
	return &introspectionapi.PluginsResponse{Plugins: []*introspectionapi.Plugin{
		{Type: "io.containerd.content.v1", ID: "content", Exports: map[string]string{"root": f.content}},
		{Type: "io.containerd.snapshotter.v1", ID: "btrfs", InitErr: status.New(codes.Unknown, "no btrfs").Proto(), Exports: map[string]string{"root": "/elsewhere"}},
		{Type: "io.containerd.snapshotter.v1", ID: "broken"},
		{Type: "io.containerd.snapshotter.v1", ID: "native", Exports: map[string]string{"root": "/elsewhere"}}, {Type: "io.containerd.snapshotter.v1", ID: "overlayfs"},
	}}, nil
}

type fakeImages struct {
	imagesapi.UnimplementedImagesServer
	f *fake
}

func (f fakeImages) List(ctx context.Context, _ *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	var out imagesapi.ListImagesResponse
	for name, d := range f.f.images[namespace(ctx)] {
		out.Images = append(out.Images, &imagesapi.Image{Name: name, Target: &types.Descriptor{Digest: d}})
	}
	return &out, nil
}

type fakeContent struct {
	contentapi.UnimplementedContentServer
	f *fake
}

func (f fakeContent) Info(ctx context.Context, r *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	labels, ok := f.f.sources[namespace(ctx)+"/"+r.GetDigest()]
	if !ok {
		return nil, status.Error(codes.NotFound, "no content")
	}
	return &contentapi.InfoResponse{Info: &contentapi.Info{Digest: r.GetDigest(), Labels: labels}}, nil
}

type fakeContainers struct {
	containersapi.UnimplementedContainersServer
	f *fake
}

func (f fakeContainers) List(ctx context.Context, _ *containersapi.ListContainersRequest) (*containersapi.ListContainersResponse, error) {
	return &containersapi.ListContainersResponse{Containers: f.f.boxes[namespace(ctx)]}, nil
}

type fakeSnapshots struct {
	snapshotsapi.UnimplementedSnapshotsServer
	f *fake
}

func (f fakeSnapshots) Mounts(ctx context.Context, r *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	if r.GetSnapshotter() == "broken" {
		return nil, status.Error(codes.Unavailable, "its process is away")
	}
	m, ok := f.f.mounts[namespace(ctx)+"/"+r.GetSnapshotter()+"/"+r.GetKey()]
	if !ok {
		return nil, status.Error(codes.NotFound, "no snapshot")
	}
	return &snapshotsapi.MountsResponse{Mounts: []*types.Mount{m}}, nil
}

func serve(t *testing.T, f *fake) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	namespacesapi.RegisterNamespacesServer(s, f)
	introspectionapi.RegisterIntrospectionServer(s, f)
	imagesapi.RegisterImagesServer(s, fakeImages{f: f})
	contentapi.RegisterContentServer(s, fakeContent{f: f})
	containersapi.RegisterContainersServer(s, fakeContainers{f: f})
	snapshotsapi.RegisterSnapshotsServer(s, fakeSnapshots{f: f})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return socket
}

var (
	one, two = "sha256:" + strings.Repeat("1", 64), "sha256:" + strings.Repeat("2", 64)
	box      = strings.Repeat("ab", 32)
	stopped  = strings.Repeat("cd", 32)
	whole    = strings.Repeat("ef", 32)
)

func world(t *testing.T, namespace string) *Store {
	t.Helper()
	f := &fake{
		content: t.TempDir(),
		images: map[string]map[string]string{
			"moby":   {"docker.io/library/app:latest": one, "both:1": one},
			"k8s.io": {"registry.example/app:1": two, "both:1": two},
		},
		boxes: map[string][]*containersapi.Container{
			"moby":   {{ID: box, Snapshotter: "overlayfs", SnapshotKey: box}, {ID: "classic", SnapshotKey: ""}},
			"k8s.io": {{ID: "odd", Snapshotter: "devmapper", SnapshotKey: "odd"}, {ID: "n", Labels: map[string]string{"nerdctl/name": "web"}, Snapshotter: "overlayfs", SnapshotKey: "n"}},
		},
		mounts: map[string]*types.Mount{
			"moby/overlayfs/" + box:     {Type: "overlay", Source: "overlay", Options: []string{"index=off", "workdir=/w", "upperdir=/u", "lowerdir=/top:/bottom"}},
			"moby/overlayfs/" + stopped: {Type: "bind", Source: "/only", Options: []string{"rw"}},
			"moby/native/" + whole:      {Type: "bind", Source: "/all", Options: []string{"rbind", "rw"}},
			"k8s.io/devmapper/odd":      {Type: "ext4", Source: "/dev/mapper/x"},
			"k8s.io/overlayfs/n":        {Type: "overlay", Options: []string{"upperdir=u", "lowerdir=a:b"}},
		},
	}
	if err := os.MkdirAll(filepath.Join(f.content, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.content, "blobs", "sha256", one[7:]), []byte("blob"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(f.content, "blobs", "sha256", two[7:])); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), serve(t, f), namespace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestImage(t *testing.T) {
	s := world(t, "")
	for name, want := range map[string]string{
		"app": one, "app:latest": one, "docker.io/library/app": one, one: one, strings.Repeat("1", 12): one, "registry.example/app:1": two,
	} {
		if got, err := s.Image(t.Context(), name); got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
	}
	for _, name := range []string{"app:2", "1111", "registry.example/app", "", "*"} {
		if got, err := s.Image(t.Context(), name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := s.Image(t.Context(), "both:1"); err == nil || !strings.Contains(err.Error(), "--namespace") {
		t.Errorf("two images of one name: %v", err)
	}
	if got, err := world(t, "k8s.io").Image(t.Context(), "both:1"); got != two || err != nil {
		t.Errorf("in one namespace: %s, %v", got, err)
	}
}

func TestContainer(t *testing.T) {
	s := world(t, "")
	for _, tt := range []struct {
		name, id string
		want     []string
		err      string
	}{
		{box, "", []string{"/bottom", "/top", "/u"}, ""},
		{box[:12], "", []string{"/bottom", "/top", "/u"}, ""},
		{"by-docker", box, []string{"/bottom", "/top", "/u"}, ""},
		{"by-docker", stopped, []string{"/only"}, ""},
		{"by-docker", whole, []string{"/all"}, ""},
		{"odd", "", nil, "snapshotter \"devmapper\" keeps it as a file system of the type \"ext4\""},
		{"odd", "", nil, "/proc/PID/root"},
		{"by-docker", strings.Repeat("0", 64), nil, "snapshotter \"broken\" for the snapshot"}, // it may have it
		{"web", "", nil, "not in directories"},                                                 // paths that are none
		{"classic", "", nil, ErrNotFound.Error()},
		{"none", "", nil, ErrNotFound.Error()},
	} {
		got, id, err := s.Container(t.Context(), tt.name, tt.id)
		if want := cmp.Or(tt.id, box); err == nil && id != want {
			t.Errorf("%s: the container %s, want %s", tt.name, id, want)
		}
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v, want %q, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func TestFetch(t *testing.T) {
	s := world(t, "")
	r, err := s.Fetch(t.Context(), inventory.Ask{Digest: one})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "blob" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	r.Close()
	for d, want := range map[string]string{two: "symbolic link", "sha256:" + strings.Repeat("3", 64): "--platform", "sha256:../../x": "no sha256"} {
		if _, err := s.Fetch(t.Context(), inventory.Ask{Digest: d}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", d, err, want)
		}
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "dead.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, name := range []string{"none.sock", "dead.sock"} {
		if _, err := Open(t.Context(), filepath.Join(dir, name), ""); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
