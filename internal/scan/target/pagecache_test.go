package target

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/pagecache"
	"github.com/belay-project/belay/internal/testneed"
)

// TestPageCache: what the scanner reads, in its sandbox, of files that were not in the page cache is not there
// afterwards.
func TestPageCache(t *testing.T) {
	// A list of packages that no compression makes small, and a program.
	noise := make([]byte, 512<<10)
	rand.Read(noise)
	status := "Package: a\nStatus: install ok installed\nVersion: 1\nDescription: noise\n"
	for line := range slices.Chunk(noise, 32) {
		status += " " + hex.EncodeToString(line) + "\n"
	}
	program, err := os.ReadFile(scanner(t))
	if err != nil {
		t.Fatal(err)
	}
	const list = "var/lib/dpkg/status"
	m := &memory{blobs: map[string][]byte{}}
	root, _ := m.image(t, []string{list, status})
	index, _ := json.Marshal(map[string]any{"manifests": []any{map[string]string{"digest": root}}})
	layout := map[string][]byte{"index.json": index, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	for d, b := range m.blobs {
		layout["blobs/sha256/"+strings.TrimPrefix(d, "sha256:")] = b
	}
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		open  string // below the directory of the files
		want  []string
	}{
		{"root file system", map[string][]byte{list: []byte(status), "usr/bin/p": program}, ".", []string{"deb a", "golang stdlib"}},
		{"archive", map[string][]byte{"image.tar": packed(t, layout)}, "image.tar", []string{"deb a"}},
		{"layout", layout, ".", []string{"deb a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, b := range tt.files {
				writeFile(t, filepath.Join(dir, name), b)
				if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			// Dropping is a hint: on a busy machine it takes more than one try.
			var left []string
			for range 5 {
				testneed.Need(t, "page-cache", len(cached(t, dir, true)) == 0, "a file system whose pages can be dropped")
				res, err := scan(t, filepath.Join(dir, tt.open), Options{})
				if err != nil {
					t.Fatal(err)
				}
				for _, want := range tt.want {
					if !slices.ContainsFunc(res.Packages, func(p inventory.Package) bool { return p.Kind+" "+p.Name == want }) {
						t.Errorf("it was not read: no %s in %+v", want, res.Packages)
					}
				}
				if left = cached(t, dir, false); len(left) == 0 {
					return
				}
			}
			t.Errorf("in the page cache afterwards: %q", left)
		})
	}
}

// packed is a tar of files.
func packed(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, b := range files {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b))})
		if _, e := w.Write(b); errors.Join(err, e) != nil {
			t.Fatal(err, e)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// cached returns the large files below dir of which a part is in the page cache; drop has them dropped before.
func cached(t *testing.T, dir string, drop bool) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil || st.Size() < 1<<19 {
			return err
		}
		if drop {
			if err := f.Sync(); err != nil {
				return err
			}
			_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		if pagecache.Has(f, st.Size()) {
			out = append(out, d.Name())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
