package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What policies rest on: names of all namespaces, registries by where the blobs came from and not by
// names, and the configuration of the one platform that is here.
func TestDescribe(t *testing.T) {
	f := &fake{content: t.TempDir(), images: map[string]map[string]string{"moby": {}, "k8s.io": {}}, sources: map[string]map[string]string{}}
	blobs := filepath.Join(f.content, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(format string, args ...any) string {
		text := fmt.Sprintf(format, args...)
		sum := sha256.Sum256([]byte(text))
		name := hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(blobs, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return "sha256:" + name
	}
	config := put(`{"created":"2026-03-01T00:00:00Z","config":{"User":"1000","Env":["A=b"]},"rootfs":{"type":"layers"}}`)
	good := put(`{"config":{"digest":%q}}`, config)
	other := put(`{"config":{"digest":%q},"annotations":{"of":"386"}}`, config)
	index := put(`{"manifests":[{"digest":%q,"platform":{"architecture":"amd64"}},{"digest":%q,"platform":{"architecture":"arm64"}}]}`, good, two)
	both := put(`{"manifests":[{"digest":%q},{"digest":%q}]}`, good, other)
	hidden := put(`{"manifests":[{"digest":"sha512:%s"},{"digest":%q}]}`, strings.Repeat("0", 128), good)
	artifact := put(`{"config":{"digest":%q}}`, put(`{}`))
	bare := put(`{"layers":[]}`)
	for name, d := range map[string]string{"reg.example/index:1": index, "reg.example/both:1": both, "hidden": hidden, "artifact": artifact, "bare": bare, "gone": one, "named:1": good} {
		f.images["k8s.io"][name] = d
	}
	f.images["k8s.io"]["reg.example:5000/a:1"] = good
	f.images["k8s.io"]["reg.example.evil/b/c:1"] = good
	f.images["k8s.io"]["reg.example/d:1"] = good
	f.images["moby"]["docker.io/library/again:1"] = good
	f.sources["k8s.io/"+good] = map[string]string{"containerd.io/distribution.source.reg.example": "a,b/c,d", "other": "x"}
	f.sources["moby/"+good] = map[string]string{"containerd.io/distribution.source.docker.io": "library/again"}
	s, err := Open(t.Context(), serve(t, f), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })

	a, err := s.Describe(t.Context(), "again:1")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"docker.io/library/again:1", "named:1", "reg.example.evil/b/c:1", "reg.example/d:1", "reg.example:5000/a:1"}; a.ID != good || !slices.Equal(a.Names, want) {
		t.Errorf("got %s, %q; want %s, %q", a.ID, a.Names, good, want)
	}
	want := []string{"docker.io/library/again@" + good, "reg.example/b/c@" + good, "reg.example/d@" + good, "reg.example:5000/a@" + good}
	if !slices.Equal(a.Digests, want) {
		t.Errorf("got %q, want %q", a.Digests, want)
	}
	if c := a.Config; a.Unread != nil || c.User != "1000" || !slices.Equal(c.Env, []string{"A=b"}) || !c.Created.Equal(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("got %+v, %v", a.Config, a.Unread)
	}
	for _, tt := range []struct{ name, manifest, unread string }{
		{index, good, ""},
		{good, good, ""},
		{both, "", "2 platforms"},
		{hidden, "", "no sha256"},
		{artifact, "", "names no layers"},
		{bare, "", "names no configuration"},
		{one, "", "not in containerd's store"},
	} {
		a, err := s.Describe(t.Context(), tt.name)
		if err != nil || len(a.Digests) != 0 && tt.name != good || a.Manifest != tt.manifest {
			t.Errorf("%s: %+v, %v", tt.name, a, err)
			continue
		}
		if (a.Unread == nil) != (tt.unread == "") || a.Unread != nil && !strings.Contains(a.Unread.Error(), tt.unread) {
			t.Errorf("%s: got %v, want %q", tt.name, a.Unread, tt.unread)
		}
	}
	if _, err := s.Describe(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
}

// Documents are chosen by an image's author: none of them ends the reader.
func FuzzDocuments(f *testing.F) {
	f.Add([]byte(`{"config":{"digest":"sha256:1"}}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:1","mediaType":"x.index","platform":{"architecture":"unknown"}}]}`))
	f.Add([]byte(`{"created":"2026-03-01T00:00:00Z","config":{"User":"1000"},"rootfs":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &Store{content: t.TempDir()}
		sum := sha256.Sum256(text)
		name := hex.EncodeToString(sum[:])
		if err := os.MkdirAll(filepath.Join(s.content, "blobs", "sha256"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.content, "blobs", "sha256", name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, c, err := s.config(t.Context(), "sha256:"+name); err == nil {
			t.Errorf("one document is manifest and configuration: %+v", c)
		}
	})
}
