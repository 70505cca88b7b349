package layercache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func digestN(n int) string { return fmt.Sprintf("sha256:%064x", n) }

func open(t *testing.T, maxBytes int64) *Cache {
	t.Helper()
	c, err := Open(filepath.Join(t.TempDir(), "layers"), maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGetPut(t *testing.T) {
	c := open(t, 0)
	if _, ok := c.Get("v1", digestN(1)); ok {
		t.Error("an empty cache has a layer")
	}
	c.Put("v1", digestN(1), []byte("holds\nmore"))
	if b, ok := c.Get("v1", digestN(1)); !ok || string(b) != "holds\nmore" {
		t.Errorf("got %q, %v", b, ok)
	}
	if _, ok := c.Get("v2", digestN(1)); ok {
		t.Error("what another version wrote is used")
	}
	if got, want := c.Counts(), (Counts{Hits: 1, Misses: 2, OtherVersion: 1, Stored: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	c.Put("v2", digestN(1), []byte("anew"))
	if b, ok := c.Get("v2", digestN(1)); !ok || string(b) != "anew" {
		t.Errorf("after the new version wrote: %q, %v", b, ok)
	}
	for _, d := range []string{"sha256:../../x", "", digestN(1)[:70]} {
		c.Put("v1", d, []byte("x"))
		if _, ok := c.Get("v1", d); ok {
			t.Errorf("%q is taken for a digest", d)
		}
	}
	if c.Counts().Failed != 3 {
		t.Errorf("counts %+v", c.Counts())
	}
}

// TestDamaged: nothing but what was written is used.
func TestDamaged(t *testing.T) {
	for name, damage := range map[string]func(c *Cache, path string) error{
		"a bit": func(_ *Cache, p string) error {
			b, err := os.ReadFile(p)
			b[len(b)-1] ^= 1
			return errors.Join(err, os.WriteFile(p, b, 0o600))
		},
		"cut":   func(_ *Cache, p string) error { return os.Truncate(p, 90) },
		"empty": func(_ *Cache, p string) error { return os.Truncate(p, 0) },
		"of another layer": func(c *Cache, p string) error {
			c.Put("v1", digestN(2), []byte("other"))
			return os.Rename(c.path(digestN(2)), p)
		},
		"a link": func(_ *Cache, p string) error {
			return errors.Join(os.Rename(p, p+"x"), os.Symlink(p+"x", p))
		},
		"a folder": func(_ *Cache, p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"huge":     func(_ *Cache, p string) error { return os.Truncate(p, maxFile+1) },
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, 0)
			c.Put("v1", digestN(1), []byte("holds"))
			if err := damage(c, c.path(digestN(1))); err != nil {
				t.Fatal(err)
			}
			if b, ok := c.Get("v1", digestN(1)); ok {
				t.Errorf("it is used: %q", b)
			}
			if c.Counts().Damaged != 1 {
				t.Errorf("counts %+v, want it counted", c.Counts())
			}
		})
	}
}

// TestEvict: the cache stays within its bound, and lets go of what was not used for longest.
func TestEvict(t *testing.T) {
	c := open(t, 10_000)
	body := bytes.Repeat([]byte("x"), 3000)
	for i := range 3 {
		c.Put("v1", digestN(i), body)
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(c.path(digestN(i)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	c.Get("v1", digestN(0)) // used just now
	stray, other := filepath.Join(c.dir, "."+strings.Repeat("0", 64)+suffix+".tmp-1"), filepath.Join(c.dir, "mine.txt")
	for _, p := range []string{stray, other} {
		if err := errors.Join(os.WriteFile(p, body, 0o600), os.Chtimes(p, time.Time{}, time.Now().Add(-2*time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	c.Put("v1", digestN(3), body)
	for i, want := range []bool{true, false, true, true} {
		if _, ok := c.Get("v1", digestN(i)); ok != want {
			t.Errorf("layer %d is there: %v, want %v", i, ok, want)
		}
	}
	if _, err := os.Stat(stray); err == nil {
		t.Error("what was never put in its place is still there")
	}
	s, err := c.Status()
	if err != nil || s.Layers != 3 || s.Bytes > 10_000 || s.MaxBytes != 10_000 || s.Oldest.IsZero() {
		t.Errorf("status %+v, %v", s, err)
	}
	c.Put("v1", digestN(9), make([]byte, 20_000))
	if c.Counts().Failed != 1 || c.Counts().Evicted != 1 {
		t.Errorf("counts %+v", c.Counts())
	}
	if n, err := c.Clear(); n != 3 || err != nil {
		t.Errorf("cleared %d, %v", n, err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error("a file that is none of the cache's was removed")
	}
}

// TestFolder: a folder that others may write to is refused.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for name, make := range map[string]func(p string) error{
		"of all":   func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o777)) },
		"of group": func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o770)) },
		"a link":   func(p string) error { return os.Symlink(dir, p) },
	} {
		p := filepath.Join(t.TempDir(), "layers")
		if err := make(p); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(p, 0); !errors.Is(err, ErrFolder) {
			t.Errorf("%s: %v, want ErrFolder", name, err)
		}
	}
}
