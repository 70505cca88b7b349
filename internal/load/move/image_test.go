package move

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestPull: an image comes by the digest under which the source knows it, and nothing is sent then. What a registry has under
// that digest is taken only if it is the same image.
func TestPull(t *testing.T) {
	const digest = "web@sha256:dd"
	for _, c := range []struct {
		name, how, layer string // how the image comes, and what the registry has
		refused          bool
		asks             []string // of the engines, for images
	}{
		{"pulled", "auto", "sha256:l", false, []string{"pull " + digest}},
		{"another image", "pull", "sha256:other", true, []string{"pull " + digest}},
		{"another image, and sent", "auto", "sha256:other", false, []string{"pull " + digest, "save", "load"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, false)
			w.s.Image = c.how
			there := "" // the layer of the target's image
			var asks []string
			image := func(rw http.ResponseWriter, layer string) {
				_ = json.NewEncoder(rw).Encode(map[string]any{
					"Id": strings.Replace(layer, "sha256:", "sha256:image-of-", 1), "RepoTags": []string{"web:1"}, "RepoDigests": []string{digest}, "Config": map[string]any{},
					"RootFS": map[string]any{"Type": "layers", "Layers": []string{layer}},
				})
			}
			w.from.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				switch {
				case !strings.Contains(r.URL.Path, "/images/"):
					return false
				case strings.HasSuffix(r.URL.Path, "/get"):
					asks = append(asks, "save")
				default:
					image(rw, "sha256:l")
				}
				return true
			}
			w.to.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				switch {
				case !strings.Contains(r.URL.Path, "/images/"):
					return false
				case strings.HasSuffix(r.URL.Path, "/images/create"):
					asks = append(asks, "pull "+r.URL.Query().Get("fromImage"))
					there = c.layer
					_, _ = rw.Write([]byte(`{"status":"Download complete"}`))
				case strings.HasSuffix(r.URL.Path, "/images/load"):
					asks = append(asks, "load")
					there = "sha256:l"
					_, _ = rw.Write([]byte(`{"stream":"Loaded image: web:1"}`))
				case strings.HasSuffix(r.URL.Path, "/images/json"):
					_, _ = rw.Write([]byte(`[]`))
				case there == "":
					http.Error(rw, `{"message":"no such image"}`, http.StatusNotFound)
				default:
					image(rw, there)
				}
				return true
			}
			_, err := w.move()
			if c.refused {
				if err == nil || !strings.Contains(err.Error(), digest+" is another image there") {
					t.Errorf("got %v", err)
				}
				w.want(true, 0)
			} else {
				if err != nil {
					t.Fatal(err)
				}
				w.want(false, 1)
			}
			if !slices.Equal(asks, c.asks) {
				t.Errorf("asked %q, want %q", asks, c.asks)
			}
		})
	}
}
