package worker

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/belay-project/belay/internal/scan/extract"
	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// ent is a member of a tar; with no type it is a regular file, or a directory if its
// name ends in a slash.
type ent struct {
	name, body string
	typ        byte
	link       string
	mode       int64
}

func tarOf(tb testing.TB, ents ...ent) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body))}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if e.name[len(e.name)-1] == '/' {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zstded(tb testing.TB, b []byte) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// diffID is the digest of a layer without its compression.
func diffID(l []byte) string {
	sum := sha256.New()
	if z, err := gzip.NewReader(bytes.NewReader(l)); err == nil {
		io.Copy(sum, z)
	} else if z, err := zstd.NewReader(bytes.NewReader(l)); err == nil && bytes.HasPrefix(l, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		io.Copy(sum, z)
		z.Close()
	} else {
		sum.Write(l)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func configOf(layers [][]byte) []byte {
	var ids []string
	for _, l := range layers {
		ids = append(ids, "sha256:"+diffID(l))
	}
	b, _ := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	return b
}

// dockerArchive is what "docker save" of an older engine writes.
func dockerArchive(tb testing.TB, layers ...[]byte) []byte {
	tb.Helper()
	config := configOf(layers)
	var ents []ent
	var names []string
	for i, l := range layers {
		name := fmt.Sprintf("l%d/layer.tar", i)
		names = append(names, name)
		ents = append(ents, ent{name: name, body: string(l)})
	}
	m, _ := json.Marshal([]any{map[string]any{"Config": "c.json", "RepoTags": []string{"t:1"}, "Layers": names}})
	ents = append(ents, ent{name: "c.json", body: string(config)}, ent{name: "manifest.json", body: string(m)})
	return tarOf(tb, ents...)
}

// layoutFiles is an OCI layout; pack compresses its layers.
func layoutFiles(pack func([]byte) []byte, layers ...[]byte) map[string][]byte {
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	add := func(b []byte) map[string]any {
		files["blobs/sha256/"+digest(b)] = b
		return map[string]any{"digest": "sha256:" + digest(b), "size": len(b)}
	}
	var list []any
	for _, l := range layers {
		list = append(list, add(pack(l)))
	}
	manifest, _ := json.Marshal(map[string]any{"schemaVersion": 2, "config": add(configOf(layers)), "layers": list})
	other := add([]byte(`{"schemaVersion":2}`))
	other["platform"] = map[string]any{"os": "linux", "architecture": "s390x"}
	this := add(manifest)
	this["platform"] = map[string]any{"os": "linux", "architecture": "amd64"}
	attestation := add([]byte(`{}`))
	attestation["platform"] = map[string]any{"os": "unknown", "architecture": "unknown"}
	index, _ := json.Marshal(map[string]any{"manifests": []any{attestation, other, this}})
	files["index.json"], _ = json.Marshal(map[string]any{"manifests": []any{add(index)}})
	return files
}

func layoutTar(tb testing.TB, files map[string][]byte) []byte {
	tb.Helper()
	var ents []ent
	for name, b := range files {
		ents = append(ents, ent{name: name, body: string(b)})
	}
	return tarOf(tb, ents...)
}

func writeFiles(tb testing.TB, dir string, files map[string][]byte) {
	tb.Helper()
	for name, b := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
}

// read reads paths as one source, without a sandbox.
func read(tb testing.TB, source inventory.Source, platform string, paths ...string) (*inventory.Result, error) {
	tb.Helper()
	return readJob(tb, inventory.Job{Source: source, Platform: platform}, paths...)
}

// readJob reads what lies at paths as a job says.
func readJob(tb testing.TB, job inventory.Job, paths ...string) (*inventory.Result, error) {
	tb.Helper()
	files := map[int]*os.File{}
	for i, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		files[i] = f
		job.Inputs = append(job.Inputs, inventory.Input{FD: i})
	}
	return image.Read(tb.Context(), job, func(fd int) *os.File { return files[fd] }, extract.Set{})
}

// readArchive reads bytes as an archive.
func readArchive(tb testing.TB, b []byte) (*inventory.Result, error) {
	tb.Helper()
	p := filepath.Join(tb.TempDir(), "image.tar")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return read(tb, inventory.SourceArchive, "linux/amd64", p)
}

// summary is the packages of a result, one text each.
func summary(res *inventory.Result) []string {
	var out []string
	for _, p := range res.Packages {
		s := fmt.Sprintf("%s %s %s @%d", p.Kind, p.Name, p.Version, p.Layer)
		if p.Source != "" && p.Source+p.SourceVersion != p.Name+p.Version {
			s += " of " + p.Source + " " + p.SourceVersion
		}
		if p.Owner != "" {
			s += " owned by " + p.Owner
		}
		out = append(out, s)
	}
	return out
}

// rootOf is the digest of the one image or index of a layout.
func rootOf(tb testing.TB, files map[string][]byte) string {
	tb.Helper()
	var ix struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(files["index.json"], &ix); err != nil || len(ix.Manifests) != 1 {
		tb.Fatal(err, len(ix.Manifests))
	}
	return ix.Manifests[0].Digest
}

// again, behind a blob's name, is what it is when it is asked for once more.
const again = " again"

// readAsked reads an image whose blobs are asked for, without a sandbox.
func readAsked(tb testing.TB, files map[string][]byte, root string) (*inventory.Result, error) {
	tb.Helper()
	return readHeld(tb, files, root, nil)
}

// readHeld is readAsked of somebody who may know what layers hold, by digest.
func readHeld(tb testing.TB, files map[string][]byte, root string, holds func(digest string) []byte) (*inventory.Result, error) {
	tb.Helper()
	return readHeldJob(tb, files, root, holds, nil)
}

// readHeldJob is readHeld without some scanners.
func readHeldJob(tb testing.TB, files map[string][]byte, root string, holds func(digest string) []byte, skip []string) (*inventory.Result, error) {
	tb.Helper()
	var ends []*os.File
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			tb.Fatal(err)
		}
		ends = append(ends, r, w)
	}
	asks, answer := ends[2], ends[1]
	done := make(chan struct{})
	go func() {
		defer close(done)
		asked := map[string]bool{}
		for {
			a, err := inventory.ReadAsk(asks)
			if err != nil {
				return
			}
			if a.Layer {
				if inventory.WriteAnswer(answer, bytes.NewReader(holds(a.Digest))) != nil {
					return
				}
				continue
			}
			name := "blobs/sha256/" + a.Digest[len("sha256:"):]
			b, ok := files[name]
			if other, ok := files[name+again]; ok && asked[name] {
				b = other
			}
			asked[name] = true
			if !ok {
				err = inventory.WriteFailure(answer, errors.New("no such blob"))
			} else {
				err = inventory.WriteAnswer(answer, bytes.NewReader(b))
			}
			if err != nil {
				return
			}
		}
	}()
	job := inventory.Job{Source: inventory.SourceAsked, Platform: "linux/amd64", Root: root, Inputs: []inventory.Input{{FD: 0}}, AskFD: 1, Layers: holds != nil, Skip: skip}
	res, err := image.Read(tb.Context(), job, func(fd int) *os.File { return map[int]*os.File{0: ends[0], 1: ends[3]}[fd] }, extract.Set{})
	for _, f := range ends {
		f.Close()
	}
	<-done
	return res, err
}
