package output

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/belay-project/belay/internal/pump"
)

func belay(t *testing.T) encode {
	t.Helper()
	enc, err := encoderOf(FormatBelay, "v1")
	if err != nil {
		t.Fatal(err)
	}
	return enc
}

func fileSink(t *testing.T, text string) *file {
	t.Helper()
	spec, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	s := newFile(spec, belay(t))
	t.Cleanup(func() { s.close() })
	return s
}

func lines(t *testing.T, paths ...string) (n int) {
	t.Helper()
	got := newReceived()
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			n++
			if err := got.add(line); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
	}
	return n
}

// TestFileRotates: files stay below their size and their number, hold whole lines, and are read
// by their owner and group alone.
func TestFileRotates(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0)) // 0640 whatever the umask
	dir := t.TempDir()
	path := filepath.Join(dir, "events.json")
	s := fileSink(t, "file:"+path+",size=64KiB,keep=3")
	for i := range 20 {
		batch := records(100)
		for _, r := range batch {
			r.Seq += uint64(i * 100)
		}
		if err := s.send(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	es, err := os.ReadDir(dir)
	if err != nil || len(es) != 3 {
		t.Fatalf("files %v (%v), want events.json, .1 and .2", es, err)
	}
	for _, e := range es {
		fi, err := e.Info()
		if err != nil || fi.Size() > 64<<10 || fi.Mode() != 0o640 {
			t.Errorf("%s: %d bytes, mode %v (%v)", e.Name(), fi.Size(), fi.Mode(), err)
		}
		lines(t, filepath.Join(dir, e.Name()))
	}
	if b, _ := os.ReadFile(path); !strings.Contains(string(b), `"seq":2000,`) {
		t.Error("the newest record is not in the current file")
	}
}

// TestFileRotationThatFailed: what a rotation that failed half-way has moved makes room for the next try, which lets no
// other file go.
func TestFileRotationThatFailed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "e.json")
	s := fileSink(t, "file:"+path+",keep=5")
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"1", "3", "4"} { // 2 is 3 by now, and 1 could not be moved
		if err := os.WriteFile(path+"."+n, []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[string]string{"1": "", "2": "1", "3": "3", "4": "4"} {
		if b, err := os.ReadFile(path + "." + n); err != nil || string(b) != want {
			t.Errorf("%s holds %q (%v), want %q", n, b, err, want)
		}
	}
}

// TestFileIsMovedAway: what logrotate and operators do to a file costs no line.
func TestFileIsMovedAway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "e.json")
	s := fileSink(t, "file:"+path)
	send := func() {
		t.Helper()
		if err := s.send(t.Context(), records(3)); err != nil {
			t.Fatal(err)
		}
	}
	send()
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	send()
	if lines(t, path) != 3 || lines(t, path+".old") != 3 {
		t.Error("want three lines in the moved file and three in a new one")
	}
	if err := os.Truncate(path, 0); err != nil { // copytruncate
		t.Fatal(err)
	}
	send()
	if lines(t, path) != 3 {
		t.Error("want three lines after the file was cut")
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	send()
	if lines(t, path) != 3 {
		t.Error("want the file made anew")
	}
}

// TestFileOfSomethingElse: nothing is written through a link, into another's file or into what is
// no file; once that is mended, the output works.
func TestFileOfSomethingElse(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		make       func(t *testing.T, path, victim string)
	}{
		{"symbolic link", "symbolic link", func(t *testing.T, path, victim string) {
			if err := os.Symlink(victim, path); err != nil {
				t.Fatal(err)
			}
		}},
		{"hard link", "more than one name", func(t *testing.T, path, victim string) {
			if err := os.Link(victim, path); err != nil {
				t.Fatal(err)
			}
		}},
		{"fifo", "e.json", func(t *testing.T, path, _ string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"directory", "e.json", func(t *testing.T, path, _ string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path, victim := filepath.Join(dir, "e.json"), filepath.Join(dir, "victim")
			if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			tt.make(t, path, victim)
			s := fileSink(t, "file:"+path)
			err := s.send(t.Context(), records(1))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if b, _ := os.ReadFile(victim); string(b) != "precious" {
				t.Errorf("the victim has %q", b)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := s.send(t.Context(), records(1)); err != nil || lines(t, path) != 1 {
				t.Errorf("after it was mended: %v", err)
			}
		})
	}
	t.Run("linked directory", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink(t.TempDir(), filepath.Join(dir, "logs")); err != nil {
			t.Fatal(err)
		}
		err := fileSink(t, "file:"+filepath.Join(dir, "logs", "e.json")).send(t.Context(), records(1))
		if err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("got %v, want it refused", err)
		}
	})
	t.Run("two writers", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "e.json")
		a, b := fileSink(t, "file:"+path), fileSink(t, "file:"+path)
		if err := a.send(t.Context(), records(1)); err != nil {
			t.Fatal(err)
		}
		if err := b.send(t.Context(), records(1)); err == nil {
			t.Error("two writers rotate one file")
		}
	})
}

// full calls f while no file can have more than 1000 bytes, which is met as a full disk is: a short write, then an error.
func full(t *testing.T, f func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1000, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	f()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
}

// TestFileIsFull: what a full disk left of a line is cut, and nothing is missing or twice after
// there is room again.
func TestFileIsFull(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "e.json")
	s := fileSink(t, "file:"+path)
	if err := s.send(t.Context(), records(1)); err != nil {
		t.Fatal(err)
	}
	var err error
	full(t, func() { err = s.send(t.Context(), records(10)) })
	if err == nil {
		t.Fatal("a file of 1000 bytes took ten records")
	}
	if n := lines(t, path); n != 1 {
		t.Errorf("%d lines after the failure, want what was whole", n)
	}
	if err := s.send(t.Context(), records(10)); err != nil || lines(t, path) != 11 {
		t.Errorf("%d lines (%v), want 11", lines(t, path), err)
	}
}

// TestStdoutIsFull: what was written whole to standard output does not come twice, and what was torn spoils no line after it.
func TestStdoutIsFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := newStdout(f, belay(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	batch := records(10)
	left := new(pump.Partly)
	full(t, func() { err = s.send(t.Context(), batch) })
	if !errors.As(err, &left) || left.Left == 0 || left.Left == 10 {
		t.Fatalf("got %v, %d left; want some", err, left.Left)
	}
	if err := s.send(t.Context(), batch[10-left.Left:]); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, torn := newReceived(), 0
	for line := range bytes.Lines(b) {
		if got.add(line) != nil {
			torn++
		}
	}
	if torn != 1 || got.distinct() != 10 || len(got.all) != 10 {
		t.Errorf("%d of 10 records in %d lines, and %d torn ones of 1", got.distinct(), len(got.all), torn)
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct{ text, name, err string }{
		{"stdout", "stdout", ""},
		{"stdout,format=ecs", "stdout", ""},
		{"file:/var/log/b.json,size=1GiB,keep=2,format=ocsf", "file:/var/log/b.json", ""},
		{"syslog:", "syslog:/dev/log", ""},
		{"syslog:/run/x.sock,facility=local3", "syslog:/run/x.sock", ""},
		{"syslog:udp://logs", "syslog:udp://logs:514", ""},
		{"syslog:tls://[2001:db8::1]:99,ca=/a.pem", "syslog:tls://[2001:db8::1]:99", ""},
		{"webhook:https://h.example/T0K3N?k=s3cr3t,secret=/s", "webhook:https://h.example", ""},
		{"webhook:@/etc/belay/url,secret=/s", "webhook:@/etc/belay/url", ""},
		{"", "", "want stdout"},
		{"kafka:x", "", "want stdout"},
		{"stdout:x", "", "no target"},
		{"file:log.json", "", "absolute"},
		{"file:/var/../etc/passwd", "", "absolute"},
		{"file:/x,size=1", "", "64KiB"},
		{"file:/x,size=9999999TiB", "", "64KiB"},
		{"file:/x,keep=0", "", "keep"},
		{"file:/x,secret=/s", "", "no option secret"},
		{"file:/x,format=cef", "", "format"},
		{"file:/x,format", "", "no value"},
		{"syslog:udp://h,ca=/x", "", "tls"},
		{"syslog:http://h", "", "udp://"},
		{"syslog:udp://u:hunter2@h", "", "udp://"},
		{"syslog:tcp://h,facility=x", "", "facility"},
		{"webhook:https://h", "", "secret=FILE"},
		{"webhook:https://u:hunter2@h,secret=/s", "", "@FILE"},
		{"webhook:ftp://h,secret=/s", "", "https"},
		{"webhook:https://h,secret=s", "", "absolute"},
		{"webhook:https://h/a,hunter2=x,secret=/s", "", "unknown option"},
	} {
		s, err := Parse(tt.text)
		switch {
		case tt.err == "" && (err != nil || s.Name() != tt.name):
			t.Errorf("%s: got %q, %v, want %q", tt.text, s.Name(), err, tt.name)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: got %v, want an error with %q", tt.text, err, tt.err)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "T0K3N")) {
			t.Errorf("%s: a credential is in %v", tt.text, err)
		}
	}
	if _, err := Open(Options{Specs: []string{"file:/x", "file:/x,format=ecs"}, Health: nil, Log: discard()}); err == nil {
		t.Error("an Open without health")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"stdout", "file:/x,size=1GiB", "syslog:tls://h:1,ca=/x", "webhook:https://h,secret=/s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := Parse(text); err == nil && (s.Size < 64<<10 || s.Keep < 1 || s.Facility > 23 || fmt.Sprint(s.Name()) == "") {
			t.Errorf("%q: %+v", text, s)
		}
	})
}
