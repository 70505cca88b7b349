package scan

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/tools/lab"
)

// largest is how large a file of the tree may be: a few libraries that tell nothing would be most of it.
const largest = 1 << 20

// realImage is one image in two layers, as the kernel's overlay has it and as archives do.
type realImage struct {
	dir                  string   // of the layers' tar files
	lower, upper, merged string   // directories
	layers               []string // names of tar files, the lowest first
	diffIDs              []string
}

// linked are hard links that the second layer makes to files of the one below. The kernel copies
// such a file up; in the layer's tar they are links over layers.
var linked = map[string]string{
	"srv/node_modules/axios/package.json": "app/node_modules/axios/package.json",
	"srv/bin/scanner":                     "usr/local/bin/scanner",
}

const distInfo = "usr/lib/python3/dist-packages/Jinja2-2.10.dist-info/"

// newRealImage lays it out: a Debian tree with modules of Node.js, a distribution of Python and
// a program of Go, and on top of it, done by the kernel, what a later layer may do to a former.
func newRealImage(t *testing.T, l *lab.Lab, debian, node, program string) *realImage {
	t.Helper()
	im := &realImage{dir: l.Dir, lower: l.Path("lower"), upper: l.Path("upper"), merged: l.Path("merged")}
	work := l.Path("work")
	for _, d := range []string{im.lower, im.upper, im.merged, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{debian, node} {
		if err := unpack(from, im.lower); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string]string{
		distInfo + "METADATA": "Metadata-Version: 2.1\nName: Jinja2\nVersion: 2.10\n", distInfo + "INSTALLER": "pip\n",
		distInfo + "RECORD":                            "jinja2/__init__.py,,\njinja2/_speedups.cpython-311-x86_64-linux-gnu.so,,\nJinja2-2.10.dist-info/METADATA,,\nJinja2-2.10.dist-info/RECORD,,\n",
		"opt/node_modules/hidden/package.json":         `{"name":"hidden","version":"1.0.0"}`,
		"opt/data":                                     "a file, and a directory later",
		"opt/dir/node_modules/under/package.json":      `{"name":"under","version":"1.0.0"}`,
		"opt/bundled/node_modules/b/package.json":      `{"name":"b","version":"1.0.0"}`,
		"opt/bundled/node_modules/b/dist/package.json": `{"type":"module"}`,
	} {
		put(t, im.lower, name, []byte(body), 0o644)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	put(t, im.lower, "usr/local/bin/scanner", b, 0o755)

	if err := unix.Mount("overlay", im.merged, "overlay", 0, "lowerdir="+im.lower+",upperdir="+im.upper+",workdir="+work); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, im.merged) })
	im.change(t)
	im.write(t, im.lower, nil)
	im.write(t, im.upper, linked)
	return im
}

func unmount(t *testing.T, dir string) {
	if err := unix.Unmount(dir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

// change does what the second layer is about, in the mounted overlay.
func (im *realImage) change(t *testing.T) {
	t.Helper()
	in := func(name string) string { return filepath.Join(im.merged, name) }
	// Opaque: removed and made anew. A file that becomes a directory, and the other way round.
	for _, name := range []string{"app/node_modules/lodash", "opt/node_modules", "opt/data", "opt/dir"} {
		if err := os.RemoveAll(in(name)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, im.merged, "opt/node_modules/shown/package.json", []byte(`{"name":"shown","version":"1.0.0"}`), 0o644)
	put(t, im.merged, "opt/data/node_modules/inside/package.json", []byte(`{"name":"inside","version":"1.0.0"}`), 0o644)
	put(t, im.merged, "opt/dir", []byte("a directory, and a file later"), 0o644)
	for name, old := range linked {
		if err := errors.Join(os.MkdirAll(filepath.Dir(in(name)), 0o755), os.Link(in(old), in(name))); err != nil {
			t.Fatal(err)
		}
	}
	// The package manager's list: one package is upgraded, one is gone.
	const status = "var/lib/dpkg/status"
	b, err := os.ReadFile(in(status))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for stanza := range strings.SplitSeq(string(b), "\n\n") {
		switch {
		case strings.HasPrefix(stanza, "Package: sysvinit-utils\n"):
			continue
		case strings.HasPrefix(stanza, "Package: zlib1g\n"):
			stanza = strings.Replace(stanza, "\nVersion: ", "\nVersion: 9", 1) // its epoch is 1: 91
		}
		out = append(out, stanza)
	}
	put(t, im.merged, status, []byte(strings.Join(out, "\n\n")), 0o644)
}

func put(t *testing.T, dir, name string, body []byte, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, body, mode)); err != nil {
		t.Fatal(err)
	}
}

// unpack unpacks a tar file, but for its largest files.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command("tar", "-x", "--numeric-owner", "-p", "-C", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r, w, left := tar.NewReader(f), tar.NewWriter(in), map[string]bool{}
	for {
		var h *tar.Header
		if h, err = r.Next(); err != nil {
			break
		}
		if h.Size > largest || h.Typeflag == tar.TypeLink && left[h.Linkname] {
			left[h.Name] = true
			continue
		}
		if err = w.WriteHeader(h); err != nil {
			break
		}
		if _, err = io.Copy(w, r); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = w.Close()
	}
	return errors.Join(err, in.Close(), cmd.Wait())
}

// write writes a directory of the overlay as the tar of the next layer. links are files that are
// links to files of the layer below.
func (im *realImage) write(t *testing.T, dir string, links map[string]string) {
	t.Helper()
	name := fmt.Sprintf("%d.tar", len(im.layers))
	f, err := os.Create(filepath.Join(im.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	w := &layerWriter{tar.NewWriter(io.MultiWriter(f, h)), links, map[uint64]string{}}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		return w.add(strings.TrimPrefix(p, dir+"/"), p, d)
	})
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	im.layers, im.diffIDs = append(im.layers, name), append(im.diffIDs, "sha256:"+hex.EncodeToString(h.Sum(nil)))
}

type layerWriter struct {
	*tar.Writer
	links  map[string]string
	inodes map[uint64]string // first name of a file with several
}

// add writes a file, with whiteouts and opaque directories as archives have them.
// Source: OCI image specification, layer.md; Documentation/filesystems/overlayfs.rst.
func (w *layerWriter) add(name, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
		dir, base := filepath.Split(name)
		return w.WriteHeader(&tar.Header{Name: dir + ".wh." + base, Mode: 0o644})
	}
	to := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if to, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, to)
	if err != nil {
		return err
	}
	if h.Name = name; d.IsDir() {
		h.Name += "/"
	}
	if h.Typeflag == tar.TypeReg {
		for _, below := range w.links {
			if below == name {
				return nil // the layer below has it
			}
		}
		if st.Nlink > 1 {
			h.Linkname = w.links[name]
			if h.Linkname == "" {
				h.Linkname = w.inodes[st.Ino]
			}
			w.inodes[st.Ino] = name
		}
		if h.Linkname != "" {
			h.Typeflag, h.Size = tar.TypeLink, 0
		}
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if d.IsDir() {
		var b [1]byte
		if n, _ := unix.Lgetxattr(path, "trusted.overlay.opaque", b[:]); n == 1 && b[0] == 'y' {
			return w.WriteHeader(&tar.Header{Name: name + "/.wh..wh..opq", Mode: 0o644})
		}
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// packer compresses what is written to it.
type packer func(w io.Writer) (io.WriteCloser, error)

var packers = map[string]packer{
	"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestSpeed) },
	"zstd": func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	},
}

// pack writes a file compressed and returns its digest and size.
func pack(from, to string, p packer) (digest string, size int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return "", 0, err
	}
	defer out.Close()
	h := sha256.New()
	z, err := p(io.MultiWriter(out, h))
	if err != nil {
		return "", 0, err
	}
	_, err = io.Copy(z, in)
	if err := errors.Join(err, z.Close()); err != nil {
		return "", 0, err
	}
	st, err := out.Stat()
	if err != nil {
		return "", 0, err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), st.Size(), nil
}

func (im *realImage) config(t *testing.T) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": "amd64", "config": map[string]any{"User": "1000"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": im.diffIDs},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// archive writes it as "docker save" of old does.
func (im *realImage) archive(t *testing.T, path string) {
	t.Helper()
	put(t, im.dir, "c.json", im.config(t), 0o644)
	manifest, err := json.Marshal([]any{map[string]any{"Config": "c.json", "RepoTags": []string{"real/app:1"}, "Layers": im.layers}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, im.dir, "manifest.json", manifest, 0o644)
	tarDir(t, path, im.dir, append([]string{"c.json", "manifest.json"}, im.layers...)...)
}

func tarDir(t *testing.T, path, dir string, names ...string) {
	t.Helper()
	if out, err := exec.Command("tar", append([]string{"-C", dir, "-cf", path}, names...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

const ociImage = "application/vnd.oci.image."

// layout writes it as an OCI layout with one layer in gzip and one in zstd.
func (im *realImage) layout(t *testing.T, dir string) (manifest []byte) {
	t.Helper()
	blob := func(media string, b []byte) map[string]any {
		digest := fmt.Sprintf("%x", sha256.Sum256(b))
		put(t, dir, "blobs/sha256/"+digest, b, 0o644)
		return map[string]any{"mediaType": ociImage + media, "digest": "sha256:" + digest, "size": len(b)}
	}
	config := blob("config.v1+json", im.config(t))
	var layers []any
	for i, form := range []string{"gzip", "zstd"} {
		packed := filepath.Join(dir, form)
		digest, size, err := pack(filepath.Join(im.dir, im.layers[i]), packed, packers[form])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(packed, filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(digest, "sha256:"))); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, map[string]any{"mediaType": ociImage + "layer.v1.tar+" + form, "digest": digest, "size": size})
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociImage + "manifest.v1+json", "config": config, "layers": layers})
	if err != nil {
		t.Fatal(err)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{blob("manifest.v1+json", manifest)}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "index.json", index, 0o644)
	put(t, dir, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
	return manifest
}

// push puts the blobs of a layout and its manifest into a registry.
func push(ctx context.Context, host, repo, layout string, manifest []byte) error {
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs/sha256/*"))
	if err != nil {
		return err
	}
	for _, b := range blobs {
		f, err := os.Open(b)
		if err != nil {
			return err
		}
		err = send(ctx, "POST", host, repo+"/blobs/uploads/?digest=sha256:"+filepath.Base(b), "application/octet-stream", f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return send(ctx, "PUT", host, repo+"/manifests/1", ociImage+"manifest.v1+json", bytes.NewReader(manifest))
}
