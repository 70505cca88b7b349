package proxy

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
)

// withFactor lets the caller exec into its own containers, and see those of others, with a
// second factor only.
const withFactor = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: second}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules:
    - {name: look, effect: allow, actions: [container.list, container.inspect], resources: {own: true}}
    - {name: look-around, effect: allow, actions: [container.list, container.inspect], require: secondFactor}
    - {name: enter, effect: allow, actions: ["container.exec*"], require: secondFactor}
`

// elevations has at most one elevation, for this user.
type elevations struct {
	// mu guards what follows.
	mu         sync.Mutex
	id         string
	action     string
	target     string
	session    string // asked for
	containers []string
}

func (e *elevations) Any(uid uint32) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.id != "" && uid == uint32(os.Getuid())
}

func (e *elevations) Covering(_ uint32, session, action string, containers []string, _ time.Time) (string, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.session, e.containers = session, containers
	ok := strings.HasPrefix(action, e.action) && (e.target == "" || len(containers) == 1 && containers[0] == e.target)
	return e.id, ok && e.id != ""
}

func (e *elevations) set(id, action, target string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.id, e.action, e.target = id, action, target
}

func TestSecondFactor(t *testing.T) {
	el := &elevations{}
	proc := fakeSession(t)
	g := startGate(t, withFactor, func(o *Options) { o.Elevations = el; o.proc = proc })
	c := g.client(t) // one connection for all
	last := func() Event { all := g.rec.all(); return all[len(all)-1] }
	enter := func() (int, string) {
		return do(t, c, "POST", "/containers/web/exec", `{"Cmd":["sh"]}`)
	}
	status, body := enter()
	if status != http.StatusForbidden || !strings.Contains(body, "belay elevate --action exec") || !strings.Contains(body, "it needs a second factor") {
		t.Errorf("without: %d %s", status, body)
	}
	if el.session != "" {
		t.Errorf("the session was read for a caller without an elevation")
	}
	el.set("e1", "container.exec", "")
	if status, body = enter(); status != http.StatusNoContent {
		t.Errorf("with: %d %s", status, body)
	}
	if ev := last(); ev.Elevation != "e1" || ev.Decision != Allowed || ev.Rule != "enter" {
		t.Errorf("record: %+v", ev)
	}
	if el.session != "leader:4711:77" {
		t.Errorf("session %q", el.session)
	}
	if status, _ = do(t, c, "GET", "/exec/"+idEx+"/json", ""); status != http.StatusOK {
		t.Errorf("a look at an exec: %d", status)
	}
	if len(el.containers) != 1 || el.containers[0] != idDB {
		t.Errorf("an exec counts as %q, want its container", el.containers)
	}
	el.set("e1", "container.exec", idDB)
	if status, body = enter(); status != http.StatusForbidden {
		t.Errorf("another target: %d %s", status, body)
	}
	el.set("e1", "container.delete", "")
	if status, body = enter(); status != http.StatusForbidden || last().Elevation != "" {
		t.Errorf("another action: %d %s", status, body)
	}
	// It ends in the middle of a connection.
	el.set("", "", "")
	if status, body = enter(); status != http.StatusForbidden {
		t.Errorf("dropped: %d %s", status, body)
	}
	if n := g.counter("gate_elevated"); n != 2 {
		t.Errorf("counted %d, want 2", n)
	}
}

// Within an elevation lists show what it opens, and not after it.
func TestSecondFactorFilters(t *testing.T) {
	el := &elevations{}
	proc := fakeSession(t)
	g := startGate(t, withFactor, func(o *Options) { o.Elevations = el; o.proc = proc })
	c := g.client(t)
	for _, want := range []bool{false, true, false} {
		if el.set("", "", ""); want {
			el.set("e1", "container", "")
		}
		status, body := do(t, c, "GET", "/containers/json", "")
		if status != http.StatusOK || strings.Contains(body, idDB) != want {
			t.Errorf("elevated %v: %d %s", want, status, body)
		}
	}
}

// Whose session cannot be known is not elevated.
func TestSecondFactorWithoutSession(t *testing.T) {
	el := &elevations{}
	el.set("e1", "container.exec", "")
	proc := fakeSession(t)
	g := startGate(t, withFactor, func(o *Options) { o.Elevations = el; o.proc = proc })
	if err := os.RemoveAll(filepath.Join(proc, "4711")); err != nil {
		t.Fatal(err)
	}
	status, body := do(t, g.client(t), "POST", "/containers/web/exec", `{"Cmd":["sh"]}`)
	if status != http.StatusForbidden || el.session != "" || g.counter("gate_no_session") != 1 {
		t.Errorf("got %d %s, session %q", status, body, el.session)
	}
}

// Only users are asked for: nobody in a container or behind a certificate is elevated.
func TestSecondFactorIsForUsers(t *testing.T) {
	el := &elevations{}
	el.set("e1", "container.exec", "")
	for _, kind := range []apicall.SubjectKind{apicall.Nobody, apicall.Certificate, apicall.Token, apicall.Container} {
		call := &apicall.Call{Action: "container.exec"}
		x := &exchange{c: &conn{s: &Server{o: Options{Elevations: el}}, sub: apicall.Subject{Kind: kind, UID: uint32(os.Getuid())}}}
		if x.elevate(call); call.Elevated || el.session != "" {
			t.Errorf("kind %d is elevated", kind)
		}
	}
}

// fakeSession makes a /proc in which this process is in a session of its own.
func fakeSession(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(pid, name, text string) {
		if err := os.MkdirAll(filepath.Join(dir, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, pid, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stat := " (x) S 1 4711 4711 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 77 0\n"
	self := strconv.Itoa(os.Getpid())
	write(self, "stat", self+stat)
	write(self, "cgroup", "0::/user.slice\n")
	write("4711", "stat", "4711"+stat)
	return dir
}
