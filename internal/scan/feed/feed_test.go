package feed

import (
	"archive/zip"
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// bucket is a server in the layout of the public bucket. Its model: files by path, with
// ETag, Last-Modified, x-goog-hash and ranges as Google's storage has them.
type bucket struct {
	*httptest.Server
	mu    sync.Mutex // guards all below
	files map[string][]byte
	fault map[string]func(http.ResponseWriter, *http.Request, []byte) bool // true: answered
	asked []string
	at    time.Time
}

func newBucket(t *testing.T) *bucket {
	t.Helper()
	b := &bucket{files: map[string][]byte{}, fault: map[string]func(http.ResponseWriter, *http.Request, []byte) bool{}, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	b.Server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.Close)
	b.files["/npm/all.zip"] = archive(t, map[string]string{"N-1.json": record("N-1", "1.0.0")})
	b.files["/npm/modified_id.csv"] = []byte("2025-12-01T00:00:00Z,N-1\n")
	return b
}

func (b *bucket) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	body, ok := b.files[r.URL.Path]
	fault := b.fault[r.URL.Path]
	b.asked = append(b.asked, r.URL.Path)
	b.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	sum := md5.Sum(body)
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sum))
	w.Header().Set("X-Goog-Hash", "md5="+base64.StdEncoding.EncodeToString(sum[:]))
	if fault != nil && fault(w, r, body) {
		return
	}
	http.ServeContent(w, r, "", b.at, bytes.NewReader(body))
}

// requests returns which files were asked for since the last call.
func (b *bucket) requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.asked
	b.asked = nil
	return out
}

func record(id, version string) string {
	return `{"id":"` + id + `","affected":[{"package":{"ecosystem":"npm","name":"a"},"versions":["` + version + `"]}]}`
}

func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, body := range files {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (b *bucket) options(dir string) Options {
	return Options{Dir: dir, URL: b.URL, Ecosystems: []string{"npm"}, Retry: time.Millisecond}
}

// records returns how many records a database of the copy has.
func records(t *testing.T, dir string) int {
	t.Helper()
	rep, err := vulndb.Build(t.Context(), filepath.Join(t.TempDir(), "db"), vulndb.BuildOptions{Walk: osvdir.Walk, Dir: Records(dir), Now: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return rep.Records
}

// TestIncremental: all at first, nothing if nothing changed, and what changed alone.
func TestIncremental(t *testing.T) {
	b, dir := newBucket(t), t.TempDir()
	var far Far
	told := b.options(dir)
	told.Far = func(f Far) { far = f }
	rep, err := Update(t.Context(), told)
	if err != nil || rep.Archives != 1 || records(t, dir) != 1 {
		t.Fatalf("first: %+v, %v", rep, err)
	}
	if n := int64(len(b.files["/npm/all.zip"])); far != (Far{What: "npm", Done: n, All: n}) {
		t.Errorf("told %+v, want an archive of %d bytes", far, n)
	}
	b.requests()
	if rep, err = Update(t.Context(), b.options(dir)); err != nil || len(rep.Same) != 1 || rep.Bytes != 0 || len(b.requests()) != 1 {
		t.Errorf("nothing changed: %+v, %v", rep, err)
	}
	b.files["/npm/modified_id.csv"] = []byte("2026-02-02T00:00:00Z,N-3\n2026-02-01T00:00:00Z,N-2\n2025-12-01T00:00:00Z,N-1\n2025-11-01T00:00:00Z,N-0\n")
	b.files["/npm/N-1.json"], b.files["/npm/N-2.json"] = []byte(record("N-1", "1.0.0")), []byte(record("N-2", "1.0.0"))
	rep, err = Update(t.Context(), told)
	if far != (Far{"npm", 2, 3, true}) {
		t.Errorf("told %+v, want the last of three records", far)
	}
	if err != nil || rep.Archives != 0 || rep.Records != 2 || rep.Gone != 1 || records(t, dir) != 2 {
		t.Errorf("two changed, one gone: %+v, %v", rep, err)
	}
	for _, path := range b.requests() {
		if path == "/npm/all.zip" || path == "/npm/N-0.json" {
			t.Errorf("%s was fetched for nothing", path)
		}
	}
}

// TestChecked: a copy is as old as its ecosystem that was asked for least lately; one that there is not
// counts for nothing, and an update that fails changes nothing.
func TestChecked(t *testing.T) {
	b, dir := newBucket(t), t.TempDir()
	day := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	b.files["/Go/all.zip"], b.files["/Go/modified_id.csv"] = b.files["/npm/all.zip"], b.files["/npm/modified_id.csv"]
	for i, tt := range []struct {
		ecosystems []string
		fails      bool
		at         time.Time
		oldest     string
	}{
		{[]string{"none"}, true, time.Time{}, ""},
		{[]string{"Go", "npm"}, false, day.Add(time.Hour), "Go"},
		{[]string{"Go"}, false, day.Add(time.Hour), "npm"},
		{[]string{"npm", "none"}, true, day.Add(time.Hour), "npm"},
		{[]string{"npm"}, false, day.Add(2 * time.Hour), "Go"},
	} {
		o := b.options(dir)
		o.Ecosystems, o.Now = tt.ecosystems, day.Add(time.Duration(i)*time.Hour)
		if _, err := Update(t.Context(), o); (err != nil) != tt.fails {
			t.Fatalf("%v: %v", tt.ecosystems, err)
		}
		if at, oldest := Checked(dir); !at.Equal(tt.at) || oldest != tt.oldest {
			t.Errorf("after %v: %s of %q, want %s of %q", tt.ecosystems, at, oldest, tt.at, tt.oldest)
		}
	}
	// Of what nobody noted, the last record that the copy is known to have tells; of what is not known at all, nothing.
	newest := time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		broken string
		at     time.Time
		oldest string
	}{
		{checkedFile, newest, "Go"},
		{filepath.Join("state", "npm.json"), time.Unix(0, 0), "npm"},
	} {
		if err := os.WriteFile(filepath.Join(dir, tt.broken), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if at, oldest := Checked(dir); !at.Equal(tt.at) || oldest != tt.oldest {
			t.Errorf("with a broken %s: %s of %q, want %s of %q", tt.broken, at, oldest, tt.at, tt.oldest)
		}
	}
}

// TestLacking: a copy is no newer than what it holds, however fresh the list of changes is.
func TestLacking(t *testing.T) {
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) // the archive
	fresh := func(n int) []byte {
		var list strings.Builder
		for i := range n {
			fmt.Fprintf(&list, "2026-03-01T00:00:00Z,N-%d\n", i)
		}
		return []byte(list.String() + "2025-12-01T00:00:00Z,N-1\n")
	}
	for _, tt := range []struct {
		name string
		// Of two updates: which list there is, and up to when the copy lacks nothing; zero is when it was asked for.
		lists    [2][]byte
		upTo     [2]time.Time
		archives int // that were fetched
	}{
		{"an old archive, then what changed", [2][]byte{fresh(1), fresh(1)}, [2]time.Time{made.Add(-lag), {}}, 1},
		{"an old archive again, for too many", [2][]byte{fresh(maxSingle + 1), fresh(maxSingle + 1)}, [2]time.Time{made.Add(-lag), made.Add(-lag)}, 2},
		{"an archive that was new", [2][]byte{fresh(0), fresh(maxSingle + 1)}, [2]time.Time{{}, made.Add(-lag)}, 2},
		{"some records are gone", [2][]byte{fresh(0), fresh(3)}, [2]time.Time{{}, {}}, 1},
		{"all are", [2][]byte{fresh(0), []byte("2026-03-01T00:00:00Z,N-8\n2025-12-01T00:00:00Z,N-9\n")}, [2]time.Time{{}, made.Add(-lag)}, 2},
		{"all are, and the archive is new", [2][]byte{fresh(0), []byte("2025-12-02T00:00:00Z,N-8\n2025-12-01T00:00:00Z,N-9\n")}, [2]time.Time{{}, {}}, 2},
		{"nothing changed", [2][]byte{fresh(0), fresh(0)}, [2]time.Time{{}, {}}, 1},
	} {
		b, dir := newBucket(t), t.TempDir()
		b.at = made
		b.files["/npm/N-0.json"], b.files["/npm/N-1.json"] = []byte(record("N-0", "1.0.0")), []byte(record("N-1", "1.0.0"))
		archives := 0
		for i, list := range tt.lists {
			o := b.options(dir)
			o.Now = made.AddDate(0, 6, i)
			b.files["/npm/modified_id.csv"] = list
			rep, err := Update(t.Context(), o)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			archives += rep.Archives
			want := tt.upTo[i]
			if want.IsZero() {
				want = o.Now
			}
			if got, _ := Checked(dir); !got.Equal(want) {
				t.Errorf("%s, update %d: the copy lacks nothing up to %s, want %s", tt.name, i+1, got, want)
			}
		}
		if archives != tt.archives {
			t.Errorf("%s: %d archives were fetched, want %d", tt.name, archives, tt.archives)
		}
	}
}

// TestFaults: a download that fails leaves the copy as it was, and one that fails once
// succeeds the second time.
func TestFaults(t *testing.T) {
	cut := func(w http.ResponseWriter, _ *http.Request, body []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body[:len(body)/2])
		panic(http.ErrAbortHandler)
	}
	broken := func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	wrongSum := func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("X-Goog-Hash", "crc32c=AAAAAA==")
		return false
	}
	once := func(f func(http.ResponseWriter, *http.Request, []byte) bool) func(http.ResponseWriter, *http.Request, []byte) bool {
		var done atomic.Bool // one request may be cut off while the next comes
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if done.Swap(true) {
				return false
			}
			return f(w, r, body)
		}
	}
	tests := []struct {
		name, path string
		fault      func(http.ResponseWriter, *http.Request, []byte) bool
		body       []byte
		ok         bool
	}{
		{"cut", "/npm/all.zip", cut, nil, false},
		{"cut once", "/npm/all.zip", once(cut), nil, true},
		{"500", "/npm/all.zip", broken, nil, false},
		{"500 once", "/npm/modified_id.csv", once(broken), nil, true},
		{"wrong sums", "/npm/all.zip", wrongSum, nil, false},
		{"wrong sums of the list", "/npm/modified_id.csv", wrongSum, nil, false},
		{"truncated archive", "/npm/all.zip", nil, archive(t, map[string]string{"N-1.json": record("N-1", "1")})[:60], false},
		{"no archive", "/npm/all.zip", nil, []byte("<html>"), false},
		{"empty archive", "/npm/all.zip", nil, archive(t, nil), false},
		{"list of names that climb", "/npm/modified_id.csv", nil, []byte("2027-01-01T00:00:00Z,../../etc/x\n"), false},
		{"list that is none", "/npm/modified_id.csv", nil, []byte("<html>\n"), false},
		{"empty list", "/npm/modified_id.csv", nil, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, dir := newBucket(t), t.TempDir()
			if _, err := Update(t.Context(), b.options(dir)); err != nil {
				t.Fatal(err)
			}
			// So many changes that the archive is fetched again.
			var list strings.Builder
			for i := range maxSingle + 2 {
				fmt.Fprintf(&list, "2027-01-01T00:00:00Z,N-%d\n", i)
			}
			both := archive(t, map[string]string{"N-1.json": record("N-1", "1"), "N-2.json": record("N-2", "1")})
			b.mu.Lock()
			b.files["/npm/modified_id.csv"], b.files["/npm/all.zip"] = []byte(list.String()), both
			if tt.body != nil || tt.fault == nil {
				b.files[tt.path] = tt.body
			}
			b.fault[tt.path] = tt.fault
			b.mu.Unlock()
			_, err := Update(t.Context(), b.options(dir))
			if (err == nil) != tt.ok {
				t.Errorf("got %v, want success %v", err, tt.ok)
			}
			if got, want := records(t, dir), map[bool]int{false: 1, true: 2}[tt.ok]; got != want {
				t.Errorf("%d records, want %d", got, want)
			}
			b.mu.Lock()
			b.fault = nil
			b.files["/npm/modified_id.csv"], b.files["/npm/all.zip"] = []byte(list.String()), both
			b.mu.Unlock()
			if _, err := Update(t.Context(), b.options(dir)); err != nil || records(t, dir) != 2 {
				t.Errorf("afterwards: %v, %d records", err, records(t, dir))
			}
		})
	}
}

// TestResume: after a cut only the rest is fetched.
func TestResume(t *testing.T) {
	b, dir := newBucket(t), t.TempDir()
	var ranges []string
	b.fault["/npm/all.zip"] = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) > 1 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body[:100])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	if _, err := Update(t.Context(), b.options(dir)); err != nil || len(ranges) != 2 || ranges[1] != "bytes=100-" {
		t.Errorf("%v, ranges %q", err, ranges)
	}
	if records(t, dir) != 1 {
		t.Error("the parts do not fit")
	}
}

func TestExtras(t *testing.T) {
	b, dir := newBucket(t), t.TempDir()
	b.files["/kev.json"] = []byte("good")
	o := b.options(dir)
	o.Extras = []Extra{{Name: "kev.json", URL: b.URL + "/kev.json", Check: func(path string) error {
		if body, err := os.ReadFile(path); err != nil || string(body) != "good" {
			return fmt.Errorf("no catalogue: %q, %w", body, err)
		}
		return nil
	}}}
	if _, err := Update(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if rep, err := Update(t.Context(), o); err != nil || len(rep.Same) != 2 {
		t.Errorf("nothing changed: %+v, %v", rep, err)
	}
	b.files["/kev.json"] = []byte("<html>")
	if _, err := Update(t.Context(), o); err == nil {
		t.Error("a page was taken for the catalogue")
	}
	if body, err := os.ReadFile(ExtraFile(dir, "kev.json")); err != nil || string(body) != "good" {
		t.Errorf("the former one is gone: %q, %v", body, err)
	}
}

func TestRefuses(t *testing.T) {
	b, dir := newBucket(t), t.TempDir()
	o := b.options(dir)
	o.Ecosystems = []string{"../x"}
	if _, err := Update(t.Context(), o); err == nil {
		t.Error("an ecosystem that climbs was taken")
	}
	o = b.options(dir)
	o.URL = "http://192.0.2.1/x"
	if _, err := Update(t.Context(), o); err == nil || !strings.Contains(err.Error(), "want https") {
		t.Errorf("plain http: %v", err)
	}
	b.fault["/npm/modified_id.csv"] = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		return true
	}
	if _, err := Update(t.Context(), b.options(dir)); err == nil || !strings.Contains(err.Error(), "want https") {
		t.Errorf("a redirect to plain http: %v", err)
	}
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := Update(t.Context(), b.options(dir)); !errors.Is(err, ErrBusy) {
		t.Errorf("two at once: %v", err)
	}
}

func FuzzChanges(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z,N-1\n2025-01-01T00:00:00Z,N-2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, _, err := changes(bytes.NewReader(b), time.Time{})
		if err != nil {
			return
		}
		for _, id := range ids {
			if filepath.Base(id) != id || id == ".." || strings.HasPrefix(id, ".") {
				t.Errorf("%q became a name", id)
			}
		}
	})
}
