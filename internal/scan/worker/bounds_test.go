package worker

import (
	"slices"
	"strings"
	"testing"
)

// TestDuplicates: a database that names a package ever again has it once; another
// version of it stays.
func TestDuplicates(t *testing.T) {
	res, err := readArchive(t, dockerArchive(t, tarOf(t, ent{name: "etc/os-release", body: osRelease},
		ent{name: "var/lib/dpkg/status", body: strings.Repeat(deb("linux", "6.1-1", "")+deb("linux", "6.1-1", "Source: other\n"), 500) + deb("linux", "6.2-1", "")})))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"deb linux 6.1-1 @0", "deb linux 6.1-1 @0 of other 6.1-1", "deb linux 6.2-1 @0"}
	if got := summary(res); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
