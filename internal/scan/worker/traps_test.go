package worker

import (
	"archive/tar"
	"slices"
	"strings"
	"testing"
)

// TestImageTraps: each is a way in which scanners read an image wrongly. Every image is read with
// layers as files and as streams.
func TestImageTraps(t *testing.T) {
	status := func(packages ...string) ent {
		return ent{name: "var/lib/dpkg/status", body: strings.Join(packages, "")}
	}
	npm := func(dir, name, version string) ent {
		return ent{name: dir + "/package.json", body: `{"name":"` + name + `","version":"` + version + `"}`}
	}
	program := func(info string) ent {
		return ent{name: "bin/x", mode: 0o755, body: "\x7fELF" + strings.Repeat("\x00", 12) + info + strings.Repeat("\x00", 300<<10)}
	}
	goVersion := func(v string) ent {
		return program(strings.Replace(goInfo("x.example/dep", "v1.2.3"), "\x08go1.22.1", string([]byte{byte(len(v))})+v, 1))
	}
	const goPackages = "golang stdlib 1.22.1 @0; golang x.example/dep v1.2.3 @0"
	release := ent{name: "etc/os-release", body: osRelease}
	tests := []struct {
		name   string
		layers [][]ent
		want   string
		note   string
	}{
		{"a package that is only configured", [][]ent{{status(deb("a", "1", ""), "Package: b\nStatus: deinstall ok config-files\nVersion: 1\n")}}, "deb a 1 @0", ""},
		{"a binary rebuilt, its source not", [][]ent{{status(deb("a", "1.0-1+b2", "Source: src (1.0-1)\n"))}}, "deb a 1.0-1+b2 @0 of src 1.0-1", ""},
		{"removed by a rewritten database", [][]ent{{status(deb("a", "1", ""), deb("b", "1", ""))}, {status(deb("a", "1", ""))}}, "deb a 1 @0", ""},
		{"upgraded by a rewritten database", [][]ent{{status(deb("a", "1", ""), deb("b", "1", ""))}, {status(deb("a", "2", ""), deb("b", "1", ""))}}, "deb a 2 @1; deb b 1 @0", ""},
		{"removed and installed again", [][]ent{{status(deb("a", "1", ""), deb("b", "1", ""))}, {status(deb("b", "1", ""))}, {status(deb("a", "1", ""), deb("b", "1", ""))}}, "deb a 1 @2; deb b 1 @0", ""},
		{"distroless: a file a package, and checksums", [][]ent{{{name: "var/lib/dpkg/status.d/a", body: "Package: a\nVersion: 1\n"}, {name: "var/lib/dpkg/status.d/a.md5sums", body: "Package: no\nVersion: 1\n"}}}, "deb a 1 @0", ""},
		{"apko: the database below usr", [][]ent{{{name: "usr/lib/apk/db/installed", body: "P:libssl3\nV:3.1.4-r5\no:openssl\n\n"}}}, "apk libssl3 3.1.4-r5 @0 of openssl 3.1.4-r5", ""},
		{"a file replaced by a directory", [][]ent{{npm("n/node_modules/a", "a", "1.0.0"), {name: "n/node_modules/b", body: "a file"}}, {{name: "n/node_modules/a/package.json/"}, {name: "n/node_modules/b/"}, npm("n/node_modules/b", "b", "1.0.0")}}, "npm b 1.0.0 @1", ""},
		{"a directory replaced by a file", [][]ent{{npm("n/node_modules/a", "a", "1.0.0")}, {{name: "n/node_modules/a", body: "a file"}}}, "", ""},
		{"a directory replaced by a file in its own layer", [][]ent{{npm("n/node_modules/a", "a", "1.0.0"), npm("n/node_modules/ab", "ab", "1.0.0"), npm("n/node_modules/a/node_modules/c", "c", "1.0.0"), {name: "n/node_modules/a", body: "a file"}}}, "npm ab 1.0.0 @0", ""},
		{"a directory replaced by a link in its own layer, and made again", [][]ent{{npm("n/node_modules/a", "a", "1.0.0"), npm("n/node_modules/a/node_modules/b", "b", "1.0.0"), {name: "n/node_modules/a", typ: tar.TypeSymlink, link: "elsewhere"}, {name: "n/node_modules/a/"}, npm("n/node_modules/a", "a", "2.0.0")}}, "npm a 2.0.0 @0", ""},
		{"a hard link into a directory that is replaced in its own layer", [][]ent{{npm("n/node_modules/a", "a", "1.0.0"), {name: "n/node_modules/b/package.json", typ: tar.TypeLink, link: "n/node_modules/a/package.json"}, {name: "n/node_modules/a", body: "a file"}}}, "", "replaced in its own layer"},
		{"whited out", [][]ent{{npm("n/node_modules/a", "a", "1.0.0")}, {{name: "n/node_modules/.wh.a"}}}, "", ""},
		{"npm: modules within modules", [][]ent{{npm("n/node_modules/a", "a", "2.0.0"), npm("n/node_modules/b/node_modules/a", "a", "1.0.0"), npm("n/node_modules/b/node_modules/@s/c/node_modules/d", "d", "3.0.0")}}, "npm a 1.0.0 @0; npm a 2.0.0 @0; npm d 3.0.0 @0", ""},
		{"npm: those that npm itself brings", [][]ent{{npm("usr/local/lib/node_modules/npm", "npm", "10.8.2"), npm("usr/local/lib/node_modules/npm/node_modules/tar", "tar", "6.2.1")}}, "npm npm 10.8.2 @0; npm tar 6.2.1 @0", ""},
		{"npm: bundled dependencies", [][]ent{{{name: "n/node_modules/a/package.json", body: `{"name":"a","version":"1.0.0","bundledDependencies":["b"]}`}, npm("n/node_modules/a/node_modules/b", "b", "0.1.0")}}, "npm a 1.0.0 @0; npm b 0.1.0 @0", ""},
		{"npm: a package.json of a module's folder", [][]ent{{npm("n/node_modules/a", "a", "1.0.0"), {name: "n/node_modules/a/dist/cjs/package.json", body: `{"type":"commonjs"}`}, npm("n/node_modules/a/test/fixture", "not-me", "1.0.0")}}, "npm a 1.0.0 @0", ""},
		{"Go: the main module of a checkout", [][]ent{{program(goInfo("x.example/dep", "v1.2.3"))}}, goPackages, ""},
		{"Go: a module replaced by another", [][]ent{{program(goInfo("x.example/dep", "v1.2.3\n=>\tx.example/fork\tv1.0.0"))}}, "golang stdlib 1.22.1 @0; golang x.example/fork v1.0.0 @0", ""},
		{"Go: a module replaced by a folder", [][]ent{{program(goInfo("x.example/dep", "v1.2.3\n=>\t./fork\t(devel)"))}}, goPackages, ""},
		{"Go: experiments behind the version", [][]ent{{goVersion("go1.22.1 X:nocoverageredesign")}}, goPackages, ""},
		{"Go: experiments in the version", [][]ent{{goVersion("go1.22.1-X:boringcrypto")}}, goPackages, ""},
		{"Go: of a development version", [][]ent{{goVersion("devel go1.23-abcdef")}}, "golang x.example/dep v1.2.3 @0", ""},
		{"a program packed by UPX", [][]ent{{program(strings.Repeat("\x00", 220) + "UPX!\x0d\x0e")}}, "", "packed by UPX"},
		{"a program that only tells of UPX", [][]ent{{program(goInfo("x.example/dep", "v1.2.3") + "UPX!")}}, goPackages, ""},
		{"packages of chisel", [][]ent{{release, {name: "var/lib/chisel/manifest.wall", body: "\x28\xb5\x2f\xfd"}}}, "", "no database of its packages"},
		{"packages of OPKG", [][]ent{{release, {name: "usr/lib/opkg/status", body: "Package: a\nVersion: 1\nStatus: install user installed\n"}}}, "", "no database of its packages"},
		{"a hard link across layers", [][]ent{{{name: "s/a", body: `{"name":"a","version":"1.0.0"}`}}, {{name: "n/node_modules/a/package.json", typ: tar.TypeLink, link: "s/a"}}}, "npm a 1.0.0 @1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for how, pack := range map[string]func([]byte) []byte{"plain": slices.Clone[[]byte], "gzip": gzipped} {
				var layers [][]byte
				for _, ents := range tt.layers {
					layers = append(layers, pack(tarOf(t, ents...)))
				}
				res, err := readArchive(t, dockerArchive(t, layers...))
				if err != nil {
					t.Fatal(err)
				}
				if how == "plain" && strings.HasPrefix(tt.want, "golang") {
					continue // only streams are searched for what is no true program
				}
				if got := strings.Join(summary(res), "; "); got != tt.want {
					t.Errorf("%s: got %q, want %q", how, got, tt.want)
				}
				if got := noted(res, tt.note); got != (tt.note != "") || tt.note == "" && !res.Complete() {
					t.Errorf("%s: notes %+v, want %q", how, res.Notes, tt.note)
				}
			}
		})
	}
}
