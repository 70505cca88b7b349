package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// fakeProc is a procfs in which process 1 is in the container web, whose /etc/passwd has
// the given text; the tests themselves are in it too.
func fakeProc(t *testing.T, passwd string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "1", "root", "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fmt.Sprintf("/proc/%d", os.Getpid()), filepath.Join(dir, fmt.Sprint(os.Getpid()))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cgroup": "0::/docker/" + idWeb + "\n", "root/etc/passwd": passwd} {
		if err := os.WriteFile(filepath.Join(dir, "1", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What is no plain file of the running container's own tells nothing.
func TestUIDIn(t *testing.T) {
	const text = "app:x:1000:1000::/:/bin/sh\n"
	web := &found{ID: idWeb, PID: 1}
	for _, d := range []struct {
		name   string
		of     *found
		change func(t *testing.T, etc string)
		want   string
	}{
		{"a file", web, func(*testing.T, string) {}, "1000"},
		{"one that does not run", &found{ID: idWeb}, func(*testing.T, string) {}, ""},
		{"another container's process", &found{ID: idDB, PID: 1}, func(*testing.T, string) {}, ""},
		{"a link inside", web, func(t *testing.T, etc string) {
			must(t, os.Rename(filepath.Join(etc, "passwd"), filepath.Join(etc, "real")))
			must(t, os.Symlink("/etc/real", filepath.Join(etc, "passwd")))
		}, "1000"},
		{"a link that leads out", web, func(t *testing.T, etc string) {
			must(t, os.Remove(filepath.Join(etc, "passwd")))
			must(t, os.Symlink("../../../../../../../../../../etc/passwd", filepath.Join(etc, "passwd")))
		}, ""},
		{"a directory", web, func(t *testing.T, etc string) {
			must(t, os.Remove(filepath.Join(etc, "passwd")))
			must(t, os.Mkdir(filepath.Join(etc, "passwd"), 0o755))
		}, ""},
		{"too long", web, func(t *testing.T, etc string) {
			must(t, os.WriteFile(filepath.Join(etc, "passwd"), make([]byte, maxPasswd+1), 0o644))
		}, ""},
		{"none", web, func(t *testing.T, etc string) { must(t, os.Remove(filepath.Join(etc, "passwd"))) }, ""},
	} {
		t.Run(d.name, func(t *testing.T) {
			s := &Server{o: Options{proc: fakeProc(t, text)}}
			d.change(t, filepath.Join(s.o.proc, "1", "root", "etc"))
			uid, err := s.uidIn(d.of, "app")
			got := fmt.Sprint(uid)
			if err != nil {
				got = ""
			}
			if got != d.want {
				t.Errorf("got %q, %v; want %q", got, err, d.want)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
