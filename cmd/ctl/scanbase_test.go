package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tarFiles is a tar of names and contents.
func tarFiles(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(files[i+1]))
	}
	w.Close()
	return b.Bytes()
}

// saveImage writes an image as "docker save" does, and returns the file.
func saveImage(t *testing.T, more map[string]any, layers ...[]byte) string {
	t.Helper()
	var ids, names, files []string
	for i, l := range layers {
		ids, names = append(ids, sha(l)), append(names, fmt.Sprintf("%d/layer.tar", i))
		files = append(files, names[i], string(l))
	}
	config := map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"diff_ids": ids}}
	for k, v := range more {
		config[k] = v
	}
	c, _ := json.Marshal(config)
	m, _ := json.Marshal([]any{map[string]any{"Config": "c.json", "Layers": names}})
	p := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(p, tarFiles(t, append(files, "c.json", string(c), "manifest.json", string(m))...), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestScanBase: findings of a base image that was named are told from one's own, and may be let
// pass; what an image says of itself lets nothing pass.
func TestScanBase(t *testing.T) {
	f := newScanFixture(t)
	status, err := os.ReadFile(filepath.Join(f.root, "var/lib/dpkg/status"))
	if err != nil {
		t.Fatal(err)
	}
	lower := tarFiles(t, "etc/os-release", "ID=debian\nVERSION_ID=12\n", "var/lib/dpkg/status", string(status))
	upper := tarFiles(t, "var/lib/dpkg/status", string(status)+"Package: util-linux\nStatus: install ok installed\nVersion: 2.38.1-5\n\n")
	history := map[string]any{"history": []any{
		map[string]any{"created_by": "ADD rootfs.tar / # buildkit"}, map[string]any{"created_by": "CMD [\"bash\"]", "empty_layer": true},
		map[string]any{"created_by": "RUN apt-get install \x1b[2Jutil-linux # buildkit"},
	}, "config": map[string]any{"Labels": map[string]string{"org.opencontainers.image.base.name": "debian:\x1b12"}}}
	app, report := saveImage(t, history, lower, upper), filepath.Join(t.TempDir(), "base.json")
	scan := func(args ...string) (int, string, string) {
		return belay(t, append([]string{"scan", "--db", f.db, "--scanner", f.scanner}, args...)...)
	}
	code, out, msg := scan(saveImage(t, nil, lower), "-o", "json")
	if code != exitOK || os.WriteFile(report, []byte(out), 0o600) != nil {
		t.Fatal(code, msg)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"by its own word", nil, exitOK, `1 from the base image debian:\x1b12 (the image says so) (layers 1 to 1), 1 from the layers above it`},
		{"which layers", nil, exitOK, "1 base?  1         ADD rootfs.tar /"},
		{"which layers", nil, exitOK, `2        1         RUN apt-get install \x1b[2Jutil-linux`},
		{"known", []string{"--base", report}, exitOK, "deb (layer 1, base)"},
		{"own counts", []string{"--base", report, "--fail-on", "name == 'util-linux' && !fromBase"}, exitFindings, ""},
		{"the base's may pass", []string{"--base", report, "--fail-on", "name == 'bsdutils' && !fromBase"}, exitOK, ""},
		{"a claim lets nothing pass", []string{"--fail-on", "name == 'bsdutils' && !fromBase"}, exitFindings, ""},
		{"a claim, on purpose", []string{"--fail-on", "name == 'bsdutils' && !claimedBase"}, exitOK, ""},
		{"no base", []string{"--base", f.db}, exitFailed, ""},
		{"json", []string{"--base", report, "-o", "json"}, exitOK, `"createdBy": "ADD rootfs.tar /"`},
		{"sarif", []string{"--base", report, "-o", "sarif"}, exitOK, `"fromBase": true`},
	} {
		code, out, msg := scan(append([]string{app}, tt.args...)...)
		if code != tt.code || !strings.Contains(out, tt.want) || strings.Contains(out, "\x1b") {
			t.Errorf("%s: %d, want %d and %q in\n%s%s", tt.name, code, tt.code, tt.want, out, msg)
		}
	}
}
