package treedigest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

func quiet(int) error { return nil }

func of(t *testing.T, dir string) string {
	t.Helper()
	d, err := Of(dir, "v", quiet)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fits asks [Fits], and says how much it has read.
func fits(t *testing.T, dir string) (read int, err error) {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	err = Fits(d, "v", func(n int) error { read += n; return nil })
	return read, err
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// still has a directory look as if nothing had happened in it.
func still(t *testing.T, dir string) {
	t.Helper()
	at := unix.NsecToTimespec(1e18)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{at, at}, 0))
}

// TestLinksDoNotLeadOut: of a link its text counts, and nothing of what it leads to.
func TestLinksDoNotLeadOut(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(t.TempDir(), "v")
	secret := filepath.Join(outside, "secret")
	write(t, secret, "one")
	write(t, filepath.Join(dir, "file"), "text")
	must(t, os.Symlink(secret, filepath.Join(dir, "to-file")))
	must(t, os.Symlink(outside, filepath.Join(dir, "to-dir")))
	must(t, os.Symlink("/", filepath.Join(dir, "to-root")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "to-nothing")))
	read := 0
	before, err := Of(dir, "v", func(n int) error { read += n; return nil })
	must(t, err)
	if read != len("text") || !strings.HasSuffix(before, ":6") {
		t.Errorf("%d bytes were read for %s", read, before)
	}
	write(t, secret, "another")
	write(t, filepath.Join(outside, "more"), "more")
	if after := of(t, dir); after != before {
		t.Error("what links lead to counts")
	}
	must(t, os.Symlink(dir, dir+"-link"))
	if _, err := Of(dir+"-link", "v", quiet); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a link in the place of the directory: %v", err)
	}
}

// TestMountsDoNotLeadOut: a tree in which something is mounted has no digest, and nothing of the mount is read.
func TestMountsDoNotLeadOut(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "it mounts")
	outside := t.TempDir()
	dir := filepath.Join(t.TempDir(), "v")
	write(t, filepath.Join(outside, "secret"), "secret")
	must(t, os.MkdirAll(filepath.Join(dir, "at"), 0o755))
	write(t, filepath.Join(dir, "file"), "")
	for _, at := range []string{"at", "file"} {
		source, on := outside, filepath.Join(dir, at)
		if at == "file" {
			source = filepath.Join(outside, "secret")
		}
		must(t, unix.Mount(source, on, "", unix.MS_BIND, ""))
		read := 0
		_, err := Of(dir, "v", func(n int) error { read += n; return nil })
		_, ahead := fits(t, dir)
		must(t, unix.Unmount(on, 0))
		if !errors.Is(err, unix.EXDEV) || !errors.Is(ahead, unix.EXDEV) || read > 0 {
			t.Errorf("%s: read %d bytes, %v, %v", at, read, err, ahead)
		}
	}
}

// TestOnlyFilesAreOpened: a FIFO keeps nobody waiting, a socket is none, and a device is not opened.
func TestOnlyFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 8)))) // random: reading it has no end
	}
	still(t, dir)
	before := of(t, dir)
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	must(t, err)
	defer l.Close()
	still(t, dir)
	if got := of(t, dir); got != before {
		t.Error("a socket counts, which archives have not")
	}
	must(t, os.Remove(filepath.Join(dir, "fifo")))
	still(t, dir)
	if of(t, dir) == before {
		t.Error("a FIFO does not count")
	}
}

// TestWhatCounts: each thing that archives have of a file counts.
func TestWhatCounts(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "it gives files to others")
	for name, change := range map[string]func(f string) error{
		"content":       func(f string) error { return os.WriteFile(f, []byte("texT"), 0o644) },
		"length":        func(f string) error { return os.Truncate(f, 3) },
		"mode":          func(f string) error { return unix.Chmod(f, 0o640) },
		"set-user-ID":   func(f string) error { return unix.Chmod(f, 0o4644) },
		"owner":         func(f string) error { return os.Chown(f, 7, 0) },
		"group":         func(f string) error { return os.Chown(f, 0, 7) },
		"name":          func(f string) error { return os.Rename(f, f+"x") },
		"capabilities":  func(f string) error { return unix.Setxattr(f, "security.capability", capability(2, 0), 0) },
		"a second name": func(f string) error { return os.Link(f, f+"x") },
	} {
		dir := t.TempDir()
		f := filepath.Join(dir, "file")
		write(t, f, "text")
		still(t, f)
		still(t, dir)
		before := of(t, dir)
		must(t, change(f))
		for _, changed := range []string{f, f + "x", dir} {
			if _, err := os.Lstat(changed); err == nil {
				still(t, changed)
			}
		}
		if of(t, dir) == before {
			t.Errorf("%s does not count", name)
		}
		still(t, dir)
		at := unix.NsecToTimespec(1e18 + 1e9)
		with := of(t, dir)
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{at, at}, 0))
		if of(t, dir) == with {
			t.Error("the time does not count")
		}
	}
}

// capability is a file's capability to bind low ports, as an attribute of a revision; that of 3 is of a user namespace.
func capability(revision byte, root uint32) []byte {
	b := []byte{1, 0, 0, revision, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if revision == 3 {
		b = append(b, byte(root), byte(root>>8), byte(root>>16), byte(root>>24))
	}
	return b
}

// TestStopped: whoever is told ends the look, between files and within one; one that grows is no tree to compare.
func TestStopped(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	write(t, big, strings.Repeat("x", 4*readAtOne))
	enough := errors.New("enough")
	for _, after := range []int{0, readAtOne} {
		read := 0
		if _, err := Of(dir, "v", func(n int) error {
			if read += n; read >= after && (n > 0 || after == 0) {
				return enough
			}
			return nil
		}); !errors.Is(err, enough) || read != after {
			t.Errorf("after %d bytes: %d, %v", after, read, err)
		}
	}
	for name, change := range map[string]int64{"grows": 8 * readAtOne, "shrinks": readAtOne} {
		must(t, os.Truncate(big, 4*readAtOne))
		if _, err := Of(dir, "v", func(n int) error {
			if n > 0 {
				return os.Truncate(big, change)
			}
			return nil
		}); !errors.Is(err, ErrChanging) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBounds: a tree that would take too many descriptors or too much memory has no digest.
func TestBounds(t *testing.T) {
	deep := t.TempDir()
	at := deep
	for range maxDepth + 1 {
		at = filepath.Join(at, "d")
	}
	must(t, os.MkdirAll(at, 0o755))
	if _, err := Of(deep, "v", quiet); !errors.Is(err, ErrTooDeep) {
		t.Errorf("too deep: %v", err)
	}
	if _, err := fits(t, deep); !errors.Is(err, ErrTooDeep) {
		t.Errorf("too deep, ahead: %v", err)
	}
	w := walk{tell: quiet, several: map[uint64]*several{}}
	for i := 0; ; i++ {
		w.several[1] = &several{names: []string{"/v/first"}}
		err := w.keep(-1, &Entry{Name: strings.Repeat("n", 1000)}, 1)
		if errors.Is(err, ErrTooMany) {
			break
		}
		if err != nil || i > maxLinks/1000 {
			t.Fatalf("%d names of 1000 bytes are kept: %v", i, err)
		}
	}
}

// TestFits: whether a tree can be looked at whole is told without reading it.
func TestFits(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "d", "file"), "text")
	must(t, os.Link(filepath.Join(dir, "d", "file"), filepath.Join(dir, "second")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	if read, err := fits(t, dir); err != nil || read > 0 {
		t.Errorf("read %d bytes, %v", read, err)
	}
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	enough, told := errors.New("enough"), 0
	if err := Fits(d, "v", func(int) error {
		if told++; told == 3 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) || told != 3 {
		t.Errorf("told %d times, %v", told, err)
	}
}

// TestAnyNames: directories are not read whole, and what they are called is of no matter.
func TestAnyNames(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for i := range 3 * namesAtOne {
		write(t, filepath.Join(a, fmt.Sprint("f", i)), "x")
		write(t, filepath.Join(b, fmt.Sprint("f", 3*namesAtOne-1-i)), "x")
	}
	must(t, unix.Link(filepath.Join(a, "f0"), filepath.Join(a, "new\nline")))
	must(t, unix.Link(filepath.Join(b, "f0"), filepath.Join(b, "new\nline")))
	for _, d := range []string{a, b} {
		files, err := filepath.Glob(filepath.Join(d, "*"))
		must(t, err)
		for _, f := range append(files, d) {
			must(t, os.Chmod(f, 0o700))
			still(t, f)
		}
	}
	if got, want := of(t, a), of(t, b); got != want {
		t.Errorf("%s and %s", got, want)
	}
	if !bytes.HasSuffix([]byte(of(t, a)), fmt.Append(nil, ":", 3*namesAtOne+2)) {
		t.Errorf("counted %s", of(t, a))
	}
}
