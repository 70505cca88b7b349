package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"

	"github.com/belay-project/belay/internal/scan/ci"
	"github.com/belay-project/belay/internal/scan/stock"
	"github.com/belay-project/belay/internal/workload"
)

// fakeContainerd has one image in one namespace, and blobs in a folder.
type fakeContainerd struct {
	namespacesapi.UnimplementedNamespacesServer
	introspectionapi.UnimplementedIntrospectionServer
	content string
}

func (f *fakeContainerd) List(context.Context, *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	return &namespacesapi.ListNamespacesResponse{Namespaces: []*namespacesapi.Namespace{{Name: "k8s.io"}}}, nil
}

func (f *fakeContainerd) Plugins(context.Context, *introspectionapi.PluginsRequest) (*introspectionapi.PluginsResponse, error) {
	return &introspectionapi.PluginsResponse{Plugins: []*introspectionapi.Plugin{{Type: "io.containerd.content.v1", ID: "content", Exports: map[string]string{"root": f.content}}}}, nil
}

type fakeContainerdImages struct {
	imagesapi.UnimplementedImagesServer
	name, digest string
}

func (f fakeContainerdImages) List(context.Context, *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	return &imagesapi.ListImagesResponse{Images: []*imagesapi.Image{{Name: f.name, Target: &types.Descriptor{Digest: f.digest}}}}, nil
}

// An image of containerd's store is scanned, whether no engine has it or one keeps it there; what
// nobody has is none.
func TestScanContainerd(t *testing.T) {
	manifest, config, layer := shopImage(t, "1")
	content := t.TempDir()
	if err := os.MkdirAll(filepath.Join(content, "blobs", "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{manifest, config, layer} {
		write(t, filepath.Join(content, "blobs", "sha256", strings.TrimPrefix(digestOf(b), "sha256:")), string(b))
	}
	socket := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	f := &fakeContainerd{content: content}
	namespacesapi.RegisterNamespacesServer(g, f)
	introspectionapi.RegisterIntrospectionServer(g, f)
	imagesapi.RegisterImagesServer(g, fakeContainerdImages{name: "registry.example/shop:1", digest: digestOf(manifest)})
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })

	s := startScanAgent(t, "none")
	s.cfg.Containerd, s.cfg.DockerRoot = socket, t.TempDir()
	images := newScanImages(s.Agent)
	check := func(name, ref string) {
		t.Helper()
		res, digest, err := images.Local(t.Context(), ref, "")
		if err != nil || digest != digestOf(manifest) || len(res.Packages) != 1 || res.Packages[0].Name != "shop" {
			t.Errorf("%s: %v, %s, %+v", name, err, digest, res)
		}
	}
	check("no engine", "registry.example/shop:1")
	if _, _, err := images.Local(t.Context(), "registry.example/other:1", ""); !errors.Is(err, ci.ErrNoImage) {
		t.Errorf("what nobody has: %v", err)
	}
	if s.images.keeper, err = stock.Open(stock.Options{Dir: t.TempDir(), DB: filepath.Join(t.TempDir(), "none"), Health: s.health}); err != nil {
		t.Fatal(err)
	}
	s.images.look = func(_ context.Context, _, ref string) (workload.Image, error) {
		if ref == "shop:1" {
			return workload.Image{ID: digestOf(manifest)}, nil
		}
		return workload.Image{}, workload.ErrNoImage
	}
	s.images.known = map[imageKey]knownImage{}
	check("an engine that keeps it there", "shop:1")
	check("an engine that has none", "registry.example/shop:1")
	s.cfg.Containerd = filepath.Join(t.TempDir(), "none")
	if _, _, err := images.Local(t.Context(), "shop:1", ""); err == nil || errors.Is(err, ci.ErrNoImage) || !strings.Contains(err.Error(), "neither") {
		t.Errorf("an engine whose images are nowhere: %v", err)
	}
}
