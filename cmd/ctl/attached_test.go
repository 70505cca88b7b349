package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScanAttached: a bill that is attached to an image is used or compared when asked for, and
// one about another image, or a broken one, is refused.
func TestScanAttached(t *testing.T) {
	f := newScanFixture(t)
	r := newTestRegistry(t)
	index := r.push(t, "team/app", "1", f.root)
	scan := func(args ...string) (int, string, string) {
		return belay(t, append([]string{"scan", "registry:" + r.host + "/team/app:1", "--db", f.db, "--scanner", f.scanner, "--platform", "linux/amd64"}, args...)...)
	}
	code, out, msg := scan("--attached-sbom", "use")
	if code != exitOK || !strings.Contains(out, "CVE-2024-28085") || !strings.Contains(msg, "the image is read alone") {
		t.Errorf("nothing is attached: %d\n%s%s", code, out, msg)
	}
	const oci = "application/vnd.oci.image."
	n := 0
	// attach puts a statement about subject there, by the tag that stands in for the API.
	attach := func(subject, predicate string) {
		t.Helper()
		n++
		statement, _ := json.Marshal(map[string]any{
			"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://cyclonedx.org/bom", "predicate": json.RawMessage(predicate),
			"subject": []any{map[string]any{"name": "app", "digest": map[string]string{"sha256": strings.TrimPrefix(subject, "sha256:")}}},
		})
		config := []byte("{}")
		for _, b := range [][]byte{config, statement} {
			r.put(t, http.MethodPost, "team/app/blobs/uploads/?digest="+sha(b), "application/octet-stream", b)
		}
		desc := func(mediaType string, b []byte) map[string]any {
			return map[string]any{"mediaType": mediaType, "digest": sha(b), "size": len(b)}
		}
		layer := desc("application/vnd.in-toto+json", statement)
		layer["annotations"] = map[string]string{"in-toto.io/predicate-type": "https://cyclonedx.org/bom"}
		m, _ := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "artifactType": "application/vnd.in-toto+json", "config": desc("application/vnd.oci.empty.v1+json", config),
			"layers": []any{layer}, "subject": map[string]any{"mediaType": oci + "index.v1+json", "digest": index, "size": 1},
		})
		r.put(t, http.MethodPut, "team/app/manifests/"+sha(m), oci+"manifest.v1+json", m)
		d := desc(oci+"manifest.v1+json", m)
		d["artifactType"] = "application/vnd.in-toto+json"
		list, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []any{d}})
		r.put(t, http.MethodPut, "team/app/manifests/"+strings.Replace(index, ":", "-", 1), oci+"index.v1+json", list)
	}
	bill := func(name, version string) string {
		return fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.6","metadata":{"component":{"type":"container","name":"x","version":"sha256:%s"}},"components":[{"type":"library","name":%q,"version":%q,"purl":"pkg:deb/debian/%s@%s?distro=debian-12&upstream=util-linux%%402.38.1-5"}]}`,
			strings.Repeat("e", 64), name, version, name, version)
	}
	attach(index, bill("bsdutils", "1:2.38.1-5"))
	if code, out, msg = scan("--attached-sbom", "use"); code != exitOK || !strings.Contains(out, "CVE-2024-28085") || !strings.Contains(out, "which is not signed") {
		t.Errorf("use: %d\n%s%s", code, out, msg)
	}
	if code, out, _ = scan("--attached-sbom", "use", "-o", "json"); code != exitOK || !strings.Contains(out, `"used": true`) || strings.Contains(out, strings.Repeat("e", 64)) {
		t.Errorf("use -o json: %d\n%s", code, out)
	}
	if code, out, msg = scan("--attached-sbom", "compare"); code != exitOK || !strings.Contains(out, "lists the same packages") {
		t.Errorf("compare: %d\n%s%s", code, out, msg)
	}
	attach(index, bill("other\\u001b", "1"))
	if code, out, msg = scan("--attached-sbom", "compare"); code != exitOK || !strings.Contains(out, "does not list the same") || !strings.Contains(out, "1:2.38.1-5") || strings.Contains(out, "\x1b") {
		t.Errorf("compare with another: %d\n%s%s", code, out, msg)
	}
	if code, out, _ = scan("--attached-sbom", "ignore"); code != exitOK || strings.Contains(out, "attached") {
		t.Errorf("ignore: %d\n%s", code, out)
	}
	attach(sha([]byte("another image")), bill("bsdutils", "1:2.38.1-5"))
	for _, mode := range []string{"use", "compare"} {
		if code, out, msg = scan("--attached-sbom", mode); code != exitFailed || !strings.Contains(msg, "says that it is about") {
			t.Errorf("%s of another image: %d\n%s%s", mode, code, out, msg)
		}
	}
	attach(index, `{"bomFormat":"CycloneDX","components":7}`)
	if code, out, msg = scan("--attached-sbom", "use"); code != exitFailed {
		t.Errorf("a broken one: %d\n%s%s", code, out, msg)
	}
	if code, _, msg = belay(t, "scan", f.root, "--packages-only", "--scanner", f.scanner, "--attached-sbom", "use"); code != exitFailed || !strings.Contains(msg, "no image of a registry") {
		t.Errorf("a directory: %d, %s", code, msg)
	}
	if code, _, _ = scan("--attached-sbom", "trust"); code != exitUsage {
		t.Errorf("another word: %d", code)
	}
	// A statement in a file is read like the bill in it.
	p := filepath.Join(t.TempDir(), "s.json")
	if err := os.WriteFile(p, []byte(`{"_type":"https://in-toto.io/Statement/v0.1","predicate":`+bill("bsdutils", "1:2.38.1-5")+`}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, msg = belay(t, "scan", p, "--packages-only", "--scanner", f.scanner); code != exitOK || !strings.Contains(out, "bsdutils") {
		t.Errorf("a statement: %d\n%s%s", code, out, msg)
	}
}
