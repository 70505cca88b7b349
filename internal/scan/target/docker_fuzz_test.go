package target

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var inStore = regexp.MustCompile(`^/(overlay2/[0-9a-z-]+/diff|vfs/dir/[0-9a-z-]+|image/(overlay2|vfs)/imagedb/content/sha256/[0-9a-f]{64})$`)

// FuzzDockerStore: files in which a daemon keeps its state, damaged or another's: what is opened lies in
// the store.
func FuzzDockerStore(f *testing.F) {
	id, layer := strings.Repeat("a", 64), strings.Repeat("b", 64)
	good := map[string]string{
		"image/overlay2/repositories.json":                     `{"Repositories":{"app":{"app:1":"sha256:` + id + `"}}}`,
		"image/overlay2/imagedb/content/sha256/" + id:          `{"rootfs":{"type":"layers","diff_ids":["sha256:` + layer + `"]}}`,
		"image/overlay2/layerdb/sha256/" + layer + "/cache-id": "c1",
		"image/overlay2/layerdb/sha256/" + layer + "/diff":     "sha256:" + layer,
		"image/overlay2/layerdb/mounts/" + id + "/parent":      "sha256:" + layer,
		"image/overlay2/layerdb/mounts/" + id + "/mount-id":    "c1",
		"containers/" + id + "/config.v2.json":                 `{"Name":"/web"}`,
		"overlay2/c1/diff/planted":                             `{"rootfs":{"type":"layers","diff_ids":["sha256:` + layer + `"]}}`,
	}
	names := []string{
		"image/overlay2/repositories.json", "image/overlay2/imagedb/content/sha256/" + id, "image/overlay2/layerdb/sha256/" + layer + "/cache-id",
		"image/overlay2/layerdb/sha256/" + layer + "/parent", "image/overlay2/layerdb/mounts/" + id + "/parent", "image/overlay2/layerdb/mounts/" + id + "/mount-id",
		"containers/" + id + "/config.v2.json",
	}
	for i, name := range names {
		f.Add(byte(i), []byte(good[name]))
	}
	f.Add(byte(0), []byte(`{"Repositories":{"app":{"app:1":"sha256:../../../../../overlay2/c1/diff/planted"}}}`))
	f.Add(byte(2), []byte("../../.."))
	f.Add(byte(3), []byte("sha256:"+layer)) // its own parent
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		root := t.TempDir()
		put := func(name string, b []byte) {
			path := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range good {
			put(name, []byte(text))
		}
		put(names[int(which)%len(names)], b)
		for _, name := range []string{"app:1", "web", id, "sha256:" + id} {
			tgt, err := openDocker(t.Context(), name, root)
			if err != nil {
				continue
			}
			for _, file := range tgt.files {
				if rel := strings.TrimPrefix(file.Name(), root); !inStore.MatchString(rel) {
					t.Errorf("%s opens %s", name, file.Name())
				}
			}
			tgt.Close()
		}
	})
}
