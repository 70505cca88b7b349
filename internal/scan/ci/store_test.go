package ci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// restart ends a world and starts the next agent's on the same folder.
func (w *world) restart(change func(*Options)) *world {
	w.t.Helper()
	w.stop()
	dir := w.s.o.Dir
	return start(w.t, func(o *Options) {
		o.Dir = dir
		if change != nil {
			change(o)
		}
	})
}

func (w *world) counter(name string) uint64 {
	return w.health.Counter("scan_api_" + name).Load()
}

func TestResultsOutliveTheAgent(t *testing.T) {
	w := start(t, nil)
	before := w.wait("alice", w.create("alice", `{"image":"app:1","failOn":"high"}`).ID)
	_, sarif := w.call("alice", "GET", "/v1/scans/"+before.ID+"?format=sarif", "", nil, nil)
	w = w.restart(nil)
	after := w.wait("alice", before.ID)
	a, _ := json.Marshal(before)
	b, _ := json.Marshal(after)
	if string(a) != string(b) {
		t.Errorf("got %s, want %s", b, a)
	}
	if _, got := w.call("alice", "GET", "/v1/scans/"+before.ID+"?format=sarif", "", nil, nil); got != sarif {
		t.Errorf("got %s, want the same SARIF", got)
	}
	var l List
	if w.call("alice", "GET", "/v1/scans?image=app:1", "", nil, &l); len(l.Scans) != 1 {
		t.Errorf("got %d scans, want the one", len(l.Scans))
	}
	if code, _ := w.call("bob", "GET", "/v1/scans/"+before.ID, "", nil, nil); code != 404 {
		t.Errorf("somebody else: got %d, want 404", code)
	}
	if code, events := w.call("alice", "GET", "/v1/scans/"+before.ID+"/events", "", nil, nil); code != 200 || !strings.Contains(events, VerdictFail) {
		t.Errorf("got %d, %s, want its state", code, events)
	}
}

func TestInterrupted(t *testing.T) {
	images := make(chan struct{})
	w := start(t, nil)
	w.images.gate = images
	running := w.create("alice", `{"image":"app:1"}`)
	waiting := w.create("alice", `{"image":"app:1"}`)
	for w.s.o.Health.Counter("scan_api_requests"); ; time.Sleep(time.Millisecond) {
		var s Scan
		if w.call("alice", "GET", "/v1/scans/"+running.ID, "", nil, &s); s.State == StateRunning {
			break
		}
	}
	w = w.restart(nil)
	for _, id := range []string{running.ID, waiting.ID} {
		if r := w.wait("alice", id); r.State != StateFailed || r.Verdict != "" || r.Error != ended || r.Ended.IsZero() {
			t.Errorf("got %+v, want failed: %s", r.Scan, ended)
		}
	}
	if n := w.counter("interrupted"); n != 1 { // the other was told by its own agent
		t.Errorf("got %d interrupted, want 1", n)
	}
	w = w.restart(nil)
	if r := w.wait("alice", running.ID); r.Error != ended {
		t.Errorf("the second time: got %q", r.Error)
	}
}

func TestRestoredBounds(t *testing.T) {
	w := start(t, nil)
	var ids []string
	for range 4 {
		ids = append(ids, w.create("alice", `{"image":"app:1"}`).ID)
		w.wait("alice", ids[len(ids)-1])
	}
	w = w.restart(func(o *Options) { o.MaxPerOwner = 2 })
	left := func() (n int) {
		var l List
		w.call("alice", "GET", "/v1/scans", "", nil, &l)
		return len(l.Scans)
	}
	if left() != 2 {
		t.Errorf("got %d, want the newest 2", left())
	}
	if code, _ := w.call("alice", "GET", "/v1/scans/"+ids[3], "", nil, nil); code != 200 {
		t.Errorf("the newest: got %d, want 200", code)
	}
	w = w.restart(func(o *Options) { o.MaxBytes = w.s.jobs[ids[3]].size })
	if left() != 1 {
		t.Errorf("got %d, want the 1 that there is room for", left())
	}
	w = w.restart(func(o *Options) { o.Now = func() time.Time { return time.Now().Add(25 * time.Hour) } })
	if left() != 0 {
		t.Errorf("got %d, want none after a day", left())
	}
	if list, err := os.ReadDir(w.s.o.Dir); err != nil || len(list) != 0 {
		t.Errorf("got %v, %v, want an empty folder", list, err)
	}
}

func TestHostileFiles(t *testing.T) {
	w := start(t, nil)
	good := w.wait("alice", w.create("alice", `{"image":"app:1"}`).ID)
	w.stop()
	dir := w.s.o.Dir
	text, err := os.ReadFile(filepath.Join(dir, good.ID+recordSuffix))
	if err != nil {
		t.Fatal(err)
	}
	id := func(c string) string { return strings.Repeat(c, 32) }
	about := func(c, from, to string) string {
		return strings.ReplaceAll(strings.ReplaceAll(string(text), good.ID, id(c)), from, to)
	}
	bad := map[string]string{
		id("0"): "", id("1"): "{", id("2"): string(text), // of another scan
		id("3"): about("3", `"version":1`, `"version":2`), id("4"): about("4", `"state":"done"`, `"state":"queued"`),
		id("5"): about("5", `"verdict":"pass",`, ""), id("6"): about("6", `"verdict":"pass"`, `"verdict":"fine"`),
		id("7"): about("7", `"image":"app:1"`, `"image":"../x y"`), id("8"): about("8", `"owner":"uid:1000"`, `"owner":""`),
		id("9"): strings.Repeat(" ", maxRecord+1), "name": string(text), id("a"): about("a", `"sha256":"`, `"sha256":"0`),
	}
	for name, content := range bad {
		if err := os.WriteFile(filepath.Join(dir, name+recordSuffix), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, id("b")+recordSuffix), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "record") // another's verdict, whose report is beside
	if err := os.WriteFile(elsewhere, []byte(about("c", "", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, good.ID+reportSuffix)); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(filepath.Join(dir, id("c")+reportSuffix), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, id("c")+recordSuffix)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, id("d")+recordSuffix), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"notes.txt", id("e") + reportSuffix, "." + id("f") + ".tmp-1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w = w.restart(nil)
	var l List
	if w.call("root", "GET", "/v1/scans", "", nil, &l); len(l.Scans) != 1 || l.Scans[0].ID != good.ID {
		t.Errorf("got %+v, want the good one alone", l.Scans)
	}
	if n := w.counter("damaged"); n != uint64(len(bad)+4) {
		t.Errorf("got %d damaged, want %d", n, len(bad)+4)
	}
	aside, _ := os.ReadDir(filepath.Join(dir, asideName))
	rest, _ := os.ReadDir(dir)
	if len(aside) != len(bad)+4 || len(rest) != 3 {
		t.Errorf("got %d set aside and %v, want %d, and the good scan's files", len(aside), rest, len(bad)+4)
	}
}

func TestDamagedReport(t *testing.T) {
	tests := []struct {
		name    string
		restart bool
		change  func(path string) error
	}{
		{"gone", false, os.Remove},
		{"gone at the start", true, os.Remove},
		{"shorter at the start", true, func(path string) error { return os.Truncate(path, 10) }},
		{"other bytes", true, func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, []byte(strings.Replace(string(b), "CVE-2024-1", "CVE-2024-2", 1)), 0o600)
		}},
		{"a pipe", false, func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return syscall.Mkfifo(path, 0o600)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, nil)
			r := w.wait("alice", w.create("alice", `{"image":"app:1"}`).ID)
			if tt.restart {
				w.stop()
			}
			if err := tt.change(w.s.file(r.ID)); err != nil {
				t.Fatal(err)
			}
			if tt.restart {
				w = w.restart(nil)
			}
			w.call("alice", "GET", "/v1/scans/"+r.ID, "", nil, nil)
			if got := w.wait("alice", r.ID); got.State != StateFailed || got.Verdict != "" || got.Error != errDamaged.Error() {
				t.Errorf("got %+v, want failed", got.Scan)
			}
			if w.s.bytes != 0 {
				t.Errorf("got %d bytes kept, want 0", w.s.bytes)
			}
		})
	}
}

func TestFolderOfOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "scans")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := openDir(dir); err == nil {
		t.Error("a folder that all may write to was taken")
	}
}
