package worker

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestLockFiles: a lock file counts where its project is not installed, and says so.
func TestLockFiles(t *testing.T) {
	lock := `{"packages":{"node_modules/a":{"version":"1.0.0"},"node_modules/b":{"version":"2.0.0"}}}`
	layer := tarOf(t,
		ent{name: "app/package-lock.json", body: lock}, ent{name: "app/node_modules/a/package.json", body: `{"name":"a","version":"1.0.1"}`},
		ent{name: "srv/package-lock.json", body: lock},
		ent{name: "app/requirements.txt", body: "Flask_X==1.0\nsix==1.0\n"},
		ent{name: "usr/lib/python3/dist-packages/flask_x-2.0.dist-info/METADATA", body: "Name: flask.x\nVersion: 2.0\n\n"},
	)
	res, err := readArchive(t, dockerArchive(t, gzipped(layer)))
	if err != nil || !res.Complete() {
		t.Fatal(err, res)
	}
	var got []string
	for _, p := range res.Packages {
		s := p.Name + " " + p.Version
		if p.Locked {
			s += " locked by " + p.Path
		}
		got = append(got, s)
	}
	want := []string{"a 1.0.0 locked by srv/package-lock.json", "a 1.0.1", "b 2.0.0 locked by srv/package-lock.json", "flask.x 2.0", "six 1.0 locked by app/requirements.txt"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestJarPlaces: an archive in an archive has its place, in every kind of layer, and through a
// hard link that of the link; what a package of the distribution owns is owned.
func TestJarPlaces(t *testing.T) {
	jar := func(name, body string) string {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(body))
		z.Close()
		return b.String()
	}
	inner := jar("META-INF/maven/g/a/pom.properties", "version=1\n")
	layer := tarOf(t,
		ent{name: "var/lib/dpkg/info/x.list", body: "/usr/share/java/x.jar\n"}, ent{name: "var/lib/dpkg/status", body: deb("x", "1", "")},
		ent{name: "usr/share/java/x.jar", body: inner}, ent{name: "srv/app.war", body: jar("WEB-INF/lib/a.jar", inner)}, ent{name: "srv/link.war", typ: '1', link: "srv/app.war"},
	)
	for _, l := range [][]byte{layer, gzipped(layer)} {
		res, err := readArchive(t, dockerArchive(t, l))
		if err != nil || !res.Complete() {
			t.Fatal(err, res)
		}
		var got []string
		for _, p := range res.Packages[1:] {
			got = append(got, p.Name+" "+p.Path+" "+p.Owner)
		}
		want := []string{"g:a srv/app.war!/WEB-INF/lib/a.jar ", "g:a srv/link.war!/WEB-INF/lib/a.jar ", "g:a usr/share/java/x.jar x"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestJarLinks: a link to an archive is no gap, which is read under its own name; one to what is not
// told by its name is.
func TestJarLinks(t *testing.T) {
	for target, want := range map[string]bool{"x-1.2.jar": true, "/opt/far/../x-1.2.JAR": true, "x.bin": false, "": false, "package-lock.json": false} {
		layer := tarOf(t, ent{name: "usr/share/java/x.jar", typ: '2', link: target})
		if target == "" {
			layer = tarOf(t, ent{name: "app/node_modules/a/package.json", typ: '2', link: "../b/package.json"})
		}
		for _, l := range [][]byte{layer, gzipped(layer)} {
			res, err := readArchive(t, dockerArchive(t, l))
			if err != nil || res.Complete() != want {
				t.Errorf("%q: complete is %v, want %v: %v, %+v", target, res.Complete(), want, err, res.Notes)
			}
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("x-1.2.jar", filepath.Join(dir, "x.jar")); err != nil {
		t.Fatal(err)
	}
	if res, err := read(t, inventory.SourceRootfs, "", dir); err != nil || !res.Complete() {
		t.Errorf("in a directory: %v, %+v", err, res)
	}
}

// TestPythonRecord: lists of files of Python tell which package a library is of, and nothing about
// whose package one is; what cannot be read of them is not taken for all.
func TestPythonRecord(t *testing.T) {
	const site = "usr/lib/python3/site-packages/"
	dist := func(name, record string) []ent {
		return []ent{
			{name: site + name + "-1.dist-info/METADATA", body: "Name: " + name + "\nVersion: 1\n\n"},
			{name: site + name + "-1.dist-info/RECORD", body: record},
		}
	}
	var files []ent
	for _, list := range [][]ent{
		dist("aa", "_native.cpython-312-x86_64-linux-gnu.so,sha256=x,1\n\"aa.libs/lib,x.so.1\",,\naa-1.dist-info/RECORD,,\n"),
		dist("bb", "bb/__init__.py,sha256=x,1\nbb/_b.so,,\n../../../bin/bb,,\n"),
		dist("cc", "cc/_c.so,,\n\"never closed"),
		dist("dd", "../../../../../../../etc/d.so,,\n/opt/e.so,,\n"+site+"aa-1.dist-info/METADATA,,\naa-1.dist-info/METADATA,,\n/"+site+"aa-1.dist-info/METADATA,,\n"),
		dist("ee", "ee/data.txt,,\n"),
	} {
		files = append(files, list...)
	}
	res, err := readArchive(t, dockerArchive(t, gzipped(tarOf(t, files...))))
	if err != nil || len(res.Packages) != 5 {
		t.Fatal(err, res)
	}
	want := map[string][]string{
		"aa": {site + "_native.cpython-312-x86_64-linux-gnu.so", site + "aa.libs/lib,x.so.1"}, "bb": {site + "bb/_b.so", "usr/bin/bb"},
		"cc": {site + "cc/_c.so"}, "dd": {"etc/d.so", "opt/e.so"},
	}
	partial := map[string]bool{"bb": true, "cc": true}
	for _, o := range res.Owned {
		p := &res.Packages[o.Package]
		keys := map[uint64]bool{}
		inventory.EachKey(o.Keys, func(k uint64) { keys[k] = true })
		var units []uint64
		inventory.EachKey(o.Units, func(k uint64) { units = append(units, k) })
		var wantUnits []uint64
		if p.Name == "bb" {
			wantUnits = []uint64{inventory.FileKey(site + "bb/")}
		}
		if !slices.Equal(units, wantUnits) {
			t.Errorf("%s has scripts in %x, want %x", p.Name, units, wantUnits)
		}
		for _, f := range want[p.Name] {
			if !keys[inventory.FileKey(f)] {
				t.Errorf("%s: no %s", p.Name, f)
			}
		}
		if len(keys) != len(want[p.Name]) || o.Partial != partial[p.Name] {
			t.Errorf("%s has %d files, partial %v", p.Name, len(keys), o.Partial)
		}
		delete(want, p.Name)
	}
	if len(want) > 0 {
		t.Errorf("no files of %v", want)
	}
	for _, p := range res.Packages {
		if p.Owner != "" {
			t.Errorf("%s is said to be of %q", p.Name, p.Owner)
		}
	}
	if len(res.Notes) > 0 {
		t.Errorf("notes %v: such a list makes nothing incomplete", res.Notes)
	}
}

// TestPythonRecordOwns: a list of Python's takes no file away from a package of the distribution.
func TestPythonRecordOwns(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("META-INF/maven/g/a/pom.properties")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("version=1\n")); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	res, err := readArchive(t, dockerArchive(t, gzipped(tarOf(t,
		ent{name: "var/lib/dpkg/info/x.list", body: "/opt/e.jar\n"}, ent{name: "var/lib/dpkg/status", body: deb("x", "1", "")}, ent{name: "opt/e.jar", body: b.String()},
		ent{name: "var/www/dd-1.dist-info/METADATA", body: "Name: dd\nVersion: 1\n\n"}, ent{name: "var/www/dd-1.dist-info/RECORD", body: "/opt/e.jar,,\n"},
	))))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(res.Packages, func(p inventory.Package) bool { return p.Kind == inventory.KindJava })
	if i < 0 || res.Packages[i].Owner != "x" {
		t.Errorf("the archive is of nobody: %+v", res.Packages)
	}
}
