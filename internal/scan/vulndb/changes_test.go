package vulndb

import (
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// A fingerprint stays where a build moved only numbers, and changes with what is said.
func TestFingerprint(t *testing.T) {
	res := &inventory.Result{OS: debian12, Packages: []inventory.Package{
		{Kind: inventory.KindDeb, Name: "libssl3", Version: "1", Source: "openssl", SourceVersion: "1"},
		{Kind: inventory.KindPython, Name: "Jinja2", Version: "1.0"},
		{Kind: inventory.KindPython, Name: "jinja2", Version: "2.0"},
	}}
	keys := Keys(res)
	prints := func(db *DB) map[Key]uint64 {
		out := map[Key]uint64{}
		for _, k := range keys {
			n, err := db.Fingerprint(k)
			if err != nil {
				t.Fatal(err)
			}
			out[k] = n
		}
		return out
	}
	a := prints(build(t, rec("D-1", "Debian:12", "openssl", upTo2)))
	b := prints(build(t, rec("A-0", "npm", "other", upTo2), rec("D-1", "Debian:12", "openssl", upTo2)))
	c := prints(build(t, rec("D-1", "Debian:12", "openssl", upTo2), rec("D-2", "Debian:12", "openssl", upTo2)))
	d := prints(build(t, rec("D-1", "Debian:12", "openssl", upTo2), rec("P-1", "PyPI", "jinja2", upTo2)))
	ssl, py, eco := Key{"Debian:12", "openssl"}, Key{"PyPI", "jinja2"}, Key{"PyPI", ""}
	if a[ssl] == 0 || a[ssl] != b[ssl] {
		t.Errorf("a record of another package changed openssl: %v, %v", a[ssl], b[ssl])
	}
	if a[ssl] == c[ssl] {
		t.Error("a new record left the fingerprint as it was")
	}
	if a[py] == d[py] || a[eco] == d[eco] || a[ssl] != d[ssl] {
		t.Errorf("a first record of an ecosystem: %v, then %v", a, d)
	}
}
