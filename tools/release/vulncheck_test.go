package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeGo builds a govulncheck that says what it is asked by, and a database of test data; the programs that it builds
// are empty.
const fakeGo = `#!/bin/sh
case "$*" in
*golang.org/x/vuln*)
	cat >"$5" <<'EOF'
#!/bin/sh
case "$*" in
*file://*) db=local updated='DB updated: 2026-01-01' ;;
*) db=https://vuln.go.dev updated=$ONLINE ;;
esac
case "$*" in
*-version*) printf 'Go: x\nDB: %s\n%s\n' $db "$updated" ;;
*) echo "checked by $db" ;;
esac
EOF
	chmod +x "$5" ;;
esac
`

// TestVulncheck: the database that lies beside a checkout is as old as it is: it is taken where vuln.go.dev does not
// answer, or by somebody's word, and which it was is said.
func TestVulncheck(t *testing.T) {
	const online = "DB updated: 2026-02-02"
	for _, tt := range []struct {
		name, beside, env, online string
		want, said                string // by what it is checked, if it is; what is said
	}{
		{"beside it, and online", "data", "", online, "https://vuln.go.dev", online},
		{"beside it, and offline", "data", "", "", "local", "/shared/data/feeds/osv/Go"},
		{"named, and online", "", "data", online, "local", "DB updated: 2026-01-01"},
		{"nothing, and offline", "", "", "", "", "there is no "},
		{"a name of nothing", "data", "nothing", online, "", "there is no "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			top := t.TempDir()
			put := func(name, text string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(filepath.Join(top, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(top, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{"release/vulncheck.sh", "release/toolchain", "ci/scandata.sh"} {
				raw, err := os.ReadFile(filepath.Join("..", name))
				if err != nil {
					t.Fatal(err)
				}
				put("tree/tools/"+name, string(raw))
			}
			put("go", fakeGo)
			put("named/data/osv/Go/x", "")
			if tt.beside != "" {
				put("shared/data/feeds/osv/Go/x", "")
			}
			cmd := exec.Command(filepath.Join(top, "tree/tools/release/vulncheck.sh"))
			cmd.Env = append(os.Environ(), "GO="+filepath.Join(top, "go"), "ONLINE="+tt.online, "BELAY_SCAN_DATA=")
			if tt.env != "" {
				cmd.Env = append(cmd.Env, "BELAY_SCAN_DATA="+filepath.Join(top, "named", tt.env))
			}
			out, err := cmd.CombinedOutput()
			programs := 3
			if tt.want == "" {
				programs = 0
			}
			if (err == nil) != (programs > 0) || strings.Count(string(out), "checked by ") != programs || strings.Count(string(out), "checked by "+tt.want) != programs || !strings.Contains(string(out), tt.said) {
				t.Errorf("%v, want it checked by %q, and %q:\n%s", err, tt.want, tt.said, out)
			}
		})
	}
}
