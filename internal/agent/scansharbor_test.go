package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHarbor: what Harbor's client sends leads to a report on an image of a registry that wants
// the credentials which came along, under the shipped policy for CI.
func TestHarbor(t *testing.T) {
	reg := newCIRegistry(t)
	reg.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte("robot$scan:secret"))
	reg.notify = func([]byte) {}
	s := startScanAgent(t, reg.host)
	token, other := s.token(t, "ci-harbor"), s.token(t, "deploy")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serveScans(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	client := &http.Client{
		Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: s.tls},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ask := func(token, method, path, accept, body string) (*http.Response, string) {
		t.Helper()
		for range 100 { // until it listens
			r, err := http.NewRequestWithContext(ctx, method, "https://"+s.addr+"/api/v1"+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header.Set("Accept", accept)
			if body != "" {
				r.Header.Set("Content-Type", "application/vnd.scanner.adapter.scan.request+json; version=1.0")
			}
			res, err := client.Do(r)
			if err != nil {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			return res, string(b)
		}
		t.Fatal("nobody answers")
		return nil, ""
	}
	if res, text := ask(token, "GET", "/metadata", "application/vnd.scanner.adapter.metadata+json; version=1.0", ""); res.StatusCode != 200 ||
		!strings.Contains(text, `"vulnerability-database-updated-at"`[1:]) {
		t.Errorf("metadata: %d, %s", res.StatusCode, text)
	}
	scan := func(authorization, version string) (int, string) {
		body, _ := json.Marshal(map[string]any{
			"registry": map[string]any{"url": "http://" + reg.host, "authorization": authorization},
			"artifact": map[string]any{"namespace_id": 1, "repository": "team/shop", "digest": reg.push("team/shop", version), "tag": version, "mime_type": "application/vnd.oci.image.manifest.v1+json"},
		})
		res, text := ask(token, "POST", "/scan", "application/vnd.scanner.adapter.scan.response+json; version=1.0", string(body))
		var out struct{ ID string }
		if err := json.Unmarshal([]byte(text), &out); err != nil || res.StatusCode != http.StatusAccepted {
			t.Fatalf("%d, %s", res.StatusCode, text)
		}
		if res, text := ask(other, "GET", "/scan/"+out.ID+"/report", "", ""); res.StatusCode != http.StatusNotFound {
			t.Errorf("another token: %d, %s", res.StatusCode, text)
		}
		for range 600 {
			res, text := ask(token, "GET", "/scan/"+out.ID+"/report", "application/vnd.security.vulnerability.report; version=1.1", "")
			if res.StatusCode != http.StatusFound {
				return res.StatusCode, text
			}
			if res.Header.Get("Refresh-After") == "" {
				t.Fatal("302 does not say when to ask again")
			}
			time.Sleep(300 * time.Millisecond)
		}
		t.Fatal("the scan is never over")
		return 0, ""
	}
	if code, text := scan(reg.auth, "1"); code != 200 || !strings.Contains(text, `"id":"CVE-2026-1","package":"shop","version":"1","fix_version":"2","severity":"Critical"`) {
		t.Errorf("version 1: %d, %s", code, text)
	}
	if code, text := scan(reg.auth, "2"); code != 200 || !strings.Contains(text, `"vulnerabilities":[]`) {
		t.Errorf("version 2: %d, %s", code, text)
	}
	if code, text := scan("Basic "+base64.StdEncoding.EncodeToString([]byte("robot$scan:wrong")), "1"); code != http.StatusInternalServerError || strings.Contains(text, "vulnerabilities") {
		t.Errorf("wrong credentials: %d, %s", code, text)
	}
}
