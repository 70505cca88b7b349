package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/belay-project/belay/tools/bom"
)

// build is what one image is made of.
type build struct {
	version, out, policies, units, licences, notices, name string
	time                                                   time.Time
	platforms                                              []platform
}

// platform is an architecture and the directory of its programs.
type platform struct{ arch, dir string }

// programs are where each lies in the image.
var programs = []string{"usr/sbin/belay-agent", "usr/bin/belay", "usr/bin/belay-scanner"}

// Media types: OCI image-spec v1.1 (manifest.md, "guidelines for artifact usage") and IANA's of CycloneDX.
const (
	typeEmpty = types.MediaType("application/vnd.oci.empty.v1+json")
	typeBOM   = types.MediaType("application/vnd.cyclonedx+json")
)

// write makes the files of the image and returns their names.
func (b *build) write() ([]string, error) {
	work, err := os.MkdirTemp("", "belay-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return nil, err
	}
	base := filepath.Join(b.out, fmt.Sprintf("belay-image_%s", b.version))
	dir, err := layout.Write(work, empty.Index)
	if err != nil {
		return nil, fmt.Errorf("start the layout: %w", err)
	}
	var out []string
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	images := make([]v1.Image, len(b.platforms))
	for i, p := range b.platforms {
		img, err := b.image(p)
		if err != nil {
			return out, fmt.Errorf("image for %s: %w", p.arch, err)
		}
		images[i] = img
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: p.arch}},
		})
		file := fmt.Sprintf("%s_%s.docker.tar", base, p.arch)
		tag, err := b.tag()
		if err != nil {
			return out, err
		}
		if err := tarball.WriteToFile(file, tag, img); err != nil {
			return out, fmt.Errorf("write %s: %w", file, err)
		}
		out = append(out, file)
	}
	index = mutate.Annotations(index, b.labels()).(v1.ImageIndex)
	err = dir.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": b.tagName()}))
	if err != nil {
		return out, fmt.Errorf("write the layout: %w", err)
	}
	for i, p := range b.platforms {
		if err := b.attachBOM(dir, p, images[i]); err != nil {
			return out, fmt.Errorf("bill of materials for %s: %w", p.arch, err)
		}
	}
	file := base + ".oci.tar"
	if err := pack(file, work, b.time); err != nil {
		return out, fmt.Errorf("write %s: %w", file, err)
	}
	return append(out, file), nil
}

// tag is the name by which docker load shows the image. A tag has neither + nor ~.
func (b *build) tag() (name.Reference, error) {
	return name.NewTag(b.name+":"+b.tagName(), name.WeakValidation)
}

func (b *build) tagName() string { return strings.NewReplacer("+", "_", "~", "-").Replace(b.version) }

func (b *build) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    "Belay",
		"org.opencontainers.image.version":  b.version,
		"org.opencontainers.image.source":   "https://github.com/belay-project/belay",
		"org.opencontainers.image.licenses": "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
		"org.opencontainers.image.created":  b.time.Format(time.RFC3339),
	}
}

func (b *build) image(p platform) (v1.Image, error) {
	var raw bytes.Buffer
	if err := b.root(&raw, p); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: b.time}
	if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "tools/image"}}); err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Created, cfg.Author = "linux", p.arch, created, "The Belay authors"
	cfg.Config = v1.Config{
		Env:        []string{"PATH=/usr/sbin:/usr/bin"},
		Entrypoint: []string{"/usr/sbin/belay-agent"},
		Cmd:        []string{"run"},
		WorkingDir: "/",
		Labels:     b.labels(),
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return nil, err
	}
	return img, nil
}

// root writes the only layer.
func (b *build) root(w io.Writer, p platform) error {
	t := &tree{w: tar.NewWriter(w), time: b.time}
	for _, d := range []struct {
		name string
		mode int64
	}{
		{"etc", 0o755}, {"etc/belay", 0o755}, {"etc/belay/policies", 0o755}, {"run", 0o755}, {"run/belay", 0o751}, {"tmp", 0o1777},
		{"usr", 0o755}, {"usr/bin", 0o755}, {"usr/sbin", 0o755}, {"usr/share", 0o755}, {"usr/share/belay", 0o755},
		{"usr/share/belay/policies", 0o755}, {"usr/share/belay/systemd", 0o755}, {"usr/share/doc", 0o755}, {"usr/share/doc/belay", 0o755},
		{"var", 0o755}, {"var/lib", 0o755}, {"var/lib/belay", 0o750},
	} {
		t.add(&tar.Header{Typeflag: tar.TypeDir, Name: d.name + "/", Mode: d.mode}, nil)
	}
	t.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "var/run", Linkname: "../run", Mode: 0o777}, nil)
	t.text("etc/passwd", "root:x:0:0:root:/:/usr/bin/belay\nnobody:x:65534:65534:nobody:/:/nonexistent\n")
	t.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
	for _, f := range programs {
		t.file(f, filepath.Join(p.dir, filepath.Base(f)), 0o755)
	}
	for _, f := range []string{"belay-agent.service", "belay.slice"} {
		t.file("usr/share/belay/systemd/"+f, filepath.Join(b.units, f), 0o644)
	}
	policies, err := filepath.Glob(filepath.Join(b.policies, "*.yaml"))
	if err != nil || len(policies) == 0 {
		return fmt.Errorf("no policy in %s (%w)", b.policies, fs.ErrNotExist)
	}
	for _, f := range policies {
		t.file("usr/share/belay/policies/"+filepath.Base(f), f, 0o644)
	}
	for pattern := range strings.SplitSeq(b.licences, ",") {
		texts, err := filepath.Glob(pattern)
		if err != nil || len(texts) == 0 {
			return fmt.Errorf("no licence is called %q (%w)", pattern, fs.ErrNotExist)
		}
		for _, f := range texts {
			t.file("usr/share/doc/belay/"+filepath.Base(f), f, 0o644)
		}
	}
	if b.notices != "" {
		t.file("usr/share/doc/belay/THIRD-PARTY-LICENCES.txt", b.notices, 0o644)
	}
	if t.err != nil {
		return t.err
	}
	return t.w.Close()
}

// tree writes files of root's with one time. The first error stays.
type tree struct {
	w    *tar.Writer
	time time.Time
	err  error
}

func (t *tree) add(h *tar.Header, body []byte) {
	if t.err != nil {
		return
	}
	h.ModTime, h.Size, h.Format = t.time, int64(len(body)), tar.FormatPAX
	if t.err = t.w.WriteHeader(h); t.err == nil {
		_, t.err = t.w.Write(body)
	}
}

func (t *tree) text(name, body string) {
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(body))
}

func (t *tree) file(name, from string, mode int64) {
	body, err := os.ReadFile(from)
	if err != nil && t.err == nil {
		t.err = err
	}
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, body)
}

// attachBOM puts an artifact into the layout whose subject is the platform's image.
func (b *build) attachBOM(dir layout.Path, p platform, img v1.Image) error {
	subject, err := describe(img)
	if err != nil {
		return err
	}
	var made []bom.Program
	for _, f := range programs {
		prog, err := bom.Read(filepath.Join(p.dir, filepath.Base(f)))
		if err != nil {
			return err
		}
		made = append(made, prog)
	}
	bill, err := bom.Write(bom.Options{
		Name: b.name, Version: b.version, Arch: p.arch, Time: b.time, Container: true, Digest: subject.Digest.String(),
	}, made)
	if err != nil {
		return err
	}
	config, layer := []byte("{}"), bill
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: string(typeBOM), Subject: &subject,
		Config: blob(typeEmpty, config), Layers: []v1.Descriptor{blob(typeBOM, layer)},
		Annotations: map[string]string{"org.opencontainers.image.created": b.time.Format(time.RFC3339)},
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	desc := blob(types.OCIManifestSchema1, raw)
	for _, body := range [][]byte{config, layer, raw} {
		if err := dir.WriteBlob(blob("", body).Digest, io.NopCloser(bytes.NewReader(body))); err != nil {
			return err
		}
	}
	desc.ArtifactType = string(typeBOM)
	return dir.AppendDescriptor(desc)
}

func describe(img v1.Image) (v1.Descriptor, error) {
	raw, err := img.RawManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	return blob(types.OCIManifestSchema1, raw), nil
}

func blob(t types.MediaType, body []byte) v1.Descriptor {
	sum := sha256.Sum256(body)
	return v1.Descriptor{MediaType: t, Size: int64(len(body)), Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}}
}

// pack writes a directory as a tar file whose bytes depend on names and contents alone.
func pack(file, dir string, at time.Time) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	t := &tree{w: tar.NewWriter(f), time: at}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			t.add(&tar.Header{Typeflag: tar.TypeDir, Name: filepath.ToSlash(rel) + "/", Mode: 0o755}, nil)
		} else {
			t.file(filepath.ToSlash(rel), path, 0o644)
		}
		return t.err
	})
	if err != nil {
		return err
	}
	if err := t.w.Close(); err != nil {
		return err
	}
	return f.Close()
}
