package worker

import (
	"archive/tar"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// noted reports whether a result says with these words that something is missing.
func noted(res *inventory.Result, words string) bool {
	return !res.Complete() && slices.ContainsFunc(res.Notes, func(n inventory.Note) bool { return strings.Contains(n.Text, words) })
}

// goInfo is build information as Go's linker writes it, with one dependency.
func goInfo(path, version string) string {
	mods := strings.Repeat("s", 16) + "path\tx.example/m\nmod\tx.example/m\t(devel)\t\ndep\t" + path + "\t" + version + "\th1:x\n" + strings.Repeat("e", 16)
	text := func(s string) string {
		if len(s) < 128 {
			return string([]byte{byte(len(s))}) + s
		}
		return string([]byte{byte(len(s)) | 0x80, byte(len(s) >> 7)}) + s
	}
	return "\xff Go buildinf:\x08\x02" + strings.Repeat("\x00", 16) + text("go1.22.1") + text(mods)
}

// TestLargeFiles: size hides nothing without a word.
func TestLargeFiles(t *testing.T) {
	fake := "\xff Go buildinf:\x08\x02" + strings.Repeat("\x00", 16)
	program := func(before string, pad int) string {
		s := "\x7fELF" + strings.Repeat("\x00", 12) + before
		return s + strings.Repeat("\x00", (16-len(s)%16)%16+pad) + goInfo("x.example/dep", "v1.2.3") + strings.Repeat("\x00", 300<<10)
	}
	dep := "golang x.example/dep v1.2.3 @0"
	tests := []struct {
		name string
		ent  ent
		want string // a package
		note string
	}{
		{"program of 80 MiB", ent{name: "bin/x", mode: 0o755, body: program("", 80<<20)}, dep, ""},
		{"a false magic before the true one", ent{name: "bin/x", mode: 0o755, body: program(fake+"\xff\xff\xff", 0)}, dep, ""},
		{"a false text around the true one", ent{name: "bin/x", mode: 0o755, body: program(fake+"\x06go1.22\xff\x40", 0)}, dep, ""},
		{"a false magic without modules", ent{name: "bin/x", mode: 0o755, body: program(fake+"\x06go1.22\x00", 0)}, dep, ""},
		{"many false magics", ent{name: "bin/x", mode: 0o755, body: program(strings.Repeat(fake, 100), 0)}, "", "look like build information"},
		{"database of 70 MiB", ent{name: "var/lib/dpkg/status", body: deb("bash", "5", "") + strings.Repeat("X: y\n", 14<<20) + deb("curl", "7", "")}, "deb bash 5 @0", "more than 67108864 bytes"},
		{"package.json of 5 MiB", ent{name: "node_modules/a/package.json", body: `{"name":"a","version":"1.0.0"}` + strings.Repeat(" ", 5<<20)}, "", "package.json"},
		{"os-release of 70 KiB", ent{name: "etc/os-release", body: strings.Repeat("#\n", 35<<10) + "ID=debian\n"}, "", "more than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, err := readArchive(t, dockerArchive(t, gzipped(tarOf(t, tt.ent))))
			if err != nil {
				t.Fatal(err)
			}
			if tt.want != "" && !slices.Contains(summary(res), tt.want) {
				t.Errorf("got %q, want %q in it", summary(res), tt.want)
			}
			if got := noted(res, tt.note); got != (tt.note != "") {
				t.Errorf("notes %+v, want %q", res.Notes, tt.note)
			}
		})
	}
}

// TestHardLinks: what hard links lead to is read or said to be missing.
func TestHardLinks(t *testing.T) {
	link := func(name, to string) ent { return ent{name: name, typ: tar.TypeLink, link: to} }
	const at = "x/node_modules/b/package.json"
	file := ent{name: "store/b", body: `{"name":"b","version":"1.0.0"}`}
	other := ent{name: "store/b", body: `{"name":"b","version":"2.0.0"}`}
	var long []ent
	for i := range 20 {
		long = append(long, link("l"+string(rune('a'+i+1)), "l"+string(rune('a'+i))))
	}
	tests := []struct {
		name   string
		layers [][]ent
		want   []string
		note   string
	}{
		{"to a link", [][]ent{{file, link("store/c", "store/b"), link(at, "store/c")}}, []string{"npm b 1.0.0 @0"}, ""},
		{"to a link of a lower layer", [][]ent{{file, link("store/c", "store/b")}, {link(at, "store/c")}}, []string{"npm b 1.0.0 @1"}, ""},
		{"to a wanted link", [][]ent{{file, link("y/node_modules/b/package.json", "store/b"), link(at, "y/node_modules/b/package.json")}}, []string{"npm b 1.0.0 @0", "npm b 1.0.0 @0"}, ""},
		{"to a symlink", [][]ent{{file, {name: "store/s", typ: tar.TypeSymlink, link: "b"}, link(at, "store/s")}}, nil, "no regular file"},
		{"through too many", [][]ent{append(append([]ent{{name: "la", body: file.body}}, long...), link(at, "lu"))}, nil, "leads through more"},
		{"in a circle", [][]ent{{link("a", "c"), link("c", "a"), link(at, "a")}}, nil, "leads through more"},
		{"whose target is replaced after", [][]ent{{file, link(at, "store/b"), other}}, []string{"npm b 2.0.0 @0"}, "replaced in its own layer"},
		{"that is replaced itself", [][]ent{{file, link(at, "store/b"), {name: at, body: other.body}}}, []string{"npm b 2.0.0 @0"}, ""},
	}
	for _, tt := range tests {
		for how, pack := range map[string]func([]byte) []byte{"plain": slices.Clone[[]byte], "gzip": gzipped} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				var layers [][]byte
				for _, ents := range tt.layers {
					layers = append(layers, pack(tarOf(t, ents...)))
				}
				res, err := readArchive(t, dockerArchive(t, layers...))
				if err != nil {
					t.Fatal(err)
				}
				if got := summary(res); !slices.Equal(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if got := noted(res, tt.note); got != (tt.note != "") {
					t.Errorf("notes %+v, want %q", res.Notes, tt.note)
				}
			})
		}
	}
}

// TestSymlinks: links hide no database without a word, and usual ones are no reason
// for one.
func TestSymlinks(t *testing.T) {
	sym := func(name, to string) ent { return ent{name: name, typ: tar.TypeSymlink, link: to} }
	status := func(name string) ent { return ent{name: name, body: deb("bash", "5", "")} }
	release := ent{name: "etc/os-release", body: osRelease}
	tests := []struct {
		name   string
		layers [][]ent
		note   string
	}{
		{"directory elsewhere", [][]ent{{status("opt/d/status"), sym("var/lib/dpkg", "/opt/d")}}, "in the place of"},
		{"parent elsewhere", [][]ent{{status("opt/dpkg/status"), sym("var/lib", "../opt")}}, "in the place of"},
		{"database elsewhere", [][]ent{{status("opt/s"), sym("var/lib/dpkg/status", "/opt/s")}}, "in the place of"},
		{"lib elsewhere", [][]ent{{{name: "opt/apk/db/installed", body: "P:a\nV:1\n\n"}, sym("lib", "opt")}}, "in the place of"},
		{"metadata elsewhere", [][]ent{{{name: "opt/m", body: "Name: x\nVersion: 1\n"}, sym("x.dist-info/METADATA", "/opt/m")}}, "in the place of"},
		{"written through a link", [][]ent{{sym("d", "var/lib/dpkg"), status("d/status")}}, "behind a symbolic link"},
		{"written through a lower link", [][]ent{{sym("d", "var/lib/dpkg")}, {status("d/status")}}, "behind a symbolic link"},
		{"through a link that is hidden after", [][]ent{{sym("d", "var/lib/dpkg")}, {status("d/status"), {name: "d/"}}}, "behind a symbolic link"},
		{"no database", [][]ent{{release, {name: "node_modules/a/package.json", body: `{"name":"a","version":"1.0.0"}`}}}, "no database of its packages"},
		{"a merged /usr", [][]ent{{sym("lib", "usr/lib"), sym("bin", "/usr/bin"), sym("lib64", "usr/lib64"), sym("usr/bin/sh", "dash"), sym("var/run", "/run"),
			{name: "usr/lib/os-release", body: osRelease}, sym("etc/os-release", "../usr/lib/os-release"), status("var/lib/dpkg/status")}, {{name: "lib/x", body: "x"}}}, ""},
		{"a directory in place of a lower link", [][]ent{{sym("d", "e")}, {{name: "d/"}, {name: "d/x", body: "x"}}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var layers [][]byte
			for _, ents := range tt.layers {
				layers = append(layers, tarOf(t, ents...))
			}
			res, err := readArchive(t, dockerArchive(t, layers...))
			if err != nil {
				t.Fatal(err)
			}
			if got := noted(res, tt.note); got != (tt.note != "") || tt.note == "" && !res.Complete() {
				t.Errorf("notes %+v, want %q", res.Notes, tt.note)
			}
		})
	}
}

// TestSymlinksInDirectory: the same of a root file system in a directory.
func TestSymlinksInDirectory(t *testing.T) {
	for target, note := range map[string]string{"usr/lib": "", "/usr/lib": "", "opt": "in the place of"} {
		dir := t.TempDir()
		writeFiles(t, dir, map[string][]byte{"usr/lib/apk/db/installed": []byte("P:a\nV:1\n\n")})
		if err := os.Symlink(target, filepath.Join(dir, "lib")); err != nil {
			t.Fatal(err)
		}
		res, err := read(t, inventory.SourceRootfs, "", dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := noted(res, note); got != (note != "") {
			t.Errorf("lib to %s: notes %+v, want %q", target, res.Notes, note)
		}
	}
}

// TestLocalReplacement: a module that a folder stands in for is listed as what it
// stands for.
func TestLocalReplacement(t *testing.T) {
	program := "\x7fELF" + strings.Repeat("\x00", 12) + goInfo("x.example/dep", "v1.2.3\n=>\t./fork\t(devel)") + strings.Repeat("\x00", 300<<10)
	res, err := readArchive(t, dockerArchive(t, gzipped(tarOf(t, ent{name: "bin/x", mode: 0o755, body: program}))))
	if err != nil {
		t.Fatal(err)
	}
	if got := summary(res); !slices.Contains(got, "golang x.example/dep v1.2.3 @0") {
		t.Errorf("got %q, want x.example/dep v1.2.3 in it", got)
	}
}

// TestForgedArchives: an archive that says two things is refused.
func TestForgedArchives(t *testing.T) {
	a := tarOf(t, ent{name: "var/lib/dpkg/status", body: deb("bash", "5", "")})
	b := tarOf(t, ent{name: "var/lib/dpkg/status", body: deb("bash", "6", "")})
	manifest := ent{name: "manifest.json", body: `[{"Config":"c.json","Layers":["l"]}]`}
	config := func(l []byte) ent { return ent{name: "c.json", body: string(configOf([][]byte{l}))} }
	both := func(l []byte) []byte {
		ents := []ent{manifest, config(a), {name: "l", body: string(a)}}
		for name, body := range layoutFiles(gzipped, l) {
			ents = append(ents, ent{name: name, body: string(body)})
		}
		return tarOf(t, ents...)
	}
	tests := []struct {
		name  string
		image []byte
		err   string
	}{
		{"another layer", tarOf(t, manifest, config(a), ent{name: "l", body: string(b)}), "damaged or forged"},
		{"another layer, gzip", tarOf(t, manifest, config(a), ent{name: "l", body: string(gzipped(b))}), "damaged or forged"},
		{"bytes after the layer's end", tarOf(t, manifest, config(a), ent{name: "l", body: string(gzipped(append(a[:len(a):len(a)], 'x')))}), "damaged or forged"},
		{"two of a name", tarOf(t, manifest, config(a), ent{name: "l", body: string(b)}, ent{name: "./l", body: string(a)}), "twice"},
		{"a file and a link of a name", tarOf(t, manifest, config(a), ent{name: "l", body: string(a)}, ent{name: "l", typ: tar.TypeSymlink, link: "m"}), "twice"},
		{"two manifests of two images", both(b), "index.json about"},
		{"two manifests of one image", both(a), ""},
	}
	for _, tt := range tests {
		for how, pack := range map[string]func([]byte) []byte{"plain": slices.Clone[[]byte], "gzip": gzipped} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				_, err := readArchive(t, pack(tt.image))
				if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
			})
		}
	}
}
