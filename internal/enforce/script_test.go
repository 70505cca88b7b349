package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestScriptPath(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	file := filepath.Join(dir, "script")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, tt := range []struct {
		name, in, want string
	}{
		{"a path", "/tmp/script", "/tmp/script"},
		{"relative", "script", "script"},
		{"a descriptor", fmt.Sprintf("/dev/fd/%d", f.Fd()), file},
		{"below a descriptor", fmt.Sprintf("/dev/fd/%d/script", d.Fd()), file},
		{"no number", "/dev/fd/../../tmp/script", "/dev/fd/../../tmp/script"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ScriptPath(uint32(os.Getpid()), tt.in)
			if err != nil || got != tt.want {
				t.Errorf("ScriptPath(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
			}
		})
	}
	if got, err := ScriptPath(uint32(os.Getpid()), "/dev/fd/99999"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such descriptor: %q, %v", got, err)
	}
}
