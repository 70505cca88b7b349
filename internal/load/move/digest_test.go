package move

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/load/treedigest"
	"github.com/belay-project/belay/internal/testneed"
)

// pack writes a directory as engines do, without its sockets: a file that has several names is there by the first, and a capability
// without its user namespace (moby, go-archive: addTarFile).
func pack(t *testing.T, dir, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	seen := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSocket {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if d.Type() == fs.ModeSymlink {
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.ModTime = h.ModTime.Truncate(time.Second)
		h.Name = name + strings.TrimPrefix(p, dir)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if first, ok := seen[st.Ino]; ok && st.Nlink > 1 && !d.IsDir() {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		}
		if _, ok := seen[st.Ino]; !ok {
			seen[st.Ino] = h.Name
		}
		attr := make([]byte, 24)
		if n, err := unix.Lgetxattr(p, "security.capability", attr); err == nil {
			if attr = attr[:n]; attr[3] == 3 {
				attr = attr[:20]
				attr[3] = 2
			}
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(attr)}
		}
		if err := w.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
			return err
		}
		body, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		_, err = w.Write(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDigestOfDirectory: a directory has the digest that its archive has, the engine's and the one that is made here.
func TestDigestOfDirectory(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "it makes devices")
	dir := filepath.Join(t.TempDir(), "_data")
	at := func(name string) string { return filepath.Join(dir, name) }
	rev3 := []byte{1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0}
	epoch := unix.Timespec{Sec: -5, Nsec: 999_999_999}
	for _, err := range []error{
		os.MkdirAll(at("a/b"), 0o750), os.MkdirAll(at("a.d"), 0o755), os.Mkdir(at("sticky"), 0o755), unix.Chmod(at("sticky"), 0o1777),
		os.WriteFile(at("a/b/file"), bytes.Repeat([]byte("0123456789abcdef"), 1<<14), 0o640), os.Chown(at("a/b/file"), 70_000, 3_000_000),
		os.WriteFile(at("empty"), nil, 0o600), unix.Chmod(at("empty"), 0o6711), os.WriteFile(at("sparse"), nil, 0o600), os.Truncate(at("sparse"), 1<<20),
		os.WriteFile(at(strings.Repeat("long", 60)), []byte("x"), 0o600), os.WriteFile(at("\xff no utf-8"), []byte("x"), 0o600),
		os.Symlink("../../out", at("link")), os.Symlink("/etc", at("a/root")), unix.Lchown(at("link"), 5, 6),
		unix.Mkfifo(at("fifo"), 0o620), unix.Mknod(at("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 300))), unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 1))),
		unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0),
		// As a text a/b/zz comes after a.d/z, and in a walk before it.
		os.WriteFile(at("a/z"), []byte("several"), 0o644), os.Link(at("a/z"), at("a.d/z")), os.Link(at("a/z"), at("a/b/zz")),
		os.Link(at("link"), at("a/link2")), os.Link(at("fifo"), at("fifo2")), os.Link(at("char"), at("a/char2")),
		unix.Setxattr(at("a/b/file"), "security.capability", rev3, 0), unix.Setxattr(at("a/z"), "security.capability", rev3, 0),
		unix.UtimesNanoAt(unix.AT_FDCWD, at("empty"), []unix.Timespec{epoch, epoch}, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	engines := pack(t, dir, "belay-volume")
	want, err := digestTree(bytes.NewReader(engines))
	if err != nil {
		t.Fatal(err)
	}
	got, err := treedigest.Of(dir, "belay-volume", func(int) error { return nil })
	if err != nil || got != want {
		t.Errorf("got %s, %v; its archive has %s", got, err, want)
	}
	opened, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	var packed bytes.Buffer
	got, err = treedigest.Pack(&packed, opened, "belay-volume", func(int) error { return nil })
	if err != nil || got != want {
		t.Errorf("as it is packed: got %s, %v; its archive has %s", got, err, want)
	}
	if diff := cmp.Diff(entries(t, engines), entries(t, packed.Bytes())); diff != "" {
		t.Errorf("as it is packed an entry is another (-engine's +own):\n%s", diff)
	}
}

// entries returns what an archive has by each name. Engines set what a further name has on its file, so it counts as on the file; which
// name of a file is the one with the content does not, and each has here that and the first by order.
func entries(t *testing.T, archive []byte) map[string]treedigest.Entry {
	t.Helper()
	out, names := map[string]treedigest.Entry{}, map[string][]string{} // of a file, by the name with the content
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		e := entryOf(h, content)
		e.Name = path.Clean(e.Name)
		out[e.Name] = *e
		file := e.Name
		if e.Kind == treedigest.Link {
			if file = e.Link; out[file].Name == "" {
				t.Errorf("%q comes before its file %q", e.Name, file)
			}
		}
		names[file] = append(names[file], e.Name)
	}
	for file, all := range names {
		of := out[file]
		for _, name := range all {
			e := out[name]
			e.Name, e.Kind, e.Size, e.Link, e.Content = slices.Min(all), of.Kind, of.Size, of.Link, of.Content
			out[name] = e
		}
	}
	return out
}

// TestCompared: a copy counts if its gate says the digest that was sent, and then nothing of it is read back. Where the gate says
// none or another it is read back, and that decides. A copy that is damaged never starts, and the source runs on.
func TestCompared(t *testing.T) {
	for _, c := range []struct {
		name, says     string
		damaged, reads bool
	}{
		{"by the gate", "own", false, false},
		{"without a gate", "", false, true},
		{"by an engine that has less of a file", "sha256-sum:00:1", false, true},
		{"damaged, by the gate", "own", true, true},
		{"damaged, without a gate", "", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, true)
			w.to.says = c.says
			read := false
			w.to.before = func(method, path string) {
				if method != "GET" || !strings.HasSuffix(path, "/archive") && !strings.HasSuffix(path, "/digest") {
					return
				}
				read = read || strings.HasSuffix(path, "/archive")
				if c.damaged {
					w.to.set(func() { w.to.volumes["records"].data = "fir\x00t" })
				}
			}
			_, err := w.move()
			if read != c.reads {
				t.Errorf("read back: %v", read)
			}
			if !c.damaged {
				w.want(false, 1)
				if err != nil {
					t.Error(err)
				}
				return
			}
			w.want(true, 0)
			if err == nil || !strings.Contains(err.Error(), "the copy is not the same") {
				t.Errorf("got %v", err)
			}
		})
	}
}
