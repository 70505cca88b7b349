package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/containerd"
	"github.com/belay-project/belay/internal/scan/inventory"
	scantarget "github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/workload"
)

// layoutArchive writes an OCI layout as a tar, of an image with one Debian package, and returns the
// digest of its manifest.
func layoutArchive(t *testing.T, path string) string {
	t.Helper()
	pack := func(files map[string][]byte) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, body := range files {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(body); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	add := func(media string, b []byte) map[string]any {
		sum := sha256.Sum256(b)
		digest := hex.EncodeToString(sum[:])
		files["blobs/sha256/"+digest] = b
		return map[string]any{"mediaType": media, "digest": "sha256:" + digest, "size": len(b)}
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	layer := add("application/vnd.oci.image.layer.v1.tar", pack(map[string][]byte{
		"etc/os-release":      []byte("ID=debian\nVERSION_ID=\"12\"\n"),
		"var/lib/dpkg/status": []byte("Package: shop\nStatus: install ok installed\nVersion: 1.0\n\n"),
	}))
	config := add("application/vnd.oci.image.config.v1+json", marshal(map[string]any{
		"os": "linux", "architecture": "amd64", "config": map[string]any{}, "rootfs": map[string]any{"type": "layers", "diff_ids": []any{layer["digest"]}},
	}))
	manifest := add("application/vnd.oci.image.manifest.v1+json", marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layer},
	}))
	digest := manifest["digest"].(string)
	manifest["annotations"] = map[string]string{"io.containerd.image.name": "reg.example/shop:1"}
	files["index.json"] = marshal(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}})
	if err := os.WriteFile(path, pack(files), 0o600); err != nil {
		t.Fatal(err)
	}
	return digest
}

// startContainerd starts a containerd of its own and returns its socket.
func startContainerd(t *testing.T) string {
	t.Helper()
	testneed.Need(t, "root", os.Geteuid() == 0, "containerd is root's")
	for _, name := range []string{"containerd", "ctr"} {
		_, err := exec.LookPath(name)
		testneed.Need(t, "containerd", err == nil, "there is no "+name)
	}
	dir, err := os.MkdirTemp("", "bctd") // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "config.toml")
	write(t, config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
	socket := filepath.Join(dir, "c.sock")
	var log bytes.Buffer
	cmd := exec.Command("containerd", "--config", config, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--address", socket)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	for range 200 {
		if exec.Command("ctr", "--address", socket, "version").Run() == nil {
			return socket
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("containerd does not answer:\n%s", log.String())
	return ""
}

// TestContainerdImages: the keeper has images scanned that lie in a containerd's store, by the digest
// that its containers tell, and policies see where they are from; one that is nowhere is not found.
func TestContainerdImages(t *testing.T) {
	socket := startContainerd(t)
	file := filepath.Join(t.TempDir(), "image.tar")
	digest := layoutArchive(t, file)
	if out, err := exec.Command("ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", "--no-unpack", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	reg := newCIRegistry(t)
	reg.notify = func([]byte) {}
	s := startScanAgent(t, "reg.example")
	s.cfg.Containerd, s.cfg.DockerRoot = socket, t.TempDir()
	if err := s.openImages(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.images.keeper.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	waited, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if err := s.images.keeper.Ensure(waited, digest); err != nil {
		t.Fatal(err)
	}
	res, err := s.images.keeper.Inventory(digest)
	if err != nil || !slices.ContainsFunc(res.Packages, func(p inventory.Package) bool { return p.Name == "shop" && p.Version == "1.0" }) {
		t.Errorf("got %+v, %v", res, err)
	}
	st, ok := s.images.keeper.State(digest)
	if !ok || len(st.Findings) != 1 {
		t.Errorf("its findings: %+v, %v", st, ok)
	}
	img, err := s.images.look(ctx, workload.RuntimeContainerd, digest)
	if err != nil || img.ID != digest || !slices.Equal(img.Names, []string{"reg.example/shop:1"}) || len(img.Digests) != 0 || img.Unread != nil {
		t.Errorf("an image that was imported: %+v, %v", img, err)
	}
	// What was pulled is known to be of its registry, whatever names it is given after.
	pulled := reg.push("team/shop", "1")
	for _, args := range [][]string{
		{"content", "fetch", "--plain-http", reg.host + "/team/shop:1"},
		{"images", "tag", reg.host + "/team/shop:1", "trusted.example/shop:1"},
	} {
		if out, err := exec.Command("ctr", slices.Concat([]string{"--address", socket, "--namespace", "k8s.io"}, args)...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	img, err = s.images.look(ctx, workload.RuntimeContainerd, pulled)
	if err != nil || !slices.Equal(img.Names, []string{reg.host + "/team/shop:1", "trusted.example/shop:1"}) || !slices.Equal(img.Digests, []string{reg.host + "/team/shop@" + pulled}) {
		t.Errorf("an image that was pulled: %+v, %v", img, err)
	}
	none := "sha256:" + hex.EncodeToString(make([]byte, 32))
	scanner, err := s.cfg.scannerPath()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.scanStored(ctx, none, scantarget.Options{Scanner: scanner, DockerRoot: s.cfg.DockerRoot}); !errors.Is(err, scantarget.ErrNotFound) {
		t.Errorf("an image that is nowhere: %v", err)
	}
	if _, err := s.images.look(ctx, workload.RuntimeContainerd, none); !errors.Is(err, workload.ErrNoImage) {
		t.Errorf("asked about an image that is nowhere: %v", err)
	}
	s.cfg.Containerd += "-gone"
	if _, err := s.images.look(ctx, workload.RuntimeContainerd, digest); !errors.Is(err, containerd.ErrUnreachable) || errors.Is(err, workload.ErrNoImage) {
		t.Errorf("asked a containerd that is not there: %v", err)
	}
}
