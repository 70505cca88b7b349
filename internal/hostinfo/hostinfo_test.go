package hostinfo

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const boot = "0b1c9a4e-52b6-4c1f-9a55-6f0e2a1d7c33"

// fakeProc returns a procfs root that holds files (path below it to content).
func fakeProc(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestInfo(t *testing.T) {
	files := func(boot, host, release string) map[string]string {
		return map[string]string{
			"sys/kernel/random/boot_id": boot,
			"sys/kernel/hostname":       host,
			"sys/kernel/osrelease":      release,
		}
	}
	tests := []struct {
		name  string
		files map[string]string
		want  Info
		err   error
	}{
		{
			name: "ordinary", files: files(boot+"\n", "web-1\n", "6.12.57+deb13-amd64\n"),
			want: Info{BootID: boot, Hostname: "web-1", KernelRelease: "6.12.57+deb13-amd64"},
		},
		{
			name: "no newline", files: files(boot, "web-1", "6.1.0"),
			want: Info{BootID: boot, Hostname: "web-1", KernelRelease: "6.1.0"},
		},
		{name: "boot ID in upper case", files: files(strings.ToUpper(boot), "h", "6"), err: ErrFormat},
		{name: "boot ID with a dash moved", files: files("0b1c9a4e5-2b6-4c1f-9a55-6f0e2a1d7c33", "h", "6"), err: ErrFormat},
		{name: "boot ID too short", files: files("0b1c", "h", "6"), err: ErrFormat},
		{name: "empty hostname", files: files(boot, "\n", "6"), err: ErrFormat},
		{name: "two lines", files: files(boot, "h", "6\n7\n"), err: ErrFormat},
		{name: "endless", files: files(boot, "h", strings.Repeat("6", maxFile+1)), err: ErrFormat},
		{name: "missing", files: files(boot, "h", "6")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := fakeProc(t, tt.files)
			if tt.name == "missing" {
				root, tt.err = filepath.Join(root, "no"), fs.ErrNotExist
			}
			got, err := Host{Proc: root}.Info()
			if !errors.Is(err, tt.err) {
				t.Fatalf("got error %v, want %v", err, tt.err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("info (-want +got):\n%s", d)
			}
		})
	}
}

func TestThisHost(t *testing.T) {
	got, err := Host{}.Info()
	if err != nil {
		t.Fatal(err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got.Hostname != name {
		t.Errorf("got hostname %q, want %q", got.Hostname, name)
	}
	again, err := Host{}.BootID()
	if err != nil || again != got.BootID {
		t.Errorf("got boot ID %q, %v, want %q again", again, err, got.BootID)
	}
}
