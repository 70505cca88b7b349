package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLayerCache: a layer that was read is not fetched again, and what is kept can be seen and
// let go of.
func TestLayerCache(t *testing.T) {
	f := newScanFixture(t)
	r := newTestRegistry(t)
	r.push(t, "team/app", "1", f.root)
	dir := filepath.Join(t.TempDir(), "layers")
	scan := func(blobs int, args ...string) string {
		t.Helper()
		before := r.gets()
		code, out, msg := belay(t, append([]string{"scan", "registry:" + r.host + "/team/app:1", "--db", f.db, "--scanner", f.scanner, "--platform", "linux/amd64"}, args...)...)
		if code != exitOK || !strings.Contains(out, "CVE-2024-28085 exploited") {
			t.Fatalf("%q: %d\n%s%s", args, code, out, msg)
		}
		if n := r.gets() - before; n != blobs {
			t.Errorf("%q fetched %d blobs, want %d", args, n, blobs)
		}
		return out + msg
	}
	status := func(want string) {
		t.Helper()
		if code, out, msg := belay(t, "cache", "status", "--cache-dir", dir); code != exitOK || !strings.Contains(out, want) {
			t.Errorf("cache status: %d, %s%s, want %q", code, out, msg, want)
		}
	}
	status("0 layers")
	scan(2, "--cache-dir", dir, "--no-cache")
	status("0 layers")
	first := scan(2, "--cache-dir", dir)
	status("1 layer")
	if again := scan(1, "--cache-dir", dir); again != first {
		t.Errorf("with what was kept:\n%swithout:\n%s", again, first)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Fatal(err, list)
	}
	if err := os.Truncate(filepath.Join(dir, list[0].Name()), 200); err != nil {
		t.Fatal(err)
	}
	if out := scan(2, "--cache-dir", dir); !strings.Contains(out, "1 damaged") {
		t.Errorf("with a damaged file: %s", out)
	}
	if code, out, msg := belay(t, "cache", "clear", "--cache-dir", dir); code != exitOK || out != "1 layer removed\n" {
		t.Errorf("cache clear: %d, %s%s", code, out, msg)
	}
	if code, out, _ := belay(t, "cache", "status", "--cache-dir", dir, "-o", "json"); code != exitOK || !strings.Contains(out, `"layers": 0`) {
		t.Errorf("cache status -o json: %d, %s", code, out)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if code, _, msg := belay(t, "scan", f.root, "--packages-only", "--scanner", f.scanner, "--cache-dir", dir); code != exitFailed || !strings.Contains(msg, "--no-cache") {
		t.Errorf("a folder that all may write to: %d, %s", code, msg)
	}
	if code, _, msg := belay(t, "cache", "status", "--cache-size", "0"); code != exitUsage || !strings.Contains(msg, "at least 1 MiB") {
		t.Errorf("no size: %d, %s", code, msg)
	}
}

// TestCacheLooked: looking at a cache that is not there makes none.
func TestCacheLooked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layers")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"cache", "status"}, dir + ": 0 layers"},
		{[]string{"cache", "clear"}, "0 layers removed"},
	} {
		var out, msg strings.Builder
		code := run(t.Context(), &terminal{in: strings.NewReader(""), out: &out, err: &msg, now: time.Now, layers: dir}, tt.args)
		if code != exitOK || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%v: exit status %d, %s%s", tt.args, code, out.String(), msg.String())
		}
		if code, out, msg := belay(t, append(tt.args, "--cache-dir", dir)...); code != exitOK || !strings.Contains(out, tt.want) {
			t.Errorf("%v of a folder that was named: exit status %d, %s%s", tt.args, code, out, msg)
		}
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking made the folder: %v", err)
	}
}

// TestPurgeTakesCache: a purge of the package leaves nothing that the command has written for root.
func TestPurgeTakesCache(t *testing.T) {
	script, err := os.ReadFile("../../deploy/package/postremove.sh")
	if err != nil {
		t.Fatal(err)
	}
	_, purge, _ := strings.Cut(string(script), "purge)")
	if !strings.Contains(purge, " "+filepath.Dir(rootLayers)+"\n") {
		t.Errorf("%s is not removed by: %s", filepath.Dir(rootLayers), purge)
	}
}
