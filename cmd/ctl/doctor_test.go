package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/belay-project/belay/internal/doctor"
	"github.com/belay-project/belay/internal/testneed"
)

// inPlace runs a command in namespaces where /run is a directory of the test's and /proc has no process of the host's.
const inPlace = `mount --make-rprivate / && mount --bind "$1" /run && mount -t proc proc /proc || exit 99
shift
exec "$@"`

// lsmHere is the finding on this kernel's security modules.
func lsmHere() doctor.Finding {
	f := doctor.Finding{ID: "kernel.lsm", Severity: doctor.Warn, Text: "bpf is not among the security modules"}
	list, err := os.ReadFile("/sys/kernel/security/lsm")
	switch {
	case err != nil:
		f.Text = "the list of security modules cannot be read"
	case slices.Contains(strings.Split(strings.TrimSpace(string(list)), ","), "bpf"):
		f.Severity, f.Text = doctor.OK, "bpf is among the security modules"
	}
	return f
}

// TestDoctorHere: the command as it is, on this kernel, of a host without Docker and of one with wrong modes.
func TestDoctorHere(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "mount namespaces are root's")
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, run, scanner string)
		want    []doctor.Finding
	}{
		{"no Docker, nothing installed", func(*testing.T, string, string) {}, []doctor.Finding{
			lsmHere(),
			{ID: "agent.running", Severity: doctor.Fail, Text: "no agent runs"},
			{ID: "engine.socket", Severity: doctor.Info, Text: "no container engine listens"},
			{ID: "gate.docker", Severity: doctor.Info, Text: "Docker does not run"},
			{ID: "disk.state", Severity: doctor.Info, Text: "not there yet"},
			{ID: "scan.scanner", Severity: doctor.Warn, Text: "there is no scanner"},
		}},
		{"wrong modes", func(t *testing.T, run, scanner string) {
			l, err := net.Listen("unix", filepath.Join(run, "docker.sock"))
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			// Nobody listens: who connects is refused at once.
			if err := errors.Join(l.Close(), os.Chmod(filepath.Join(run, "docker.sock"), 0o666), os.WriteFile(scanner, nil, 0o700), os.Chmod(scanner, 0o777)); err != nil {
				t.Fatal(err)
			}
		}, []doctor.Finding{
			{ID: "engine.socket", Severity: doctor.Warn, Text: "/run/docker.sock has mode 0666"},
			{ID: "daemon.socket", Severity: doctor.Fail, Text: "docker.sock"},
			{ID: "scan.scanner", Severity: doctor.Fail, Text: "others than its owner can change the scanner"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			run, scanner := filepath.Join(dir, "run"), filepath.Join(dir, "belay-scanner")
			if err := os.Mkdir(run, 0o755); err != nil {
				t.Fatal(err)
			}
			tt.prepare(t, run, scanner)
			belay, err := exec.LookPath("belay")
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", inPlace, "sh", run,
				belay, "doctor", "-o", "json", "--state-dir", filepath.Join(dir, "state"), "--scanner", scanner)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
			var out, said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &said
			err = cmd.Run()
			// It was not started (no right to), or could not mount.
			testneed.Need(t, "mount-namespace", cmd.ProcessState != nil && cmd.ProcessState.ExitCode() != 99, fmt.Sprint(err, said.String()))
			if code := cmd.ProcessState.ExitCode(); code != exitFailures {
				t.Fatalf("status %d, want %d: %s", code, exitFailures, said.String())
			}
			var r doctor.Report
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatalf("%v: %s", err, out.String())
			}
			for _, want := range tt.want {
				found := false
				for _, f := range r.Findings {
					found = found || f.ID == want.ID && f.Severity == want.Severity && strings.Contains(f.Text, want.Text)
				}
				if !found {
					t.Errorf("no %s %s with %q in:\n%s", want.ID, want.Severity, want.Text, out.String())
				}
			}
		})
	}
}
