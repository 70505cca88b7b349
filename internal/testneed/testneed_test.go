package testneed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// recorder is a testing.TB that notes how a test ended. Fatalf and Skipf end the
// goroutine, as those of testing.T do.
type recorder struct {
	testing.TB
	ended, msg, said string
}

func (r *recorder) Helper() {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.ended, r.msg, r.said = "failed", format, fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any) {
	r.ended, r.msg, r.said = "skipped", format, fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestNeed(t *testing.T) {
	tests := []struct {
		name    string
		require string
		have    bool
		want    string
	}{
		{name: "there", have: true, want: "ran"},
		{name: "there and promised", require: "docker", have: true, want: "ran"},
		{name: "missing", want: "skipped"},
		{name: "missing, another promised", require: "root,dockerd", want: "skipped"},
		{name: "missing though promised", require: "root, docker", want: "failed"},
		{name: "empty list promises nothing", require: "", want: "skipped"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(EnvRequire, tt.require)
			r := &recorder{TB: t, ended: "ran"}
			done := make(chan struct{})
			go func() {
				defer close(done)
				Need(r, "docker", tt.have, "no daemon")
			}()
			<-done
			if r.ended != tt.want {
				t.Errorf("got %s, want %s", r.ended, tt.want)
			}
			if r.ended != "ran" && !strings.Contains(r.msg, "%s") {
				t.Errorf("message %q does not say what and why", r.msg)
			}
		})
	}
}

// TestScanData: the folder lies beside the repository, from any folder in it, unless the
// environment names another; a skip tells where it looked.
func TestScanData(t *testing.T) {
	top := t.TempDir()
	deep := filepath.Join(top, "repo/internal/x")
	data := filepath.Join(top, "shared/data/feeds")
	for _, dir := range []string{deep, filepath.Join(data, "osv")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(top, "repo/go.mod"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvRequire, "")
	t.Setenv(EnvScanData, "")
	t.Chdir(deep)
	if got, want := ScanData(t, "osv"), filepath.Join(data, "osv"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	t.Setenv(EnvScanData, "/elsewhere")
	r := &recorder{TB: t, ended: "ran"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ScanData(r, "osv")
	}()
	<-done
	if r.ended != "skipped" || !strings.Contains(r.said, "/elsewhere/osv") {
		t.Errorf("%s with %q, want a skip that names the place", r.ended, r.said)
	}
}

// TestScanDataShell: scripts that demand the data look where tests do.
func TestScanDataShell(t *testing.T) {
	t.Chdir("../..")
	for _, dir := range []string{"", "/elsewhere"} {
		t.Setenv(EnvScanData, dir)
		got, err := exec.Command("bash", "-euc", `. tools/ci/scandata.sh; printf %s "$scan_data"`).CombinedOutput()
		if want := ScanDataDir(); err != nil || string(got) != want {
			t.Errorf("%s=%q: %v, %s, want %s", EnvScanData, dir, err, got, want)
		}
	}
}
