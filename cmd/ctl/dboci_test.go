package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// builtDB makes a database of one record, built at a time.
func builtDB(t *testing.T, id string, at time.Time) string {
	t.Helper()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "vuln.db")
	record := fmt.Sprintf(`{"id":%q,"affected":[{"package":{"ecosystem":"npm","name":"a"},"versions":["1.0.0"]}]}`, id)
	if err := os.WriteFile(filepath.Join(dir, "r.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vulndb.Build(t.Context(), path, vulndb.BuildOptions{Walk: osvdir.Walk, Dir: dir, Now: at}); err != nil {
		t.Fatal(err)
	}
	return path
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDBArtifact: a database goes through a registry and is the same; it is not fetched twice, and
// an older one is taken only by who asks for it.
func TestDBArtifact(t *testing.T) {
	r := newTestRegistry(t)
	day := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	old, now := builtDB(t, "N-1", day), builtDB(t, "N-2", day.Add(24*time.Hour))
	ref := ociPrefix + r.host + "/belay/vulndb:1"
	in := filepath.Join(t.TempDir(), "new", "vuln.db")
	run := func(name string, code int, want string, args ...string) string {
		t.Helper()
		got, text, msg := belay(t, args...)
		if got != code || !strings.Contains(text+msg, want) {
			t.Errorf("%s: exit status %d, %s%s, want %d, %q", name, got, text, msg, code, want)
		}
		return text
	}
	first := run("export", exitOK, "it is oci://"+r.host+"/belay/vulndb@sha256:", "db", "export", ref, "--db", now)
	if again := run("export again", exitOK, "@sha256:", "db", "export", ref, "--db", now); again != first {
		t.Errorf("the same database is another artifact:\n%s%s", first, again)
	}
	run("update", exitOK, "1 records about 1 packages", "db", "update", "--from", ref, "--db", in)
	if !bytes.Equal(contents(t, in), contents(t, now)) {
		t.Error("what came of the registry is not what was put there")
	}
	before := r.gets()
	run("update again", exitOK, "nothing changed", "db", "update", "--from", ref, "--db", in)
	if n := r.gets() - before; n != 0 {
		t.Errorf("%d blobs were fetched for nothing", n)
	}
	_, digest, _ := strings.Cut(strings.TrimSpace(first), "@")
	digest, _, _ = strings.Cut(digest, ",")
	run("by digest", exitOK, "1 records", "db", "import", ociPrefix+r.host+"/belay/vulndb@"+digest, "--db", in)

	run("export the old", exitOK, "@sha256:", "db", "export", ref, "--db", old)
	run("an older one", exitFailed, "'belay db import' takes an older one", "db", "update", "--from", ref, "--db", in)
	if !bytes.Equal(contents(t, in), contents(t, now)) {
		t.Error("an older database took the place of a newer one")
	}
	run("an older one that was asked for", exitOK, "1 records", "db", "import", ref, "--db", in)
	if !bytes.Equal(contents(t, in), contents(t, old)) {
		t.Error("import did not take the older one")
	}

	run("no tag", exitFailed, "want HOST/REPOSITORY:TAG", "db", "import", ociPrefix+r.host+"/belay/vulndb", "--db", in)
	run("to a digest", exitFailed, "a digest is what comes of it", "db", "export", ociPrefix+r.host+"/belay/vulndb@"+digest, "--db", now)
	run("what is joined", exitFailed, "leave it out", "db", "update", "--from", ref, "--db", in, "--kev-url", "https://x.example")
	run("what is joined, by import", exitFailed, "leave it out", "db", "import", ref, "--db", in, "--kev", "x")
	run("plain http", exitFailed, "former database stays", "db", "import", ociPrefix+"192.0.2.1:5000/a:1", "--db", in)
}

// TestDBArtifactOlder: the older of two databases is the one of older data, and of equal data the one that was
// built before. What is of the future is not known to be newer.
func TestDBArtifactOlder(t *testing.T) {
	r := newTestRegistry(t)
	day := func(n int) time.Time { return time.Date(2024, 3, n, 0, 0, 0, 0, time.UTC) }
	const future = 100_000
	for _, tt := range []struct {
		name                                       string
		hereBuilt, hereAsOf, thereBuilt, thereAsOf int // days
		older                                      string
	}{
		{"newer data, built before", 2, 2, 1, 5, ""},
		{"older data, built later", 2, 2, 3, 1, "its data are of 2024-03-01T00:00:00Z and it was built 2024-03-03T00:00:00Z, those of the one in place, which stays, are of 2024-03-02T00:00:00Z and it was built 2024-03-02T00:00:00Z"},
		{"equal data, built later", 2, 1, 3, 1, ""},
		{"equal data, built before", 3, 1, 2, 1, "its data are of"},
		{"data of the future", 2, 2, 3, future, "a clock is wrong"},
		{"data of the future in place", 2, future, 1, 1, ""},
		{"built in the future", 2, 2, future, 3, "a clock is wrong"},
		{"built in the future in place", future, 3, 1, 1, ""},
	} {
		made := func(id string, built, asOf int) string {
			path := builtDB(t, id, day(built))
			if err := vulndb.Confirm(path, day(asOf)); err != nil {
				t.Fatal(err)
			}
			return path
		}
		here, there := made("N-1", tt.hereBuilt, tt.hereAsOf), made("N-2", tt.thereBuilt, tt.thereAsOf)
		want := contents(t, there)
		if tt.older != "" {
			want = contents(t, here)
		}
		ref := ociPrefix + r.host + "/older:1"
		if code, _, msg := belay(t, "db", "export", ref, "--db", there); code != exitOK {
			t.Fatal(msg)
		}
		code, _, msg := belay(t, "db", "update", "--from", ref, "--db", here)
		if (code != exitOK) != (tt.older != "") || !strings.Contains(msg, tt.older) || !bytes.Equal(contents(t, here), want) {
			t.Errorf("%s: exit status %d, %s", tt.name, code, msg)
		}
	}
}

// TestDBArtifactBroken: what is cut off, altered, another artifact or no database at all leaves the
// former database as it was, and no file beside it.
func TestDBArtifactBroken(t *testing.T) {
	r := newTestRegistry(t)
	db := builtDB(t, "N-1", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
	dir := t.TempDir()
	in := filepath.Join(dir, "vuln.db")
	if err := os.WriteFile(in, contents(t, db), 0o600); err != nil {
		t.Fatal(err)
	}
	good := ociPrefix + r.host + "/db:good"
	if code, _, msg := belay(t, "db", "export", good, "--db", db); code != exitOK {
		t.Fatal(msg)
	}
	packed := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		if _, err := z.Write(b); err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	artifact := func(tag, artifactType, layerType string, blob []byte, notes map[string]string) {
		r.put(t, http.MethodPost, "db/blobs/uploads/?digest="+sha(blob), "application/octet-stream", blob)
		r.put(t, http.MethodPost, "db/blobs/uploads/?digest="+sha([]byte("{}")), "application/octet-stream", []byte("{}"))
		m, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": artifactType, "annotations": notes,
			"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha([]byte("{}")), "size": 2},
			"layers": []any{map[string]any{"mediaType": layerType, "digest": sha(blob), "size": len(blob)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		r.put(t, http.MethodPut, "db/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", m)
	}
	altered := contents(t, db)
	altered[len(altered)-1] ^= 1
	whole := packed(contents(t, db))
	artifact("image", "", "application/vnd.oci.image.layer.v1.tar+gzip", whole, nil)
	artifact("layer", dbArtifactType, "application/octet-stream", whole, nil)
	artifact("text", dbArtifactType, dbLayerType, []byte("no gzip"), nil)
	artifact("none", dbArtifactType, dbLayerType, packed([]byte("no database")), nil)
	artifact("altered", dbArtifactType, dbLayerType, packed(altered), nil)
	artifact("short", dbArtifactType, dbLayerType, whole[:len(whole)-20], nil)
	artifact("digest", dbArtifactType, dbLayerType, whole, map[string]string{dbDigestNote: sha([]byte("another"))})
	artifact("format", dbArtifactType, dbLayerType, whole, map[string]string{dbFormatNote: "99"})

	// A registry that breaks blobs off for good, and one that sends others.
	broken := func(change func(b []byte) []byte) string {
		target, err := url.Parse("http://" + r.host)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.ModifyResponse = func(res *http.Response) error {
			if !strings.Contains(res.Request.URL.Path, "/blobs/") || res.Request.Method != http.MethodGet {
				return nil
			}
			var b bytes.Buffer
			if _, err := b.ReadFrom(res.Body); err != nil {
				return err
			}
			c := change(b.Bytes())
			res.Body = readCloser{bytes.NewReader(c)}
			res.ContentLength = int64(len(c))
			res.Header.Set("Content-Length", fmt.Sprint(len(c)))
			return nil
		}
		s := httptest.NewServer(proxy)
		t.Cleanup(s.Close)
		return ociPrefix + strings.TrimPrefix(s.URL, "http://") + "/db:good"
	}
	for _, tt := range []struct{ name, ref, want string }{
		{"an image", ociPrefix + r.host + "/db:image", "another artifact"},
		{"another layer", ociPrefix + r.host + "/db:layer", "another artifact"},
		{"no gzip", ociPrefix + r.host + "/db:text", "unpack"},
		{"no database", ociPrefix + r.host + "/db:none", "broken"},
		{"altered before it was pushed", ociPrefix + r.host + "/db:altered", "broken"},
		{"cut before it was pushed", ociPrefix + r.host + "/db:short", "unpack"},
		{"not what its annotation says", ociPrefix + r.host + "/db:digest", "damaged"},
		{"another format", ociPrefix + r.host + "/db:format", "format"},
		{"cut on the way", broken(func(b []byte) []byte { return b[:len(b)/2] }), "damaged"},
		{"altered on the way", broken(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), "damaged"},
		{"longer on the way", broken(func(b []byte) []byte { return append(b, 0) }), "damaged"},
		{"not there", ociPrefix + r.host + "/db:nothing", "no such image"},
	} {
		for _, args := range [][]string{{"db", "import", tt.ref}, {"db", "update", "--from", tt.ref}} {
			if args[1] == "update" { // what is in place is the same, and would not be fetched
				if err := os.WriteFile(in, contents(t, builtDB(t, "N-0", time.Unix(1, 0))), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			was := contents(t, in)
			code, text, msg := belay(t, append(args, "--db", in)...)
			if code != exitFailed || !strings.Contains(text+msg, tt.want) {
				t.Errorf("%s by %s: exit status %d, %s%s, want %q", tt.name, args[1], code, text, msg, tt.want)
			}
			if !bytes.Equal(contents(t, in), was) {
				t.Errorf("%s by %s: the former database is gone", tt.name, args[1])
			}
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("beside the database is %v, %v", list, err)
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// What a killed pull has left goes at the next; a pull that is under way stays, and so does what is
// not a pull's.
func TestPullLeftovers(t *testing.T) {
	parent := t.TempDir()
	dead, other, link := filepath.Join(parent, pullPrefix+"1"), filepath.Join(parent, "vuln.db-x"), filepath.Join(parent, pullPrefix+"2")
	for _, d := range []string{dead, other} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "packed"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	live, done, err := pullDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is left of a killed pull stays: %v", err)
	}
	second, end, err := pullDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{live, filepath.Join(other, "packed"), second} {
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("%s is gone: %v", kept, err)
		}
	}
	end()
	if _, err := os.Stat(second); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a pull's own folder stays: %v", err)
	}
}
