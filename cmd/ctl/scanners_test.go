package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/report"
)

// TestScanners: what is chosen is looked for and nothing else, the report says so, and an
// expression about what was not looked for does not pass.
func TestScanners(t *testing.T) {
	f := newScanFixture(t)
	write(t, filepath.Join(f.root, ".env"), "DB_PASSWORD=correcthorse\n")
	write(t, filepath.Join(f.root, "mine"), "x")
	if err := os.Chmod(filepath.Join(f.root, "mine"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	config := layoutOf(t, `"config":{"Env":["DB_PASSWORD=hunter2"]}`) // and it runs as root
	const vuln, secret, setuid = "CVE-2024-28085", "secret-in-file", "setuid-file"
	isSecret := `misconfiguration.startsWith("secret-")`
	for _, tt := range []struct {
		name string
		args []string
		code int
		has  []string
		not  []string
		msg  string
	}{
		{"all", []string{"--scanners", "vuln,secret,misconfig"}, exitOK, []string{vuln, secret, setuid}, []string{"not looked for"}, ""},
		{"vulnerabilities", []string{"--scanners", "vuln"}, exitOK, []string{vuln, "not looked for (--scanners): secret, misconfig"}, []string{secret, setuid}, ""},
		{"secrets", []string{"--scanners", "secret"}, exitOK, []string{secret, "1 package", "not looked for (--scanners): vuln, misconfig"}, []string{vuln, setuid, "bsdutils"}, ""},
		{"misconfigurations", []string{"--scanners", "misconfig"}, exitOK, []string{setuid}, []string{vuln, secret, "bsdutils"}, ""},
		{"secrets and misconfigurations", []string{"--scanners", "secret,misconfig"}, exitOK, []string{secret, setuid, "bsdutils"}, []string{vuln}, ""},
		{"packages alone", []string{"--scanners", "none"}, exitOK, []string{"bsdutils", "vuln, secret, misconfig"}, []string{vuln, "secret-in", setuid}, ""},
		{"unknown", []string{"--scanners", "license"}, exitUsage, nil, nil, "want some of vuln, secret, misconfig"},
		{"none and another", []string{"--scanners", "none,vuln"}, exitUsage, nil, nil, "want some of"},
		{"no value", []string{"--scanners", ""}, exitUsage, nil, nil, "want some of"},
		{"against the other flag", []string{"--scanners", "vuln", "--packages-only"}, exitUsage, nil, nil, "leave one of them out"},
		{"with the other flag", []string{"--scanners", "secret", "--packages-only"}, exitOK, []string{secret}, []string{vuln}, ""},
		{"fails, secrets", []string{"--scanners", "secret", "--fail-on", isSecret, "--allow-incomplete"}, exitFindings, []string{secret}, nil, "1 finding with"},
		{"about vulnerabilities", []string{"--scanners", "secret", "--fail-on", "high"}, exitUsage, nil, nil, "leaves out (vuln)"},
		{"about secrets", []string{"--scanners", "vuln", "--fail-on", isSecret}, exitUsage, nil, nil, "leaves out (secret)"},
		{"about misconfigurations", []string{"--scanners", "vuln,secret", "--fail-on", "misconfiguration != ''"}, exitUsage, nil, nil, "leaves out (misconfig)"},
		{"about secrets, allowed", []string{"--scanners", "vuln", "--fail-on", isSecret, "--allow-incomplete"}, exitOK, nil, nil, ""},
		{"about vulnerabilities alone", []string{"--scanners", "vuln", "--fail-on", "high"}, exitFindings, nil, nil, "1 finding with"},
		{"statements", []string{"--scanners", "secret", "--vex", "x.json"}, exitUsage, nil, nil, "about vulnerabilities"},
		{"openvex", []string{"--scanners", "secret", "-o", "openvex"}, exitUsage, nil, nil, "about findings"},
		{"junit", []string{"--scanners", "secret", "-o", "junit"}, exitOK, []string{secret, "everything was read"}, []string{"has no known vulnerabilities", setuid}, ""},
		{"junit of nothing", []string{"--scanners", "none", "-o", "junit"}, exitUsage, nil, nil, "looks for none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, msg := belay(t, append([]string{"scan", f.root, "--db", f.db, "--scanner", f.scanner}, tt.args...)...)
			if code != tt.code || !strings.Contains(msg, tt.msg) {
				t.Errorf("exit status %d, %q; want %d, %q", code, msg, tt.code, tt.msg)
			}
			for _, part := range tt.has {
				if !strings.Contains(out, part) {
					t.Errorf("%q is missing in\n%s", part, out)
				}
			}
			for _, part := range tt.not {
				if strings.Contains(out, part) {
					t.Errorf("%q is in\n%s", part, out)
				}
			}
		})
	}
	for want, args := range map[int][]string{
		exitFindings: {"--scanners", "secret", "--fail-on", isSecret},
		exitOK:       {"--scanners", "misconfig", "--fail-on", `misconfiguration == "ssh-port"`},
	} {
		if code, out, msg := belay(t, append([]string{"scan", config, "--scanner", f.scanner}, args...)...); code != want {
			t.Errorf("a configuration, %q: exit status %d, want %d: %s%s", args, code, want, out, msg)
		}
	}

	// A report tells who reads it later.
	_, out, _ := belay(t, "scan", config, "--db", f.db, "--scanner", f.scanner, "--scanners", "vuln", "-o", "json")
	var rep report.Scan
	if err := json.Unmarshal([]byte(out), &rep); err != nil || !slices.Equal(rep.Inventory.Skipped, inventory.Scanners()) {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "report.json")
	write(t, file, out)
	if code, _, msg := belay(t, "diff", file, file, "--fail-on", isSecret); code != exitIncomplete || !strings.Contains(msg, "not looked for (secret)") {
		t.Errorf("diff of what was not looked for: exit status %d, %s", code, msg)
	}
	if code, out, _ := belay(t, "diff", file, config, "--db", f.db, "--scanner", f.scanner); code != exitOK || !strings.Contains(out, "more was looked for") {
		t.Errorf("diff of what was looked for in one alone: exit status %d, %s", code, out)
	}
}

// TestScannersCompletion: the shell is offered each word once.
func TestScannersCompletion(t *testing.T) {
	for begun, want := range map[string]string{"": "vuln secret misconfig none", "secret,": "secret,vuln secret,misconfig"} {
		_, out, _ := belay(t, "__complete", "scan", "--scanners", begun)
		got, _, _ := strings.Cut(out, "\n:")
		if got = strings.Join(strings.Fields(got), " "); got != want {
			t.Errorf("behind %q: %q, want %q", begun, got, want)
		}
	}
}

// TestLeftOut: what was not looked for is told apart, whatever flag it was left out by.
func TestLeftOut(t *testing.T) {
	for _, tt := range []struct {
		f    scanFlags
		want string
	}{
		{scanFlags{}, ""},
		{scanFlags{packagesOnly: true}, "vuln"},
		{scanFlags{scanners: scannerSet{scannerVuln}}, strings.Join(inventory.Scanners(), ",")},
		{scanFlags{scanners: scannerSet{}}, strings.Join(scannerWords(), ",")},
	} {
		if err := tt.f.scanners.apply(&tt.f); err != nil {
			t.Fatal(err)
		}
		if got := tt.f.left(); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.f.scanners, got, tt.want)
		}
	}
}
