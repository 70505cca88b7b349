package rpmdb

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
)

// database is what rpm 4.18 wrote when three packages were installed: alpha and its
// subpackage alpha-libs with epoch 2, and thunderbird.
func database(tb testing.TB) []byte {
	tb.Helper()
	return unzipped(tb, "rpmdb.sqlite.gz")
}

func unzipped(tb testing.TB, name string) []byte {
	tb.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func list(b []byte) (out []string, err error) {
	err = Read(bytes.NewReader(b), int64(len(b)), func(p Package) error {
		files := 0
		p.Files(func(string) { files++ })
		out = append(out, fmt.Sprintf("%s %d:%s-%s %s of %s, %d files", p.Name, p.Epoch, p.Version, p.Release, p.Arch, p.SourceRPM, files))
		return nil
	})
	slices.Sort(out)
	return out, err
}

var want = []string{
	"alpha 2:1.4.2-3.el9 noarch of alpha-1.4.2-3.el9.src.rpm, 301 files",
	"alpha-libs 2:1.4.2-3.el9 noarch of alpha-1.4.2-3.el9.src.rpm, 1 files",
	"thunderbird 0:115.6.0-1.el9_3.alma noarch of thunderbird-115.6.0-1.el9_3.alma.src.rpm, 0 files",
}

func TestSQLite(t *testing.T) {
	got, err := list(database(t))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// ndbOf lays headers out as rpm's ndb does.
func ndbOf(headers ...[]byte) []byte {
	b := make([]byte, ndbPage)
	copy(b, ndbMagic)
	binary.LittleEndian.PutUint32(b[12:], 1)
	for at := ndbFirst; at < ndbPage; at += ndbUnit {
		copy(b[at:], ndbSlot)
	}
	for i, h := range headers {
		slot := b[ndbFirst+i*ndbUnit:]
		binary.LittleEndian.PutUint32(slot[4:], uint32(i+1))
		binary.LittleEndian.PutUint32(slot[8:], uint32(len(b)/ndbUnit))
		head := make([]byte, ndbUnit)
		copy(head, ndbBlob)
		binary.LittleEndian.PutUint32(head[4:], uint32(i+1))
		binary.LittleEndian.PutUint32(head[12:], uint32(len(h)))
		b = append(append(b, head...), h...)
		b = append(b, make([]byte, (ndbUnit-len(b)%ndbUnit)%ndbUnit)...)
	}
	return b
}

// headers are those of the real database.
func headers(tb testing.TB) (out [][]byte) {
	b := database(tb)
	err := readSQLite(bytes.NewReader(b), int64(len(b)), func(h []byte) error {
		out = append(out, bytes.Clone(h))
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestNDB(t *testing.T) {
	got, err := list(ndbOf(headers(t)...))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v\n%s", err, strings.Join(got, "\n"))
	}
}

// TestBerkeley: hashes that Berkeley DB 5.3 made of the same headers and of rpm's counter, in
// both orders of bytes.
func TestBerkeley(t *testing.T) {
	for _, name := range []string{"Packages.1234.gz", "Packages.4321.gz"} {
		got, err := list(unzipped(t, name))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v\n%s", name, err, strings.Join(got, "\n"))
		}
	}
}

// TestHostileBerkeley: any byte altered, any end cut off: an end, and never more than there is.
func TestHostileBerkeley(t *testing.T) {
	good := unzipped(t, "Packages.1234.gz")
	for at := range good {
		bad := slices.Clone(good)
		bad[at] ^= 0xff
		list(bad)
		if at > 8192 {
			break // the first hash page is behind us
		}
	}
	for n := 0; n < len(good); n += 100 {
		if got, err := list(good[:n]); !errors.Is(err, ErrBroken) {
			t.Errorf("cut off after %d bytes: %v, %v", n, got, err)
		}
	}
	// Each page of a chain leads to itself; each begins a chain.
	loop := slices.Clone(good)
	for at := 4096; at < len(loop); at += 4096 {
		if loop[at+25] == bdbPageOverflow {
			copy(loop[at+16:], loop[at+8:at+12])
			copy(loop[at+22:], []byte{1, 0})
		}
	}
	if _, err := list(loop); !errors.Is(err, ErrBroken) {
		t.Errorf("a chain that leads to itself: %v", err)
	}
	for name, change := range map[string][2]int{"encrypted": {24, 1}, "pages of 0 bytes": {21, 0}, "a tree": {25, 9}} {
		bad := slices.Clone(good)
		bad[change[0]] = byte(change[1])
		if _, err := list(bad); !errors.Is(err, ErrBroken) && !errors.Is(err, ErrBerkeley) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHostile(t *testing.T) {
	good, ndb := database(t), ndbOf(headers(t)...)
	change := func(b []byte, at int, bytes ...byte) []byte {
		b = slices.Clone(b)
		copy(b[at:], bytes)
		return b
	}
	page := int(binary.BigEndian.Uint16(good[16:]))
	bdb := make([]byte, 4096)
	copy(bdb[12:], "\x61\x15\x06\x00")
	tests := map[string]struct {
		b    []byte
		want error
	}{
		"empty":                {nil, ErrBroken},
		"short":                {good[:50], ErrBroken},
		"cut off":              {good[:page*2], ErrBroken},
		"garbage":              {bytes.Repeat([]byte("garbage "), 100), ErrBroken},
		"Berkeley DB":          {bdb, ErrBerkeley},
		"pages of 3":           {change(good, 16, 0, 3), ErrBroken},
		"no room in a page":    {change(good, 20, 255, 255), nil}, // either is fine, as long as it ends
		"many cells":           {change(good, 103, 0xff, 0xff), ErrBroken},
		"page of no kind":      {change(good, 100, 7), ErrBroken},
		"ndb, version":         {change(ndb, 4, 9), ErrBroken},
		"ndb, many pages":      {change(ndb, 12, 0xff, 0xff, 0xff, 0xff), ErrBroken},
		"ndb, no slot":         {change(ndb, ndbFirst, 'x'), ErrBroken},
		"ndb, blob far away":   {change(ndb, ndbFirst+8, 0xff, 0xff, 0xff, 0xff), ErrBroken},
		"ndb, blob of another": {change(ndb, ndbFirst+4, 9), ErrBroken},
		"ndb, huge blob":       {change(ndb, ndbPage+12, 0xff, 0xff, 0xff, 0x7f), ErrBroken},
		"ndb, huge header":     {change(ndb, ndbPage+ndbUnit, 0xff, 0xff, 0xff, 0xff), ErrBroken},
	}
	for name, tt := range tests {
		if got, err := list(tt.b); tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, tt.want)
		}
	}
	// Every page leads to page 2, the first child of the last one.
	loop := slices.Clone(good)
	for at := page; at+12 < len(loop); at += page {
		copy(loop[at:], []byte{pageInterior, 0, 0, 0, 1, 0, 14, 0, 0, 0, 0, 2, 0, 14, 0, 0, 0, 2, 1})
	}
	if _, err := list(loop); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a table that leads to itself: %v", err)
	}
	// A sparse file is as large as its owner likes: nothing may be held for each page of it.
	for name, b := range map[string][]byte{"SQLite": good, "Berkeley DB": unzipped(t, "Packages.1234.gz")} {
		if err := Read(bytes.NewReader(b), 1<<50, func(Package) error { return nil }); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "pages") {
			t.Errorf("a sparse %s: %v", name, err)
		}
	}
	// The same blob under every slot.
	many := slices.Clone(ndb)
	for at := ndbFirst + ndbUnit; at < ndbPage; at += ndbUnit {
		copy(many[at:], ndb[ndbFirst:ndbFirst+ndbUnit])
	}
	if _, err := list(many); !errors.Is(err, ErrBroken) {
		t.Errorf("blobs over each other: %v", err)
	}
}

// TestReal reads databases that are not in the repository: that which BELAY_TEST_RPMDB names, or all below that folder.
func TestReal(t *testing.T) {
	root := os.Getenv("BELAY_TEST_RPMDB")
	testneed.Need(t, "rpmdb", root != "", `set BELAY_TEST_RPMDB to a database of RPM, or a folder with some (docs/scan.md, "Test data")`)
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path != root && !slices.Contains([]string{"rpmdb.sqlite", "Packages", "Packages.db"}, d.Name()) {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := list(b)
		if err != nil || len(got) == 0 {
			t.Errorf("%s: got %v, %d packages", path, err, len(got))
		}
		t.Logf("%s: %d packages, first %.100q", path, len(got), got[:min(len(got), 1)])
		read++
		return nil
	})
	if err != nil || read == 0 {
		t.Errorf("%d databases were read: %v", read, err)
	}
}

func FuzzRead(f *testing.F) {
	// Small seeds: a fuzzer copies them all the time.
	small := headers(f)[0][:0]
	for _, h := range headers(f) {
		if len(h) < 4096 {
			small = h
		}
	}
	f.Add(ndbOf(small))
	f.Add(database(f)[:16384])
	f.Add(unzipped(f, "Packages.1234.gz")[:16384])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := list(b); err == nil && len(b) < 100 {
			t.Error("a database of nothing")
		}
	})
}
