package worker

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestRPM: a database that rpm wrote, in a layer in place, compressed, and asked for; a file that
// a package owns; changes that are not in the database yet.
func TestRPM(t *testing.T) {
	f, err := os.Open("../rpmdb/testdata/rpmdb.sqlite.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	db, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	ents := []ent{
		{name: "etc/os-release", body: "ID=\"almalinux\"\nVERSION_ID=\"9.3\"\n"},
		{name: "var/lib/rpm/rpmdb.sqlite", body: string(db)},
		{name: "var/lib/rpm/rpmdb.sqlite-wal"},
		{name: "usr/lib/python3.9/site-packages/six-1.16.0.dist-info/METADATA", body: "Name: six\nVersion: 1.16.0\n\n"},
	}
	want := []string{
		"pypi six 1.16.0 @0 owned by alpha-libs",
		"rpm alpha 2:1.4.2-3.el9 @0",
		"rpm alpha-libs 2:1.4.2-3.el9 @0 of alpha 2:1.4.2-3.el9",
		"rpm thunderbird 115.6.0-1.el9_3.alma @0",
	}
	layer := tarOf(t, ents...)
	files := layoutFiles(gzipped, layer)
	for name, read := range map[string]func() (*inventory.Result, error){
		"in place":   func() (*inventory.Result, error) { return readArchive(t, dockerArchive(t, layer)) },
		"compressed": func() (*inventory.Result, error) { return readArchive(t, dockerArchive(t, gzipped(layer))) },
		"asked for":  func() (*inventory.Result, error) { return readAsked(t, files, rootOf(t, files)) },
	} {
		res, err := read()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := summary(res); !slices.Equal(got, want) || !res.Complete() {
			t.Errorf("%s: got %q, %v, want %q", name, got, res.Notes, want)
		}
	}
	f2, err := os.Open("../rpmdb/testdata/Packages.1234.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f2.Close()
	z, err = gzip.NewReader(f2)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	old := tarOf(t, ents[0], ent{name: "var/lib/rpm/Packages", body: string(hash)}, ents[3])
	for _, l := range [][]byte{old, gzipped(old)} {
		if res, err := readArchive(t, dockerArchive(t, l)); err != nil || !slices.Equal(summary(res), want) || !res.Complete() {
			t.Errorf("Berkeley DB: got %v, %q, want %q", err, summary(res), want)
		}
	}
	for part, e := range map[string]ent{
		"not in it yet": {name: "var/lib/rpm/rpmdb.sqlite-wal", body: "x"},
		"Berkeley DB":   {name: "usr/lib/sysimage/rpm/Packages", body: strings.Repeat("\x00", 12) + "\x62\x31\x05\x00" + strings.Repeat("\x00", 600)},
		"broken":        {name: "usr/lib/sysimage/rpm/Packages.db", body: "RpmP" + strings.Repeat("\xff", 100)},
		"symbolic link": {name: "usr/lib/sysimage/rpm/rpmdb.sqlite", typ: tar.TypeSymlink, link: "/elsewhere"},
	} {
		res, err := readArchive(t, dockerArchive(t, gzipped(layer), tarOf(t, e)))
		noted := err == nil && slices.ContainsFunc(res.Notes, func(n inventory.Note) bool { return strings.Contains(n.Text, part) })
		if !noted {
			t.Errorf("%s: %v, %+v, want a note", part, err, res)
		}
	}
}
