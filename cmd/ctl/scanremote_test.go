package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// testRegistry is a registry on a loopback address, with blobs on disk.
type testRegistry struct {
	host string
	gets func() int // requests that fetched a blob
}

func newTestRegistry(t *testing.T) *testRegistry {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	blobs := 0
	h := ggcr.New(ggcr.WithBlobHandler(ggcr.NewDiskBlobHandler(t.TempDir())), ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs++
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return &testRegistry{host: strings.TrimPrefix(s.URL, "http://"), gets: func() int { return blobs }}
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (r *testRegistry) put(t *testing.T, method, path, mediaType string, b []byte) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.host+"/v2/"+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", mediaType)
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s: %s", method, path, res.Status)
	}
}

// push puts a directory there as an image of one layer, for this platform and, without
// blobs, for another. It returns the index's digest.
func (r *testRegistry) push(t *testing.T, repo, tag, dir string) string {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	z := gzip.NewWriter(&packed)
	z.Write(plain.Bytes())
	z.Close()
	config, _ := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"diff_ids": []string{sha(plain.Bytes())}}})
	desc := func(mediaType string, b []byte) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": sha(b), "size": len(b)}
	}
	const oci = "application/vnd.oci.image."
	manifest, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": desc(oci+"config.v1+json", config),
		"layers": []any{desc(oci+"layer.v1.tar+gzip", packed.Bytes())},
	})
	for _, b := range [][]byte{config, packed.Bytes()} {
		r.put(t, http.MethodPost, repo+"/blobs/uploads/?digest="+sha(b), "application/octet-stream", b)
	}
	r.put(t, http.MethodPut, repo+"/manifests/"+sha(manifest), oci+"manifest.v1+json", manifest)
	this := desc(oci+"manifest.v1+json", manifest)
	this["platform"] = map[string]string{"os": "linux", "architecture": "amd64"}
	index, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []any{this}})
	r.put(t, http.MethodPut, repo+"/manifests/"+tag, oci+"index.v1+json", index)
	return sha(index)
}

// TestScanRegistry: an image of a registry gives what its files give, through the whole of
// the sandbox.
func TestScanRegistry(t *testing.T) {
	f := newScanFixture(t)
	r := newTestRegistry(t)
	digest := r.push(t, "team/app", "1", f.root)
	scan := func(args ...string) (int, string, string) {
		return belay(t, append([]string{"scan", "--db", f.db, "--scanner", f.scanner, "--docker-root", filepath.Join(f.root, "none"), "--store", "docker", "--platform", "linux/amd64"}, args...)...)
	}
	for _, name := range []string{"/team/app:1", "/team/app@" + digest} {
		for _, prefix := range []string{"", registryPrefix} {
			code, out, msg := scan(prefix + r.host + name)
			if code != exitOK || !strings.Contains(out, "CVE-2024-28085 exploited") {
				t.Errorf("%s%s: %d, %s%s", prefix, name, code, out, msg)
			}
		}
	}
	for name, want := range map[string]string{
		r.host + "/team/app:2": "docker login", "teem/app:1": registryPrefix + "teem/app:1", r.host + "/team/app@" + sha(nil): "docker login",
	} {
		if code, _, msg := scan(name); code != exitFailed || !strings.Contains(msg, want) {
			t.Errorf("%s: %d, %q, want %q", name, code, msg, want)
		}
	}
	if code, _, msg := scan(r.host+"/team/app:1", "--platform", "linux/s390x"); code != exitFailed || !strings.Contains(msg, "only for linux/amd64") {
		t.Errorf("another platform: %d, %q", code, msg)
	}
}

func TestNamesRegistry(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("dist.d", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"registry.example/app": true, "localhost/app:1": true, "host:5000/a/b@sha256:x": true, "nginx:1.27": false, "team/app": false,
		"./a/b": false, "../a.tar": false, "/a.b/c": false, "dist.d/image.tar": false, "registry.example/": false, "image.tar": false,
	} {
		if got := namesRegistry(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// TestRegistryScanAccepted: an image that passed since a finding was accepted is scanned again when that has
// expired, and when something else is accepted, also where the file can be read but once.
func TestRegistryScanAccepted(t *testing.T) {
	f := newScanFixture(t)
	r := newTestRegistry(t)
	r.push(t, "team/app", "v1", f.root)
	accepted := "ignore:\n- id: CVE-2024-28085\n  reason: no wall\n  expires: 2027-03-01\n- id: CVE-1\n  reason: x\n  expires: 2027-02-01\n"
	file := filepath.Join(t.TempDir(), "ignore.yaml")
	if err := os.WriteFile(file, []byte(accepted), 0o644); err != nil {
		t.Fatal(err)
	}
	pipe := func(text string) string {
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { out.Close() })
		if _, err := in.WriteString(text); err != nil || in.Close() != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("/dev/fd/%d", out.Fd())
	}
	state, piped := filepath.Join(t.TempDir(), "seen.jsonl"), filepath.Join(t.TempDir(), "piped.jsonl")
	day := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name          string
		now           time.Time
		state, ignore string
		code          int
		said          string
	}{
		{"accepted", day, state, file, exitOK, "1 image scanned"},
		{"accepted still", day.AddDate(0, 0, 30), state, file, exitOK, "1 done before"},
		{"another has expired", day.AddDate(0, 1, 1), state, file, exitOK, "1 image scanned"},
		{"and no more than that", day.AddDate(0, 1, 2), state, file, exitOK, "1 done before"},
		{"on the last day", time.Date(2027, 3, 1, 23, 59, 59, 0, time.UTC), state, file, exitOK, "1 done before"},
		{"expired", time.Date(2027, 3, 2, 0, 0, 0, 0, time.UTC), state, file, exitFindings, "1 image scanned"},
		{"expired still", day.AddDate(0, 3, 0), state, file, exitFindings, "1 image scanned"},
		{"accepted by a pipe", day, piped, pipe(accepted), exitOK, "1 image scanned"},
		{"again", day, piped, pipe(accepted), exitOK, "1 done before"},
		{"another pipe", day, piped, pipe("ignore: []\n"), exitFindings, "1 image scanned"},
	} {
		var out, msg bytes.Buffer
		code := run(t.Context(), &terminal{out: &out, err: &msg, now: func() time.Time { return tt.now }, layers: filepath.Join(t.TempDir(), "layers")}, []string{
			"registry", "scan", r.host, "--db", f.db, "--scanner", f.scanner, "--platform", "linux/amd64", "--rate", "0",
			"--state", tt.state, "--fail-on", "high", "--ignore", tt.ignore,
		})
		if code != tt.code || !strings.Contains(msg.String(), tt.said) {
			t.Errorf("%s: exit status %d, want %d and %q\n%s%s", tt.name, code, tt.code, tt.said, out.String(), msg.String())
		}
	}
}

// TestRuleDigest: whatever decides whether an image passes is in the digest of the rule, the text of each file too.
func TestRuleDigest(t *testing.T) {
	file := func(text string) string {
		p := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	baseline := file(`{"schema":"belay.dev/scan/v1","database":{},"findings":[]}`)
	other := file(`{"schema":"belay.dev/scan/v1","database":{},"findings":[] }`)
	statements := `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"x","author":"me","timestamp":"2026-01-01T00:00:00Z","version":1,"statements":[` +
		`{"vulnerability":{"name":"CVE-%d"},"products":[{"@id":"pkg:golang/a@v1"}],"status":"fixed"}]}`
	base := `{"schema":"belay.dev/bases/v1","bases":[{"name":%q,"diffIds":["sha256:` + strings.Repeat("a", 64) + `"]}]}`
	one, two := file(fmt.Sprintf(statements, 1)), file(fmt.Sprintf(statements, 2))
	seen := map[string]string{}
	for name, f := range map[string]scanFlags{
		"alone": {}, "fixable": {fixable: true}, "incomplete": {allowIncomplete: true},
		"ignore": {ignore: file("ignore: []\n")}, "another ignore": {ignore: file("ignore: [] \n")},
		"baseline": {baseline: baseline}, "another baseline": {baseline: other},
		"vex": {vex: []string{one}}, "another vex": {vex: []string{two}}, "two": {vex: []string{one, two}},
		"base": {bases: []string{file(fmt.Sprintf(base, "a"))}}, "another base": {bases: []string{file(fmt.Sprintf(base, "b"))}},
	} {
		f.failOn = "high"
		digest := func() string {
			rules, err := f.rules()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return f.ruleDigest(rules, time.Unix(1, 0))
		}
		d := digest()
		if again := digest(); again != d {
			t.Errorf("%s: %s, and then %s", name, d, again)
		}
		if before := seen[d]; before != "" {
			t.Errorf("%s has the digest of %s", name, before)
		}
		seen[d] = name
	}
	if d := new(scanFlags).ruleDigest(&scanRules{}, time.Time{}); d != "" {
		t.Errorf("without --fail-on it is %s", d)
	}
}

// TestRegistryScanRate: --rate is what the requests of a scan keep to, and so is its default of 10 a second.
func TestRegistryScanRate(t *testing.T) {
	f := newScanFixture(t)
	const pages = 6
	var mu sync.Mutex
	var at []time.Time
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/_catalog") {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if at = append(at, time.Now()); len(at) < pages {
			w.Header().Set("Link", fmt.Sprintf(`</v2/_catalog?page=%d>; rel="next"`, len(at)))
		}
		fmt.Fprint(w, `{"repositories":[]}`)
	}))
	defer srv.Close()
	for _, tt := range []struct {
		args  []string
		every time.Duration
	}{{[]string{"--rate", "5"}, 200 * time.Millisecond}, {nil, 100 * time.Millisecond}} {
		at = nil
		code, _, msg := belay(t, append([]string{"registry", "scan", strings.TrimPrefix(srv.URL, "http://"), "--db", f.db, "--scanner", f.scanner}, tt.args...)...)
		if code != exitOK || len(at) != pages {
			t.Fatalf("%v: exit status %d, %d requests\n%s", tt.args, code, len(at), msg)
		}
		// The first may have come late; without a distance they take some milliseconds.
		if took := at[pages-1].Sub(at[0]); took < (pages-2)*tt.every {
			t.Errorf("%v: %d requests in %s, want %s between two", tt.args, pages, took, tt.every)
		}
	}
}

// TestRegistryScan: all tags, each image once; a scan with a state file reads only what is new.
func TestRegistryScan(t *testing.T) {
	f := newScanFixture(t)
	r := newTestRegistry(t)
	r.push(t, "team/app", "v1", f.root)
	r.push(t, "team/app", "same", f.root)
	r.push(t, "other", "v1", f.root)
	r.push(t, "team/app", "sha256-"+strings.Repeat("a", 64)+".sig", f.root)
	state := filepath.Join(t.TempDir(), "seen.jsonl")
	sweep := func(args ...string) (int, string, string) {
		return belay(t, append([]string{"registry", "scan", "--db", f.db, "--scanner", f.scanner, "--platform", "linux/amd64", "--rate", "0"}, args...)...)
	}
	code, out, msg := sweep(r.host, "--tag", "v*")
	if code != exitOK || strings.Count(out, "1 package, 1 critical") != 1 || !strings.Contains(msg, "1 done before") || strings.Contains(out, "same") {
		t.Errorf("by tag: %d\n%s%s", code, out, msg)
	}
	code, out, msg = sweep(r.host, "--repo", "team/*", "--state", state, "--fail-on", "high")
	if code != exitFindings || strings.Count(out, "\n") != 1 || !strings.Contains(msg, "1 image scanned, 1 done before") {
		t.Errorf("with a state: %d\n%s%s", code, out, msg)
	}
	// What did not pass is not done for --fail-on; what passed is, for the same rule.
	ignore := filepath.Join(t.TempDir(), "ignore.yaml")
	if err := os.WriteFile(ignore, []byte("ignore: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	passes := []string{"--fail-on", `name == "none"`}
	for _, c := range []struct {
		name   string
		rule   []string
		status int
		said   string
	}{
		{"failed before", []string{"--fail-on", "high"}, exitFindings, "1 image scanned"},
		{"another rule", passes, exitOK, "1 image scanned"},
		{"passed by this rule", passes, exitOK, "0 images scanned, 2 done before"},
		{"passed by another rule", []string{"--fail-on", "high"}, exitFindings, "1 image scanned"},
		{"passed with nothing accepted", append(passes, "--ignore", ignore), exitOK, "1 image scanned"},
		{"failed, and no rule", nil, exitOK, "0 images scanned, 2 done before"},
	} {
		if code, out, msg = sweep(append(c.rule, r.host, "--repo", "team/*", "--state", state)...); code != c.status || !strings.Contains(msg, c.said) {
			t.Errorf("%s: %d, want %d and %q\n%s%s", c.name, code, c.status, c.said, out, msg)
		}
	}
	if err := os.WriteFile(filepath.Join(f.root, "new"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.push(t, "team/app", "v2", f.root)
	// The file as a scan leaves it that was stopped while it wrote.
	half, err := os.OpenFile(state, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	half.WriteString(`{"digest":"sha256:`)
	half.Close()
	before := r.gets()
	code, out, msg = sweep(r.host+"/team/app", "--state", state, "-o", "json")
	if code != exitOK || strings.Count(out, "\n") != 1 || !strings.Contains(out, r.host+"/team/app:v2") || !json.Valid([]byte(out)) || r.gets() != before+2 {
		t.Errorf("what is new: %d, %d blobs\n%s%s", code, r.gets()-before, out, msg)
	}
	if code, out, msg = sweep(r.host+"/team/app", "--state", state); code != exitOK || out != "" || !strings.Contains(msg, "0 images scanned, 3 done before") {
		t.Errorf("nothing new: %d\n%s%s", code, out, msg)
	}
	if code, _, msg = sweep(r.host + "/team/none"); code != exitFailed || !strings.Contains(msg, "could not be scanned") {
		t.Errorf("a repository that is not there: %d, %s", code, msg)
	}
	if code, _, msg = sweep(r.host, "--state", f.db); code != exitFailed || !strings.Contains(msg, "the state file") {
		t.Errorf("a file of something else: %d, %s", code, msg)
	}
	if code, _, msg = sweep(); code != exitUsage || !strings.Contains(msg, "REGISTRY") {
		t.Errorf("no registry: %d, %s", code, msg)
	}
	if code, _, msg := belay(t, "db", "status", "--db", f.db); code != exitOK {
		t.Errorf("that file was changed: %s", msg)
	}
}

func TestScanStores(t *testing.T) {
	f := newScanFixture(t)
	scan := func(args ...string) (int, string, string) {
		return belay(t, append([]string{"scan", "--packages-only", "--scanner", f.scanner, "--docker-root", filepath.Join(f.root, "none")}, args...)...)
	}
	none := filepath.Join(f.root, "none.sock")
	for _, tt := range []struct {
		want   string
		status int
		args   []string
	}{
		{"want any, docker or containerd", exitUsage, []string{"app:1", "--store", "podman"}},
		{"no containerd", exitFailed, []string{"app:1", "--containerd", none}},
		{"docker save", exitFailed, []string{"app:1", "--store", "docker"}},
	} {
		if code, _, msg := scan(tt.args...); code != tt.status || !strings.Contains(msg, tt.want) {
			t.Errorf("%q: %d, %q, want %d, %q", tt.args, code, msg, tt.status, tt.want)
		}
	}
	// A directory is one, whatever stores there are.
	if code, out, msg := scan(f.root, "--containerd", none); code != exitOK || !strings.Contains(out, "bsdutils") {
		t.Errorf("a directory: %d, %s%s", code, out, msg)
	}
}
