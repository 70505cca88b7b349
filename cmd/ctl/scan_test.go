package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scanFixture is a root file system with one package of Debian, a record about it,
// and the programs.
type scanFixture struct{ root, db, scanner string }

func newScanFixture(t *testing.T) scanFixture {
	t.Helper()
	dir := t.TempDir()
	f := scanFixture{root: filepath.Join(dir, "root"), db: filepath.Join(dir, "vuln.db"), scanner: filepath.Join(dir, "belay-scanner")}
	files := map[string]string{
		"root/etc/os-release":      "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian \x1b[2J12\"\n",
		"root/var/lib/dpkg/status": "Package: bsdutils\nStatus: install ok installed\nVersion: 1:2.38.1-5\nSource: util-linux (2.38.1-5)\n\n",
		"osv/Debian/DEBIAN-CVE-2024-28085.json": `{"id":"DEBIAN-CVE-2024-28085","upstream":["CVE-2024-28085"],"summary":"wall",
			"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],"affected":[{"package":
			{"ecosystem":"Debian:12","name":"util-linux"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2.38.1-5+deb12u1"}]}]}]}`,
		"kev.json": `{"vulnerabilities":[{"cveID":"CVE-2024-28085"}]}`,
	}
	for name, body := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-o", f.scanner, "github.com/belay-project/belay/cmd/scanner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the scanner: %v\n%s", err, out)
	}
	if code, _, msg := belay(t, "db", "build", filepath.Join(dir, "osv"), "--kev", filepath.Join(dir, "kev.json"), "--db", f.db); code != exitOK {
		t.Fatalf("db build: %d, %s", code, msg)
	}
	return f
}

// belay runs a command line.
func belay(t *testing.T, args ...string) (code int, out, msg string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), &terminal{out: &stdout, err: &stderr, now: time.Now, layers: filepath.Join(t.TempDir(), "layers")}, args)
	return code, stdout.String(), stderr.String()
}

func TestScan(t *testing.T) {
	f := newScanFixture(t)
	scan := func(args ...string) (int, string, string) {
		return belay(t, append([]string{"scan", f.root, "--db", f.db, "--scanner", f.scanner}, args...)...)
	}
	tests := []struct {
		name string
		args []string
		code int
		out  []string // parts of what is printed
		msg  string
	}{
		{"text", nil, exitOK, []string{"critical  CVE-2024-28085 exploited", "bsdutils (util-linux)", "2.38.1-5+deb12u1", `Debian \x1b[2J12`}, ""},
		{"packages only", []string{"--packages-only"}, exitOK, []string{"bsdutils", "1:2.38.1-5"}, ""},
		{"fails", []string{"--fail-on", "high"}, exitFindings, []string{"CVE-2024-28085"}, "1 finding with severity >= high"},
		{"fails, expression", []string{"--fail-on", "exploited && fixable && name == 'bsdutils'"}, exitFindings, nil, "1 finding with exploited"},
		{"passes, expression", []string{"--fail-on", "severity >= high && !fixable"}, exitOK, nil, ""},
		{"bad expression", []string{"--fail-on", "severity >= 'high'"}, exitUsage, nil, "column"},
		{"unknown word", []string{"--fail-on", "cvss > 7"}, exitUsage, nil, "undeclared"},
		{"fails, fixable", []string{"--fail-on", "critical", "--fixable"}, exitFindings, nil, ""},
		{"bad severity", []string{"--fail-on", "awful"}, exitUsage, nil, "want a severity (negligible, low"},
		{"bad format", []string{"-o", "pdf"}, exitUsage, nil, "want text, json"},
		{"unknown piece", []string{"--sandbox-without", "walls"}, exitFailed, nil, "no sandbox piece"},
		{"no database", []string{"--db", "/nowhere/vuln.db"}, exitFailed, nil, "fix: belay db update --db /nowhere/vuln.db (without a network: belay db import), or list packages alone with --packages-only"},
		{"no scanner", []string{"--scanner", "/nowhere/belay-scanner"}, exitFailed, nil, "--scanner"},
		{"little memory", []string{"--memory", "1"}, exitUsage, nil, "at least 32 MiB"},
		{"cyclonedx", []string{"-o", "cyclonedx"}, exitOK, []string{"pkg:deb/debian/bsdutils@1:2.38.1-5?distro=debian-12", `"specVersion": "1.6"`, "CVE-2024-28085"}, ""},
		{"sarif", []string{"-o", "sarif"}, exitOK, []string{`"version": "2.1.0"`, `"security-severity": "9.8"`, `"level": "error"`}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, out, msg := scan(tt.args...)
			if code != tt.code || !strings.Contains(msg, tt.msg) {
				t.Errorf("exit status %d, %q; want %d, %q", code, msg, tt.code, tt.msg)
			}
			for _, part := range tt.out {
				if !strings.Contains(out, part) {
					t.Errorf("%q is missing in\n%s", part, out)
				}
			}
			if strings.Contains(out, "\x1b") {
				t.Error("an escape sequence of the image reached the terminal")
			}
		})
	}
}

// TestScanIncomplete: what could not be read does not pass a gate.
func TestScanIncomplete(t *testing.T) {
	f := newScanFixture(t)
	for name, body := range map[string]string{
		"var/lib/rpm/rpmdb.sqlite": "x",
		"var/lib/dpkg/status":      "Package: fine\nStatus: install ok installed\nVersion: 1\n\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(f.root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.root, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"scan", f.root, "--db", f.db, "--scanner", f.scanner}
	if code, out, _ := belay(t, args...); code != exitOK || !strings.Contains(out, "! the RPM database is broken") {
		t.Errorf("exit status %d: %s", code, out)
	}
	if code, _, _ := belay(t, append(args, "--fail-on", "low")...); code != exitIncomplete {
		t.Errorf("exit status %d, want %d", code, exitIncomplete)
	}
	if code, _, _ := belay(t, append(args, "--fail-on", "low", "--allow-incomplete")...); code != exitOK {
		t.Errorf("exit status %d with --allow-incomplete", code)
	}
	_, out, _ := belay(t, append(args, "-o", "json")...)
	var s struct {
		Schema   string
		Complete bool
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.Schema != "belay.dev/scan/v1" || s.Complete {
		t.Errorf("%v: %+v", err, s)
	}
}

// TestDBCommands: a database goes to another host and back, and what is broken does not.
func TestDBCommands(t *testing.T) {
	f := newScanFixture(t)
	dir := t.TempDir()
	out, in := filepath.Join(dir, "out.db"), filepath.Join(dir, "in.db")
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"db", "verify", "--db", f.db}, exitOK, "all of 1 records"},
		{[]string{"db", "export", out, "--db", f.db}, exitOK, "1 records about 1 packages"},
		{[]string{"db", "import", out, "--db", in}, exitOK, "1 records about 1 packages"},
		{[]string{"db", "import", out, "--db", in, "--kev", "x"}, exitFailed, "needs a directory"},
		{[]string{"db", "import", f.scanner, "--db", in}, exitFailed, "broken"},
		{[]string{"db", "status", "--db", in}, exitOK, "kev.json"},
		{[]string{"db", "export", out, "--db", "/nowhere/vuln.db"}, exitFailed, "there is no vulnerability database at /nowhere/vuln.db; fix: belay db update"},
		{[]string{"db", "import"}, exitUsage, "want a directory with OSV records, or a database, got none\n"},
		{[]string{"scan", dir, "--platform", "linux/arm64", "--packages-only"}, exitFailed, "is a root file system, and --platform linux/arm64 chooses"},
	} {
		code, text, msg := belay(t, tt.args...)
		if code != tt.code || !strings.Contains(text+msg, tt.want) {
			t.Errorf("%v: exit status %d, %s%s, want %d, %q", tt.args, code, text, msg, tt.code, tt.want)
		}
	}
}

// TestDBLeftOut: what could not be read when a database was built is told as long as there is that database.
func TestDBLeftOut(t *testing.T) {
	dir := t.TempDir()
	db, copied := filepath.Join(dir, "vuln.db"), filepath.Join(dir, "copied.db")
	osv := filepath.Join(dir, "osv")
	if err := os.MkdirAll(osv, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(osv, "N-1.json"), `{"id":"N-1","affected":[{"package":{"ecosystem":"npm","name":"a"},"versions":["1.0.0"]}]}`)
	write(t, filepath.Join(osv, "N-2.json"), `{"id":"N-2","affected":"oops"}`)
	for _, args := range [][]string{
		{"db", "import", osv, "--db", db}, {"db", "status", "--db", db}, {"db", "verify", "--db", db}, {"db", "export", copied, "--db", db}, {"db", "status", "--db", copied},
	} {
		code, out, msg := belay(t, args...)
		if code != exitOK || !strings.Contains(out, "left out: 1 record that cannot be read") {
			t.Errorf("%v: exit status %d, %s%s", args, code, out, msg)
		}
	}
	if _, out, _ := belay(t, "db", "verify", "--db", db, "-o", "json"); !strings.Contains(out, `"badRecords": 1`) {
		t.Errorf("got %s", out)
	}
}

// TestDBOddEntries: entries of Debian's tracker that are not of its form are told, and are no records that are missing.
func TestDBOddEntries(t *testing.T) {
	dir := t.TempDir()
	db, osv, tracker := filepath.Join(dir, "vuln.db"), filepath.Join(dir, "osv"), filepath.Join(dir, "tracker.json")
	if err := os.MkdirAll(osv, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(osv, "D-1.json"), `{"id":"DEBIAN-CVE-2024-1","affected":[{"package":{"ecosystem":"Debian:12","name":"a"},"versions":["1"]}]}`)
	write(t, tracker, `{"a":{"CVE-2024-1":{"releases":{"bookworm":{"status":"undetermined"}}},"CVE-2024-2":5}}`)
	code, out, msg := belay(t, "db", "import", osv, "--debian-tracker", tracker, "--db", db)
	if code != exitOK || !strings.Contains(out, "! 1 entry of Debian's tracker has another form; its state is not known\n") || strings.Contains(out, "left out") {
		t.Errorf("exit status %d, %s%s", code, out, msg)
	}
	if _, out, _ := belay(t, "db", "status", "--db", db); strings.Contains(out, "left out") {
		t.Errorf("the database lacks a record: %s", out)
	}
}

// asOf is the time of which a database's data are.
func asOf(t *testing.T, db string) time.Time {
	t.Helper()
	_, out, msg := belay(t, "db", "status", "--db", db, "-o", "json")
	var st struct{ AsOf time.Time }
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("%v: %s%s", err, out, msg)
	}
	return st.AsOf
}

// TestDBAsOf: old records that are compiled today are old, beside newer ones too, and what has not changed
// since it was last asked for is not.
func TestDBAsOf(t *testing.T) {
	dir := t.TempDir()
	old, db, cache := filepath.Join(dir, "old"), filepath.Join(dir, "vuln.db"), filepath.Join(dir, "cache")
	for eco, day := range map[string]string{"npm": "2024-05-06", "PyPI": "2023-05-06"} {
		if err := os.MkdirAll(filepath.Join(old, eco), 0o755); err != nil {
			t.Fatal(err)
		}
		record := `{"id":"` + eco + `-1","modified":"` + day + `T07:08:09.123Z","affected":[{"package":{"ecosystem":"` + eco + `","name":"a"},"versions":["1.0.0"]}]}`
		var archive bytes.Buffer
		z := zip.NewWriter(&archive)
		w, err := z.Create(eco + "-1.json")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, record)
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(old, eco, "all.zip"), archive.String())
		write(t, filepath.Join(old, eco, "modified_id.csv"), day+"T07:08:09Z,"+eco+"-1\n")
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		http.FileServer(http.Dir(old)).ServeHTTP(w, r)
	}))
	defer server.Close()
	day := time.Now().UTC().Truncate(time.Second).Add(time.Minute) // after all that the copy is made of
	of2023 := time.Date(2023, 5, 6, 7, 8, 9, 0, time.UTC)
	update := func(ecosystems string) []string {
		return []string{"db", "update", "--from", server.URL, "--db", db, "--cache", cache, "--ecosystems", ecosystems}
	}
	for _, tt := range []struct {
		name      string
		now, asOf time.Time
		args      []string
		out, msg  string
	}{
		{"imported", day, of2023, []string{"db", "import", old, "--db", db}, "it is as old as its records of PyPI", ""},
		{"of a folder", day, of2023, []string{"db", "update", "--from", old, "--cache", filepath.Join(dir, "c"), "--db", db}, "2 records", ""},
		{"asked for", day, day, update("npm,PyPI"), "2 records", ""},
		{"asked for again", day.Add(time.Hour), day.Add(time.Hour), update("npm,PyPI"), "nothing changed", ""},
		{"one is not asked for", day.Add(2 * time.Hour), day.Add(time.Hour), update("npm"), "nothing changed", "PyPI"},
		{"both are again", day.Add(3 * time.Hour), day.Add(3 * time.Hour), update("npm,PyPI"), "nothing changed", ""},
		{"imported in its place", day.Add(4 * time.Hour), of2023, []string{"db", "import", old, "--db", db}, "2 records", ""},
		{"which no check makes new", day.Add(5 * time.Hour), day.Add(5 * time.Hour), update("npm,PyPI"), "2 records", ""},
		{"one is not asked for, and nobody noted when it was", day.Add(6 * time.Hour), of2023, update("npm"), "2 records", "PyPI"},
		{"again", day.Add(7 * time.Hour), of2023, update("npm"), "nothing changed", "PyPI"},
		{"both are once more", day.Add(8 * time.Hour), day.Add(8 * time.Hour), update("npm,PyPI"), "nothing changed", ""},
		{"verified", day.Add(8 * time.Hour), day.Add(8 * time.Hour), []string{"db", "verify", "--db", db}, "in order", ""},
	} {
		if strings.Contains(tt.name, "nobody noted") {
			if err := os.Remove(filepath.Join(cache, "checked.json")); err != nil {
				t.Fatal(err)
			}
		}
		var out, msg bytes.Buffer
		code := run(t.Context(), &terminal{out: &out, err: &msg, now: func() time.Time { return tt.now }}, tt.args)
		if code != exitOK || !strings.Contains(out.String(), tt.out) || !strings.Contains(msg.String(), tt.msg) {
			t.Errorf("%s: exit status %d, %s%s, want %q, %q", tt.name, code, out.String(), msg.String(), tt.out, tt.msg)
		}
		if got := asOf(t, db); !got.Equal(tt.asOf) {
			t.Errorf("%s: its data are of %s, want %s", tt.name, got, tt.asOf)
		}
	}
}

// TestDBUpdate: from a server in the bucket's layout; nothing is done twice, and a
// server that is gone leaves the database.
func TestDBUpdate(t *testing.T) {
	dir := t.TempDir()
	src, db := filepath.Join(dir, "src"), filepath.Join(dir, "vuln.db")
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	w, err := z.Create("N-1.json")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, `{"id":"N-1","aliases":["CVE-2024-1"],"affected":[{"package":{"ecosystem":"npm","name":"a"},"versions":["1.0.0"]}]}`)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"npm/all.zip": archive.String(), "npm/modified_id.csv": "2024-01-01T00:00:00Z,N-1\n", "kev.json": `{"vulnerabilities":[{"cveID":"CVE-2024-1"}]}`,
	} {
		p := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files := http.FileServer(http.Dir(src))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	args := []string{"db", "update", "--from", server.URL, "--db", db, "--cache", filepath.Join(dir, "cache"), "--ecosystems", "npm"}
	kev := []string{"--kev-url", server.URL + "/kev.json"}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"first", append(args, kev...), exitOK, "1 records about 1 packages"},
		{"again", append(args, kev...), exitOK, "nothing changed"},
		{"not the catalogue", append(args, "--kev-url", server.URL+"/npm/all.zip", "--cache", filepath.Join(dir, "other")), exitFailed, "the former database stays"},
		{"plain http", append(args, "--from", "http://192.0.2.1/"), exitFailed, "want https"},
		{"no directory", append(args, "--from", "/nowhere"), exitFailed, "--from /nowhere: there is no such directory; fix: "},
		{"directory, and an address", append(args, "--from", src, "--kev-url", "x"), exitUsage, "belay db import " + src + " with --kev"},
		{"directory", []string{"db", "update", "--from", filepath.Join(src, "npm"), "--db", filepath.Join(dir, "2.db"), "--cache", filepath.Join(dir, "2")}, exitOK, "1 records"},
		{"status", []string{"db", "status", "--db", db}, exitOK, "known_exploited_vulnerabilities.json"},
	} {
		code, text, msg := belay(t, tt.args...)
		if code != tt.code || !strings.Contains(text+msg, tt.want) {
			t.Errorf("%s: exit status %d, %s%s, want %d, %q", tt.name, code, text, msg, tt.code, tt.want)
		}
	}
}

// TestScanAccepts: what is accepted or known does not fail a scan, and is shown.
func TestScanAccepts(t *testing.T) {
	f := newScanFixture(t)
	dir := t.TempDir()
	ignore := func(text string) string {
		p := filepath.Join(dir, "ignore.yaml")
		if err := os.WriteFile(p, []byte("ignore:\n- id: CVE-2024-28085\n  reason: nobody calls wall\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	args := []string{"scan", f.root, "--db", f.db, "--scanner", f.scanner, "--fail-on", "low"}
	_, old, _ := belay(t, append(args, "-o", "json")...)
	baseline := filepath.Join(dir, "old.json")
	if err := os.WriteFile(baseline, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text string
		flag, out  string
		code       int
		msg        string
	}{
		{"ignored", "", "", "ignored: nobody calls wall", exitOK, ""},
		{"by name", "  package: bsd*\n", "", "ignored: nobody calls wall", exitOK, ""},
		{"by package URL", "  package: pkg:deb/debian/bsdutils@*\n  expires: 2999-01-01\n", "", "ignored: nobody calls wall", exitOK, ""},
		{"another package", "  package: openssl\n", "", "CVE-2024-28085", exitFindings, "matches no finding"},
		{"expired", "  expires: 2020-01-01\n", "", "CVE-2024-28085", exitFindings, "no longer ignored since 2020-01-02"},
		{"a field that there is not", "  until: 2020-01-01\n", "", "", exitFailed, "ignore.yaml:4: there is no field"},
		{"known", "  package: openssl\n", baseline, "CVE-2024-28085 exploited known", exitOK, ""},
	} {
		a := append([]string{}, append(args, "--ignore", ignore(tt.text))...)
		if tt.flag != "" {
			a = append(a, "--baseline", tt.flag)
		}
		code, out, msg := belay(t, a...)
		if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(msg, tt.msg) {
			t.Errorf("%s: exit status %d, %s%s, want %d, %q, %q", tt.name, code, out, msg, tt.code, tt.out, tt.msg)
		}
	}
	// The same for what is in a file.
	if err := os.MkdirAll(filepath.Join(f.root, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(f.root, "app/.npmrc"), "//registry.example/:_authToken=Zx81kQw7Lm3nRt5v\n")
	args = []string{"scan", f.root, "--db", f.db, "--scanner", f.scanner, "--allow-incomplete", "--fail-on", "misconfiguration == 'secret-in-file'"}
	before := filepath.Join(dir, "secrets.json")
	_, old, _ = belay(t, append(args, "-o", "json")...)
	write(t, before, old)
	rules := filepath.Join(dir, "secrets.yaml")
	for _, tt := range []struct {
		name, rule, baseline string
		code                 int
		out, msg             string
	}{
		{"a secret", "", "", exitFindings, "secret-in-file", "1 finding with"},
		{"an ignored secret", "path: app/*", "", exitOK, "secret-in-file ignored: of a test", ""},
		{"another's", "path: srv/*", "", exitFindings, "secret-in-file", "matches no finding"},
		{"no more ignored", "path: app/*\n  expires: 2020-01-01", "", exitFindings, "secret-in-file", "no longer ignored"},
		{"anywhere", "package: x", "", exitFailed, "", "secrets.yaml:2: secret-in-file needs a path"},
		{"a known secret", "", before, exitOK, "secret-in-file known", ""},
		{"secrets that a scan without them knows", "", baseline, exitFindings, "secret-in-file", ""},
	} {
		a := append([]string{}, args...)
		if tt.rule != "" {
			write(t, rules, "ignore:\n- id: secret-in-file\n  reason: of a test\n  "+tt.rule+"\n")
			a = append(a, "--ignore", rules)
		}
		if tt.baseline != "" {
			a = append(a, "--baseline", tt.baseline)
		}
		code, out, msg := belay(t, a...)
		if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(msg, tt.msg) {
			t.Errorf("%s: exit status %d, %s%s, want %d, %q, %q", tt.name, code, out, msg, tt.code, tt.out, tt.msg)
		}
	}
	write(t, rules, "ignore:\n- id: secret-in-file\n  path: app/*\n  reason: of a test\n")
	for form, want := range map[string]string{"sarif": `"justification": "of a test"`, "junit": `message="ignored: of a test"`, "gitlab": "have no place in this report"} {
		if _, out, msg := belay(t, append(args, "-o", form, "--ignore", rules)...); !strings.Contains(out, want) {
			t.Errorf("%s: want %q in %s%s", form, want, out, msg)
		}
	}
	args = []string{"scan", f.root, "--db", f.db, "--scanner", f.scanner}
	if _, out, _ := belay(t, append(args, "-o", "sarif", "--ignore", ignore(""))...); !strings.Contains(out, "suppressions") {
		t.Error("SARIF does not say what is ignored")
	}
}

// TestYours: who may not write what a flag names is told so; other errors stay as they are.
func TestYours(t *testing.T) {
	denied := func(path string) error { return &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrPermission} }
	for _, tt := range []struct {
		err  error
		told bool
	}{
		{denied("/var/lib/belay"), true},
		{denied("/var/lib/belay/feeds/parts"), true},
		{denied("/var/lib"), true}, // a directory above it
		{denied("/srv/osv"), false},
		{&fs.PathError{Op: "open", Path: "/var/lib/belay/vuln.db", Err: fs.ErrNotExist}, false},
	} {
		if err := yours(tt.err, "db", "/var/lib/belay"); strings.Contains(err.Error(), "; fix: run it as root, or name one of yours with --db") != tt.told {
			t.Errorf("%v: got %v", tt.err, err)
		}
	}
}
