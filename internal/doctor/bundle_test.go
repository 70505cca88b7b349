package doctor

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/preflight"
	"github.com/belay-project/belay/internal/journal"
)

// fill puts secret into every text below v, whatever fields there are: one that is added
// later is filled too.
func fill(v reflect.Value, secret string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(secret)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), secret)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), secret)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, secret)
		fill(value, secret)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				fill(f, secret)
			}
		}
	}
}

const (
	valueSecret = "password=AKIAIOSFODNN7EXAMPLE" // no word of Belay's can look so
	plainSecret = "hunter-two"                    // could be a word of Belay's
)

// TestEveryField fills all texts with a secret that no whitelisted one can have.
func TestEveryField(t *testing.T) {
	var r journal.Record
	fill(reflect.ValueOf(&r).Elem(), valueSecret)
	r.Policy.Name, r.Policy.Revision = "hardened", "r1" // those that are kept as they are
	var st control.Status
	fill(reflect.ValueOf(&st).Elem(), valueSecret)
	set := st.Policies
	for i := range set.Policies {
		set.Policies[i].Name, set.Policies[i].Revision = "hardened", "r1"
	}
	var rep Report
	fill(reflect.ValueOf(&rep.Findings).Elem(), valueSecret)
	for i := range rep.Findings {
		rep.Findings[i].ID, rep.Findings[i].Why = "daemon.tcp", "ours"
	}
	for _, v := range []any{shareRecord(&r), shareStatus(&st), sharePolicies(&set), shareReport(&rep)} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "AKIA") || strings.Contains(string(b), "password") {
			t.Errorf("%T has the secret: %s", v, b)
		}
	}
}

// TestForeignTexts fills with a word, and gives only Belay's own fields their own words:
// all others are containers', users' and clients' to write.
func TestForeignTexts(t *testing.T) {
	var r journal.Record
	fill(reflect.ValueOf(&r).Elem(), plainSecret)
	r.Kind, r.Hook, r.Decision, r.Level, r.Backend = journal.KindExec, "bprm_check_security", "denied", "prevent", "lsm"
	r.Flags, r.Lost = []string{journal.FlagScript}, nil
	r.Container.Class = "container"
	r.Process.Executable.Path, r.Process.Executable.Layer = "/bin/sh", journal.LayerImage
	*r.Policy = journal.Policy{Name: "hardened", Revision: "r1", Rule: "exec.drift", Mode: "enforce"}
	r.Object.Type, r.Object.Path, r.Object.Layer, r.Object.Protocol = "file", "/tmp/x", journal.LayerUpper, "tcp"
	r.API.Action, r.API.Cause = "container.create", "refused"
	b, err := json.Marshal(shareRecord(&r))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), plainSecret) {
		t.Errorf("the record has the secret: %s", b)
	}
	if !strings.Contains(string(b), `"executable":"/bin/sh"`) || !strings.Contains(string(b), `"rule":"exec.drift"`) {
		t.Errorf("the record lacks what helps: %s", b)
	}
}

func TestSafePath(t *testing.T) {
	for in, want := range map[string]string{
		"":                                          "",
		"/bin/sh":                                   "/bin/sh",
		"/usr/lib/x86_64-linux-gnu/a.so":            "/usr/lib/x86_64-linux-gnu/a.so",
		"/tmp/TOKEN=abc/x":                          "/tmp/[redacted]/x",
		"/tmp/AKIAIOSFODNN7EXAMPLE":                 "/tmp/[redacted]",
		"/tmp/AKIAIOSFODNN7EXAMPLE.txt":             "/tmp/[redacted]",
		"/tmp/glpat-abcdefghijklmnopqrst":           "/tmp/[redacted]",
		"/tmp/xoxb-1234-abcdefghij":                 "/tmp/[redacted]",
		"/tmp/ghp_abcdefghijklmnop":                 "/tmp/[redacted]",
		"/tmp/old.glpat-abcdefghijklm":              "/tmp/[redacted]",
		"/tmp/key-9f86d081884c7d659a2f":             "/tmp/[redacted]",
		"/usr/lib/libstdc++.so.6.0.30":              "/usr/lib/libstdc++.so.6.0.30",
		"/opt/glpat-1/ghp_tool":                     "/opt/glpat-1/ghp_tool",
		"/tmp/a b":                                  "/tmp/[redacted]",
		"/tmp/" + strings.Repeat("a", 33):           "/tmp/[redacted]",
		"/tmp/a\x1b[2J":                             "/tmp/[redacted]",
		"/tmp/ghp-\u00e9":                           "/tmp/[redacted]",
		"/home/alice/.ssh/id_rsa":                   "/home/[redacted]/.ssh/id_rsa",
		"/home/home/x":                              "/home/[redacted]/x",
		"/var/lib/docker/volumes/acme-prod/_data/x": "/var/lib/docker/volumes/[redacted]/_data/x",
	} {
		if got := safePath(in); got != want {
			t.Errorf("safePath(%q) = %q, want %q", in, got, want)
		}
	}
}

// keep writes n records with secrets in a journal, and returns its directory.
func keep(t *testing.T, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(journal.Options{Dir: dir, BootID: "b", Host: plainSecret})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		j.Append(&journal.Record{
			Time: now, Kind: journal.KindExec, Decision: "denied", Errno: i + 1, Message: plainSecret,
			Container: &journal.Container{ID: "x", Name: plainSecret, Labels: map[string]string{plainSecret: plainSecret}},
			Process:   &journal.Process{PID: 1, Comm: plainSecret, Args: []string{"curl", "-u", plainSecret}},
			API:       &journal.API{Method: "POST", Path: "/" + plainSecret, Action: "container.create"},
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	if err := j.Flush(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := errors.Join(<-done, j.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// unpack reads an archive with a reader that is not ours.
func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 || h.Typeflag != tar.TypeReg || !h.ModTime.Equal(now) {
			t.Errorf("%s: mode %o, type %c, time %s", h.Name, h.Mode, h.Typeflag, h.ModTime)
		}
		out[strings.TrimPrefix(h.Name, "belay-support/")] = string(content)
	}
}

// secretive is a host on which everything that others write holds a secret.
func secretive() *patient {
	p := healthy()
	s := p.agent.status
	s.Host, s.Why, s.Scopes = plainSecret, plainSecret, []string{"/" + plainSecret}
	s.Policies.Error, s.Policies.Policies[0].File, s.Policies.Policies[0].Refused = plainSecret, plainSecret, plainSecret
	s.Sources[0].Address, s.Sources[0].Error, s.Sources[0].Connected = plainSecret, plainSecret, false
	s.Health.Components[0].Reason, s.Health.Components[0].State = plainSecret, 0
	s.Journal.LastError, s.Canary.Error, s.Canary.Denied = plainSecret, plainSecret, false
	s.Levels[0].Note, s.Backends[0].Why, s.Backends[0].Usable = plainSecret, plainSecret, false
	p.agent.containers[0].Name, p.agent.containers[0].Problems = plainSecret, []string{plainSecret}
	p.files["proc/cmdline"] = file("root=/dev/sda password=" + plainSecret)
	p.files["etc/group"] = file("docker-" + plainSecret + ":x:998:" + plainSecret)
	p.preflight = []preflight.Finding{{ID: "daemon.tcp", Severity: preflight.Fail, What: plainSecret, Why: "why", Fix: plainSecret}}
	p.builtErr = errors.New(plainSecret)
	p.opt.RunDir, p.opt.StateDir, p.opt.Journal = "/home/"+plainSecret+"/run", "/home/"+plainSecret, "/srv/"+plainSecret
	p.files["home/"+plainSecret+"/run/docker.sock"] = socket(0o660, 0)
	p.system.clockErr, p.system.aclErr = errors.New(plainSecret), errors.New(plainSecret)
	return p
}

func TestBundle(t *testing.T) {
	r := secretive().examine(t)
	var b bytes.Buffer
	if err := WriteBundle(t.Context(), &b, &r, BundleOptions{Journal: keep(t, 25), Records: 10}); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, b.Bytes())
	for _, name := range []string{"README", "doctor.json", "status.json", "policies.json", "kernel.json", "journal.jsonl", "notes.json"} {
		if files[name] == "" {
			t.Errorf("%s is missing or empty", name)
		}
		if strings.Contains(files[name], plainSecret) {
			t.Errorf("%s has the secret:\n%s", name, files[name])
		}
	}
	for name, part := range map[string]string{
		"doctor.json": `"kernel.lsm"`, "policies.json": `"hardened"`, "kernel.json": `"6.12.57+deb13-amd64"`, "status.json": `"lsm"`, "notes.json": "[]",
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("%s lacks %s:\n%s", name, part, files[name])
		}
	}
	lines := strings.Split(strings.TrimSpace(files["journal.jsonl"]), "\n")
	if len(lines) != 10 {
		t.Fatalf("got %d records, want the last 10", len(lines))
	}
	for i, l := range lines {
		if want := fmt.Sprintf(`"errno":%d,`, 16+i); !strings.Contains(l, want) || !strings.Contains(l, `"args":3`) {
			t.Errorf("record %d: got %s, want %s", i, l, want)
		}
	}
}

// TestBundleWithout: what is missing is said, and the rest is there.
func TestBundleWithout(t *testing.T) {
	p := healthy()
	p.agent.err = control.ErrNotRunning
	r := p.examine(t)
	var b bytes.Buffer
	if err := WriteBundle(t.Context(), &b, &r, BundleOptions{Journal: "/does/not/exist"}); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, b.Bytes())
	if _, ok := files["status.json"]; ok || !strings.Contains(files["notes.json"], "did not answer") || !strings.Contains(files["notes.json"], "no journal") {
		t.Errorf("got %v", files["notes.json"])
	}
}

func TestCreateBundle(t *testing.T) {
	r := healthy().examine(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "b.tar.gz")
	o := BundleOptions{Journal: filepath.Join(dir, "no"), Records: -1}
	if err := CreateBundle(t.Context(), name, &r, o); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(name)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", st.Mode(), err)
	}
	if err := CreateBundle(t.Context(), name, &r, o); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: got %v, want that it exists", err)
	}
	// In a folder that others write to, a link must not lead the file elsewhere.
	link, aim := filepath.Join(dir, "link"), filepath.Join(dir, "aim")
	if err := os.Symlink(aim, link); err != nil {
		t.Fatal(err)
	}
	if err := CreateBundle(t.Context(), link, &r, o); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a link: got %v, want that it exists", err)
	}
	if _, err := os.Lstat(aim); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the link was followed")
	}
	// One that is broken off leaves nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	late := filepath.Join(dir, "late")
	o.Records, o.Journal = 5, keep(t, 3)
	if err := CreateBundle(ctx, late, &r, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if _, err := os.Lstat(late); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a part of a bundle was left")
	}
}
