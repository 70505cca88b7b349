package registry

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// FuzzAttached: what a registry says is attached to an image: its index, the list of referrers, a manifest
// among them, and what lies under cosign's tag. Whatever it says, a digest is one, and bounds hold.
func FuzzAttached(f *testing.F) {
	f.Setenv("DOCKER_CONFIG", f.TempDir())
	const rootIndex, referrers, referrer, cosigned = 0, 1, 2, 3
	layer := map[string]any{"mediaType": "application/vnd.cyclonedx+json", "digest": digest([]byte("bill")), "size": 4}
	image := describe(typeManifest, []byte("{}"), map[string]any{"platform": map[string]string{"os": "linux", "architecture": "amd64"}})
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	bill := encode(map[string]any{"artifactType": "application/vnd.cyclonedx+json", "layers": []any{layer}, "subject": image})
	list := func(b []byte) []byte {
		return encode(map[string]any{"manifests": []any{describe(typeManifest, b, map[string]any{"artifactType": "application/vnd.cyclonedx+json"})}})
	}
	index := encode(map[string]any{"manifests": []any{image, describe(typeManifest, bill, map[string]any{
		"platform": map[string]string{"os": "unknown"}, "annotations": map[string]string{referenceType: referenceValue, referenceTo: image["digest"].(string)},
	})}})
	f.Add(byte(rootIndex), index)
	f.Add(byte(referrers), list(bill))
	f.Add(byte(referrer), bill)
	f.Add(byte(cosigned), bill)
	f.Add(byte(rootIndex), []byte(`{"manifests":[{"digest":"../x"}]}`))
	f.Add(byte(referrers), []byte(`{"manifests":[{"digest":"../../x"},{"digest":"sha256:`+strings.Repeat("A", 64)+`"},null]}`))

	type answers struct{ root, referrers, referrer, cosigned []byte }
	var now atomic.Pointer[answers]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, path := now.Load(), r.URL.Path
		var b []byte
		switch {
		case path == "/v2/":
		case strings.HasSuffix(path, "/manifests/1"):
			b = a.root
		case strings.Contains(path, "/referrers/"):
			b = a.referrers
		case strings.HasSuffix(path, ".att"):
			b = a.cosigned
		case strings.Contains(path, "/manifests/"):
			b = a.referrer
		default:
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", typeIndex)
		w.Write(b)
	}))
	f.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	c := New(Options{})
	f.Cleanup(c.Close)
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		a := &answers{index, list(bill), bill, bill}
		switch which % 4 {
		case rootIndex:
			a.root = b
		case referrers:
			a.referrers = b
		case referrer:
			a.referrer, a.referrers = b, list(b)
		case cosigned:
			a.cosigned = b
		}
		now.Store(a)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		img, err := c.Image(ctx, host+"/app:1")
		if err != nil {
			return
		}
		manifest, got, err := img.Attached(ctx, "linux/amd64")
		if ctx.Err() != nil {
			t.Errorf("it took more than 10 s: %v", err)
		}
		if err != nil {
			return
		}
		if !sha256Digest.MatchString(manifest) || len(got) > (maxAttached+2)*maxLayers {
			t.Errorf("the manifest %q, %d documents", manifest, len(got))
		}
		for _, d := range got {
			if !sha256Digest.MatchString(d.Digest) || d.Form == "" || d.From == "" {
				t.Errorf("took %+v", d)
			}
		}
	})
}
