package gate

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
)

// systemd takes the units and the drop-ins that ship, beside a daemon's as distributions
// have it. It is asked about them and starts nothing.
func TestUnits(t *testing.T) {
	bin, err := exec.LookPath("systemd-analyze")
	testneed.Need(t, "systemd-analyze", err == nil, "it reads units: apt-get install systemd")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"docker.service": "[Unit]\nRequires=docker.socket\nAfter=docker.socket\n[Service]\nType=notify\nExecStart=/bin/true -H fd://\n",
		"docker.socket":  "[Socket]\nListenStream=/run/docker.sock\nSocketMode=0660\nSocketUser=root\nSocketGroup=root\n[Install]\nWantedBy=sockets.target\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"systemd/belay-agent.service", "docker/docker.socket.d/belay.conf", "docker/belay-agent.service.d/gate.conf"} {
		b, err := os.ReadFile(filepath.Join("../../deploy", f))
		if err != nil {
			t.Fatal(err)
		}
		_, below, _ := strings.Cut(f, "/")
		to := filepath.Join(dir, below)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		// The programs are not installed where the tests run.
		text := strings.NewReplacer("/usr/sbin/belay-agent", "/bin/true", "/usr/bin/belay", "/bin/true").Replace(string(b))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	verify := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), bin, "verify", "--man=no", filepath.Join(dir, "docker.service"), filepath.Join(dir, "docker.socket"), filepath.Join(dir, "belay-agent.service"))
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := verify(); err != nil || strings.Contains(out, dir) {
		t.Errorf("%v: %s", err, out)
	}
	// It does read the drop-ins.
	bad := filepath.Join(dir, "docker.socket.d", "belay.conf")
	if err := os.WriteFile(bad, []byte("[Socket]\nListenStreem=/x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := verify(); !strings.Contains(out, "ListenStreem") {
		t.Errorf("a wrong drop-in passes: %s", out)
	}
}
