package image

import (
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/testneed"
)

// wantsLists reads files whose name says so.
type wantsLists struct{}

func (wantsLists) Kind(path string, _ fs.FileMode, _ int64) string {
	if strings.HasSuffix(path, ".list") {
		return "list"
	}
	return ""
}

func (wantsLists) Extract(string, string, Content) (inventory.File, error) {
	return inventory.File{}, nil
}

// TestLentNothing: what the scanner may not open, and its lender does not find where it was listed, is
// a note, as is a mode that nobody tells: a renamed directory hides nothing.
func TestLentNothing(t *testing.T) {
	testneed.Need(t, "root", os.Geteuid() == 0, "the file system is read as another user")
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "app"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x.list", "app/su"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "app"), 0o744); err != nil { // may be listed, and no more
		t.Fatal(err)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(ends[1]), "lend")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(ends[0])
		b := make([]byte, inventory.MaxLend)
		for {
			if n, err := unix.Read(ends[0], b); err != nil || n == 0 {
				return
			}
			if _, err := unix.Write(ends[0], binary.BigEndian.AppendUint32(nil, uint32(unix.ENOENT))); err != nil {
				return
			}
		}
	}()
	defer func() {
		socket.Close()
		<-done
	}()
	d, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var res *inventory.Result
	read := make(chan struct{})
	go func() {
		defer close(read)
		runtime.LockOSThread() // which ends with the goroutine: it is another user's
		if err := unix.Setfsuid(12345); err != nil {
			t.Error(err)
			return
		}
		job := inventory.Job{Source: inventory.SourceRootfs, Inputs: []inventory.Input{{FD: 3}}, LendFD: 4}
		res, err = Read(t.Context(), job, func(fd int) *os.File { return []*os.File{d, socket}[fd-3] }, wantsLists{})
	}()
	<-read
	if err != nil || res == nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range res.Notes {
		got = append(got, n.Text)
	}
	if text := strings.Join(got, "\n"); len(got) != 2 || !strings.Contains(text, "a file that cannot be opened: permission denied") || !strings.Contains(text, noMode) {
		t.Errorf("notes %q", got)
	}
}
