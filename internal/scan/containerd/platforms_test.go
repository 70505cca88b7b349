package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is kept of an image is kept by its ID: one that is here for two platforms has to be seen.
func TestPlatforms(t *testing.T) {
	s := &Store{content: t.TempDir()}
	blobs := filepath.Join(s.content, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		name := hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(blobs, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return "sha256:" + name
	}
	index := func(entries ...string) string { return put(`{"manifests":[` + strings.Join(entries, ",") + `]}`) }
	entry := func(digest, mediaType, arch string) string {
		return fmt.Sprintf(`{"digest":%q,"mediaType":%q,"platform":{"architecture":%q}}`, digest, mediaType, arch)
	}
	const manifest = "application/vnd.oci.image.manifest.v1+json"
	amd64, i386, absent := put(`{"config":{"digest":"a"}}`), put(`{"config":{"digest":"b"}}`), "sha256:"+strings.Repeat("0", 64)
	for _, tt := range []struct {
		name, digest string
		want         int
	}{
		{"a manifest", amd64, 1},
		{"one platform pulled of two", index(entry(amd64, manifest, "amd64"), entry(absent, manifest, "arm64")), 1},
		{"with an attestation", index(entry(amd64, manifest, "amd64"), entry(i386, manifest, "unknown")), 1},
		{"two", index(entry(amd64, manifest, "amd64"), entry(i386, manifest, "386")), 2},
		{"one within another", index(entry(amd64, "application/vnd.oci.image.index.v1+json", "amd64")), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n, err := s.Platforms(t.Context(), tt.digest); err != nil || n != tt.want {
				t.Errorf("got %d, %v; want %d", n, err, tt.want)
			}
		})
	}
	if _, err := s.Platforms(t.Context(), index(entry("sha512:"+strings.Repeat("0", 128), manifest, "amd64"), entry(amd64, manifest, "amd64"))); err == nil {
		t.Error("a manifest that cannot be read is taken for one that is not here")
	}
	if err := os.WriteFile(filepath.Join(blobs, strings.TrimPrefix(amd64, "sha256:")), []byte(`{}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Platforms(t.Context(), amd64); err == nil {
		t.Error("bytes of another digest are taken")
	}
}
