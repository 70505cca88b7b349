package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// made builds the image of two platforms, whose programs are all the test's own.
func made(t *testing.T) (files map[string][]byte, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	progs := t.TempDir()
	for _, p := range programs {
		if err := os.Link(self, filepath.Join(progs, filepath.Base(p))); err != nil {
			raw, rerr := os.ReadFile(self)
			if rerr != nil {
				t.Fatal(err, rerr)
			}
			if err := os.WriteFile(filepath.Join(progs, filepath.Base(p)), raw, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir = t.TempDir()
	b := &build{
		version: "1.2.3+4.gabc", out: dir, policies: "../../policies", units: "../../deploy/systemd", licences: "../../LICENSE,../../bpf/LICENSE.*", name: "belay-agent", time: time.Unix(1700000000, 0).UTC(),
		platforms: []platform{{"amd64", progs}, {"arm64", progs}},
	}
	names, err := b.write()
	if err != nil {
		t.Fatal(err)
	}
	files = map[string][]byte{}
	for _, n := range names {
		raw, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(n)] = raw
	}
	return files, dir
}

func TestImage(t *testing.T) {
	first, dir := made(t)
	t.Run("reproducible", func(t *testing.T) { reproducible(t, first) })
	t.Run("layout", func(t *testing.T) { checkLayout(t, first["belay-image_1.2.3+4.gabc.oci.tar"]) })
	t.Run("docker load", func(t *testing.T) { loadable(t, dir) })
}

func reproducible(t *testing.T, first map[string][]byte) {
	second, _ := made(t)
	if len(first) != 3 {
		t.Fatalf("%d files are written, want 3", len(first))
	}
	for n, raw := range first {
		if !bytes.Equal(raw, second[n]) {
			t.Errorf("%s has other bytes the second time", n)
		}
	}
}

func checkLayout(t *testing.T, archive []byte) {
	dir := t.TempDir()
	unpack(t, archive, dir)
	path, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	top, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil || len(m.Manifests) != 3 {
		t.Fatalf("the layout names %d things, want an index and two bills of materials (%v)", len(m.Manifests), err)
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	platforms, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		d := platforms.Manifests[i]
		if d.Platform == nil || d.Platform.Architecture != arch {
			t.Errorf("image %d is for %v, want %s", i, d.Platform, arch)
		}
		checkImage(t, index, d.Digest, arch)
		checkBill(t, path, m.Manifests[1+i], d.Digest)
	}
}

func checkImage(t *testing.T, index v1.ImageIndex, digest v1.Hash, arch string) {
	t.Helper()
	img, err := index.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Architecture != arch || !slices.Equal(cfg.Config.Entrypoint, []string{"/usr/sbin/belay-agent"}) {
		t.Errorf("%s: configuration %s %v", arch, cfg.Architecture, cfg.Config.Entrypoint)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers (%v), want 1", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	modes := map[string]int64{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Mode&0o022 != 0 && h.Name != "tmp/" && h.Typeflag != tar.TypeSymlink {
			t.Errorf("%s is %d:%d's with mode %o: others may write it", h.Name, h.Uid, h.Gid, h.Mode)
		}
		modes[h.Name] = h.Mode
	}
	for _, p := range append(programs, "usr/share/belay/policies/hardened.yaml", "usr/share/belay/systemd/belay-agent.service",
		"usr/share/doc/belay/LICENSE", "usr/share/doc/belay/LICENSE.GPL-2.0", "usr/share/doc/belay/LICENSE.BSD-2-Clause") {
		want := int64(0o755)
		if strings.HasPrefix(p, "usr/share/") {
			want = 0o644
		}
		if modes[p] != want {
			t.Errorf("%s has mode %o, want %o", p, modes[p], want)
		}
	}
}

// checkBill holds an artifact to what a registry shows as a referrer of an image.
func checkBill(t *testing.T, path layout.Path, d v1.Descriptor, subject v1.Hash) {
	t.Helper()
	raw, err := path.Bytes(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	if m.Subject == nil || m.Subject.Digest != subject || m.ArtifactType != "application/vnd.cyclonedx+json" || len(m.Layers) != 1 {
		t.Fatalf("the artifact %s is none of %s: %s", d.Digest, subject, raw)
	}
	body, err := path.Bytes(m.Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	var doc cdx.BOM
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, c := range *doc.Components {
		found = found || strings.HasPrefix(c.PackageURL, "pkg:golang/github.com/google/go-containerregistry@v")
	}
	if !found {
		t.Error("the bill of materials has not the module by which this test is made")
	}
}

func loadable(t *testing.T, dir string) {
	img, err := tarball.ImageFromPath(filepath.Join(dir, "belay-image_1.2.3+4.gabc_amd64.docker.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil || cfg.Architecture != "amd64" {
		t.Fatalf("configuration %+v (%v)", cfg, err)
	}
}

func TestMissingProgram(t *testing.T) {
	b := &build{version: "1", out: t.TempDir(), policies: "../../policies", units: "../../deploy/systemd", licences: "../../LICENSE,../../bpf/LICENSE.*", name: "x", time: time.Unix(1, 0), platforms: []platform{{"amd64", t.TempDir()}}}
	if _, err := b.write(); err == nil || !strings.Contains(err.Error(), "belay-agent") {
		t.Errorf("an image without the agent: %v", err)
	}
}

func TestMissingLicence(t *testing.T) {
	b := &build{policies: "../../policies", units: "../../deploy/systemd", licences: "../../LICENSE,../../bpf/LICENCE.*", time: time.Unix(1, 0), platforms: []platform{{"amd64", t.TempDir()}}}
	if err := b.root(io.Discard, b.platforms[0]); err == nil || !strings.Contains(err.Error(), "LICENCE.*") {
		t.Errorf("an image without the kernel side's licences: %v", err)
	}
}

func unpack(t *testing.T, raw []byte, dir string) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(to, 0o755)
		} else {
			var body []byte
			if body, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(to, body, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
