package workload

import "testing"

// TestDockerManifest: of an image that is an index the engine tells which platform is here; with several
// nobody knows which one runs, and older engines do not say.
func TestDockerManifest(t *testing.T) {
	manifest := func(n int, kind string, available bool, unpacked int) map[string]any {
		m := map[string]any{"ID": digest(n), "Kind": kind, "Available": available}
		if kind == "image" {
			m["ImageData"] = map[string]any{"Size": map[string]any{"Unpacked": unpacked}}
		}
		return m
	}
	for _, tt := range []struct {
		name, version string
		manifests     []map[string]any
		want          string
		several       bool
	}{
		{"the older store", "1.48", nil, "", false},
		{"one platform of two", "1.48", []map[string]any{manifest(1, "image", true, 9), manifest(2, "image", false, 0)}, digest(1), false},
		{"with an attestation", "1.51", []map[string]any{manifest(1, "attestation", true, 0), manifest(2, "image", true, 9)}, digest(2), false},
		{"two platforms", "1.48", []map[string]any{manifest(1, "image", true, 9), manifest(2, "image", true, 0)}, "", true},
		{"two, one of which is left unpacked alone", "1.48", []map[string]any{manifest(1, "image", true, 9), manifest(2, "image", false, 9)}, "", true},
		{"an older engine", "1.47", []map[string]any{manifest(1, "image", true, 9)}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeDocker(t, tt.version)
			f.repoDigests[digest(9)], f.manifests = []string{}, tt.manifests
			img, err := newTestDocker(t, f).Image(t.Context(), digest(9))
			if err != nil || img.Manifest != tt.want || (img.Unread != nil) != tt.several {
				t.Errorf("got %q, %v, %v; want %q", img.Manifest, img.Unread, err, tt.want)
			}
		})
	}
}
