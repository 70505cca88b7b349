package image

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// wantsAll wants every file for packages, or searches every file for secrets.
type wantsAll struct{ search bool }

func (x wantsAll) Kind(string, fs.FileMode, int64) string {
	if x.search {
		return ""
	}
	return "all"
}
func (wantsAll) Extract(string, string, Content) (inventory.File, error) {
	return inventory.File{}, nil
}
func (x wantsAll) Searches(string) (int64, bool) { return 100, x.search }
func (wantsAll) Search(string, Content) ([]inventory.Misconfiguration, error) {
	return nil, nil
}

// TestSwapped: a name that was a file when it was listed, and leads to a FIFO when it is opened,
// is said to be unread: for packages as a note, for secrets alone as unsearched.
func TestSwapped(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "f"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, search := range []bool{false, true} {
		x := wantsAll{search}
		r := &reader{x: x, searcher: x, notes: newNotes(), unsearched: newNotes()}
		w := &walker{r: r, l: r.newLayer()}
		if err := w.file(d, "f", "f"); err != nil {
			t.Fatal(err)
		}
		if (len(w.l.notes.list) == 1) == search || (len(w.l.unsearched.list) == 1) != search {
			t.Errorf("search %v: notes %+v, unsearched %+v", search, w.l.notes.list, w.l.unsearched.list)
		}
	}
}
