package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/scan/ci"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// ciHost has the images "bad", "partial", "broken" and, for all else, one without a flaw. All
// callers may do all, but with the token "deploy".
type ciHost struct{}

func (ciHost) Ask(sub *apicall.Subject, action string, _ apicall.Facts, _ ...apicall.Resource) error {
	if sub.Token == "deploy" {
		return errors.Join(ci.ErrDenied, errors.New(action))
	}
	return nil
}

func (ciHost) Grants(*apicall.Subject, string) bool { return true }

func (ciHost) Sees(*apicall.Subject, apicall.Resource) bool { return true }

func (ciHost) Local(_ context.Context, ref, _ string) (*inventory.Result, string, error) {
	res := &inventory.Result{OS: inventory.OS{ID: "debian", VersionID: "12"}, Packages: []inventory.Package{{Kind: "deb", Name: ref, Version: "1\x1b[2J"}}}
	switch ref {
	case "partial":
		res.Notes = []inventory.Note{{Path: "x", Text: "could not be read", Count: 1}}
	case "broken":
		return nil, "", errors.New("the scanner was killed at its memory cap")
	}
	return res, sha([]byte(ref)), nil
}

func (h ciHost) Remote(ctx context.Context, ref, platform, _ string) (*inventory.Result, string, error) {
	return h.Local(ctx, ref, platform)
}

func (ciHost) Match(_ context.Context, res *inventory.Result) (*report.Database, *vulndb.Matches, error) {
	m := &vulndb.Matches{}
	if res.Packages[0].Name == "bad" {
		m.Findings = []vulndb.Finding{{IDs: []string{"CVE-2024-1"}, Severity: vulndb.SeverityCritical, State: "fixed", Fixed: "2"}}
	}
	return &report.Database{Built: time.Now(), Records: 1}, m, nil
}

// TestCI: the exit status is the verdict, and what is no pass is none.
func TestCI(t *testing.T) {
	dir := t.TempDir()
	s, err := ci.Open(ci.Options{
		Access: ciHost{}, Images: ciHost{}, Dir: filepath.Join(dir, "scans"),
		Identify: func(net.Conn) (apicall.Subject, error) { return apicall.Subject{Kind: apicall.User, Name: "root"}, nil },
		Verify:   func(secret string, _ time.Time) (string, error) { return secret, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, ci.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("deploy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ignore := file("ignore.yaml", "ignore:\n- id: CVE-2024-1\n  reason: not reached\n")
	baseline := file("last.json", `{"schema":"belay.dev/scan/v1","database":{},"findings":[{"package":0,"ids":["CVE-2024-1"]}],"inventory":{"packages":[{"kind":"deb","name":"bad","path":""}]}}`)
	for _, tt := range []struct {
		name string
		args []string
		code int
		out  string
		msg  string
	}{
		{"ignored", []string{"scan", "bad", "--fail-on", "high", "--ignore", ignore}, exitOK, "ignored: not reached", ""},
		{"known", []string{"scan", "bad", "--fail-on", "high", "--baseline", baseline}, exitOK, "0 ignored and 1 known to the baseline: not counted", ""},
		{"bad rules", []string{"scan", "bad", "--ignore", file("bad.yaml", "ignore:\n- id: CVE-1\n")}, exitFailed, "", "bad.yaml:2: id and reason are needed"},
		{"no baseline", []string{"scan", "bad", "--baseline", ignore}, exitFailed, "", "--baseline: want a report"},
		{"passes", []string{"scan", "good", "--fail-on", "low"}, exitOK, "pass", ""},
		{"fails", []string{"scan", "bad", "--fail-on", "high"}, exitFindings, "CVE-2024-1", "1 finding with severity >= high"},
		{"nothing asked", []string{"scan", "bad"}, exitOK, "CVE-2024-1", ""},
		{"incomplete", []string{"scan", "partial", "--fail-on", "high"}, exitIncomplete, "! could not be read", "--allow-incomplete"},
		{"incomplete and allowed", []string{"scan", "partial", "--fail-on", "high", "--allow-incomplete"}, exitOK, "", ""},
		{"broken", []string{"scan", "broken"}, exitFailed, "", "memory cap"},
		{"sarif", []string{"scan", "bad", "--fail-on", "high", "-o", "sarif"}, exitFindings, `"version": "2.1.0"`, ""},
		{"junit", []string{"scan", "bad", "--fail-on", "high", "-o", "junit"}, exitFindings, `failures="1"`, ""},
		{"json", []string{"scan", "bad", "--fail-on", "high", "-o", "json"}, exitFindings, `"verdict": "fail"`, ""},
		{"denied", []string{"scan", "good", "--token-file", token}, exitFailed, "", "denied"},
		{"no such scan", []string{"show", strings.Repeat("0", 32)}, exitFailed, "", "no such scan"},
		{"a bad rule", []string{"scan", "good", "--fail-on", "awful"}, exitFailed, "", "failOn"},
		{"plain HTTP", []string{"scan", "good", "--server", "http://scan.example"}, exitFailed, "", "https://HOST"},
		{"a certificate for a socket", []string{"scan", "good", "--ca", token}, exitUsage, "", "--server"},
		{"no image", []string{"scan"}, exitUsage, "", "one image"},
		{"no agent", []string{"list", "--run-dir", "/nowhere"}, exitFailed, "", "the agent is not running, or has no belay-scanner beside it: there is no /nowhere/scans.sock; fix: start it"},
		{"list", []string{"list", "bad"}, exitOK, "fail", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, msg := belay(t, append([]string{"--run-dir", dir, "ci"}, tt.args...)...)
			if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(msg, tt.msg) {
				t.Errorf("exit status %d, want %d\n%s%s", code, tt.code, out, msg)
			}
			if strings.Contains(out, "\x1b") {
				t.Error("an escape sequence of the image reached the terminal")
			}
		})
	}
	code, id, _ := belay(t, "--run-dir", dir, "ci", "scan", "bad", "--fail-on", "high", "--wait", "0")
	if code != exitOK {
		t.Errorf("asked without waiting: %d", code)
	}
	if code, out, _ := belay(t, "--run-dir", dir, "ci", "show", strings.TrimSpace(id)); code != exitFindings {
		t.Errorf("shown later: %d, %s", code, out)
	}
}
