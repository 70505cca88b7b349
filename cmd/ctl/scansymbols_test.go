package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestScanSymbols: of two programs with one module, the one that has the vulnerable function is told
// from the one that has not; both are findings.
func TestScanSymbols(t *testing.T) {
	f := newScanFixture(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"src/go.mod":       "module x.example/app\n\ngo 1.24\n\nrequire x.example/dep v1.0.0\n\nreplace x.example/dep => ./dep\n",
		"src/dep/go.mod":   "module x.example/dep\n\ngo 1.24\n",
		"src/dep/dep.go":   "package dep\n\nimport \"os\"\n\nfunc Bad() int { return len(os.Args) }\n\nfunc Good() int { return len(os.Args) + 1 }\n",
		"src/with/main.go": "package main\n\nimport (\n\t\"os\"\n\n\t\"x.example/dep\"\n)\n\nfunc main() { os.Exit(dep.Bad()) }\n",
		"src/sans/main.go": "package main\n\nimport (\n\t\"os\"\n\n\t\"x.example/dep\"\n)\n\nfunc main() { os.Exit(dep.Good()) }\n",
		"osv/Go/GO-1.json": `{"id":"GO-1","aliases":["CVE-2026-1"],"affected":[{"package":{"ecosystem":"Go","name":"x.example/dep"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],"ecosystem_specific":{"imports":[{"path":"x.example/dep","symbols":["Bad"]}]}}]}`,
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, p, text)
	}
	bin := filepath.Join(f.root, "usr/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"with", "sans"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(bin, name), "./"+name)
		cmd.Dir = filepath.Join(dir, "src")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "GOSUMDB=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	db := filepath.Join(dir, "vuln.db")
	if code, _, msg := belay(t, "db", "build", filepath.Join(dir, "osv"), "--db", db); code != exitOK {
		t.Fatal(msg)
	}
	args := []string{"scan", f.root, "--db", db, "--scanner", f.scanner, "--allow-incomplete"}
	for _, tt := range []struct {
		name string
		args []string
		code int
		out  []string
		msg  string
	}{
		{"text", nil, exitOK, []string{"usr/bin/sans, vulnerable functions not in the program", "usr/bin/with, has x.example/dep.Bad"}, ""},
		{"json", []string{"-o", "json"}, exitOK, []string{`"state": "absent"`, `"state": "present"`, `"x.example/dep.Bad"`}, ""},
		{"sarif", []string{"-o", "sarif"}, exitOK, []string{`"symbols": "absent"`, `"symbols": "present"`}, ""},
		{"all fail", []string{"--fail-on", "high"}, exitFindings, nil, "2 findings"},
		{"those that are there fail", []string{"--fail-on", "severity >= high && symbols != 'absent'"}, exitFindings, nil, "1 finding "},
	} {
		code, out, msg := belay(t, append(args, tt.args...)...)
		if code != tt.code || !strings.Contains(msg, tt.msg) {
			t.Errorf("%s: exit status %d, %s%s", tt.name, code, out, msg)
		}
		for _, part := range tt.out {
			if !strings.Contains(out, part) {
				t.Errorf("%s: %q is missing in\n%s", tt.name, part, out)
			}
		}
		if strings.Contains(out, `"functions"`) {
			t.Errorf("%s: the functions of programs are in a report", tt.name)
		}
	}
}
