package target

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/testneed"
)

// own makes the files of a tree, of which each one, with its directory, is another user's alone.
func own(t *testing.T, root string, uid int, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for ; p != root; p = filepath.Dir(p) {
			if err := os.Chown(p, uid, uid); err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(p); err != nil || st.IsDir() && os.Chmod(p, 0o700) != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestOthersFiles: root without capabilities may not look into what is another user's alone, and
// reads it all the same: nothing is unread in an ordinary image, and nothing is hidden by an owner.
func TestOthersFiles(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "files of another user are made")
	const modules = 1500 // more than the scanner may have open
	root := t.TempDir()
	partial := filepath.Join(root, "var/cache/apt/archives/partial") // as apt makes it
	if err := os.MkdirAll(partial, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(partial, 42, 0); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"home/app/.ssh/id_rsa": "-----BEGIN RSA PRIVATE KEY-----\n" + strings.Repeat("MIIEpAIBAAKCAQEA1234567890abcdefghijklmnopqrstuvwxyz+ABCDEFGHIJ\n", 8) + "-----END RSA PRIVATE KEY-----\n",
		"app/bin/su":           "x",
	}
	for i := range modules {
		name := fmt.Sprintf("m%d", i)
		files["app/node_modules/"+name+"/package.json"] = `{"name":"` + name + `","version":"1.0.0"}`
	}
	own(t, root, 1000, files)
	if err := os.Chmod(filepath.Join(root, "app/bin/su"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "requirements.txt"), []byte("six==1.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(root, "requirements.txt"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/elsewhere", filepath.Join(root, "app/node_modules/m0/rpm.jar")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("m-1.jar", filepath.Join(root, "app/node_modules/m0/m.jar")); err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, tgt *Target, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer tgt.Close()
		res, err := Scan(t.Context(), tgt, Options{Scanner: scanner(t)})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Notes) != 1 || !strings.Contains(res.Notes[0].Text, "symbolic link") || res.Notes[0].Count != 1 || res.Unsearched != nil {
			t.Errorf("notes %+v, unsearched %+v, want that of a link to what cannot be told", res.Notes, res.Unsearched)
		}
		if len(res.Packages) != modules+1 {
			t.Errorf("%d packages, want %d", len(res.Packages), modules+1)
		}
		for _, id := range []string{inventory.FileSecret, inventory.FileSetuid} {
			if !slices.ContainsFunc(res.Misconfigurations, func(m inventory.Misconfiguration) bool { return m.ID == id }) {
				t.Errorf("no %s in %+v", id, res.Misconfigurations)
			}
		}
		if !slices.Contains(res.Sandbox.Held, "capabilities") {
			t.Errorf("the scanner had capabilities: %+v", res.Sandbox)
		}
	}
	look := func(t *testing.T) {
		t.Run("root file system", func(t *testing.T) {
			tgt, err := Open(t.Context(), root, Options{})
			check(t, tgt, err)
		})
		t.Run("overlay", func(t *testing.T) {
			lower := t.TempDir()
			tgt, err := OpenLayers(t.Context(), []string{lower, root})
			check(t, tgt, err)
		})
	}
	look(t)
	// The root of the image, too.
	if err := os.Chown(root, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Run("with its root", look)
}

// TestLendBelow: what a scanner that was broken into may ask for is what lies in its image.
func TestLendBelow(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{"in/f": "within", "out": "without"} {
		if err := os.MkdirAll(filepath.Join(root, "in/d"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in := filepath.Join(root, "in")
	for name, to := range map[string]string{"link": "../out", "dirlink": "..", "fd": "/proc/self/fd"} {
		if err := os.Symlink(to, filepath.Join(in, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(in, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	tgt, err := Open(t.Context(), in, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	for name, want := range map[string]error{
		"f": nil, "d": nil, ".": nil, "link": nil,
		"../out": unix.EXDEV, "d/../../out": unix.EXDEV, "/etc/passwd": unix.EXDEV, filepath.Join(root, "out"): unix.EXDEV,
		"dirlink/out": unix.ELOOP, "fd/0": unix.ELOOP, "fifo": unix.EINVAL, "none": unix.ENOENT, "f\x00x": unix.EINVAL,
	} {
		fd, err := openBelow(int(tgt.files[0].Fd()), name)
		if !errors.Is(err, want) || err == nil && want != nil {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
		if err != nil {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY || name == "link" && flags&unix.O_PATH == 0 {
			t.Errorf("%q is open with %#x, %v", name, flags, err)
		}
		unix.Close(fd)
	}
}

// TestLendNonsense: a question that is none, and one about an input that there is not, end in an
// error; the lender ends, too.
func TestLendNonsense(t *testing.T) {
	tgt, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	for name, q := range map[string][]byte{"no input": {0, 7, '.'}, "short": {0}, "long": make([]byte, inventory.MaxLend+1)} {
		job := tgt.job
		l, err := tgt.lend(&job, tgt.files)
		if err != nil {
			t.Fatal(err)
		}
		stop := l.start()
		theirs := int(l.theirs.Fd())
		if _, err := unix.Write(theirs, q); err != nil {
			t.Fatal(err)
		}
		b, oob := make([]byte, 64), make([]byte, 64)
		n, m, _, _, err := unix.Recvmsg(theirs, b, oob, 0)
		if name == "no input" {
			if n != inventory.LendAnswer || m != 0 || binary.BigEndian.Uint32(b) != uint32(unix.EBADF) {
				t.Errorf("%s: %x with %d bytes of descriptors, %v", name, b[:n], m, err)
			}
		} else if n != 0 || m != 0 {
			t.Errorf("%s: %x, %v, want the end", name, b[:n], err)
		}
		stop()
	}
}

// TestLendHangs: a scan ends though a file system does not let its lender go.
func TestLendHangs(t *testing.T) {
	tgt, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	job := tgt.job
	l, err := tgt.lend(&job, tgt.files)
	if err != nil {
		t.Fatal(err)
	}
	hangs, let := make(chan struct{}), make(chan struct{})
	l.wait = 10 * time.Millisecond
	l.open = func(int, string) (int, error) {
		close(hangs)
		<-let
		return -1, unix.EIO
	}
	stop := l.start()
	q, err := inventory.Lend{Path: "x"}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(int(l.theirs.Fd()), q); err != nil {
		t.Fatal(err)
	}
	<-hangs
	stop()
	close(let)
	for range 1000 { // its end of the socket is closed then
		if _, err := unix.FcntlInt(uintptr(l.ours), unix.F_GETFD, 0); errors.Is(err, unix.EBADF) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the lender did not end")
}
