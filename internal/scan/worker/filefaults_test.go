package worker

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// faultsOf is what files have that they should not, one text each.
func faultsOf(res *inventory.Result) []string {
	var out []string
	for i := range res.Misconfigurations {
		m := &res.Misconfigurations[i]
		if m.Path == "" {
			continue // of the configuration
		}
		s := fmt.Sprintf("%s %s %s @%d", m.Severity, m.ID, m.Where, m.Layer)
		if m.Owner != "" {
			s += " owned by " + m.Owner
		}
		if m.Count > 1 {
			s += fmt.Sprintf(" x%d", m.Count)
		}
		out = append(out, s)
	}
	return out
}

// aKey is no key of anybody.
const aKey = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n-----END OPENSSH PRIVATE KEY-----\n"

// faulty is an image whose upper layer deletes, replaces and keeps secrets of the lower one.
func faulty() (lower, upper []ent) {
	lower = []ent{
		{name: "etc/os-release", body: osRelease},
		{name: "var/lib/dpkg/status", body: deb("passwd", "1:4.13", "")},
		{name: "var/lib/dpkg/info/passwd.list", body: "/.\n/usr/bin/passwd\n"},
		{name: "usr/bin/passwd", body: "x", mode: 0o4755},
		{name: "usr/bin/wall", body: "x", mode: 0o2755},
		{name: "usr/lib/lock", body: "x", mode: 0o2644}, // a mark of mandatory locks
		{name: "opt/tool", body: "x", mode: 0o4777},
		{name: "opt/gone", body: "x", mode: 0o4755},
		{name: "tmp/", mode: 0o1777},
		{name: "srv/", mode: 0o777},
		{name: "srv/data", body: "x", mode: 0o666},
		{name: "srv/link", typ: tar.TypeSymlink, link: "/etc", mode: 0o777},
		{name: "root/.ssh/id_ed25519", body: "\n" + aKey, mode: 0o600},
		{name: "app/kept.pem", body: aKey},
		{name: "app/owner.pem", body: aKey},
		{name: "app/secrets/a.pem", body: aKey},
		{name: "usr/share/doc/x/key.pem", body: aKey},
	}
	upper = []ent{
		{name: "root/.ssh/.wh.id_ed25519"},
		{name: "opt/.wh.gone"},
		{name: "app/owner.pem", body: aKey}, // copied up by a change of its owner
		{name: "app/secrets/", mode: 0o755},
		{name: "app/secrets/.wh..wh..opq"},
		{name: "app/.env", body: "A=1\nDB_PASSWORD=correcthorse\n"},
	}
	return lower, upper
}

// TestFileFaults: secrets, also those that a later layer deletes, and files with rights, in
// every shape of an image.
func TestFileFaults(t *testing.T) {
	low, up := faulty()
	lower, upper := tarOf(t, low...), tarOf(t, up...)
	want := []string{
		"high secret-in-file app/.env:2 @1",
		"high secret-in-file app/kept.pem:1 @0",
		"high secret-in-file app/owner.pem:1 @1",
		"high secret-in-lower-layer app/secrets/a.pem:1 @0",
		"high secret-in-lower-layer root/.ssh/id_ed25519:2 @0",
		"high setuid-file opt/tool @0",
		"medium setgid-file usr/bin/wall @0",
		"low world-writable opt/tool @0 x3",
		"negligible setuid-file usr/bin/passwd @0 owned by passwd",
	}
	check := func(t *testing.T, res *inventory.Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got := faultsOf(res); !slices.Equal(got, want) || !res.Complete() || res.Unsearched != nil {
			t.Errorf("got\n%s\nnotes %+v, unsearched %+v, want\n%s", strings.Join(got, "\n"), res.Notes, res.Unsearched, strings.Join(want, "\n"))
		}
		for _, m := range res.Misconfigurations {
			if strings.Contains(m.Text+m.Where, "correcthorse") || strings.Contains(m.Text, "b3BlbnNz") {
				t.Errorf("%+v has a part of a secret", m)
			}
		}
	}
	res, err := readArchive(t, dockerArchive(t, lower, upper))
	check(t, res, err)
	res, err = readArchive(t, dockerArchive(t, gzipped(lower), zstded(t, upper)))
	check(t, res, err)
}

// TestFileFaultsOfDirectories: a root file system has the same, read in place.
func TestFileFaultsOfDirectories(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{"bin/su": []byte("x"), "app/key.pem": []byte(aKey), "usr/share/x.conf": []byte("x"), "app/large.txt": make([]byte, 5<<20)})
	for name, mode := range map[string]os.FileMode{"bin/su": 0o755 | os.ModeSetuid, "app/key.pem": 0o600, "usr/share/x.conf": 0o666, "app/large.txt": 0o644} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	res, err := read(t, inventory.SourceRootfs, "", dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"high secret-in-file app/key.pem:1 @0", "medium setuid-file bin/su @0", "low world-writable usr/share/x.conf @0 x1"}
	want[2] = strings.TrimSuffix(want[2], " x1")
	if got := faultsOf(res); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if u := res.Unsearched; u == nil || u.Path != "app/large.txt" || u.Count != 1 || !res.Complete() {
		t.Errorf("unsearched %+v, want app/large.txt, and a complete list of packages", u)
	}
}

// TestManyFileFaults: an image of nothing else stays within the bounds of a result.
func TestManyFileFaults(t *testing.T) {
	var ents []ent
	for i := range 22_000 {
		ents = append(ents, ent{name: fmt.Sprintf("a/%d", i), mode: 0o4755})
	}
	res, err := readArchive(t, dockerArchive(t, tarOf(t, ents...)))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Misconfigurations) != inventory.MaxMisconfigurations || res.Unsearched == nil || res.Check() != nil {
		t.Errorf("%d faults, unsearched %+v, %v", len(res.Misconfigurations), res.Unsearched, res.Check())
	}
}
