package enforce

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScan(t *testing.T) {
	dir := t.TempDir()
	id := strings.Repeat("ab", 32)
	for _, d := range []string{
		"docker/" + id + "/nested/" + id, // below a container everything is that container's
		"docker/buildkit/abcdefghijklmnopqrstuvwxy",
		"system.slice/docker-" + id + ".scope",
		"machine.slice/libpod-conmon-" + id + ".scope",
		"other/x",
	} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	paths := func(scopes ...string) []string {
		found, err := cgroupRoot{dir: dir}.scan(scopes)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range found {
			rel, err := filepath.Rel(dir, f.dir)
			if err != nil {
				t.Fatal(err)
			}
			kind := "nested"
			switch {
			case f.build:
				kind = "build"
			case f.id == f.top:
				kind = "container"
			}
			out = append(out, kind+" "+strings.ReplaceAll(rel, id, "ID"))
		}
		return out
	}
	all := []string{
		"build docker/buildkit/abcdefghijklmnopqrstuvwxy", "container docker/ID", "nested docker/ID/nested",
		"nested docker/ID/nested/ID", "container system.slice/docker-ID.scope",
	}
	got := paths()
	if d := cmp.Diff(len(all), len(got)); d != "" {
		t.Errorf("%v: %s", got, d)
	}
	for _, want := range all {
		if !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("missing %q in %q", want, got)
		}
	}
	if d := cmp.Diff([]string{"container system.slice/docker-ID.scope"}, paths("/system.slice")); d != "" {
		t.Error(d)
	}
}
