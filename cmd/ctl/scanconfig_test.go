package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// layoutOf is an OCI layout of an image with one empty layer and this configuration.
func layoutOf(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	blob := func(text string) string {
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
		write(t, filepath.Join(dir, "blobs", "sha256", digest), text)
		return "sha256:" + digest
	}
	layer := blob(strings.Repeat("\x00", 1024))
	id := blob(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + layer + `"]},` + config + `}`)
	manifest := blob(`{"config":{"digest":"` + id + `"},"layers":[{"digest":"` + layer + `"}]}`)
	write(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	write(t, filepath.Join(dir, "index.json"), `{"manifests":[{"digest":"`+manifest+`"}]}`)
	return dir
}

// TestScanConfig: what is wrong with a configuration is shown, and fails what asks for it.
func TestScanConfig(t *testing.T) {
	f := newScanFixture(t)
	bad := layoutOf(t, `"config":{"Env":["DB_PASSWORD=hunter2"]}`)
	good := layoutOf(t, `"config":{"User":"app"}`)
	secret := `misconfiguration == "secret-in-env"`
	for _, tt := range []struct {
		name, target string
		args         []string
		code         int
		out, msg     string
	}{
		{"shown", bad, nil, exitOK, "secret-in-env", ""},
		{"fails", bad, []string{"--fail-on", secret}, exitFindings, "DB_PASSWORD", "1 finding with"},
		{"fails by severity", bad, []string{"--fail-on", `misconfiguration != "" && severity >= medium`}, exitFindings, "", "2 findings with"},
		{"does not fail what does not ask", bad, []string{"--fail-on", "low"}, exitOK, "root-user", ""},
		{"another does not fail", good, []string{"--fail-on", secret}, exitOK, "", ""},
		{"no configuration to see", f.root, []string{"--fail-on", secret}, exitIncomplete, "", "does not show"},
		{"no configuration to see, allowed", f.root, []string{"--fail-on", secret, "--allow-incomplete"}, exitOK, "", ""},
		{"json", bad, []string{"-o", "json"}, exitOK, `"misconfigurations": [`, ""},
		{"junit", bad, []string{"-o", "junit", "--fail-on", secret}, exitFindings, `failures="1"`, ""},
		{"junit, no configuration to see", f.root, []string{"-o", "junit", "--fail-on", secret}, exitIncomplete, "which this target does not show", "does not show"},
		{"junit, allowed", f.root, []string{"-o", "junit", "--fail-on", secret, "--allow-incomplete"}, exitOK, `failures="0"`, ""},
	} {
		args := append([]string{"scan", tt.target, "--db", f.db, "--scanner", f.scanner}, tt.args...)
		code, out, msg := belay(t, args...)
		if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(msg, tt.msg) {
			t.Errorf("%s: exit status %d, %s%s, want %d, %q, %q", tt.name, code, out, msg, tt.code, tt.out, tt.msg)
		}
		if strings.Contains(out+msg, "hunter2") {
			t.Errorf("%s: the secret is shown", tt.name)
		}
	}
	for want, pair := range map[int][]string{exitFindings: {good, bad}, exitOK: {bad, good}} {
		args := append([]string{"diff", "--db", f.db, "--scanner", f.scanner, "--fail-on", secret}, pair...)
		if code, out, msg := belay(t, args...); code != want || strings.Contains(out+msg, "hunter2") {
			t.Errorf("diff %s: exit status %d, want %d: %s%s", pair, code, want, out, msg)
		}
	}
}

// TestScanFiles: secrets in files and programs with rights are shown, and fail what asks for them;
// no secret is.
func TestScanFiles(t *testing.T) {
	f := newScanFixture(t)
	dir := t.TempDir()
	for _, sub := range []string{"app", "bin", "var/lib/dpkg/info"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "app", ".env"), "PORT=1\nDB_PASSWORD=correcthorse\n")
	write(t, filepath.Join(dir, "bin", "mine"), "x")
	write(t, filepath.Join(dir, "bin", "theirs"), "x")
	write(t, filepath.Join(dir, "var", "lib", "dpkg", "info", "login.list"), "/bin/theirs\n")
	for _, name := range []string{"mine", "theirs"} {
		if err := os.Chmod(filepath.Join(dir, "bin", name), 0o755|os.ModeSetuid); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		args []string
		code int
		out  []string
	}{
		{nil, exitOK, []string{"secret-in-file", "app/.env:2", "DB_PASSWORD", "bin/mine", "1 program of the distribution"}},
		{[]string{"-o", "json"}, exitOK, []string{`"path": "bin/theirs"`, `"owner": "login"`}},
		{[]string{"-o", "sarif"}, exitOK, []string{`"uri": "app/.env"`, `"startLine": 2`}},
		{[]string{"-o", "junit"}, exitOK, []string{"secret-in-file app/.env:2"}},
		{[]string{"--fail-on", `misconfiguration == "secret-in-file" && path.startsWith("app/")`}, exitFindings, nil},
	} {
		args := append([]string{"scan", dir, "--db", f.db, "--scanner", f.scanner}, tt.args...)
		code, out, msg := belay(t, args...)
		if code != tt.code {
			t.Errorf("%q: exit status %d, %s%s, want %d", tt.args, code, out, msg, tt.code)
		}
		for _, want := range tt.out {
			if !strings.Contains(out, want) {
				t.Errorf("%q: %s, want %q", tt.args, out, want)
			}
		}
		if strings.Contains(out+msg, "correcthorse") || tt.args == nil && strings.Contains(out, "bin/theirs") {
			t.Errorf("%q: %s shows what it should not", tt.args, out)
		}
	}
}
