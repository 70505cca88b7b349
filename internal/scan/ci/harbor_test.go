package ci

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/report"
)

const harborBody = `{"registry":{"url":"https://reg.example","authorization":"Basic dTpw"},"artifact":{"namespace_id":1,"repository":"team/app",
	"tag":"1","digest":"` + digestB + `","mime_type":"application/vnd.docker.distribution.manifest.v2+json"},"enabled_capabilities":[{"type":"vulnerability"}]}`

func harborAccept(media string) http.Header { return http.Header{"Accept": {media}} }

func (w *world) harborScan(who string) string {
	w.t.Helper()
	var out struct{ ID string }
	h := http.Header{"Content-Type": {"application/vnd.scanner.adapter.scan.request+json; version=1.0"}}
	if code, text := w.call(who, "POST", "/api/v1/scan", harborBody, h, &out); code != http.StatusAccepted || out.ID == "" {
		w.t.Fatalf("%d, %s", code, text)
	}
	return out.ID
}

func TestHarbor(t *testing.T) {
	w := start(t, func(o *Options) {
		o.Version, o.Database = "1.2.3", func() (time.Time, error) { return time.Unix(1, 0), nil }
	})
	w.images.gate = make(chan struct{})
	var meta harborAdapter
	if code, text := w.call("alice", "GET", "/api/v1/metadata", "", harborAccept("application/vnd.scanner.adapter.metadata+json; version=1.0"), &meta); code != 200 {
		t.Fatalf("%d, %s", code, text)
	}
	if meta.Scanner.Name != "Belay" || meta.Scanner.Version != "1.2.3" || len(meta.Capabilities) != 1 ||
		meta.Properties["harbor.scanner-adapter/vulnerability-database-updated-at"] != "1970-01-01T00:00:01Z" {
		t.Errorf("got %+v", meta)
	}
	id := w.harborScan("alice")
	path := "/api/v1/scan/" + id + "/report"
	media := harborReports[0]
	r, err := http.NewRequestWithContext(t.Context(), "GET", w.addrs["alice"]+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", media)
	last := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := last.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusFound || res.Header.Get("Refresh-After") != refreshAfter {
		t.Errorf("got %d, %v, want 302 and when to ask again", res.StatusCode, res.Header)
	}
	close(w.images.gate)
	w.wait("alice", id)
	var rep struct {
		Severity        string
		Artifact        report.HarborArtifact
		Vulnerabilities []struct {
			ID, Package, Version, Severity string
			Fix                            string `json:"fix_version"`
		}
	}
	if code, text := w.call("alice", "GET", path, "", harborAccept(media), &rep); code != 200 {
		t.Fatalf("%d, %s", code, text)
	}
	if v := rep.Vulnerabilities; rep.Severity != "High" || rep.Artifact.Repository != "team/app" || rep.Artifact.Digest != digestB || len(v) != 1 ||
		v[0].ID != "CVE-2024-1" || v[0].Package != "bsdutils" || v[0].Version != "1" || v[0].Fix != "2" || v[0].Severity != "High" {
		t.Errorf("got %+v", rep)
	}
	w.images.mu.Lock()
	asked := strings.Join(w.images.asked, "\n")
	w.images.mu.Unlock()
	if want := "remote reg.example/team/app@" + digestB + " with Basic dTpw"; asked != want {
		t.Errorf("got %q, want %q", asked, want)
	}
	files, _ := filepath.Glob(filepath.Join(w.s.o.Dir, "*"))
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || strings.Contains(string(b), "dTpw") {
			t.Errorf("%s holds the credentials, or cannot be read: %v", f, err)
		}
	}
	if len(files) != 2 || w.s.jobs[id].authority != "" {
		t.Errorf("got %v, and credentials %q kept", files, w.s.jobs[id].authority)
	}
	w = w.restart(nil)
	if code, text := w.call("alice", "GET", path, "", harborAccept(harborReports[1]), &rep); code != 200 {
		t.Errorf("the next agent: %d, %s", code, text)
	}
}

// TestHarborFailsClosed: what is not known must not look clean.
func TestHarborFailsClosed(t *testing.T) {
	w := start(t, nil)
	w.images.incomplete = true
	id := w.harborScan("alice")
	w.wait("alice", id)
	_, text := w.call("alice", "GET", "/api/v1/scan/"+id+"/report", "", nil, nil)
	if !strings.Contains(text, report.HarborIncomplete) || !strings.Contains(text, "could not be read: x") {
		t.Errorf("got %s, want %s", text, report.HarborIncomplete)
	}
	w.images.mu.Lock()
	w.images.noDB = true
	w.images.mu.Unlock()
	id = w.harborScan("alice")
	w.wait("alice", id)
	var e harborErrorBody
	if code, _ := w.call("alice", "GET", "/api/v1/scan/"+id+"/report", "", nil, &e); code != 500 || !strings.Contains(e.Error.Message, "no vulnerability database") {
		t.Errorf("got %d, %+v, want 500 and why", code, e)
	}
}

func TestHarborRefused(t *testing.T) {
	w := start(t, nil)
	id := w.harborScan("alice")
	change := func(from, to string) string { return strings.Replace(harborBody, from, to, 1) }
	tests := []struct {
		name, who, method, path, body string
		header                        http.Header
		code                          int
		want                          string
	}{
		{"nobody", "nobody", "GET", "/api/v1/metadata", "", nil, 401, "bearer token"},
		{"a wrong token", "nobody", "POST", "/api/v1/scan", harborBody, http.Header{"Authorization": {"Bearer bad"}}, 401, "no valid"},
		{"denied metadata", "mallory", "GET", "/api/v1/metadata", "", nil, 403, "scan.list"},
		{"denied", "mallory", "POST", "/api/v1/scan", harborBody, nil, 403, "scan.create"},
		{"another's report", "bob", "GET", "/api/v1/scan/" + id + "/report", "", nil, 404, "no such scan"},
		{"no scan", "alice", "GET", "/api/v1/scan/x/report", "", nil, 404, "no such scan"},
		{"another media type", "alice", "GET", "/api/v1/scan/" + id + "/report", "", harborAccept("application/vnd.security.sbom.report+json; version=1.0"), 406, "media type"},
		{"another registry", "alice", "POST", "/api/v1/scan", change("reg.example", "evil.example"), nil, 403, "--scan-registry"},
		{"this host", "alice", "POST", "/api/v1/scan", change("https://reg.example", "http://127.0.0.1:5000"), nil, 403, "--scan-registry"},
		{"plain HTTP", "alice", "POST", "/api/v1/scan", change("https://", "http://"), nil, 422, "want https"},
		{"a path", "alice", "POST", "/api/v1/scan", change("reg.example", "reg.example/x"), nil, 422, "registry.url"},
		{"a name in the URL", "alice", "POST", "/api/v1/scan", change("reg.example", "u@reg.example"), nil, 422, "registry.url"},
		{"no digest", "alice", "POST", "/api/v1/scan", change(digestB, "latest"), nil, 422, "digest"},
		{"a repository that climbs", "alice", "POST", "/api/v1/scan", change("team/app", "../app"), nil, 422, "repository"},
		{"a chart", "alice", "POST", "/api/v1/scan", change("docker.distribution.manifest.v2", "cncf.helm"), nil, 422, "no manifest"},
		{"a line break", "alice", "POST", "/api/v1/scan", change("Basic dTpw", `Basic dTpw\nX: y`), nil, 422, "printable"},
		{"no JSON", "alice", "POST", "/api/v1/scan", "x", nil, 400, "body"},
		{"another method", "alice", "DELETE", "/api/v1/scan", "", nil, 404, "no such path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, text := w.call(tt.who, tt.method, tt.path, tt.body, tt.header, nil)
			var e harborErrorBody
			if err := json.Unmarshal([]byte(text), &e); err != nil || code != tt.code || !strings.Contains(e.Error.Message, tt.want) {
				t.Errorf("got %d, %s; want %d, %q", code, text, tt.code, tt.want)
			}
		})
	}
}
