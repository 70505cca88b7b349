package registry

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// guarded is a registry that shows nothing without credentials, and what it was shown.
type guarded struct {
	host, scheme string
	credentials  string // Basic, as HTTP has it
	elsewhere    string // where its blobs are, if not here

	mu    sync.Mutex
	shown []string
}

func (g *guarded) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead { // what the test itself pushes
			h.ServeHTTP(w, r)
			return
		}
		got := r.Header.Get("Authorization")
		g.mu.Lock()
		if got != "" && !slices.Contains(g.shown, got) {
			g.shown = append(g.shown, got)
		}
		g.mu.Unlock()
		want, challenge := g.credentials, `Basic realm="here"`
		if g.scheme == "Bearer" {
			want, challenge = "Bearer token-of-"+g.host, fmt.Sprintf(`Bearer realm="http://%s/token",service="here"`, g.host)
		}
		switch {
		case r.URL.Path == "/token" && got == g.credentials && strings.HasPrefix(r.URL.Query().Get("scope"), "repository:app:pull"):
			fmt.Fprintf(w, `{"token":"token-of-%s"}`, g.host)
		case r.URL.Path == "/token" || g.scheme != "" && got != want:
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		case g.elsewhere != "" && strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, g.elsewhere, http.StatusTemporaryRedirect)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// serveGuarded serves a registry with an image of one layer. Its credentials are not stored yet.
func serveGuarded(t *testing.T, scheme string, layer []byte) *guarded {
	t.Helper()
	g := &guarded{scheme: scheme}
	g.host = serve(t, g.wrap)
	g.credentials = "Basic " + base64.StdEncoding.EncodeToString([]byte("user:of-"+g.host))
	push(t, g.host, "app", "1", layer)
	return g
}

// store writes the Docker client's configuration: credentials as 'docker login' stores them, and
// hosts whose credentials a helper knows.
func store(t *testing.T, helped string, of ...*guarded) {
	t.Helper()
	type entry struct {
		Auth string `json:"auth"`
	}
	config := struct {
		Auths   map[string]entry  `json:"auths"`
		Helpers map[string]string `json:"credHelpers,omitempty"`
	}{Auths: map[string]entry{}}
	for _, g := range of {
		config.Auths[g.host] = entry{strings.TrimPrefix(g.credentials, "Basic ")}
	}
	if helped != "" {
		config.Helpers = map[string]string{helped: "belaytest"}
	}
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

// TestCredentials: what 'docker login' stored goes to the host it is of, as that asks for it, and to no
// other: no mirror, and nobody to whom a blob is redirected, whatever that asks for.
func TestCredentials(t *testing.T) {
	layer := []byte("layer")
	for _, scheme := range []string{"Basic", "Bearer"} {
		for _, asks := range []string{"", "Basic", "Bearer"} {
			t.Run(scheme+", blobs with one that asks for "+asks, func(t *testing.T) {
				cdn := &guarded{scheme: asks, credentials: "Basic bm9uZTpub25l"}
				s := httptest.NewServer(cdn.wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(layer) })))
				defer s.Close()
				cdn.host = strings.TrimPrefix(s.URL, "http://")
				home, mirror, stranger := serveGuarded(t, scheme, layer), serveGuarded(t, scheme, layer), serveGuarded(t, scheme, layer)
				home.elsewhere, mirror.elsewhere = s.URL+"/there", s.URL+"/there"
				store(t, "", home, mirror)
				own := func(g *guarded) []string {
					if scheme == "Basic" {
						return []string{g.credentials}
					}
					return []string{g.credentials, "Bearer token-of-" + g.host}
				}
				for _, tt := range []struct {
					name         string
					mirrors      []string
					home, mirror bool
				}{
					{"none", nil, true, false},
					{"a mirror with credentials of its own", []string{home.host + "=" + mirror.host}, false, true},
					{"a mirror without", []string{home.host + "=" + stranger.host}, true, false},
				} {
					home.shown, mirror.shown, stranger.shown, cdn.shown = nil, nil, nil, nil
					c := New(Options{Mirrors: tt.mirrors})
					img, err := c.Image(t.Context(), home.host+"/app:1")
					if err != nil {
						t.Fatalf("%s: %v", tt.name, err)
					}
					b, err := fetch(t.Context(), img, inventory.Ask{Digest: digest(layer)})
					if asks == "" && (err != nil || b != string(layer)) || asks != "" && err == nil {
						t.Errorf("%s: the layer is %q, %v", tt.name, b, err)
					}
					c.Close()
					if asks == "" {
						check(t, tt.name+": the registry", home.shown, tt.home, own(home))
					}
					check(t, tt.name+": the mirror", mirror.shown, tt.mirror, own(mirror))
					check(t, tt.name+": a mirror that we have no credentials for", stranger.shown, false, nil)
					check(t, tt.name+": where the blob is", cdn.shown, false, nil)
				}
			})
		}
	}
}

func check(t *testing.T, who string, got []string, some bool, want []string) {
	t.Helper()
	if !some {
		want = nil
	}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("%s was shown %q, want %q", who, got, want)
	}
}

// TestCredentialHelper: a helper is asked for the registry it is named for, and for no other.
func TestCredentialHelper(t *testing.T) {
	layer := []byte("layer")
	home, other := serveGuarded(t, "Basic", layer), serveGuarded(t, "Basic", layer)
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	secret := strings.TrimPrefix(home.credentials, "Basic ")
	plain, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	user, password, _ := strings.Cut(string(plain), ":")
	script := fmt.Sprintf("#!/bin/sh\nread host\necho \"$host\" >>%q\nprintf '{\"ServerURL\":\"%%s\",\"Username\":%q,\"Secret\":%q}' \"$host\"\n", asked, user, password)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-belaytest"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	store(t, home.host)
	c := New(Options{})
	defer c.Close()
	if _, err := c.Image(t.Context(), home.host+"/app:1"); err != nil {
		t.Error(err)
	}
	if _, err := c.Image(t.Context(), other.host+"/app:1"); err == nil || !strings.Contains(err.Error(), "docker login") {
		t.Errorf("without credentials: %v", err)
	}
	check(t, "the registry", home.shown, true, []string{home.credentials})
	check(t, "another one", other.shown, false, nil)
	b, err := os.ReadFile(asked)
	if err != nil || strings.Trim(strings.ReplaceAll(string(b), home.host, ""), "\n") != "" {
		t.Errorf("the helper was asked for %q, %v", b, err)
	}
}

// TestTokenLeadsElsewhere: a registry whose token server sends on to another host does not make us show that
// one the credentials.
func TestTokenLeadsElsewhere(t *testing.T) {
	thief := &guarded{}
	s := httptest.NewServer(thief.wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"token":"x"}`) })))
	defer s.Close()
	home := serveGuarded(t, "Bearer", []byte("layer"))
	store(t, "", home)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			http.Redirect(w, r, s.URL+"/there", http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer h.Close()
	home.host = strings.TrimPrefix(h.URL, "http://")
	store(t, "", home)
	if _, err := New(Options{}).Image(t.Context(), home.host+"/app:1"); err == nil {
		t.Error("an image of a registry that gives none")
	}
	check(t, "the other host", thief.shown, false, nil)
}
