package layercache

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzFile: a file of the cache is used only if it is what was written for that digest by that version.
func FuzzFile(f *testing.F) {
	dir := f.TempDir()
	c, err := Open(dir, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	digest := digestN(1)
	written := func(b []byte) []byte {
		c.Put("v1", digest, b)
		out, err := os.ReadFile(c.path(digest))
		if err != nil {
			return nil // what is empty or too large is not kept
		}
		return out
	}
	f.Add([]byte("holds\nmore"))
	f.Add(written([]byte("holds")))
	f.Add([]byte(magic + "v1 " + digest + " " + sum(nil) + "\n"))
	f.Add([]byte(magic + "v1 " + digestN(2) + " " + sum([]byte("x")) + "\nx"))
	f.Add([]byte(magic + "v1 " + digest + " " + sum([]byte("y")) + "\nx"))
	f.Fuzz(func(t *testing.T, b []byte) {
		os.Remove(c.path(digest))
		if whole := written(b); whole != nil {
			if got, ok := c.Get("v1", digest); !ok || !bytes.Equal(got, b) {
				t.Errorf("what was put is not there: %v, %q", ok, got)
			}
		}
		if err := os.WriteFile(c.path(digest), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "stray"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, ok := c.Get("v1", digest)
		if ok && !bytes.Equal(b, append([]byte(magic+"v1 "+digest+" "+sum(got)+"\n"), got...)) {
			t.Errorf("%q is used as %q", b, got)
		}
		if _, err := c.Status(); err != nil {
			t.Error(err)
		}
	})
}
