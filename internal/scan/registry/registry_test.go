package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/belay-project/belay/internal/scan/inventory"
)

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// serve starts a registry whose blobs lie on disk, behind wrap, and returns its host.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	h := ggcr.New(ggcr.WithBlobHandler(ggcr.NewDiskBlobHandler(t.TempDir())), ggcr.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func put(t *testing.T, method, url, mediaType string, b []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", mediaType)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s: %s", method, url, res.Status)
	}
}

// push puts an image of one layer there and returns the digest of its manifest.
func push(t *testing.T, host, repo, tag string, layer []byte) string {
	t.Helper()
	config := []byte(`{"os":"linux","architecture":"amd64"}`)
	for _, b := range [][]byte{layer, config} {
		put(t, http.MethodPost, "http://"+host+"/v2/"+repo+"/blobs/uploads/?digest="+digest(b), "application/octet-stream", b)
	}
	desc := func(b []byte) map[string]any {
		return map[string]any{"mediaType": "application/octet-stream", "digest": digest(b), "size": len(b)}
	}
	m, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestTypes[2], "config": desc(config), "layers": []any{desc(layer)}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, http.MethodPut, "http://"+host+"/v2/"+repo+"/manifests/"+tag, manifestTypes[2], m)
	return digest(m)
}

func fetch(ctx context.Context, img *Image, a inventory.Ask) (string, error) {
	r, err := img.Fetch(ctx, a)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

func TestImage(t *testing.T) {
	host := serve(t, nil)
	layer := []byte("layer")
	want := push(t, host, "team/app", "1", layer)
	c := New(Options{})
	defer c.Close()
	for _, ref := range []string{"/team/app:1", "/team/app@" + want, "/team/app:other@" + want} {
		img, err := c.Image(t.Context(), host+ref)
		if err != nil || img.Digest != want {
			t.Fatalf("%s: %v, %+v, want %s", ref, err, img, want)
		}
		if b, err := fetch(t.Context(), img, inventory.Ask{Digest: digest(layer)}); err != nil || b != "layer" {
			t.Errorf("%s: the layer is %q, %v", ref, b, err)
		}
		if b, err := fetch(t.Context(), img, inventory.Ask{Digest: want, Manifest: true}); err != nil || digest([]byte(b)) != want {
			t.Errorf("%s: the manifest is %q, %v", ref, b, err)
		}
		if _, err := fetch(t.Context(), img, inventory.Ask{Digest: digest([]byte("x"))}); !errors.Is(err, ErrNotFound) {
			t.Errorf("a blob that is not there: %v", err)
		}
	}
	for ref, part := range map[string]string{
		host + "/team/app:2": "docker login", host + "/none:1": "docker login", host + "/UPPER": "want REGISTRY/", "": "want REGISTRY/",
	} {
		if _, err := c.Image(t.Context(), ref); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, want %q", ref, err, part)
		}
	}
}

// TestUnsteady: a registry that says 429 and 503, and breaks blobs off, gives the same bytes.
func TestUnsteady(t *testing.T) {
	layer := bytes.Repeat([]byte("0123456789"), 100_000)
	var calls, resumed atomic.Int32
	rude := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := calls.Add(1)
			blob := r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
			switch {
			case r.Method == http.MethodGet && n%3 == 0:
				w.Header().Set("Retry-After", "0")
				w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}[n%2])
			case blob:
				from := 0
				if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
					resumed.Add(1)
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(layer)-1, len(layer)))
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(layer)-from))
				if from > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				w.Write(layer[from:min(from+300_000, len(layer))])
			default:
				h.ServeHTTP(w, r)
			}
		})
	}
	host := serve(t, rude)
	push(t, host, "app", "1", layer)
	img, err := New(Options{}).Image(t.Context(), host+"/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := fetch(t.Context(), img, inventory.Ask{Digest: digest(layer)}); err != nil || b != string(layer) {
		t.Errorf("%d bytes, %v, want %d", len(b), err, len(layer))
	}
	if resumed.Load() < 3 {
		t.Errorf("resumed %d times, want it from where it broke off", resumed.Load())
	}
}

// TestLies: a registry that sends other bytes for a digest, or goes on elsewhere in a blob.
func TestLies(t *testing.T) {
	host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/sha256:"):
				w.Write([]byte(`{"other":true}`))
			case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/"):
				w.Header().Set("Content-Length", "10")
				if r.Header.Get("Range") != "" {
					w.Header().Set("Content-Range", "bytes 0-9/10")
					w.WriteHeader(http.StatusPartialContent)
				}
				w.Write([]byte("01234"))
			default:
				h.ServeHTTP(w, r)
			}
		})
	})
	d := push(t, host, "app", "1", []byte("layer"))
	c := New(Options{})
	if _, err := c.Image(t.Context(), host+"/app@"+d); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("other bytes for a digest: %v", err)
	}
	img, err := c.Image(t.Context(), host+"/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t.Context(), img, inventory.Ask{Digest: d}); err == nil || !strings.Contains(err.Error(), "asked for what follows byte 5") {
		t.Errorf("it goes on elsewhere: %v", err)
	}
}

// TestPlainHTTP: nothing but loopback is asked without encryption, redirects included.
func TestPlainHTTP(t *testing.T) {
	g := guard{New(Options{}), "registry.example"}
	for _, u := range []string{"http://registry.example/v2/", "http://10.1.2.3/v2/", "http://registry.local/v2/", "http://127.0.0.1:1/v2/", "http://localhost/"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := g.RoundTrip(r); !errors.Is(err, errPlain) {
			t.Errorf("%s: %v, %v", u, res, err)
		}
	}
	insecure := guard{New(Options{Insecure: true}), "registry.example"}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://elsewhere.example/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := insecure.RoundTrip(r); !errors.Is(err, errPlain) {
		t.Errorf("another host than the insecure one: %v, %v", res, err)
	}
}

func TestMirrors(t *testing.T) {
	origin, mirror := serve(t, nil), serve(t, nil)
	layer := []byte("layer")
	d := push(t, origin, "app", "1", layer)
	push(t, origin, "only", "1", layer)
	push(t, mirror, "cache/app", "1", layer)
	c := New(Options{Mirrors: []string{origin + "=" + mirror + "/cache"}})
	for name, places := range map[string]int{"app": 2, "only": 1} {
		img, err := c.Image(t.Context(), origin+"/"+name+":1")
		if err != nil || img.Digest != d || len(img.places) != places {
			t.Errorf("%s: %v, %+v", name, err, img)
		}
	}
	if repos, err := New(Options{Insecure: true, Mirrors: []string{"a.example=m.example"}}).mirrored(t, "a.example/app"); err != nil || repos[0].Scheme() != "http" {
		t.Errorf("a mirror of an insecure registry: %v, %v", err, repos)
	}
	if _, err := New(Options{Mirrors: []string{"x"}}).Image(t.Context(), origin+"/app:1"); err == nil || !strings.Contains(err.Error(), "HOST=MIRROR") {
		t.Errorf("a mirror that is none: %v", err)
	}
}

func (c *Client) mirrored(t *testing.T, ref string) ([]name.Repository, error) {
	t.Helper()
	r, err := c.parse(ref)
	if err != nil {
		return nil, err
	}
	return c.repositories(r.Context())
}

// TestMirrorAlone: who has a mirror that answers needs no way to the registry itself.
func TestMirrorAlone(t *testing.T) {
	asked := atomic.Int32{}
	origin := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); h.ServeHTTP(w, r) })
	})
	mirror := serve(t, nil)
	layer := []byte("layer")
	push(t, mirror, "app", "1", layer)
	img, err := New(Options{Mirrors: []string{origin + "=" + mirror}}).Image(t.Context(), origin+"/app:1")
	if err != nil {
		t.Fatal(err)
	}
	rc, err := img.Fetch(t.Context(), inventory.Ask{Digest: digest(layer)})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if b, err := io.ReadAll(rc); err != nil || !bytes.Equal(b, layer) || asked.Load() != 0 {
		t.Errorf("got %q, %v; the registry was asked %d times", b, err, asked.Load())
	}
	push(t, origin, "app", "2", []byte("more"))
	if rc, err := img.Fetch(t.Context(), inventory.Ask{Digest: digest([]byte("more"))}); err != nil {
		t.Errorf("what only the registry has: %v", err)
	} else {
		rc.Close()
	}
}

// TestSilence: a registry that stops in the middle of an answer ends nothing but that answer.
func TestSilence(t *testing.T) {
	stop := make(chan struct{})
	host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/_catalog") {
				h.ServeHTTP(w, r)
				return
			}
			io.WriteString(w, `{"repositories":["a"`)
			w.(http.Flusher).Flush()
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		})
	})
	defer close(stop)
	c := New(Options{})
	c.silence = 20 * time.Millisecond
	if err := c.Repositories(t.Context(), host, func(string) error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "silent") {
		t.Errorf("got %v", err)
	}
}

// TestPages: a list of repositories, or of tags, is followed to its end. An answer that is none is an error,
// and not an empty list: what is not listed is not scanned, and nobody would hear of it.
func TestPages(t *testing.T) {
	next := func(to string) string { return "<" + to + `>; rel="next"` }
	for _, tt := range []struct {
		name  string
		pages [][2]string // names or a whole body, and the link to the next page
		want  string      // names
		err   string
	}{
		{"one page", [][2]string{{`["a","b"]`, ""}}, "a b", ""},
		{"two pages", [][2]string{{`["a"]`, next("?page=1")}, {`["b"]`, ""}}, "a b", ""},
		{"an empty page between", [][2]string{{`["a"]`, next("?page=1")}, {`[]`, next("?page=2")}, {`["b"]`, ""}}, "a b", ""},
		{"an empty page at first", [][2]string{{`null`, next("?page=1")}, {`["a"]`, ""}}, "a", ""},
		{"none", [][2]string{{`[]`, ""}}, "", ""},
		{"none, as null", [][2]string{{`null`, ""}}, "", ""},
		{"a former page beside the next", [][2]string{{`["a"]`, `<?page=7>; rel="prev", ` + next("?page=1")}, {`["b"]`, ""}}, "a b", ""},
		{"no list", [][2]string{{`{}`, ""}}, "", "has no"},
		{"no list on the second page", [][2]string{{`["a"]`, next("?page=1")}, {`{"errors":[]}`, ""}}, "", "has no"},
		{"no answer", [][2]string{{``, ""}}, "", "has no"},
		{"a link that is none", [][2]string{{`["a"]`, `?page=1; rel="next"`}}, "", "next page"},
		{"a circle", [][2]string{{`["a"]`, next("?page=0")}}, "", "leads back"},
		{"an empty last page that links to itself", [][2]string{{`["a"]`, next("?page=1")}, {`[]`, next("?page=1")}}, "a", ""},
		{"an empty last page that links to the one before", [][2]string{{`["a"]`, next("?page=1")}, {`["b"]`, next("?page=2")}, {`null`, next("?page=1")}}, "a b", ""},
		{"empty pages without end", nil, "", "empty pages"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			field := ""
			host := serve(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !strings.HasSuffix(r.URL.Path, "/_catalog") && !strings.HasSuffix(r.URL.Path, "/tags/list") {
						h.ServeHTTP(w, r)
						return
					}
					n, _ := strconv.Atoi(r.URL.Query().Get("page"))
					page := [2]string{"[]", next(fmt.Sprintf("?page=%d", n+1))}
					if tt.pages != nil {
						page = tt.pages[n]
					}
					if page[1] != "" {
						w.Header().Set("Link", page[1])
					}
					if !strings.HasPrefix(page[0], "{") && page[0] != "" {
						page[0] = fmt.Sprintf(`{"name":"x",%q:%s}`, field, page[0])
					}
					io.WriteString(w, cmp.Or(page[0], "null"))
				})
			})
			c := New(Options{})
			defer c.Close()
			for what, list := range map[string]func(fn func(string) error) error{
				"repositories": func(fn func(string) error) error { return c.Repositories(t.Context(), host, fn) },
				"tags":         func(fn func(string) error) error { return c.Tags(t.Context(), host+"/x", fn) },
			} {
				field = what
				var got []string
				err := list(func(name string) error {
					got = append(got, strings.TrimPrefix(name, host+"/"))
					return nil
				})
				switch {
				case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)), tt.err == "" && (err != nil || strings.Join(got, " ") != tt.want):
					t.Errorf("%s: got %q, %v, want %q, %q", what, got, err, tt.want, tt.err)
				}
			}
		})
	}
}

// TestRate: requests keep their distance, and waiting ends with the context.
func TestRate(t *testing.T) {
	c := New(Options{Every: 20 * time.Millisecond})
	start := time.Now()
	for range 4 {
		if err := c.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 60*time.Millisecond {
		t.Errorf("four requests took %s, want at least 60ms", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}

// TestHas: whether a blob is there is asked for without fetching it, also where it lies
// elsewhere; one that the registry shows to nobody is not.
func TestHas(t *testing.T) {
	var gets atomic.Int64
	host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/"):
				gets.Add(1)
			case r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "/blobs/"+digest([]byte("moved"))):
				http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusTemporaryRedirect)
				return
			case r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "/blobs/"+digest([]byte("secret"))):
				w.WriteHeader(http.StatusForbidden)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	blob := []byte("a blob")
	put(t, http.MethodPost, "http://"+host+"/v2/a/b/blobs/uploads/?digest="+digest(blob), "application/octet-stream", blob)
	put(t, http.MethodPut, "http://"+host+"/v2/a/b/manifests/1", "application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2}`))
	c := New(Options{})
	defer c.Close()
	img, err := c.Image(t.Context(), host+"/a/b:1")
	if err != nil {
		t.Fatal(err)
	}
	if img.Registry() != host {
		t.Errorf("the registry is %q, want %q", img.Registry(), host)
	}
	for b, want := range map[string]bool{"a blob": true, "moved": true, "secret": false, "none": false} {
		if got := img.Has(t.Context(), digest([]byte(b))); got != want {
			t.Errorf("%s: %v, want %v", b, got, want)
		}
	}
	if gets.Load() != 0 {
		t.Errorf("%d blobs were fetched", gets.Load())
	}
}
