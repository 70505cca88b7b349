package move

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

// acl is a POSIX ACL in the kernel's form: version 2, then tag, permissions and id of each entry (acl(5), posix_acl_xattr.h).
var acl = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"

// TestLostAttributes finds real attributes, and only those that an engine's archive leaves out.
func TestLostAttributes(t *testing.T) {
	for _, c := range []struct {
		name, file, attribute, value string
		lost                         bool
	}{
		{name: "none", file: "a/b"},
		{name: "user", file: "a/b", attribute: "user.mime", value: "text/plain", lost: true},
		{name: "of a directory", file: "a/", attribute: "user.x", value: "1", lost: true},
		{name: "of the volume", file: ".", attribute: "user.x", value: "1", lost: true},
		{name: "ACL", file: "a/b", attribute: "system.posix_acl_access", value: acl, lost: true},
		{name: "default ACL", file: "a/", attribute: "system.posix_acl_default", value: acl, lost: true},
		{name: "capability", file: "a/b", attribute: "security.capability", value: "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "a"), 0o700), os.WriteFile(filepath.Join(dir, "a/b"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			if c.attribute != "" {
				err := unix.Lsetxattr(filepath.Join(dir, c.file), c.attribute, []byte(c.value), 0)
				testneed.Need(t, "xattr", !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM), fmt.Sprintf("%s in %s: %v", c.attribute, dir, err))
				if err != nil {
					t.Fatal(err)
				}
			}
			found, err := lostAttributes(t.Context(), dir, 100)
			if err != nil || (len(found) == 1) != c.lost || c.lost && !strings.Contains(found[0], c.attribute) {
				t.Errorf("got %q, %v", found, err)
			}
		})
	}
}

// TestLostAttributesBounds: the look stays in the volume and ends.
func TestLostAttributesBounds(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := lostAttributes(t.Context(), dir, 10); err == nil || !strings.Contains(err.Error(), "more than 10 files") {
		t.Errorf("got %v", err)
	}
	err := errors.Join(os.Symlink(outside, filepath.Join(dir, "out")), unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Mkdir(filepath.Join(outside, "x"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Lsetxattr(filepath.Join(outside, "x"), "user.x", []byte("1"), 0)
	testneed.Need(t, "xattr", !errors.Is(err, unix.ENOTSUP), "the file system of "+dir+" has no attributes of users")
	if found, err := lostAttributes(t.Context(), dir, 100); err != nil || len(found) > 0 {
		t.Errorf("got %q, %v", found, err)
	}
	if _, err := lostAttributes(t.Context(), filepath.Join(dir, "none"), 100); !errors.Is(err, errNotHere) {
		t.Errorf("got %v", err)
	}
}

// TestLostAttributesMemory: a container does not choose how much memory the look at its files takes.
func TestLostAttributesMemory(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("d", 250)
	for at := root; ; {
		if err := at.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenRoot(name)
		if err != nil {
			t.Fatal(err)
		}
		if at != root {
			at.Close()
		}
		if at = next; strings.Count(at.Name(), name) > unix.PathMax/len(name) {
			at.Close()
			break
		}
	}
	if _, err := lostAttributes(t.Context(), root.Name(), 100); err == nil || !strings.Contains(err.Error(), "too deep") {
		t.Errorf("got %v", err)
	}
	if got := shorten(strings.Repeat("é", 1000)); len(got) > maxShown+len("…") {
		t.Errorf("%d bytes", len(got))
	}
}

// TestAttributes: a volume with attributes is refused before anything stops, unless they may be lost; one that cannot be
// looked at is noted in the plan.
func TestAttributes(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err = unix.Lsetxattr(filepath.Join(dir, "data"), "user.x", []byte("1"), 0)
	testneed.Need(t, "xattr", !errors.Is(err, unix.ENOTSUP), "the file system of "+dir+" has no attributes of users")
	for _, c := range []struct {
		name, host, dir string
		lose            bool
		refused, note   bool
	}{
		{name: "here", host: host, dir: dir, refused: true},
		{name: "may be lost", host: host, dir: dir, lose: true},
		{name: "another host", host: "elsewhere", dir: dir, note: true},
		{name: "not readable", host: host, dir: filepath.Join(dir, "none"), note: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, true)
			w.s.LoseAttributes = c.lose
			w.from.host, w.from.volumes["records"].dir = c.host, c.dir
			p, err := w.look()
			if refused := new(RefusedError); errors.As(err, &refused) != c.refused || c.refused && (!strings.Contains(err.Error(), `"data" (user.x)`) || refused.Target) {
				t.Fatalf("got %v", err)
			}
			if !c.refused && strings.Contains(strings.Join(p.Notes, "\n"), "whether files have any is not known") != c.note {
				t.Errorf("notes %q", p.Notes)
			}
		})
	}
}
