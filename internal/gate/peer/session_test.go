package peer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// fakeProc writes /proc/PID/stat with session and start time, and more files.
func fakeProc(t *testing.T, dir string, pid, session, start int, files map[string]string) {
	t.Helper()
	p := filepath.Join(dir, fmt.Sprint(pid))
	if err := os.MkdirAll(p, 0o755); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"stat": fmt.Sprintf("%d (a b) c) S 1 %d %d %s%d 0\n", pid, session, session, "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 ", start)}
	for k, v := range files {
		all[k] = v
	}
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(p, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSession(t *testing.T) {
	audit := func(uid, session string) map[string]string {
		return map[string]string{"loginuid": uid, "sessionid": session}
	}
	dir := t.TempDir()
	fakeProc(t, dir, 10, 10, 500, nil)
	fakeProc(t, dir, 11, 10, 600, nil)
	fakeProc(t, dir, 12, 10, 601, audit("1000", "7"))
	fakeProc(t, dir, 13, 13, 602, audit("1000\n", "7\n"))
	fakeProc(t, dir, 14, 10, 603, audit(unset, unset))
	fakeProc(t, dir, 15, 10, 604, audit("1000", unset))
	fakeProc(t, dir, 16, 0, 605, nil)
	fakeProc(t, dir, 17, 99, 606, nil)
	fakeProc(t, dir, 18, 11, 607, nil)
	fakeProc(t, dir, 19, 10, 608, audit("x", "7"))
	for _, tt := range []struct {
		name  string
		pid   int32
		start uint64
		want  string
		err   error
	}{
		{"by its leader", 11, 600, "leader:10:500", nil},
		{"the leader itself", 10, 500, "leader:10:500", nil},
		{"by audit", 12, 601, "audit:7", nil},
		{"by audit from another terminal", 13, 602, "audit:7", nil},
		{"audit without a login", 14, 603, "leader:10:500", nil},
		{"audit with half a login", 15, 604, "leader:10:500", nil},
		{"leader in another PID namespace", 16, 605, "", ErrNoSession},
		{"leader has ended", 17, 606, "", ErrNoSession},
		{"leader leads nothing", 18, 607, "", ErrNoSession},
		{"another has its number now", 11, 599, "", ErrEnded},
		{"ended", 20, 1, "", ErrEnded},
		{"unknown", 0, 0, "", ErrNoSession},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := Identifier{Proc: dir}
			got, err := id.Session(&apicall.Subject{Kind: apicall.User, PID: tt.pid, PIDStart: tt.start})
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v, want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
	id := Identifier{Proc: dir}
	if got, err := id.Session(&apicall.Subject{Kind: apicall.User, PID: 19, PIDStart: 608}); err == nil {
		t.Errorf("an audit file of another form: got %q, want an error", got)
	}
	for _, kind := range []apicall.SubjectKind{apicall.Nobody, apicall.Certificate, apicall.Token, apicall.Container} {
		if got, err := id.Session(&apicall.Subject{Kind: kind, PID: 11, PIDStart: 600}); !errors.Is(err, ErrNoSession) {
			t.Errorf("kind %d: got %q, %v, want ErrNoSession", kind, got, err)
		}
	}
}

// The session of this very process is found, and is that of its children.
func TestSessionOfThisProcess(t *testing.T) {
	_, server := pair(t)
	var id Identifier
	sub, err := id.Of(server)
	if err != nil {
		t.Fatal(err)
	}
	if sub.PIDStart == 0 {
		t.Fatal("the start time is not known")
	}
	sub.Kind = apicall.User // the test may run in a container
	got, err := id.Session(&sub)
	if errors.Is(err, ErrNoSession) {
		t.Logf("here is none: %v", err)
	} else if err != nil || got == "" {
		t.Errorf("got %q, %v", got, err)
	}
}

// A process that has never logged in may claim any login: only one that logind knows is known.
func TestLogin(t *testing.T) {
	dir, sessions := t.TempDir(), t.TempDir()
	login := func(uid, session string) map[string]string {
		return map[string]string{"loginuid": uid, "sessionid": session}
	}
	fakeProc(t, dir, 10, 10, 500, login("1000", "7"))
	fakeProc(t, dir, 11, 10, 500, login("0", "8"))
	fakeProc(t, dir, 12, 10, 500, login("0", "7"))
	fakeProc(t, dir, 13, 10, 500, login(unset, unset))
	fakeProc(t, dir, 14, 10, 500, login("1000", "9"))
	for name, text := range map[string]string{"7": "# private\nUID=1000\nAUDIT=7\n", "9": "UID=1000\nAUDIT=3\n"} {
		if err := os.WriteFile(filepath.Join(sessions, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	id := Identifier{Proc: dir, sessions: sessions}
	for _, tt := range []struct {
		name  string
		pid   int32
		start uint64
		want  string
		known bool
	}{
		{"logged in", 10, 500, "1000", true},
		{"claims root, in a session that nobody knows", 11, 500, "0", false},
		{"root, in another's session", 12, 500, "0", false},
		{"no login", 13, 500, "none", false},
		{"the session is another's by audit", 14, 500, "1000", false},
		{"another has its number now", 10, 499, "none", false},
		{"ended", 20, 1, "none", false},
	} {
		uid, known := id.Login(&apicall.Subject{Kind: apicall.User, PID: tt.pid, PIDStart: tt.start})
		got := "none"
		if uid != nil {
			got = fmt.Sprint(*uid)
		}
		if got != tt.want || known != tt.known {
			t.Errorf("%s: got %s, known %v", tt.name, got, known)
		}
	}
}
