package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScanForms: each form says what its readers look for, and JUnit fails what --fail-on
// means.
func TestScanForms(t *testing.T) {
	f := newScanFixture(t)
	for _, tt := range []struct {
		name string
		args []string
		code int
		out  string
		msg  string
	}{
		{"spdx", []string{"-o", "spdx"}, exitOK, `"spdxVersion": "SPDX-2.3"`, ""},
		{"gitlab", []string{"-o", "gitlab"}, exitOK, `"type": "container_scanning"`, ""},
		{"openvex", []string{"-o", "openvex"}, exitOK, `"status": "affected"`, ""},
		{"junit", []string{"-o", "junit"}, exitOK, `failures="1"`, ""},
		{"junit, fails", []string{"-o", "junit", "--fail-on", "high"}, exitFindings, `failures="1"`, "1 finding with"},
		{"junit, does not fail", []string{"-o", "junit", "--fail-on", "score > 9.9"}, exitOK, `failures="0"`, ""},
		{"junit, nothing looked for", []string{"-o", "junit", "--packages-only"}, exitUsage, "", "about findings"},
	} {
		code, out, msg := belay(t, append([]string{"scan", f.root, "--db", f.db, "--scanner", f.scanner}, tt.args...)...)
		if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(msg, tt.msg) {
			t.Errorf("%s: exit status %d, %s%s, want %d, %q, %q", tt.name, code, out, msg, tt.code, tt.out, tt.msg)
		}
	}
}

// TestBills: what a bill of materials says is matched as the image is, by either form.
func TestBills(t *testing.T) {
	f := newScanFixture(t)
	dir := t.TempDir()
	for _, form := range []string{"cyclonedx", "spdx"} {
		code, bill, msg := belay(t, "sbom", f.root, "--scanner", f.scanner, "-o", form)
		if code != exitOK || strings.Contains(bill, "CVE-") {
			t.Fatalf("%s: exit status %d, %s", form, code, msg)
		}
		p := filepath.Join(dir, form+".json")
		write(t, p, bill)
		code, out, msg := belay(t, "scan", p, "--db", f.db, "--scanner", f.scanner, "--fail-on", "high")
		for _, part := range []string{"CVE-2024-28085", "bsdutils (util-linux)", "1:2.38.1-5", "2.38.1-5+deb12u1"} {
			if code != exitFindings || !strings.Contains(out, part) {
				t.Errorf("%s: exit status %d, %q is missing in\n%s%s", form, code, part, out, msg)
			}
		}
	}
	odd := filepath.Join(dir, "odd.json")
	write(t, odd, `{"bomFormat":"CycloneDX","components":[{"type":"library","name":"openssl"}]}`)
	if code, out, msg := belay(t, "scan", odd, "--db", f.db, "--scanner", f.scanner, "--fail-on", "low"); code != exitIncomplete || !strings.Contains(out, "without a package URL") {
		t.Errorf("exit status %d, want %d: %s%s", code, exitIncomplete, out, msg)
	}
	write(t, odd, `{"a":1}`)
	if code, _, msg := belay(t, "scan", odd, "--db", f.db, "--scanner", f.scanner); code != exitFailed || !strings.Contains(msg, "no bill of materials") {
		t.Errorf("exit status %d, %s", code, msg)
	}
	if code, _, msg := belay(t, "sbom", f.root, "-o", "sarif"); code != exitUsage || !strings.Contains(msg, "want cyclonedx or spdx") {
		t.Errorf("exit status %d, %s", code, msg)
	}
}

// TestAdvisoryGate: a gate minds what an advisory of AlmaLinux is about, here a real one, of which each flaw has to be
// accepted.
func TestAdvisoryGate(t *testing.T) {
	f := newScanFixture(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ALSA-2024:1607.json"), `{"id":"ALSA-2024:1607","summary":"Important: kernel security, bug fix, and enhancement update","affected":[{"package":{"ecosystem":"AlmaLinux:8","name":"kernel"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"4.18.0-513.24.1.el8_9"}]}]}],"related":["CVE-2022-38096","CVE-2024-1086"],"modified":"2024-04-09T14:56:37Z"}`)
	kev, db, bom, ignore := filepath.Join(dir, "kev"), filepath.Join(dir, "alma.db"), filepath.Join(dir, "bom"), filepath.Join(dir, "ignore")
	write(t, kev, `{"vulnerabilities":[{"cveID":"CVE-2024-1086"}]}`)
	write(t, bom, `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"operating-system","name":"almalinux","version":"8.9"},
		{"type":"library","name":"kernel","version":"4.18.0-513.9.1.el8_9","purl":"pkg:rpm/almalinux/kernel@4.18.0-513.9.1.el8_9?arch=x86_64&distro=almalinux-8.9"}]}`)
	if code, _, msg := belay(t, "db", "build", dir, "--kev", kev, "--db", db); code != exitOK {
		t.Fatalf("db build: %d, %s", code, msg)
	}
	for _, tt := range []struct {
		rule, ignored string
		code          int
	}{
		{"exploited", "", exitFindings},
		{"severity >= high && rated", "", exitFindings},
		{"critical", "", exitOK},
		{"'CVE-2024-1086' in about", "", exitFindings},
		{"!('CVE-2022-38096' in ids) && exploited", "", exitFindings},
		{"exploited", "- {id: CVE-2024-1086, reason: a}", exitFindings},
		{"exploited", "- {id: CVE-2024-1086, reason: a}\n- {id: CVE-2022-38096, reason: a}", exitOK},
		{"exploited", "- {id: 'ALSA-2024:1607', reason: a}", exitOK},
	} {
		args := []string{"scan", bom, "--db", db, "--scanner", f.scanner, "--fail-on", tt.rule}
		if tt.ignored != "" {
			write(t, ignore, "ignore:\n"+tt.ignored+"\n")
			args = append(args, "--ignore", ignore)
		}
		if code, out, msg := belay(t, args...); code != tt.code || !strings.Contains(out, "ALSA-2024:1607") {
			t.Errorf("%s, ignored %q: exit status %d, want %d: %s%s", tt.rule, tt.ignored, code, tt.code, out, msg)
		}
	}
}

// TestUbuntuNotice: a notice of Ubuntu on several flaws names them as Ubuntu does, and all else by their CVE numbers.
func TestUbuntuNotice(t *testing.T) {
	f := newScanFixture(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "USN-1-1.json"), `{"id":"USN-1-1","upstream":["UBUNTU-CVE-2024-1","UBUNTU-CVE-2024-2"],"affected":[{"package":{"ecosystem":"Ubuntu:22.04:LTS","name":"curl"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2"}]}]}]}`)
	db, bom, file := filepath.Join(dir, "ubuntu.db"), filepath.Join(dir, "bom"), filepath.Join(dir, "file")
	write(t, bom, `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"operating-system","name":"ubuntu","version":"22.04"},
		{"type":"library","name":"curl","version":"1","purl":"pkg:deb/ubuntu/curl@1?arch=amd64&distro=ubuntu-22.04"}]}`)
	if code, _, msg := belay(t, "db", "build", dir, "--db", db); code != exitOK {
		t.Fatalf("db build: %d, %s", code, msg)
	}
	vex := func(flaw string) string {
		return `{"vulnerability":{"name":"` + flaw + `"},"products":[{"@id":"pkg:deb/ubuntu/curl@1?arch=source&distro=jammy"}],"status":"fixed"}`
	}
	document := func(statements string) string {
		return `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"x","author":"me","timestamp":"2026-01-01T00:00:00Z","version":1,"statements":[` + statements + `]}`
	}
	for _, tt := range []struct {
		name, flag, text string
		code             int
	}{
		{"one is ignored", "--ignore", "ignore:\n- {id: CVE-2024-1, reason: a}\n", exitFindings},
		{"both are ignored", "--ignore", "ignore:\n- {id: CVE-2024-1, reason: a}\n- {id: CVE-2024-2, reason: a}\n", exitOK},
		{"a statement on one", "--vex", document(vex("CVE-2024-1")), exitFindings},
		{"statements on both", "--vex", document(vex("CVE-2024-1") + "," + vex("CVE-2024-2")), exitOK},
	} {
		write(t, file, tt.text)
		if code, out, msg := belay(t, "scan", bom, "--db", db, "--scanner", f.scanner, "--fail-on", "high", tt.flag, file); code != tt.code || !strings.Contains(out, "USN-1-1") {
			t.Errorf("%s: exit status %d, want %d: %s%s", tt.name, code, tt.code, out, msg)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDiff: only what is new fails.
func TestDiff(t *testing.T) {
	f := newScanFixture(t)
	dir := t.TempDir()
	flags := []string{"--db", f.db, "--scanner", f.scanner}
	_, bad, _ := belay(t, append([]string{"scan", f.root, "-o", "json"}, flags...)...)
	fine := strings.ReplaceAll(bad, "2.38.1-5", "2.99-1")
	report, old := filepath.Join(dir, "bad.json"), filepath.Join(dir, "old.cdx.json")
	write(t, report, bad)
	write(t, old, `{"bomFormat":"CycloneDX","components":[{"type":"operating-system","name":"debian","version":"12"},
		{"name":"bsdutils","purl":"pkg:deb/debian/bsdutils@1:2.99-1?distro=debian-12&upstream=util-linux%402.99-1"},{"name":"gone","purl":"pkg:deb/debian/gone@1?distro=debian-12"}]}`)
	unmatched := filepath.Join(dir, "unmatched.json")
	write(t, unmatched, strings.Replace(fine, `"database"`, `"other"`, 1))
	lies := filepath.Join(dir, "lies.json")
	write(t, lies, strings.Replace(bad, `"state"`, `"known": true, "ignored": "so", "state"`, 1))
	ignore := filepath.Join(dir, "ignore.yaml")
	write(t, ignore, "ignore:\n- id: CVE-2024-28085\n  reason: nobody calls wall\n")
	secret := filepath.Join(dir, "secret.json")
	write(t, secret, strings.Replace(bad, `"inventory"`, `"misconfigurations": [{"id": "secret-in-file", "severity": "high", "text": "x\u001b", "where": "app/.env:1", "path": "app/.env", "ignored": "so", "known": true}], "inventory"`, 1))
	accepts := filepath.Join(dir, "secret.yaml")
	write(t, accepts, "ignore:\n- id: secret-in-file\n  path: app/.env\n  reason: of a test\n")
	aSecret := "misconfiguration == 'secret-in-file'"
	for _, tt := range []struct {
		name string
		args []string
		code int
		out  string
		msg  string
	}{
		{"a new secret", []string{report, secret, "--fail-on", aSecret}, exitFindings, "1 misconfiguration new, 0 gone", "1 new finding with"},
		{"a new secret, ignored", []string{report, secret, "--fail-on", aSecret, "--allow-incomplete", "--ignore", accepts}, exitOK, "secret-in-file ignored: of a test", ""},
		{"an old secret", []string{secret, secret, "--fail-on", aSecret, "--allow-incomplete"}, exitOK, "no finding is new or gone", ""},
		{"a configuration that is not shown", []string{secret, secret, "--fail-on", aSecret}, exitIncomplete, "", "does not show"},
		{"a secret that is gone", []string{secret, report}, exitOK, "0 misconfigurations new, 1 gone", ""},
		{"secrets in JSON", []string{report, secret, "-o", "json"}, exitOK, `"newMisconfigurations": [`, ""},
		{"the same", []string{f.root, f.root, "--fail-on", "low"}, exitOK, "no finding is new or gone", ""},
		{"a report and the same", []string{report, f.root, "--fail-on", "low"}, exitOK, "no package differs", ""},
		{"new", []string{old, f.root, "--fail-on", "low"}, exitFindings, "1 finding new, 0 gone", "1 new finding with"},
		{"new, report", []string{old, report}, exitOK, "changed", ""},
		{"new, in a report that says it is known", []string{old, lies, "--fail-on", "low"}, exitFindings, "1 finding new", ""},
		{"new, ignored", []string{old, f.root, "--fail-on", "low", "--ignore", ignore}, exitOK, "ignored: nobody", ""},
		{"gone", []string{report, old, "--fail-on", "low"}, exitOK, "0 findings new, 1 gone", ""},
		{"packages only", []string{old, f.root, "--packages-only"}, exitOK, "removed", ""},
		{"packages only, fails", []string{old, f.root, "--packages-only", "--fail-on", "low"}, exitUsage, "", "--packages-only"},
		{"json", []string{old, f.root, "-o", "json"}, exitOK, `"schema": "belay.dev/diff/v1"`, ""},
		{"a broken report", []string{unmatched, f.root}, exitFailed, "", "no database"},
		{"one target", []string{f.root}, exitUsage, "", "two targets"},
	} {
		args := append([]string{"diff"}, tt.args...)
		code, out, msg := belay(t, append(args, flags...)...)
		if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(msg, tt.msg) {
			t.Errorf("%s: exit status %d, %s%s, want %d, %q, %q", tt.name, code, out, msg, tt.code, tt.out, tt.msg)
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("%s: an escape sequence reached the terminal", tt.name)
		}
	}
}

// TestScanVEX: what a supplier says does not matter is shown and does not fail.
func TestScanVEX(t *testing.T) {
	f := newScanFixture(t)
	p := filepath.Join(t.TempDir(), "vex.json")
	doc := func(status string) {
		write(t, p, `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"x","author":"me","timestamp":"2026-01-01T00:00:00Z","version":1,"statements":[{"vulnerability":{"name":"CVE-2024-28085"},
			"products":[{"@id":"pkg:deb/debian/bsdutils"}],"status":"`+status+`","justification":"vulnerable_code_not_present"}]}`)
	}
	args := []string{"scan", f.root, "--db", f.db, "--scanner", f.scanner, "--fail-on", "low"}
	if code, _, _ := belay(t, args...); code != exitFindings {
		t.Errorf("without a statement: exit status %d", code)
	}
	doc("not_affected")
	if code, out, msg := belay(t, append(args, "--vex", p)...); code != exitOK || !strings.Contains(out, "ignored: VEX: not affected, vulnerable code not present") {
		t.Errorf("exit status %d: %s%s", code, out, msg)
	}
	doc("fine")
	if code, out, msg := belay(t, append(args, "--vex", p)...); code != exitFailed || out != "" || !strings.Contains(msg, "vex.json: statement 1") {
		t.Errorf("a broken statement: exit status %d: %s%s", code, out, msg)
	}
}
