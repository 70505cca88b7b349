package policy

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/verdict"
)

const filesDoc = `apiVersion: belay.dev/v1
kind: RuntimePolicy
metadata: {name: f}
spec:
  mode: enforce
  files:
`

func filesOf(t *testing.T, docs ...string) *Effective {
	t.Helper()
	var ps []*RuntimePolicy
	for _, d := range docs {
		p, err := Parse("f.yaml", []byte(d))
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p...)
	}
	s, err := NewSet(ps)
	if err != nil {
		t.Fatal(err)
	}
	return s.Effective(Subject{Known: true})
}

func TestFileActs(t *testing.T) {
	e := filesOf(t, filesDoc+`    readOnly: [/usr, /srv/www/**]
    rules:
    - {paths: [/var/lib/app/key], deny: [read]}
    - {paths: [/opt/one/*], deny: [create]}
`)
	for _, c := range []struct {
		file string
		want FileActs
	}{
		{"/usr", actsWriting | ActKeep},
		{"/usr/bin/ls", actsWriting},
		{"/usrlocal", 0},
		{"/srv/www", ActKeep},
		{"/srv/www/a/b", actsWriting},
		{"/var/lib/app/key", ActRead | ActRename | ActLink | ActKeep},
		{"/var/lib/app/key/below", ActRead | ActRename | ActLink},
		{"/var/lib/app/other", 0},
		{"/var/lib/app", ActKeep},
		{"/var", ActKeep},
		{"/", 0},
		{"/opt/one", ActKeep},
		{"/opt/one/a", ActCreate},
		{"/opt/one/a/b", 0},
	} {
		if got := e.FileActsDenied(verdict.ModeEnforce, c.file); got != c.want {
			t.Errorf("%s: %v %#x, want %v %#x", c.file, got.Words(), got, c.want.Words(), c.want)
		}
		if got := e.FileActsDenied(verdict.ModeAudit, c.file); got != 0 {
			t.Errorf("%s: audit has %v", c.file, got.Words())
		}
	}
	r := e.Rules[verdict.ModeEnforce][verdict.RuleFiles]
	if r.Verdict != verdict.Deny || FileActs(r.Opt) != actsWriting|ActRead|ActKeep {
		t.Errorf("rule %+v", r)
	}
	if build := filesBuild(t); build.Rules[0][verdict.RuleFiles].on() || len(build.Files) != 0 {
		t.Error("a build step has file rules")
	}
}

func filesBuild(t *testing.T) *Effective {
	t.Helper()
	ps, err := Parse("f.yaml", []byte(filesDoc+"    readOnly: [/usr]\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSet(ps)
	if err != nil {
		t.Fatal(err)
	}
	return s.Effective(Subject{Class: ClassBuild})
}

// Policies only add to one another, in each mode by itself.
func TestFilesMerge(t *testing.T) {
	e := filesOf(t, filesDoc+"    readOnly: [/etc]\n",
		strings.Replace(filesDoc, "name: f", "name: g", 1)+"    mode: audit\n    rules: [{paths: [/etc/shadow], deny: [read]}]\n")
	if got := e.FileActsDenied(verdict.ModeEnforce, "/etc/shadow"); got != actsWriting {
		t.Errorf("enforce: %v", got.Words())
	}
	if got := e.FileActsDenied(verdict.ModeAudit, "/etc/shadow"); got&ActRead == 0 || got&ActWrite != 0 {
		t.Errorf("audit: %v", got.Words())
	}
}

func TestFilesCanonical(t *testing.T) {
	ps, err := Parse("f.yaml", []byte(filesDoc+"    readOnly: [/usr, /etc]\n    rules: [{paths: [/b, /a/**], deny: [write, read]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("g.yaml", ps[0].Canonical())
	if err != nil {
		t.Fatalf("%v\n%s", err, ps[0].Canonical())
	}
	if again[0].Revision != ps[0].Revision {
		t.Errorf("the canonical form has another revision:\n%s", ps[0].Canonical())
	}
	if d := ps[0].Denies(); len(d) != 1 || d[0] != verdict.RuleFiles {
		t.Errorf("denies %v", d)
	}
}

func TestFilesErrors(t *testing.T) {
	for body, want := range map[string]string{
		"    readOnly: []\n":                                  "empty list",
		"    readOnly: [etc]\n":                               "not an absolute path",
		"    readOnly: [/etc/*.d]\n":                          "not a pattern",
		"    rules: []\n":                                     "denies nothing",
		"    rules: {paths: [/a], deny: [read]}\n":            "must be a list",
		"    rules: [{paths: [/a]}]\n":                        "deny is missing",
		"    rules: [{deny: [read]}]\n":                       "paths is missing",
		"    rules: [{paths: [/a], deny: [execute]}]\n":       "exec.deny",
		"    rules: [{paths: [/a], deny: [wirte]}]\n":         "did you mean write?",
		"    rules: [{paths: [/a], deny: [read], x: true}]\n": "unknown field",
		"    mode: enforce\n":                                 "sets no rule",
	} {
		_, err := Parse("f.yaml", []byte(filesDoc+body))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
}

func TestShippedFiles(t *testing.T) {
	s, err := ParseFiles("../../policies/files-system.yaml")
	if err != nil {
		t.Fatal(err)
	}
	e := s.Floor()
	for _, c := range []struct {
		file   string
		denied FileActs
		free   FileActs
	}{
		{"/etc/passwd", actsWriting, ActRead},
		{"/etc/cron.d/job", actsWriting, ActRead},
		{"/etc/shadow", actsWriting | ActRead, 0},
		{"/usr/lib/x86_64-linux-gnu/libc.so.6", actsWriting, ActRead},
		{"/usr/bin/id", actsWriting, ActRead},
		{"/bin/id", actsWriting, ActRead},
		{"/var/spool/cron/crontabs/root", ActWrite | ActCreate, ActRead},
		{"/var/log/wtmp", ActDelete | ActRename, ActRead | ActWrite | ActCreate},
		{"/var/log/app.log", 0, actsWriting | ActRead},
		{"/tmp/x", 0, actsWriting | ActRead},
		{"/home/app/.config/x", 0, actsWriting | ActRead},
		{"/var/lib/postgresql/data/PG_VERSION", 0, actsWriting | ActRead},
	} {
		got := e.FileActsDenied(verdict.ModeEnforce, c.file)
		if got&c.denied != c.denied || got&c.free != 0 {
			t.Errorf("%s: denied %v, want %v and none of %v", c.file, got.Words(), c.denied.Words(), c.free.Words())
		}
	}
}
