package inuse

import (
	"fmt"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// note notes a file as the agent does.
func note(t *testing.T, s *Seen, path string, how How) (fits bool) {
	t.Helper()
	as, script, ok := Noted(path, how)
	return !ok || s.Note(as, how, script, now)
}

// Scripts that the kernel told of are known by the folder of their package, or by the module of one file;
// in what several packages share, nobody knows whose they are.
func TestScriptsNoted(t *testing.T) {
	site := "usr/lib/python3/dist-packages/"
	units := func(list ...string) (b []byte) {
		for _, u := range list {
			b = inventory.AppendKey(b, inventory.FileKey(u))
		}
		return b
	}
	res := &inventory.Result{
		Packages: []inventory.Package{
			{Kind: "deb", Name: "python3-google-a"}, {Kind: "deb", Name: "python3-google-b"}, {Kind: "deb", Name: "python3-six"},
			{Kind: "deb", Name: "python3-yaml", Arch: "amd64"}, {Kind: "deb", Name: "python3-yaml", Arch: "i386"},
			{Kind: inventory.KindNPM, Name: "left", Path: "app/node_modules/left/package.json"},
			{Kind: inventory.KindNPM, Name: "other", Path: "app/node_modules/other/package.json"},
			{Kind: inventory.KindComposer, Name: "symfony/console", Path: "srv/vendor/composer/installed.json"},
			{Kind: inventory.KindGem, Name: "rack", Version: "2", Path: "usr/lib/ruby/gems/3.1.0/specifications/rack-2.gemspec"},
			{Kind: inventory.KindJava, Name: "g:a", Path: "app/a.jar"}, {Kind: inventory.KindJava, Name: "g:b", Path: "app/b.jar"},
			{Kind: inventory.KindPython, Name: "PyYAML", Owner: "python3-yaml", Path: site + "PyYAML-6.dist-info/METADATA"},
		},
		Owned: []inventory.OwnedFiles{
			{Package: 0, Units: units(site+"google/", site+"a_only/"), Partial: true}, {Package: 1, Units: units(site + "google/"), Partial: true},
			{Package: 2, Units: units(site + "six.py"), Partial: true}, {Package: 3, Units: units(site + "yaml/"), Partial: true},
			{Package: 11, Units: units(site + "yaml/"), Partial: true}, // what the distribution's package has in it
		},
	}
	x := NewIndex(res)
	s := &Seen{Looks: 1, Since: now, Until: now}
	for _, path := range []string{
		"/" + site + "google/b/__init__.py", "/" + site + "__pycache__/six.cpython-311.pyc", "/" + site + "yaml/__pycache__/loader.cpython-311.pyc",
		"/app/node_modules/left/dist/cjs/index.cjs", "/srv/vendor/symfony/console/Application.php",
		"/usr/lib/ruby/gems/3.1.0/gems/rack-2/lib/rack.rb", "/app/a.jar", "/usr/lib/python3.11/json/decoder.py",
	} {
		if !note(t, s, path, Opened) {
			t.Errorf("%s has no room", path)
		}
	}
	want := map[string]bool{"python3-six": true, "python3-yaml": true, "PyYAML": true, "left": true, "symfony/console": true, "rack": true, "g:a": true}
	for i, u := range x.Uses(s) {
		p := &res.Packages[i]
		if yes, known := u.InUse(); yes != want[p.Name] || known != (yes || p.Name == "g:b") {
			t.Errorf("%s: %+v", p.Name, u)
		} else if yes && u.String() != "opened" {
			t.Errorf("%s: %s", p.Name, &u)
		}
	}
	if len(s.Files) != 7 {
		t.Errorf("%d files are remembered, want none of what no package is known by", len(s.Files))
	}
	if !note(t, s, "/app/node_modules/left/other.js", Opened) || len(s.Files) != 7 {
		t.Error("a second script of a package takes room")
	}
	if n := s.DropScripts(); n != 6 || s.Files["app/a.jar"] == nil || !s.Whole() {
		t.Errorf("%d were dropped of %v", n, s.Files)
	}
}

// Scripts have half of the room, and those that are left out make nothing else unknown.
func TestScriptsBound(t *testing.T) {
	s := &Seen{Looks: 1}
	left := 0
	for i := range maxFiles {
		if !note(t, s, fmt.Sprintf("/app/node_modules/p%d/i.js", i), Opened) {
			left++
		}
	}
	for i := range maxFiles - maxScripts {
		note(t, s, fmt.Sprintf("/usr/lib/x%d.so", i), Mapped)
	}
	if left != maxFiles-maxScripts || !s.Whole() || len(s.Files) != maxFiles {
		t.Errorf("%d were left out and %d files are remembered, %d cut", left, len(s.Files), s.Cut)
	}
	if note(t, s, "/usr/bin/more", Executed); s.Whole() {
		t.Error("a program for which there is no room is not counted")
	}
}
