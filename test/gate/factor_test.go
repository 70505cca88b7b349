package gate

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/factor"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// entering lets uid 5003 use containers, and enter them with a second factor only.
const entering = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: entering}
spec:
  mode: enforce
  subjects: {uids: ["5003"]}
  rules:
    - {name: look, effect: allow, actions: [system.ping, system.version, container.inspect, container.list]}
    - {name: enter, effect: allow, actions: ["container.exec*"], require: secondFactor}
`

// A user's exec is refused, passes after belay elevate in that login session and for that
// container, and is refused in another session, for another container, and when the
// elevation has ended.
func TestSecondFactor(t *testing.T) {
	w := need(t)
	a, err := w.lab.NewAgent(t.Context(), lab.AgentOptions{Name: "factor", Engine: w.engine, Flags: []string{"--gate-mode", "0666"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{w.lab.Path(), w.lab.Path("factor"), w.lab.Path("factor", "run")} {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.SetPolicy("entering.yaml", entering); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, a.Log())
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"vault", "other"} {
		if r := w.engine.Docker(t.Context(), "run", "-d", "--name", name, image, "sleep", "1000"); r.Code != 0 {
			t.Fatal(r.Err())
		}
		t.Cleanup(func() { w.engine.Docker(context.WithoutCancel(t.Context()), "rm", "-f", name) })
	}
	login := func() *lab.Login {
		l, err := a.Login(t.Context(), w.engine, 5003)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	one, two := login(), login()
	await(t, "the gate opens", func() bool { return one.Run("docker ps").Code == 0 && one.Run("belay elevate --list").Code == 0 })
	enters := func(l *lab.Login, name string, want bool) {
		t.Helper()
		r := l.Run("docker exec " + name + " echo inside")
		if got := strings.Contains(r.Stdout, "inside"); got != want {
			t.Errorf("exec into %s: %v, want %v: %s", name, got, want, r.Text())
		}
		if !want && !strings.Contains(r.Stdout, "belay elevate --action exec") {
			t.Errorf("the refusal does not say what to do: %s", r.Text())
		}
	}
	enters(one, "vault", false)
	fromContainer(t, w, w.lab.Path("factor", "run", control.FactorSocketName))
	secret := enrolLive(t, a)
	enters(one, "vault", false)

	// The first code was used up; the next one is taken a period early.
	if r := one.Run("echo 000000 | belay elevate"); r.Code == 0 || !strings.Contains(r.Stdout, "the code is wrong") {
		t.Errorf("a wrong code: %s", r.Text())
	}
	code := codeIn(t, secret, factor.Period)
	if r := one.Run("echo " + code + " | belay elevate --action exec --target vault --for 10m -o json"); r.Code != 0 {
		t.Fatalf("elevate: %s", r.Text())
	}
	enters(one, "vault", true)
	enters(one, "other", false)
	enters(two, "vault", false)
	if r := two.Run("echo " + code + " | belay elevate"); r.Code == 0 || !strings.Contains(r.Stdout, "used before") {
		t.Errorf("the same code again: %s", r.Text())
	}
	if r := one.Run("belay elevate --drop"); r.Code != 0 {
		t.Errorf("drop: %s", r.Text())
	}
	enters(one, "vault", false)

	// Another elevation ends by itself.
	time.Sleep(time.Until(nextPeriod(time.Now())))
	code = codeIn(t, secret, factor.Period)
	if r := one.Run("echo " + code + " | belay elevate --action exec --for 15s"); r.Code != 0 {
		t.Fatalf("elevate: %s", r.Text())
	}
	enters(one, "other", true)
	time.Sleep(15 * time.Second)
	enters(one, "other", false)

	// A restart of the agent is the end of all.
	time.Sleep(time.Until(nextPeriod(time.Now())))
	if r := one.Run("echo " + codeIn(t, secret, factor.Period) + " | belay elevate"); r.Code != 0 {
		t.Fatalf("elevate: %s", r.Text())
	}
	enters(one, "vault", true)
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the gate opens again", func() bool { return one.Run("docker ps").Code == 0 && one.Run("belay elevate --list").Code == 0 })
	enters(one, "vault", false)
	inJournal(t, a)
}

// fromContainer asks for an enrolment as root in a container would, to whom the socket was
// given: it is refused whatever its uid.
func fromContainer(t *testing.T, w *world, socket string) {
	t.Helper()
	curl, err := exec.LookPath("curl")
	testneed.Need(t, "curl", err == nil, "it calls from a cgroup: apt-get install curl")
	id := strings.TrimSpace(w.engine.Docker(t.Context(), "inspect", "-f", "{{.Id}}", "vault").Stdout)
	for _, call := range []string{"enrol", "elevate", "list"} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `echo $$ >"$1" && exec "$2" -s --unix-socket "$3" -d "{}" "http://agent/v1/factor/$4"`,
			"sh", w.procsOf(t, id), curl, socket, call)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "a process in a container has no second factor") {
			t.Errorf("%s from a container: %s, %v", call, out, err)
		}
	}
}

// enrolLive enrols uid 5003 as root would, who names it: it has no name of its own.
func enrolLive(t *testing.T, a *lab.Agent) (secret string) {
	t.Helper()
	r := a.Belay(t.Context(), "enroll", "--user", "5003", "-o", "json")
	var e control.Enrolment
	if err := json.Unmarshal([]byte(r.Stdout), &e); r.Code != 0 || err != nil {
		t.Fatalf("%v: %v", r.Err(), err)
	}
	root, err := a.Login(t.Context(), shared.engine, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	done := root.Run("echo " + codeIn(t, e.Secret, 0) + " | belay enroll --user 5003 --confirm " + e.ID)
	if done.Code != 0 || !strings.Contains(done.Stdout, "Recovery codes") {
		t.Fatalf("confirm: %s", done.Text())
	}
	return e.Secret
}

func codeIn(t *testing.T, secret string, d time.Duration) string {
	t.Helper()
	code, err := factor.CodeAt(secret, time.Now().Add(d))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func nextPeriod(now time.Time) time.Time { return now.Truncate(factor.Period).Add(factor.Period) }

// inJournal looks for each kind of thing that happened.
func inJournal(t *testing.T, a *lab.Agent) {
	t.Helper()
	r := a.Belay(t.Context(), "events", "-o", "json")
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	for _, want := range []string{
		`"cause":"container"`, `"event":"enrolled"`, `"event":"elevated"`, `"event":"dropped"`, `"cause":"wrong"`, `"cause":"used"`, `"action":"container.exec"`, `"elevation":"`,
	} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("the journal has no %s", want)
		}
	}
	if st := a.Belay(t.Context(), "status"); !strings.Contains(st.Stdout, "1 user enrolled") {
		t.Errorf("status: %s", st.Stdout)
	}
}
