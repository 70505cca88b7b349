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
