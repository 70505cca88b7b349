package spawn

import (
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoInheritance: a descriptor that leaked into this process does not reach the child.
func TestNoInheritance(t *testing.T) {
	leak, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0) // without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	input, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	var out []byte
	_, err = Run(t.Context(), Options{
		Path: "/bin/sh", Args: []string{"-c", "/bin/ls -l /proc/self/fd"},
		Files: []*os.File{input}, MemoryMax: 64 << 20,
		Input: func(bool) ([]byte, error) { return nil, nil },
		Output: func(r io.Reader) error {
			out, err = io.ReadAll(io.LimitReader(r, 1<<16))
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "/etc/passwd") || !strings.Contains(string(out), input.Name()) {
		t.Errorf("the child has %s", out)
	}
}
